//! The files at one end of a transfer, as this end sees them: filtered, in the order of a walk, without ever following a link.
//!
//! Nothing is held of a tree but the way to where the walk is, and which files have several names. A directory that
//! cannot be read is a problem that is told, and makes the scan incomplete: then nothing is deleted for its sake.

use crate::chmod::Chmod;
use crate::entry::{Compared, Entry, Kind, Time};
use crate::error::Problem;
use crate::file;
use crate::filter::{Filters, Side};
use crate::name::{LONGEST_PATH, Name, TreePath};
use crate::place::{self, Names, Places};
use rustix::fs::{Stat, fstat, fstatfs, readlinkat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A file modified less than this before it is looked at may be modified again without its time showing it.
const RECENT: i64 = 2;
/// Files of several names that are remembered; beyond, each name is a file of its own.
const MOST_LEADERS: usize = 1 << 20;
/// Unfinished files that are remembered.
pub(crate) const MOST_LEFTOVERS: usize = 10_000;
/// File systems that are views of the kernel: some of their files never end, and none is anybody's data.
const KERNEL_VIEWS: [u32; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x1cd1,      // devpts
    0xcafe_4a11, // bpf
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x1980_0202, // mqueue
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
];

/// The one entry of the root that takes part, where a transfer is of one file or directory and not of what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Only {
    pub(crate) real: Name,
    /// What the receiver calls it.
    pub(crate) shown: Name,
}

/// See the module.
pub(crate) struct Tree {
    pub(crate) places: Places,
    pub(crate) only: Option<Only>,
    pub(crate) side: Side,
    pub(crate) filters: Filters,
    pub(crate) chmod: Chmod,
    pub(crate) compared: Compared,
    pub(crate) one_file_system: bool,
    /// Where the engine's own files were left by transfers that did not end; some of them, if there are many.
    pub(crate) leftovers: Vec<(TreePath, Name)>,
    leaders: HashMap<(u64, u64), TreePath>,
    device: Option<u64>,
    over: Arc<AtomicBool>,
}

impl Tree {
    /// `over`: nobody wants to know any more, so that long files are not hashed to their end.
    pub(crate) fn new(places: Places, side: Side, filters: Filters, over: Arc<AtomicBool>) -> Tree {
        Tree {
            over,
            places,
            only: None,
            side,
            filters,
            chmod: Chmod::default(),
            compared: Compared::default(),
            one_file_system: false,
            leftovers: vec![],
            leaders: HashMap::new(),
            device: None,
        }
    }

    /// The names in a directory, those of unfinished files apart.
    pub(crate) fn names(&mut self, directory: &TreePath) -> Result<Names, Problem> {
        let problem = |errno| match errno {
            Errno::OVERFLOW => Problem::says(directory, "it holds more files than can be sorted"),
            errno => Problem::call(directory, "read the directory", errno),
        };
        let open = self.places.open(directory).map_err(problem)?;
        let stat = fstat(open).map_err(problem)?;
        let top = *self.device.get_or_insert(stat.st_dev as u64);
        if stat.st_dev as u64 != top || directory.is_root() {
            let kind = fstatfs(open).map_err(problem)?.f_type as u32;
            if KERNEL_VIEWS.contains(&kind) {
                return Err(Problem::says(directory, "skipped: it is a view of the kernel and not of files"));
            }
        }
        Names::read(open).map_err(problem)
    }

    /// Whether a directory is on another file system, where only one is wanted.
    pub(crate) fn is_elsewhere(&mut self, directory: &TreePath) -> bool {
        let Some(top) = self.device.filter(|_| self.one_file_system) else { return false };
        let stat = self.places.open(directory).and_then(fstat);
        stat.is_ok_and(|stat| stat.st_dev != top)
    }

