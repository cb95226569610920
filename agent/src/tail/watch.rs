//! What changed on disk, by the kernel's notifications, and the one place where the engine's thread sleeps.
//!
//! Reports are folded into a set of container directories, so that a busy file costs no memory. A report that is
//! lost, an overflow of the kernel's queue, or no watch at all is no more than a delay: `reconcile` finds the change.

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after the first change more of them are collected.
const LINGER: Duration = Duration::from_millis(8);

/// Directories named one by one; beyond it everything is looked at.
const MOST_DIRECTORIES: usize = 4096;

/// What to look at.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Container directories in which a file grew.
    pub(super) grown: HashSet<PathBuf>,
    /// Container directories in which names changed.
    pub(super) listed: HashSet<PathBuf>,
    /// Anything may have changed.
    pub(super) everything: bool,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    changed: bool,
    woken: bool,
    last: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    condition: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a wait from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

impl Waker {
    pub fn wake(&self) {
        self.0.lock().woken = true;
        self.0.condition.notify_all();
    }
}

/// The watcher's thread ends when this is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    root: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// The root directory is being watched.
    watching: bool,
    wanted: bool,
}

impl Watch {
    pub(super) fn new(root: &Path, wanted: bool) -> Watch {
        let mut watch =
            Watch { shared: Arc::default(), root: root.to_owned(), watcher: None, watching: false, wanted };
        watch.establish();
        watch
    }

    /// Tries to watch the root, until that works or is known never to.
    pub(super) fn establish(&mut self) {
        if self.watching || !self.wanted || !self.root.is_dir() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let root = self.root.clone();
        let made =
            notify::recommended_watcher(move |event| note(&shared, &root, event)).and_then(|mut watcher| {
                watcher.watch(&self.root, RecursiveMode::Recursive)?;
                Ok(watcher)
            });
        match made {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watching = true;
                // Watch first, then look: nothing falls between.
                self.shared.lock().changes.everything = true;
            }
            Err(error) => {
                self.wanted = false;
                self.watcher = None;
                tracing::warn!(%error, "cannot watch the log directory, polling it instead");
            }
        }
    }

    /// The root directory was replaced or vanished: the watch on it is dead.
    pub(super) fn lost(&mut self) {
        self.watching = false;
        self.watcher = None;
    }

    pub(super) fn is_watching(&self) -> bool {
        self.watching
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    pub(super) fn wait(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !state.woken && !state.changed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.condition.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.changed && !state.woken {
            let linger = self.shared.condition.wait_timeout_while(state, LINGER, |state| !state.woken);
            state = linger.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.woken = false;
        state.changed = false;
    }

    pub(super) fn take(&self) -> Changes {
        let mut state = self.shared.lock();
        state.last.clear();
        std::mem::take(&mut state.changes)
    }
}

/// Runs on the watcher's thread.
fn note(shared: &Shared, root: &Path, event: notify::Result<notify::Event>) {
    let mut state = shared.lock();
    match event {
        Ok(event) if event.need_rescan() => state.changes.everything = true,
        Ok(event) => {
            let grown = matches!(event.kind, EventKind::Modify(notify::event::ModifyKind::Data(_)));
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            for path in &event.paths {
                if grown && *path == state.last {
                    continue;
                }
                note_path(&mut state.changes, root, path, grown);
                if grown {
                    state.last.clone_from(path);
                }
            }
        }
        Err(error) => {
            // Most likely the limit of watches: from here on a part of the tree is only polled.
            tracing::warn!(%error, "the watch on the log directory reported an error, relying on polling");
            state.changes.everything = true;
        }
    }
    if !state.changed {
        state.changed = true;
        shared.condition.notify_all();
    }
}

fn note_path(changes: &mut Changes, root: &Path, path: &Path, grown: bool) {
    let Ok(below) = path.strip_prefix(root) else {
        changes.everything = true;
        return;
    };
    let mut parts = below.components();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(pod), Some(container), file) => {
            let directory = root.join(pod).join(container);
            let set = if grown && file.is_some() { &mut changes.grown } else { &mut changes.listed };
            if set.len() < MOST_DIRECTORIES {
                set.insert(directory);
            } else {
                changes.everything = true;
            }
        }
        // A pod's directory came or went.
        _ => changes.everything = true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_makes_everything_suspect() {
        let shared = Shared::default();
        let event = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        note(&shared, Path::new("/logs"), Ok(event));
        assert!(shared.lock().changes.everything);
        assert!(shared.lock().changed);
    }

    #[test]
    fn an_error_of_the_watch_makes_everything_suspect() {
        let shared = Shared::default();
        note(&shared, Path::new("/logs"), Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
        assert!(shared.lock().changes.everything);
    }

    #[test]
    fn paths_become_container_directories() {
        let mut changes = Changes::default();
        let root = Path::new("/logs");
        note_path(&mut changes, root, Path::new("/logs/a_b_c/php/0.log"), true);
        note_path(&mut changes, root, Path::new("/logs/a_b_c/php/0.log.20260101-000000"), false);
        assert!(changes.grown.contains(Path::new("/logs/a_b_c/php")));
        assert!(changes.listed.contains(Path::new("/logs/a_b_c/php")));
        assert!(!changes.everything);
        note_path(&mut changes, root, Path::new("/logs/a_b_c"), false);
        assert!(changes.everything);
    }

    #[test]
    fn a_waker_ends_the_wait() {
        let watch = Watch::new(Path::new("/nonexistent"), true);
        watch.waker().wake();
        watch.wait(Duration::from_secs(3600));
    }
}
