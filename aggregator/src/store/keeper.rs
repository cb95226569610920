//! The thread that keeps sealed files: it alone changes the manifest and the tables' lists of files.
//!
//! The write-ahead log is removed only after the manifest that covers it is written; a file is removed only after it is
//! in no manifest and no reader holds it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::manifest::{Manifest, RememberedClaim};
use super::recover::wal_directory;
use super::segment::SegmentFile;
use super::table::{GateState, Sealed, Shared, Table, add};
use super::writer::Command;
use super::{AppendError, compact, retention, seal, wal};

/// One part of memory is sealed at a time; the second place is for asking to try again.
pub(super) const JOBS: usize = 2;
const TICK: Duration = Duration::from_secs(1);
/// How often files are merged and expired.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

pub(super) type SealReply = oneshot::Sender<Result<(), AppendError>>;

/// What the keeper is asked to do.
pub(super) enum Job {
    Seal {
        snapshot: Snapshot,
        reply: Option<SealReply>,
    },
    /// Try again now what failed.
    Retry {
        reply: SealReply,
    },
    /// Merge and expire now.
    Housekeep {
        reply: SealReply,
    },
}

/// What goes into the manifest with the part of memory that is sealed.
pub(super) struct Snapshot {
    pub(super) wal_covered: u64,
    pub(super) heads: Vec<(Arc<Table>, u64)>,
    pub(super) claims: Vec<RememberedClaim>,
}

pub(super) struct Keeper {
    shared: Arc<Shared>,
    manifest: Manifest,
    /// Weak: the writer ends when the store is dropped.
    writer: mpsc::WeakSender<Command>,
    failing: Option<Failing>,
    /// Files that a manifest which was not completely written may list: removed after the next one that is.
    abandoned: Vec<SegmentFile>,
    housekept: Instant,
    /// Who asked for it.
    housekeep_again: Vec<SealReply>,
    /// Files that cannot be read, and are not merged.
    damaged: HashSet<PathBuf>,
    compaction_fault: Option<Arc<str>>,
}

/// A table, its files, and those of them that expire.
type Expiring = (Arc<Table>, Arc<Vec<Arc<Sealed>>>, Vec<Arc<Sealed>>);

/// A seal that is tried again.
struct Failing {
    work: Work,
    retry_at: Instant,
    delay: Duration,
}

