//! Which directories have got a new one in them, by the kernel's notifications.
//!
//! Only the making of directories is asked for, and it is asked about without a thread: the kubelet opens the files in
//! these directories all the time, and each would wake us through the `notify` crate, which always watches for that.
//! Of the removal of a cgroup the kernel tells nothing, not even who watches that very directory, and holds on to it for as
//! long as it is watched: whoever watches has to let go. A report that is lost, or no watch at all, is no more than a delay: the next full walk finds the change.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// New directories named one by one; beyond it everything is looked at.
const MOST: usize = 256;

/// What has changed since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Below the root of the hierarchy.
    pub(super) made: BTreeSet<PathBuf>,
    pub(super) everything: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<OwnedFd>,
    /// The watched directories by the kernel's number, and back.
    paths: HashMap<i32, PathBuf>,
    numbers: BTreeMap<PathBuf, i32>,
    complete: bool,
}

impl Watch {
    pub(super) fn new() -> Watch {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(error) = &made {
            tracing::warn!(%error, "cannot watch the cgroups, looking through them instead");
        }
        let complete = made.is_ok();
        Watch { inotify: made.ok(), paths: HashMap::new(), numbers: BTreeMap::new(), complete }
    }

    /// Whether everything is watched that should be.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Watches a directory; whether it was not watched before.
    pub(super) fn add(&mut self, root: &Path, path: &Path) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        if self.numbers.contains_key(path) {
            return false;
        }
        match inotify::add_watch(inotify, root.join(path), WatchFlags::CREATE | WatchFlags::ONLYDIR) {
            Ok(number) => {
                if let Some(before) = self.paths.insert(number, path.to_owned()) {
                    self.numbers.remove(&before);
                }
                self.numbers.insert(path.to_owned(), number);
                true
            }
            // It has gone meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(error) => {
                if std::mem::replace(&mut self.complete, false) {
                    tracing::warn!(%error, "cannot watch all cgroups, looking through them more often instead");
                }
                false
            }
        }
    }

    /// Lets go of all other directories.
    pub(super) fn keep(&mut self, paths: &BTreeSet<PathBuf>) {
        let gone: Vec<PathBuf> = self.numbers.keys().filter(|path| !paths.contains(*path)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &Path) {
        if let Some(number) = self.numbers.remove(path) {
            self.paths.remove(&number);
            if let Some(inotify) = &self.inotify {
                // The kernel may have let go of it before: then there is nothing to do.
                inotify::remove_watch(inotify, number).ok();
            }
        }
    }

    /// Never waits.
    pub(super) fn take(&mut self) -> Changes {
        let changes = self.read();
        for made in &changes.made {
            // It was removed before it could be made.
            self.forget(made);
        }
        changes
    }

    fn read(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Some(inotify) = &self.inotify else { return changes };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return changes,
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.everything = true;
            } else if event.events().contains(ReadFlags::IGNORED) {
                if let Some(path) = self.paths.remove(&event.wd()) {
                    self.numbers.remove(&path);
                }
            } else if let (Some(parent), Some(name)) = (self.paths.get(&event.wd()), event.file_name())
                && event.events().contains(ReadFlags::ISDIR)
            {
                if changes.made.len() < MOST {
                    changes.made.insert(parent.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
                } else {
                    changes.everything = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, remove_dir, write};
    use tempfile::TempDir;

    #[test]
    fn new_directories_are_told_and_files_are_not() {
        let root = TempDir::new().unwrap();
        create_dir(root.path().join("a")).unwrap();
        let mut watch = Watch::new();
        assert!(watch.add(root.path(), Path::new("")));
        assert!(watch.add(root.path(), Path::new("a")));
        assert!(!watch.add(root.path(), Path::new("a")));
        assert!(!watch.add(root.path(), Path::new("gone")));
        assert!(watch.is_complete());
        assert_eq!(watch.take(), Changes::default());
        create_dir(root.path().join("a/b")).unwrap();
        create_dir(root.path().join("c")).unwrap();
        write(root.path().join("a/file"), "").unwrap();
        let made = ["a/b", "c"].map(PathBuf::from).into();
        assert_eq!(watch.take(), Changes { made, everything: false });
        assert_eq!(watch.take(), Changes::default());
    }

    #[test]
    fn a_directory_that_was_removed_can_be_watched_again() {
        let root = TempDir::new().unwrap();
        let mut watch = Watch::new();
        for _ in 0..2 {
            create_dir(root.path().join("a")).unwrap();
            assert!(watch.add(root.path(), Path::new("a")));
            remove_dir(root.path().join("a")).unwrap();
            assert_eq!(watch.take(), Changes::default());
        }
    }

    #[test]
    fn what_is_not_kept_is_let_go() {
        let root = TempDir::new().unwrap();
        let mut watch = Watch::new();
        for name in ["a", "b"] {
            create_dir(root.path().join(name)).unwrap();
            assert!(watch.add(root.path(), Path::new(name)));
        }
        watch.keep(&[PathBuf::from("a")].into());
        for name in ["a", "b"] {
            create_dir(root.path().join(name).join("new")).unwrap();
        }
        assert_eq!(watch.take().made, [PathBuf::from("a/new")].into());
        assert!(watch.add(root.path(), Path::new("b")));
    }

    #[test]
    fn a_cgroup_that_is_made_again_can_be_watched_again() {
        // Of which removal the kernel tells nothing.
        let root = TempDir::new().unwrap();
        create_dir(root.path().join("a")).unwrap();
        let mut watch = Watch::new();
        watch.add(root.path(), Path::new(""));
        watch.add(root.path(), Path::new("a"));
        std::fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        create_dir(root.path().join("a")).unwrap();
        assert_eq!(watch.take().made, [PathBuf::from("a")].into());
        assert!(watch.add(root.path(), Path::new("a")));
        create_dir(root.path().join("a/new")).unwrap();
        assert_eq!(watch.take().made, [PathBuf::from("a/new")].into());
    }

    #[test]
    fn very_many_changes_make_everything_suspect() {
        let root = TempDir::new().unwrap();
        let mut watch = Watch::new();
        watch.add(root.path(), Path::new(""));
        for n in 0..MOST + 1 {
            create_dir(root.path().join(n.to_string())).unwrap();
        }
        let changes = watch.take();
        assert!(changes.everything);
        assert_eq!(changes.made.len(), MOST);
    }
}
