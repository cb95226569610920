//! Opening: what the manifest lists, then what the write-ahead log holds beyond it. Damage is reported, and never a
//! reason not to start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes};
use skpr_proto::{EnvironmentName, Label, NodeName, Source};

use super::codec::get_text;
use super::disk::Disk;
use super::manifest::{Found, Manifest};
use super::memory::{Columns, Stretch};
use super::positions::Positions;
use super::rebuild::{self, Logged};
use super::table::{Labels, Sealed, Shared, add};
use super::wal::{self, EntryKind, Replayed, Wal, WalFile};
use super::{OpenError, Options};
use crate::environment::{Claim, EnvironmentKey};

pub(super) struct Recovered {
    pub(super) shared: Arc<Shared>,
    pub(super) wal: Wal,
    pub(super) positions: Positions,
    pub(super) manifest: Manifest,
}

pub(super) fn wal_directory(root: &Path) -> PathBuf {
    root.join("wal")
}

pub(super) fn segments_directory(root: &Path) -> PathBuf {
    root.join("segments")
}

pub(super) fn recover(disk: Disk, options: Options) -> Result<Recovered, OpenError> {
    let root = options.directory.clone();
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError { action, path, source }
    };
    for directory in [wal_directory(&root), segments_directory(&root)] {
        disk.create_directories(&directory).map_err(failed("create", &directory))?;
    }
    let found = Manifest::read(&root).map_err(failed("read the manifest in", &root))?;
    let shared = Arc::new(Shared::new(disk.clone(), options));
    let mut recovery =
        Recovery { shared, positions: Positions::default(), sources: HashMap::new(), weight: 0 };
    let directory = wal_directory(&root);
    let manifest = match found {
        Found::Good { manifest, damaged } => {
            if damaged > 0 {
                tracing::error!("one copy of the manifest is damaged; the other one is used");
                add(&recovery.shared.counters.damage, 1);
            }
            remove_orphans(&recovery.shared, &manifest);
            manifest
        }
        Found::Nothing => recovery.rebuild(&disk, &directory),
        Found::Lost => {
            tracing::error!(
                "both copies of the manifest are damaged: it is made again from the sealed files"
            );
            add(&recovery.shared.counters.damage, 1);
            Manifest::set_aside(&root);
            recovery.rebuild(&disk, &directory)
        }
    };
    recovery.restore(&manifest);
    let last =
        recovery.replay(&disk, &directory, manifest.wal_covered).map_err(failed("read", &directory))?;
    let shared = recovery.shared;
    shared.counters.active_bytes.store(recovery.weight as u64, Ordering::Relaxed);
    for table in shared.tables() {
        let head = table.lock().head;
        table.head.send_replace(head);
    }
    Ok(Recovered { shared, wal: Wal::new(disk, directory, last), positions: recovery.positions, manifest })
}

struct Recovery {
    shared: Arc<Shared>,
    positions: Positions,
    /// Labels by their encoding, so that stretches of one source share them.
    sources: HashMap<Bytes, Arc<Labels>>,
    weight: usize,
}

impl Recovery {
    /// A manifest from what is there without one: nothing, in a new store.
    fn rebuild(&mut self, disk: &Disk, directory: &Path) -> Manifest {
        let logged = self.logged(disk, directory);
        let root = &self.shared.options.directory;
        let Some((mut manifest, aside)) = rebuild::rebuild(disk, root, &logged) else {
            return Manifest::default();
        };
        add(&self.shared.counters.damage, aside);
        let files: usize = manifest.environments.iter().map(|environment| environment.files.len()).sum();
        tracing::warn!(files, aside, "there was no manifest: made from the sealed files");
        manifest.edition += 1;
        if let Err(error) = manifest.write(disk, root) {
            tracing::warn!(%error, "cannot write the manifest; it is made again at the next start");
        }
        manifest
    }

    /// What the write-ahead log holds.
    fn logged(&mut self, disk: &Disk, directory: &Path) -> Logged {
        let paths = disk.list(directory).unwrap_or_default().into_iter();
        let files: BTreeMap<u64, PathBuf> =
            paths.filter_map(|path| Some((wal::file_number(&path)?, path))).collect();
        let limits = limits(&files);
        let mut logged = Logged::new();
        for (number, path) in &files {
            // What cannot be read is reported when it is replayed.
            let Ok(Some(file)) = WalFile::read(path) else { continue };
            file.replay(limits.get(number).copied(), |kind, payload| {
                if kind == EntryKind::Append
                    && let Some((_, _, stretch)) = self.stretch(payload)
                {
                    let stretches = logged.entry(stretch.labels.claim.environment.clone()).or_default();
                    stretches.push((stretch.first_sequence, stretch.last_sequence()));
                }
            });
        }
        logged
    }

    fn restore(&mut self, manifest: &Manifest) {
        for environment in &manifest.environments {
            let table = self.shared.table(&environment.key);
            let root = &self.shared.options.directory;
            let (present, missing): (Vec<_>, Vec<_>) =
                environment.files.iter().partition(|file| root.join(&file.path).exists());
            for file in missing {
                // Expired while the disk was too full to write that down, or taken away by hand.
                tracing::warn!(path = %file.path.display(), rows = file.rows, "a sealed file is not there");
            }
            let mut state = table.lock();
            state.head = environment.head;
            state.expired.clone_from(&environment.expired);
            state.files = Arc::new(
                present.into_iter().map(|file| Sealed::new(file.clone(), &self.shared.files)).collect(),
            );
        }
        for claim in &manifest.claims {
            let Some((labels, progress)) = claim.restore(&self.shared) else {
                tracing::error!("a claim in the manifest cannot be read");
                continue;
            };
            self.positions.set(labels.source.clone(), progress);
            self.shared.put_claim(Arc::new(labels));
        }
    }

