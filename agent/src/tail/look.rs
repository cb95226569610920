//! Looking at the node: which containers there are, and which of their files have grown.
//!
//! What the watcher reports is looked at when it comes, everything else in rounds; a report that got lost costs one
//! round's time and never a line.

use super::discover;
use super::engine::Engine;
use super::follow::{Claim, Container, End, LogFile};
use skpr_proto::ids::Source;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often everything is looked at: what the watcher does not see waits no longer than this, and in a directory that has
/// settled no longer than [`DIRECTORY_ROUNDS`] of them.
const RECONCILE_WATCHED: Duration = Duration::from_secs(2);
const RECONCILE_POLLED: Duration = Duration::from_secs(1);
/// While the kernel reports changes, one round in so many looks at every directory; the others leave out those that
/// have not changed for [`SETTLED`]. A look costs little, but a node has thousands of directories.
const DIRECTORY_ROUNDS: u64 = 15;
const SETTLED: Duration = Duration::from_secs(10);
/// Odd names that were told of, at most.
const MOST_WARNINGS: usize = 1000;

impl Engine {
    pub(super) fn tick(&mut self, now: Instant) {
        let changes = self.watch.take();
        let polled = if self.watch.is_watching() { RECONCILE_WATCHED } else { RECONCILE_POLLED };
        if changes.everything || self.reconciled.is_none_or(|last| now >= last + polled) {
            self.rounds += 1;
            let every = changes.everything
                || !self.watch.is_watching()
                || self.rounds.is_multiple_of(DIRECTORY_ROUNDS);
            self.look_around(now, every);
        } else {
            for directory in changes.listed {
                self.look_at(&directory, true, now);
            }
            for directory in changes.grown {
                self.look_at(&directory, false, now);
            }
        }
        if self.due.is_some_and(|due| now >= due) {
            self.due = None;
            for id in std::mem::take(&mut self.settling) {
                self.with(id, |engine, container| {
                    engine.relist(container, now);
                    engine.queue(container);
                });
            }
        }
    }

    /// A container's directory changed: its names, or only the size of a file in it.
    fn look_at(&mut self, directory: &Path, names: bool, now: Instant) {
        let Some(&id) = self.by_directory.get(directory) else {
            if let (Some(pod), Some(name)) = (directory.parent(), directory.file_name()) {
                let (pod, name) = (pod.to_owned(), name.to_string_lossy().into_owned());
                if directory.is_dir() {
                    self.add(&pod, &name, directory, now);
                }
            }
            return;
        };
        self.with(id, |engine, container| {
            if names {
                engine.relist(container, now);
            }
            engine.refresh(container, now);
        });
    }

    pub(super) fn reconcile(&mut self, now: Instant) {
        self.look_around(now, true);
    }

    /// Looks at every file, and at every directory or at those that changed lately.
    fn look_around(&mut self, now: Instant, every: bool) {
        self.reconciled = Some(now);
        self.watch.establish();
        let settled = SystemTime::now().checked_sub(SETTLED).filter(|_| !every);
        let is_settled = |modified: Option<SystemTime>| {
            modified.zip(settled).is_some_and(|(modified, settled)| modified < settled)
        };
        self.scan(now, &is_settled);
        for id in self.container_ids() {
            self.with(id, |engine, container| {
                let looks = !is_settled(container.directory_modified);
                if looks && (container.claim != Claim::Ignored || !container.directory.is_dir()) {
                    match discover::is_stale(&container.directory, container.directory_modified) {
                        Ok(false) => {}
                        Ok(true) | Err(_) => engine.relist(container, now),
                    }
                }
                engine.refresh(container, now);
            });
        }
        self.expire_claims(now);
        self.close_idle();
        self.warned_open = false;
    }