    /// Hands over every entry of a directory that takes part, in order. An entry that is gone meanwhile is left out.
    pub(crate) fn visit(
        &mut self,
        directory: &TreePath,
        problems: &mut Vec<Problem>,
        mut each: impl FnMut(&mut Tree, Entry) -> Result<(), crate::Error>,
    ) -> Result<(), crate::Error> {
        let names = match (&self.only, directory.is_root()) {
            (Some(only), true) => return self.visit_only(only.clone(), problems, each),
            _ => match self.names(directory) {
                Ok(names) => names,
                Err(problem) => {
                    problems.push(problem);
                    return Ok(());
                }
            },
        };
        for name in (0..names.len()).filter_map(|at| names.get(at)) {
            match self.entry(directory, &name) {
                Ok(Some(entry)) => each(self, entry)?,
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        Ok(())
    }

    fn visit_only(
        &mut self,
        only: Only,
        problems: &mut Vec<Problem>,
        mut each: impl FnMut(&mut Tree, Entry) -> Result<(), crate::Error>,
    ) -> Result<(), crate::Error> {
        match self.entry(&TreePath::root(), &only.real) {
            Ok(Some(entry)) => each(self, Entry { name: only.shown, ..entry })?,
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
        Ok(())
    }

    /// One entry, if there is one that takes part.
    pub(crate) fn entry(&mut self, directory: &TreePath, name: &Name) -> Result<Option<Entry>, Problem> {
        if name.is_ours() {
            if self.leftovers.len() < MOST_LEFTOVERS {
                self.leftovers.push((directory.clone(), name.clone()));
            }
            return Ok(None);
        }
        let path = directory.join(name).map_err(|_| Problem::says(directory, "a path in it is too long"))?;
        let open = self
            .places
            .open(directory)
            .map_err(|errno| Problem::call(directory, "open the directory", errno))?;
        let problem = |errno| Problem::call(&path, "look at it", errno);
        let Some(stat) = place::stat(open, name).map_err(problem)? else { return Ok(None) };
        let Some(kind) = Kind::of(stat.st_mode) else { return Ok(None) };
        if self.filters.excludes(path.as_bytes(), kind == Kind::Directory, self.side) {
            return Ok(None);
        }
        let entry = match describe(open, name, &stat, self.compared, &self.over) {
            Ok(entry) => entry,
            // It is gone, or nobody wants to know any more.
            Err(Errno::NOENT | Errno::CANCELED) => return Ok(None),
            Err(errno) => return Err(Problem::call(&path, "read it", errno)),
        };
        Ok(Some(self.finish(entry, path, &stat)))
    }

    /// What is known of an entry only in its tree.
    fn finish(&mut self, mut entry: Entry, path: TreePath, stat: &Stat) -> Entry {
        let own_mode = stat.st_mode & 0o7777;
        if entry.kind != Kind::Symlink {
            entry.mode = self.chmod.apply(own_mode, entry.kind == Kind::Directory);
            if !self.compared.set_id {
                entry.mode &= !0o6000;
            }
        }
        if self.compared.hard_links && entry.kind == Kind::File && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            match self.leaders.get(&identity) {
                Some(leader) if *leader != path => entry.leader = Some(leader.clone()),
                Some(_) => {}
                None if self.leaders.len() < MOST_LEADERS => {
                    self.leaders.insert(identity, path);
                }
                None => {}
            }
        }
        entry
    }
}

fn describe(
    directory: BorrowedFd<'_>,
    name: &Name,
    stat: &Stat,
    compared: Compared,
    over: &AtomicBool,
) -> Result<Entry, Errno> {
    let kind = Kind::of(stat.st_mode).ok_or(Errno::INVAL)?;
    let mut target = vec![];
    if kind == Kind::Symlink && compared.links {
        target = readlinkat(directory, name.as_bytes(), vec![])?.into_bytes();
        if target.len() > LONGEST_PATH {
            return Err(Errno::NAMETOOLONG);
        }
    }
    let content =
        if kind == Kind::File && compared.checksum { Some(file::hash(directory, name, over)?) } else { None };
    let modified = Time::of(stat);
    // A file's time is always told: it is half of the quick check.
    let timed = compared.times || kind == Kind::File;
    Ok(Entry {
        name: name.clone(),
        kind,
        mode: 0,
        size: if kind == Kind::File { stat.st_size.max(0) as u64 } else { 0 },
        modified: if timed { modified } else { Time::default() },
        user: if compared.owner { stat.st_uid } else { 0 },
        group: if compared.group { stat.st_gid } else { 0 },
        device: if kind.is_device() && compared.devices { stat.st_rdev } else { 0 },
        target,
        leader: None,
        content,
        recent: kind == Kind::File && is_recent(modified),
    })
}

fn is_recent(modified: Time) -> bool {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    (now - RECENT..=now + RECENT).contains(&modified.seconds)
}

/// The directories of a tree, each before what is in it, and by name.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The path of each open level, and what of it is still to be entered, last name first.
    levels: Vec<(TreePath, Vec<Name>)>,
    begun: bool,
}

impl Walk {
    pub(crate) fn next(&mut self) -> Option<TreePath> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(TreePath::root());
        }
        while let Some((path, names)) = self.levels.last_mut() {
            match names.pop().map(|name| path.join(&name)) {
                Some(Ok(next)) => return Some(next),
                // It was joined before, when it was looked at.
                Some(Err(_)) => {}
                None => drop(self.levels.pop()),
            }
        }
        None
    }

    /// The directories found in the one that was handed out last, in order.
    pub(crate) fn enter(&mut self, directory: TreePath, mut found: Vec<Name>) {
        if !found.is_empty() {
            found.reverse();
            self.levels.push((directory, found));
        }
    }
}