    /// Returns the number of the last file, and how much of it counts.
    fn replay(&mut self, disk: &Disk, directory: &Path, covered: u64) -> std::io::Result<(u64, u64)> {
        let mut numbers: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for path in disk.list(directory)? {
            if let Some(number) = wal::file_number(&path) {
                numbers.insert(number, path);
            }
        }
        let mut last = (numbers.keys().next_back().copied().unwrap_or(covered).max(covered), 0);
        let live = numbers.split_off(&(covered + 1));
        for path in numbers.values() {
            if let Err(error) = disk.remove(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a covered part of the write-ahead log");
            }
        }
        let limits = limits(&live);
        for (number, path) in &live {
            let file = match WalFile::read(path) {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a part of the write-ahead log cannot be read");
                    add(&self.shared.counters.damage, 1);
                    continue;
                }
            };
            let replayed = file.replay(limits.get(number).copied(), |kind, payload| {
                if self.entry(kind, payload).is_none() {
                    tracing::error!(path = %path.display(), "an entry of the write-ahead log makes no sense");
                    add(&self.shared.counters.damage, 1);
                }
            });
            report(&self.shared, path, replayed);
            if *number == last.0 {
                last.1 = replayed.length;
            }
        }
        Ok(last)
    }

    fn entry(&mut self, kind: EntryKind, mut payload: Bytes) -> Option<()> {
        match kind {
            EntryKind::Claim => {
                let labels = self.labels(&mut payload)?;
                labels.used.store(payload.try_get_i64_le().ok()?, Ordering::Relaxed);
                self.shared.put_claim(labels);
            }
            EntryKind::Append => {
                let (generation, position, stretch) = self.stretch(payload)?;
                let table = Arc::clone(&stretch.labels.table);
                let mut state = table.lock();
                if stretch.first_sequence <= state.head {
                    return Some(());
                }
                let progress = self.positions.of(&stretch.labels.source);
                progress.commit(generation, position);
                for (stderr, order_time) in stretch.orders() {
                    progress.saw(stderr, order_time);
                }
                self.weight += stretch.weight();
                state.head = stretch.last_sequence();
                state.active.push(Arc::new(stretch));
            }
        }
        Some(())
    }

    /// What an append's entry says: generation, position, records.
    fn stretch(&mut self, mut payload: Bytes) -> Option<(u64, u64, Stretch)> {
        let labels = self.labels(&mut payload)?;
        let generation = payload.try_get_u64_le().ok()?;
        let position = payload.try_get_u64_le().ok()?;
        let first_sequence = payload.try_get_u64_le().ok()?;
        Some((generation, position, Stretch::new(labels, first_sequence, Columns::decode(payload)?)))
    }

    /// The labels at the start of an entry. The newest entry of a source says what its claim is.
    fn labels(&mut self, payload: &mut Bytes) -> Option<Arc<Labels>> {
        let whole = payload.clone();
        let mut text = || get_text(payload);
        let source = Source::parse(&text()?, &text()?, &text()?, &text()?).ok()?;
        let key = EnvironmentKey {
            namespace: Label::parse("namespace", &text()?).ok()?,
            name: EnvironmentName::parse(&text()?, &text()?).ok()?,
        };
        let node = NodeName::parse(&text()?).ok()?;
        let (instance, stream_prefix) = (text()?.into(), text()?.into());
        let encoded = whole.slice(..whole.len() - payload.len());
        if let Some(labels) = self.sources.get(&encoded) {
            return Some(Arc::clone(labels));
        }
        let claim = Claim { environment: key, node, instance, stream_prefix };
        let used = super::table::now_seconds();
        let table = self.shared.table(&claim.environment);
        let labels = self.shared.put_claim(Arc::new(Labels::new(source, claim, table, used)));
        self.sources.insert(Bytes::copy_from_slice(&encoded), Arc::clone(&labels));
        Some(labels)
    }
}

/// How much counts of each file that a later one speaks about.
pub(super) fn limits(files: &BTreeMap<u64, PathBuf>) -> HashMap<u64, u64> {
    let headers = files.values().filter_map(|path| WalFile::open(wal::read_headers(path)?));
    headers.map(|file| file.previous).collect()
}

fn report(shared: &Shared, path: &Path, replayed: Replayed) {
    if replayed.torn > 0 {
        tracing::info!(path = %path.display(), bytes = replayed.torn, "cut off a write that was never acknowledged");
    }
    if replayed.damaged > 0 {
        tracing::error!(path = %path.display(), bytes = replayed.damaged, "a part of the write-ahead log is damaged and lost");
        add(&shared.counters.damage, 1);
    }
}

/// Removes what a crash left of files that are not in the manifest: their records are in the write-ahead log.
fn remove_orphans(shared: &Shared, manifest: &Manifest) {
    let root = &shared.options.directory;
    for path in orphans(root, manifest) {
        if let Err(error) = shared.files.disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
        }
    }
}

/// Files below the segments' directory that belong to nothing in the manifest.
pub(super) fn orphans(root: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let listed: HashSet<PathBuf> = manifest
        .environments
        .iter()
        .flat_map(|environment| &environment.files)
        .map(|file| root.join(&file.path).with_extension(""))
        .collect();
    let mut orphans = files_below(&segments_directory(root));
    orphans.retain(|path| !belongs(&listed, path));
    orphans
}

/// Every file below a directory, sorted.
pub(super) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// `x.parquet` and its sidecar belong to `x`.
fn belongs(listed: &HashSet<PathBuf>, path: &Path) -> bool {
    let stem = path.with_extension("");
    listed.contains(&stem) || listed.contains(&stem.with_extension(""))
}
