//! Directories: made at once, so that files can go into them, and given their last attributes at the end.

use super::{Current, Entries, Last, tell};
use crate::change::{Change, Differs, How};
use crate::entry::{Entry, Kind};
use crate::error::{Error, Problem};
use crate::message::Attributes;
use crate::name::{Name, TreePath};
use crate::options::Delete;
use crate::place::Names;
use crate::receive::attributes::{Owned, attributes_of_open, new_mode};
use crate::receive::compare;
use crate::receive::remove::{Removed, Why, remove};
use rustix::fs::{Mode, Stat, fchmod, fstat, mkdirat};

impl Entries<'_> {
    /// The root itself, where its content is what comes.
    pub(in crate::receive) fn root(&mut self, root: Attributes) -> Result<(), Error> {
        let Some(name) = Name::new(b"root").ok() else { return Ok(()) };
        let entry = Entry {
            name,
            kind: Kind::Directory,
            mode: self.allowed(root.mode),
            size: 0,
            modified: root.modified,
            user: if self.setting.compared.owner { root.user } else { 0 },
            group: if self.setting.compared.group { root.group } else { 0 },
            device: 0,
            target: vec![],
            leader: None,
            content: None,
            recent: false,
        };
        let differs = match &self.places {
            Some(places) if !self.fresh => {
                let stat = fstat(places.root()).map_err(|source| Error::Start {
                    doing: "look at",
                    path: ".".to_owned(),
                    source,
                })?;
                compare::attributes(&entry, &stat, self.setting.compared, false)
            }
            _ => Differs { new: true, ..Differs::default() },
        };
        let how = if differs.new { How::Made } else { How::Attributes };
        if differs.new {
            self.setting.count(|received| received.created_directories += 1);
        }
        if differs.any() {
            tell(
                self.setting,
                Change { path: TreePath::root(), kind: Kind::Directory, how, differs, target: vec![] },
            )?;
        }
        if let Some(places) = self.places.as_ref().filter(|_| !self.setting.options.dry_run) {
            let mode = if self.setting.compared.perms {
                Some(Mode::from_raw_mode(entry.mode | 0o700))
            } else {
                None
            };
            if (differs.owner
                || differs.group
                || differs.new && (self.setting.compared.owner || self.setting.compared.group))
                && let Err(errno) | Ok(Owned::ByUs(errno)) =
                    attributes_of_open(self.setting, places.root(), &entry, mode)
            {
                self.setting.problem(Problem::call(&TreePath::root(), "set its owner", errno))?;
            }
            // Files are to go into it before it gets its last mode.
            else if differs.perms
                && let Err(errno) = fchmod(places.root(), Mode::from_raw_mode(entry.mode | 0o700))
            {
                self.setting.problem(Problem::call(&TreePath::root(), "set its mode", errno))?;
            }
            let mode = if differs.perms
                || differs.owner
                || differs.group
                || differs.new && self.setting.compared.perms
            {
                Some(entry.mode)
            } else {
                None
            };
            let modified = self.times(entry.modified).filter(|_| differs.time || differs.new);
            self.directories.insert(TreePath::root(), Last { mode, modified, made: self.fresh });
        }
        Ok(())
    }

    /// Makes way for something of another kind. Whether there is room now.
    pub(super) fn make_way(
        &mut self,
        current: &Current,
        path: &TreePath,
        entry: &Entry,
        stat: Option<&Stat>,
    ) -> Result<bool, Error> {
        let Some(kind) = stat.and_then(|stat| Kind::of(stat.st_mode)) else { return Ok(true) };
        let Some(places) = &mut self.places else { return Ok(true) };
        // A rename replaces what is no directory; but a directory cannot be renamed over it.
        if kind == entry.kind || kind != Kind::Directory && entry.kind != Kind::Directory {
            return Ok(true);
        }
        if kind == Kind::Directory && self.setting.options.delete == Delete::No {
            places.forget();
            let empty = places.open(path).and_then(Names::read).is_ok_and(|names| names.len() == 0);
            if !empty {
                self.setting.problem(Problem::says(path, "a directory that is not empty is in the way"))?;
                return Ok(false);
            }
        }
        // The sender has said what this name is, so nothing that it might not have read can be lost.
        if kind != Kind::Directory {
            if self.setting.options.dry_run {
                return Ok(true);
            }
            let removed = places.open(&current.path).and_then(|open| {
                rustix::fs::unlinkat(open, entry.name.as_bytes(), rustix::fs::AtFlags::empty())
            });
            return match removed {
                Ok(()) => Ok(true),
                Err(errno) => self
                    .setting
                    .problem(Problem::call(path, "make way for a directory", errno))
                    .map(|()| false),
            };
        }
        if remove(self.setting, places, &current.path, &entry.name, Why::InTheWay)? == Removed::Stays {
            self.setting.problem(Problem::says(path, "a directory that cannot be deleted is in the way"))?;
            return Ok(false);
        }
        Ok(true)
    }

    pub(super) fn make_directory(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let is_there = stat.as_ref().filter(|stat| Kind::of(stat.st_mode) == Some(Kind::Directory));
        if let Some(stat) = is_there {
            let differs = compare::attributes(&entry, stat, self.setting.compared, false);
            return self.adjust_directory(current, path, entry, differs, stat);
        }
        if !self.make_way(current, &path, &entry, stat.as_ref())? {
            return Ok(());
        }
        let differs = Differs { new: true, ..Differs::default() };
        self.remember(&path)?;
        if self.setting.options.dry_run {
            self.unmade.insert(path.clone());
        } else if let Some(places) = &mut self.places {
            let mode = new_mode(self.setting, entry.mode);
            let made = places
                .open(&current.path)
                .and_then(|open| mkdirat(open, entry.name.as_bytes(), mode | Mode::RWXU));
            let made = made.and_then(|()| {
                let made = places.open(&path)?;
                attributes_of_open(self.setting, made, &entry, Some(mode | Mode::RWXU))
            });
            match made {
                Ok(Owned::AsTold) => {}
                Ok(Owned::ByUs(errno)) => {
                    self.setting.problem(Problem::call(&path, "set its owner", errno))?;
                }
                Err(errno) => return self.setting.problem(Problem::call(&path, "make the directory", errno)),
            }
            let modified = self.times(entry.modified);
            self.directories
                .insert(path.clone(), Last { mode: Some(mode.as_raw_mode()), modified, made: true });
        }
        self.setting.count(|received| received.created_directories += 1);
        tell(self.setting, Change { path, kind: Kind::Directory, how: How::Made, differs, target: vec![] })
    }

    pub(super) fn adjust_directory(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        differs: Differs,
        found: &Stat,
    ) -> Result<(), Error> {
        if !differs.any() {
            return Ok(());
        }
        if !self.setting.options.dry_run && self.places.is_some() {
            // The mode that it needs meanwhile, and the last one at the end.
            let meanwhile = Entry { mode: entry.mode | 0o700, ..entry.clone() };
            let now = Differs { time: false, ..differs };
            self.adjust(current, &path, &meanwhile, now, found)?;
            let mode = Some(entry.mode).filter(|_| differs.perms || differs.owner || differs.group);
            let modified = self.times(entry.modified).filter(|_| differs.time);
            self.directories.insert(
                path.clone(),
                Last { mode: mode.filter(|_| self.setting.compared.perms), modified, made: false },
            );
        }
        tell(
            self.setting,
            Change { path, kind: Kind::Directory, how: How::Attributes, differs, target: vec![] },
        )
    }
}