    /// Looks for containers that are new.
    fn scan(&mut self, now: Instant, is_settled: &dyn Fn(Option<SystemTime>) -> bool) {
        if let Ok(true) = discover::is_stale(&self.root, self.root_modified) {
            let modified = std::fs::metadata(&self.root).and_then(|metadata| metadata.modified()).ok();
            let Ok(pods) = discover::subdirectories(&self.root) else { return };
            self.root_modified = modified;
            let mut known: HashMap<PathBuf, SystemTime> = HashMap::new();
            for (_, path) in pods {
                let modified = self.pods.get(&path).copied().unwrap_or(SystemTime::UNIX_EPOCH);
                known.insert(path, modified);
            }
            self.pods = known;
        } else if !self.root.is_dir() {
            self.watch.lost();
            self.pods.clear();
            self.root_modified = None;
            return;
        }
        let mut pods = std::mem::take(&mut self.pods);
        let mut failed = false;
        for (pod, modified) in &mut pods {
            let is_new = *modified == SystemTime::UNIX_EPOCH;
            if !is_new && is_settled(Some(*modified)) {
                continue;
            }
            match discover::is_stale(pod, Some(*modified)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    failed |= error.kind() != std::io::ErrorKind::NotFound;
                    continue;
                }
            }
            let now_modified = std::fs::metadata(pod).and_then(|metadata| metadata.modified());
            let containers = match discover::subdirectories(pod) {
                Ok(containers) => containers,
                Err(error) => {
                    failed |= error.kind() != std::io::ErrorKind::NotFound;
                    self.warn_open(pod, &error);
                    continue;
                }
            };
            for (name, directory) in containers {
                if !self.by_directory.contains_key(&directory) {
                    self.add(pod, &name, &directory, now);
                }
            }
            if let Ok(now_modified) = now_modified {
                *modified = now_modified;
            }
        }
        self.pods = pods;
        // Every directory was looked at: what the checkpoint knows beyond them does not exist any more.
        if !failed && !self.remembered.is_empty() {
            tracing::info!(sources = self.remembered.len(), "forgetting sources whose directories are gone");
            self.remembered.clear();
            self.dirty = true;
        }
    }

    fn add(&mut self, pod: &Path, name: &str, directory: &Path, now: Instant) {
        let pod = pod.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let source = match Source::from_directories(&pod, name) {
            Ok(source) => source,
            Err(error) => {
                if self.warned.len() < MOST_WARNINGS && self.warned.insert(directory.to_owned()) {
                    tracing::info!(%error, "not a container's log directory");
                }
                return;
            }
        };
        let id = self.next_id();
        let mut container = Container::new(id, source, directory.to_owned(), Claim::Unknown, now);
        if let Some(position) = self.remembered.remove(&container.source) {
            container.remember(position);
        }
        container.claim = self.first_claim(&container);
        container.wanted |= container.claim == Claim::Claimed;
        if self.ended.contains(&container.source.uid) {
            container.end = End::Wanted;
        }
        self.by_directory.insert(directory.to_owned(), id);
        self.containers.insert(id, Box::new(container));
        self.with(id, |engine, container| {
            engine.relist(container, now);
            engine.refresh(container, now);
        });
    }

    /// Looks at the sizes of a container's files, and at its time-outs.
    pub(super) fn refresh(&mut self, container: &mut Container, now: Instant) {
        for file in &mut container.files {
            if file.gzip || file.vanished {
                continue;
            }
            let size = match &file.descriptor {
                // Cheaper than all that `metadata` asks for, and this runs for every file every two seconds.
                Some(descriptor) => {
                    rustix::fs::fstat(descriptor).ok().and_then(|stat| u64::try_from(stat.st_size).ok())
                }
                None => {
                    file.stuck_at = None;
                    std::fs::metadata(&file.path).ok().map(|metadata| metadata.len())
                }
            };
            if let Some(size) = size {
                file.resize(size);
            }
        }
        let timeout = self.limits.partial_timeout;
        let waited = |partial: &super::partial::Partial| now >= partial.touched + timeout;
        let all_read = !container.files.iter().any(LogFile::has_unread);
        container.flush |= all_read && container.partials.iter().flatten().any(waited);
        self.dirty |= container.release(now);
        self.queue(container);
    }

    /// Closes files that can be opened again by name, when there are too many.
    fn close_idle(&mut self) {
        let open: usize = self.containers.values().map(|container| container.files.len()).sum();
        let mut excess = open.saturating_sub(self.limits.open_files);
        for file in self.containers.values_mut().flat_map(|container| &mut container.files) {
            if excess == 0 {
                break;
            }
            if file.named && file.descriptor.is_some() && file.acked == file.size && file.read == file.size {
                file.descriptor = None;
                excess -= 1;
            }
        }
    }
}