struct Work {
    snapshot: Snapshot,
    /// Once all files are written, only the manifest is tried again: it may have listed them already.
    written: Option<Vec<(Arc<Table>, Vec<SegmentFile>)>>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, manifest: Manifest, writer: mpsc::WeakSender<Command>) -> Keeper {
        Keeper {
            shared,
            manifest,
            writer,
            failing: None,
            abandoned: Vec::new(),
            housekept: Instant::now(),
            housekeep_again: Vec::new(),
            damaged: HashSet::new(),
            compaction_fault: None,
        }
    }

    /// Works until the writer has ended.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(TICK) {
                Ok(Job::Seal { snapshot, reply }) => self.seal_first(snapshot, reply),
                Ok(Job::Retry { reply }) => answer(Some(reply), self.retry()),
                Ok(Job::Housekeep { reply }) => self.housekeep_again.push(reply),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.retry_when_due();
            let asked = std::mem::take(&mut self.housekeep_again);
            if !asked.is_empty() || self.housekept.elapsed() >= HOUSEKEEPING {
                let result = self.housekeep(jobs);
                for reply in asked {
                    answer(Some(reply), result.clone());
                }
            }
            self.tick();
        }
    }

    fn tick(&self) {
        if let Some(writer) = self.writer.upgrade() {
            // A full queue means that it is awake.
            drop(writer.try_send(Command::Tick));
        }
    }

    fn seal_first(&mut self, snapshot: Snapshot, reply: Option<SealReply>) {
        let result = self.seal(Work { snapshot, written: None }, TICK);
        answer(reply, result);
    }

    fn retry_when_due(&mut self) {
        if self.failing.as_ref().is_some_and(|failing| failing.retry_at <= Instant::now()) {
            // The failure is noted already.
            drop(self.retry());
        }
    }

    fn retry(&mut self) -> Result<(), Arc<str>> {
        match self.failing.take() {
            Some(failing) => self.seal(failing.work, (failing.delay * 2).min(LONGEST_RETRY)),
            None => Ok(()),
        }
    }

    fn seal(&mut self, mut work: Work, delay: Duration) -> Result<(), Arc<str>> {
        let result = self.try_seal(&mut work).map_err(|error| Arc::<str>::from(format!("{error:#}")));
        match &result {
            Ok(()) => {
                self.shared.note_fault(None);
                self.shared.gate.set(GateState::Open);
            }
            Err(cause) => {
                self.shared.note_fault(Some(Arc::clone(cause)));
                self.shared.gate.set(GateState::Failing(Arc::clone(cause)));
                self.failing = Some(Failing { work, retry_at: Instant::now() + delay, delay });
            }
        }
        result
    }

    fn try_seal(&mut self, work: &mut Work) -> anyhow::Result<()> {
        let written = match work.written.take() {
            Some(written) => written,
            None => seal::write_all(&self.shared.files, &work.snapshot.heads)?,
        };
        let written = work.written.insert(written);
        let mut manifest = self.manifest.clone();
        manifest.wal_covered = work.snapshot.wal_covered;
        manifest.claims.clone_from(&work.snapshot.claims);
        for (table, head) in work.snapshot.heads.iter().filter(|(_, head)| *head > 0) {
            if let Some(entry) = manifest.environment(&table.key) {
                entry.head = *head;
            }
        }
        for (table, files) in written.iter() {
            if let Some(entry) = manifest.environment(&table.key) {
                entry.files.extend(files.iter().cloned());
            }
        }
        self.put_manifest(manifest)?;

        let counters = &self.shared.counters;
        for (table, files) in written.drain(..) {
            add(&counters.sealed_segments, files.len() as u64);
            add(&counters.sealed_bytes, files.iter().map(|file| file.bytes).sum());
            let files = files.into_iter().map(|file| Sealed::new(file, &self.shared.files));
            let mut state = table.lock();
            let before = Arc::clone(&state.files);
            state.files = Arc::new(before.iter().map(Arc::clone).chain(files).collect());
            let sealed = std::mem::take(&mut state.sealing);
            drop(state);
            drop(sealed);
        }
        counters.sealing_bytes.store(0, Ordering::Relaxed);
        self.remove_covered_log();
        Ok(())
    }

    /// Makes a manifest the current one. After a failure either may be found by the next start.
    fn put_manifest(&mut self, mut manifest: Manifest) -> anyhow::Result<()> {
        self.manifest.edition += 1;
        manifest.edition = self.manifest.edition;
        let files = &self.shared.files;
        manifest
            .write(&files.disk, &files.root)
            .map_err(|error| anyhow::anyhow!("write the manifest: {error}"))?;
        self.manifest = manifest;
        for file in self.abandoned.drain(..) {
            seal::discard(files, &file);
        }
        Ok(())
    }

    fn remove_covered_log(&self) {
        let (disk, directory) = (&self.shared.files.disk, wal_directory(&self.shared.files.root));
        let covered =
            |path: &PathBuf| wal::file_number(path).is_some_and(|number| number <= self.manifest.wal_covered);
        let removed = disk.list(&directory).and_then(|paths| {
            paths.iter().filter(|path| covered(path)).try_for_each(|path| disk.remove(path))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove a covered part of the write-ahead log; the next start will");
        }
    }

    /// Expires and merges. Sealing goes before: the writer may be waiting for it.
    fn housekeep(&mut self, jobs: &Receiver<Job>) -> Result<(), Arc<str>> {
        self.housekept = Instant::now();
        self.expire();
        let mut result = self.remove_abandoned();
        for table in self.shared.tables() {
            // While no manifest can be written, merging would only fill the disk.
            if !self.abandoned.is_empty() {
                break;
            }
            while let Some(merged) = self.compact(&table).transpose() {
                if let Err(error) = merged {
                    result = Err(error);
                    break;
                }
                self.attend(jobs);
            }
        }
        let result = result.map_err(|error| Arc::from(format!("{error:#}")));
        self.note_compaction(result.as_ref().err());
        result
    }

    fn remove_abandoned(&mut self) -> anyhow::Result<()> {
        if self.abandoned.is_empty() { Ok(()) } else { self.put_manifest(self.manifest.clone()) }
    }

    /// What cannot wait for the end of the housekeeping.
    fn attend(&mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.try_recv() {
            match job {
                Job::Seal { snapshot, reply } => self.seal_first(snapshot, reply),
                Job::Retry { reply } => answer(Some(reply), self.retry()),
                Job::Housekeep { reply } => self.housekeep_again.push(reply),
            }
        }
        self.retry_when_due();
        self.tick();
    }

    /// Failing merges cost nothing but space; that the store can write is another matter. Logged once per change.
    fn note_compaction(&mut self, fault: Option<&Arc<str>>) {
        match (&self.compaction_fault, fault) {
            (None, Some(error)) => tracing::warn!(%error, "small files cannot be merged"),
            (Some(_), None) => tracing::info!("small files can be merged again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.compaction_fault = fault.map(Arc::clone);
    }

    fn expire(&mut self) {
        let mut expired: Vec<_> = self
            .shared
            .tables()
            .into_iter()
            .map(|table| {
                let files = Arc::clone(&table.lock().files);
                let expired = retention::expired(&files, &self.shared.options);
                (table, files, expired)
            })
            .collect();
        self.make_space(&mut expired);

        let mut manifest = self.manifest.clone();
        let mut gone = Vec::new();
        for (table, files, expired) in expired {
            if expired.is_empty() {
                continue;
            }
            let kept: Vec<_> =
                files.iter().filter(|file| !contains(&expired, file)).map(Arc::clone).collect();
            let mut state = table.lock();
            retention::note(&mut state.expired, &expired);
            if let Some(entry) = manifest.environment(&table.key) {
                entry.files = kept.iter().map(|sealed| sealed.file.clone()).collect();
                entry.expired.clone_from(&state.expired);
            }
            state.files = Arc::new(kept);
            drop(state);
            gone.extend(expired);
        }
        if gone.is_empty() {
            return;
        }
        add(&self.shared.counters.expired_records, gone.iter().map(|sealed| sealed.file.rows).sum());
        // A full disk must not keep us from making room: a manifest that lists files which are gone does no harm.
        if let Err(error) = self.put_manifest(manifest.clone()) {
            tracing::warn!(error = format!("{error:#}"), "cannot note which files expired");
            manifest.edition = self.manifest.edition;
            self.manifest = manifest;
        }
        for sealed in gone {
            sealed.expire();
        }
    }

    /// Adds the oldest files of all when the disk is nearly full: a full one would refuse what comes.
    fn make_space(&self, expired: &mut [Expiring]) {
        let files = &self.shared.files;
        let Some((free, total)) = files.disk.space(&files.root) else { return };
        let leaving = expired.iter().flat_map(|(_, _, expired)| expired).map(|sealed| sealed.file.bytes);
        let leaving = leaving.sum::<u64>() + files.leaving.load(Ordering::Relaxed);
        let shortage = retention::shortage((free.saturating_add(leaving), total));
        if shortage == 0 {
            return;
        }
        let kept = expired.iter().flat_map(|(_, files, expired)| {
            files.iter().filter(|file| !contains(expired, file)).map(Arc::clone)
        });
        let oldest = retention::oldest(kept, shortage);
        if oldest.is_empty() {
            return;
        }
        let records: u64 = oldest.iter().map(|sealed| sealed.file.rows).sum();
        tracing::warn!(
            free,
            shortage,
            files = oldest.len(),
            records,
            "the disk is nearly full: the oldest records go"
        );
        add(&self.shared.counters.expired_for_space, records);
        for (_, files, expired) in expired {
            expired.extend(files.iter().filter(|file| contains(&oldest, file)).map(Arc::clone));
        }
    }

    /// Merges some of the table's files; `None` when there is nothing to merge.
    fn compact(&mut self, table: &Arc<Table>) -> anyhow::Result<Option<()>> {
        let files = Arc::clone(&table.lock().files);
        let whole = files.iter().filter(|sealed| !self.damaged.contains(&sealed.file.path));
        let chosen = compact::choose(whole, super::table::now_seconds());
        if chosen.is_empty() {
            return Ok(None);
        }
        let merged = match compact::merge(&self.shared.files, &table.key, &chosen)? {
            compact::Merged::Into(file) => file,
            compact::Merged::Damaged(file) => {
                add(&self.shared.counters.damage, 1);
                self.damaged.insert(file.file.path.clone());
                return Ok(Some(()));
            }
        };
        let merged = Sealed::new(merged, &self.shared.files);
        let files: Vec<_> = files
            .iter()
            .filter(|file| !contains(&chosen, file))
            .chain(std::iter::once(&merged))
            .map(Arc::clone)
            .collect();
        let mut manifest = self.manifest.clone();
        if let Some(entry) = manifest.environment(&table.key) {
            entry.files = files.iter().map(|sealed| sealed.file.clone()).collect();
        }
        if let Err(error) = self.put_manifest(manifest) {
            self.abandoned.push(merged.file.clone());
            return Err(error);
        }
        table.lock().files = Arc::new(files);
        add(&self.shared.counters.compactions, 1);
        for sealed in chosen {
            sealed.expire();
        }
        Ok(Some(()))
    }
}

fn contains(list: &[Arc<Sealed>], file: &Arc<Sealed>) -> bool {
    list.iter().any(|listed| Arc::ptr_eq(listed, file))
}

fn answer(reply: Option<SealReply>, result: Result<(), Arc<str>>) {
    if let Some(reply) = reply {
        // Whoever asked may be gone.
        drop(reply.send(result.map_err(AppendError::Storage)));
    }
}
