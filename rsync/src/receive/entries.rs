//! The receiver's comparison: of each entry that is told, what has to be done to have it here as well.

mod regular;

use super::Setting;
use super::compare;
use super::destination::Resolved;
use super::place_entry::{adjust, make, new_mode};
use super::remove::{Removed, Why, remove};
use super::temporary;
use crate::change::{Change, Differs, How};
use crate::entry::{Entry, EntryCodec, Kind, Time};
use crate::error::{Error, Problem};
use crate::message::{Attributes, MOST_TOLD, Number, ToSender};
use crate::name::{Name, TreePath};
use crate::options::Delete;
use crate::place::{self, Names, Places};
use crate::session::Event;
use crate::stats::Totals;
use crate::wire::Cursor;
use rustix::fs::{Mode, Stat, fstat, mkdirat};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};

/// Deletions that wait for the end; beyond, the rest stays and is told.
const MOST_EXTRAS: usize = 1 << 20;

/// What the sender tells of entries.
pub(crate) enum Told {
    Directory(TreePath),
    Entries { last: bool, bytes: Vec<u8> },
    All { complete: bool, totals: Totals },
}

impl Told {
    pub(super) fn size(&self) -> usize {
        match self {
            Told::Directory(path) => path.as_bytes().len(),
            Told::Entries { bytes, .. } => bytes.len(),
            Told::All { .. } => 0,
        }
    }
}

/// What a directory gets when nothing more is written into it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last {
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<Time>,
}

/// The directory whose entries are being told.
struct Current {
    path: TreePath,
    /// Our own names in it, where deletions are wanted, and up to which one they are compared.
    own: Option<Names>,
    at: usize,
    last: Option<Name>,
    /// It is not there: all in it is new, or was found to be impossible.
    missing: bool,
}

/// A further name of a file.
pub(super) struct Further {
    pub(super) directory: TreePath,
    pub(super) number: Number,
    pub(super) entry: Entry,
    pub(super) leader: TreePath,
}

/// See the module.
pub(super) struct Entries<'a> {
    pub(super) setting: &'a Setting<'a>,
    pub(super) places: Option<Places>,
    fresh: bool,
    only: Option<Name>,
    current: Option<Current>,
    /// The path told last; the next must come behind it.
    before: Option<TreePath>,
    number: u64,
    untaken: u32,
    /// In a dry run: directories that would be made.
    unmade: HashSet<TreePath>,
    pub(super) directories: BTreeMap<TreePath, Last>,
    pub(super) extras: Vec<(TreePath, Name)>,
    /// Hard links, for when their files are in place.
    pub(super) links: Vec<Further>,
    pub(super) entries_of_root: u64,
    pub(super) root_told: bool,
    queued: (u64, u64),
}

impl<'a> Entries<'a> {
    pub(super) fn new(setting: &'a Setting<'a>, place: Resolved, only: Option<Name>) -> Entries<'a> {
        Entries {
            setting,
            places: place.places,
            fresh: place.fresh,
            only: only.filter(|_| place.shown.is_none()).or(place.shown),
            current: None,
            before: None,
            number: 0,
            untaken: 0,
            unmade: HashSet::new(),
            directories: BTreeMap::new(),
            extras: vec![],
            links: vec![],
            entries_of_root: 0,
            root_told: false,
            queued: (0, 0),
        }
    }

    /// Puts away what transfers before this one have left.
    pub(super) fn clean(&mut self, leftovers: Vec<(TreePath, Name)>) -> Result<(), Error> {
        let Some(places) = self.places.as_mut().filter(|_| !self.setting.options.dry_run) else {
            return Ok(());
        };
        let keep = self.setting.compared.times;
        for (directory, name) in leftovers {
            let cleaned = places.open(&directory).and_then(|open| {
                let before = fstat(open)?;
                temporary::clean(open, &name, self.setting.options.partial)?;
                Ok(Time::of(&before))
            });
            if let Ok(modified) = cleaned {
                self.directories
                    .entry(directory)
                    .or_insert(Last { mode: None, modified: keep.then_some(modified) });
            }
        }
        Ok(())
    }

    fn times(&self, modified: Time) -> Option<Time> {
        self.setting.compared.times.then_some(modified)
    }

    /// The root itself, where its content is what comes.
    pub(super) fn root(&mut self, root: Attributes) -> Result<(), Error> {
        let Some(name) = Name::new(b"root").ok() else { return Ok(()) };
        let entry = Entry {
            name,
            kind: Kind::Directory,
            mode: root.mode,
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
                && let Err(errno) =
                    super::place_entry::attributes_of_open(self.setting, places.root(), &entry, mode)
            {
                self.setting.problem(Problem::call(&TreePath::root(), "set its owner", errno))?;
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
            self.directories.insert(TreePath::root(), Last { mode, modified });
        }
        Ok(())
    }

    /// The entries that follow are in this directory.
    pub(super) fn directory(&mut self, path: TreePath) -> Result<(), Error> {
        if self.current.is_some() {
            return Err(Error::Protocol("a directory inside the entries of another"));
        }
        if self.before.as_ref().is_some_and(|before| *before >= path) {
            return Err(Error::Protocol("directories out of order"));
        }
        if let (Some(only), Some(first)) = (&self.only, path.components().next())
            && first != only.as_bytes()
        {
            return Err(Error::Protocol("a directory that was not asked for"));
        }
        self.before = Some(path.clone());
        self.root_told |= path.is_root();
        let mut current = Current { path, own: None, at: 0, last: None, missing: false };
        let wants_extras =
            self.setting.options.delete != Delete::No && !(self.only.is_some() && current.path.is_root());
        match self.places.as_mut().filter(|_| !self.unmade.contains(&current.path)) {
            None => {
                current.missing = true;
            }
            Some(places) => match places.open(&current.path) {
                Ok(open) => {
                    let stat = fstat(open).map_err(|source| Error::Start {
                        doing: "look at",
                        path: current.path.to_string(),
                        source,
                    })?;
                    let modified = self.setting.compared.times.then(|| Time::of(&stat));
                    // Whatever is made or removed in it, its time becomes again what it is, or what is told of it.
                    if !self.setting.options.dry_run {
                        let last = self.directories.entry(current.path.clone()).or_default();
                        last.modified = last.modified.or(modified);
                    }
                    if wants_extras {
                        match Names::read(open) {
                            Ok(names) => current.own = Some(names),
                            Err(errno) => self.setting.problem(Problem::call(
                                &current.path,
                                "read the directory",
                                errno,
                            ))?,
                        }
                    }
                }
                Err(errno) => {
                    current.missing = true;
                    self.setting.problem(Problem::call(&current.path, "open the directory", errno))?;
                }
            },
        }
        self.current = Some(current);
        Ok(())
    }

    pub(super) fn entries(&mut self, bytes: &[u8], last: bool) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else {
            return Err(Error::Protocol("entries of no directory"));
        };
        let (mut cursor, mut codec, mut count) = (Cursor(bytes), EntryCodec::default(), 1);
        while !cursor.0.is_empty() {
            let entry = codec.read(&mut cursor)?;
            if current.last.as_ref().is_some_and(|before| *before >= entry.name) {
                return Err(Error::Protocol("entries out of order"));
            }
            if current.path.is_root() && self.only.as_ref().is_some_and(|only| *only != entry.name) {
                return Err(Error::Protocol("an entry that was not asked for"));
            }
            current.last = Some(entry.name.clone());
            self.entries_of_root += u64::from(current.path.is_root());
            self.find_extras(&mut current, Some(&entry.name))?;
            let number =
                Number::try_from(self.number).map_err(|_| Error::Protocol("more entries than numbers"))?;
            self.number += 1;
            count += 1;
            self.entry(&current, number, entry)?;
        }
        // The message has a number as well.
        self.number += 1;
        self.untaken += count;
        if u64::from(self.untaken) > MOST_TOLD / 8 {
            self.setting.say(&ToSender::Taken(std::mem::take(&mut self.untaken)))?;
            self.setting.session.outbox.flush()?;
        }
        if last {
            self.find_extras(&mut current, None)?;
        } else {
            self.current = Some(current);
        }
        Ok(())
    }

    /// Our own names before this one that the sender has not told.
    fn find_extras(&mut self, current: &mut Current, told: Option<&Name>) -> Result<(), Error> {
        let Some(own) = &current.own else { return Ok(()) };
        while let Some(name) = own.get(current.at).filter(|name| told.is_none_or(|told| name <= told)) {
            current.at += 1;
            if Some(&name) != told && !name.is_ours() {
                if self.extras.len() >= MOST_EXTRAS {
                    return self
                        .setting
                        .problem(Problem::says(&current.path, "too much is to be deleted at a time"));
                }
                self.extras.push((current.path.clone(), name));
            }
        }
        Ok(())
    }

    fn entry(&mut self, current: &Current, number: Number, entry: Entry) -> Result<(), Error> {
        let path = current.path.join(&entry.name)?;
        let mut stat = None;
        if !current.missing
            && let Some(places) = &mut self.places
        {
            match places.open(&current.path).and_then(|open| place::stat(open, &entry.name)) {
                Ok(found) => stat = found,
                Err(errno) => return self.setting.problem(Problem::call(&path, "look at it", errno)),
            }
        } else if !self.setting.options.dry_run {
            // The directory could not be made or opened, which was told.
            return Ok(());
        }
        match entry.kind {
            Kind::Directory => self.make_directory(current, path, entry, stat),
            Kind::File => self.regular(current, number, path, entry, stat),
            Kind::Symlink => self.symlink(current, path, entry, stat),
            Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
                self.special(current, path, entry, stat)
            }
        }
    }

    /// Makes way for something of another kind. Whether there is room now.
    fn make_way(
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

    fn make_directory(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let is_there = stat.as_ref().filter(|stat| Kind::of(stat.st_mode) == Some(Kind::Directory));
        if let Some(stat) = is_there {
            let differs = compare::attributes(&entry, stat, self.setting.compared, false);
            return self.adjust_directory(current, path, entry, differs);
        }
        if !self.make_way(current, &path, &entry, stat.as_ref())? {
            return Ok(());
        }
        let differs = Differs { new: true, ..Differs::default() };
        if self.setting.options.dry_run {
            self.unmade.insert(path.clone());
        } else if let Some(places) = &mut self.places {
            let mode = new_mode(self.setting, entry.mode);
            let made = places
                .open(&current.path)
                .and_then(|open| mkdirat(open, entry.name.as_bytes(), mode | Mode::RWXU));
            let made = made.and_then(|()| {
                let made = places.open(&path)?;
                super::place_entry::attributes_of_open(self.setting, made, &entry, Some(mode | Mode::RWXU))
            });
            if let Err(errno) = made {
                return self.setting.problem(Problem::call(&path, "make the directory", errno));
            }
            let modified = self.times(entry.modified);
            self.directories.insert(path.clone(), Last { mode: Some(mode.as_raw_mode()), modified });
        }
        self.setting.count(|received| received.created_directories += 1);
        tell(self.setting, Change { path, kind: Kind::Directory, how: How::Made, differs, target: vec![] })
    }

    fn adjust_directory(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        differs: Differs,
    ) -> Result<(), Error> {
        if !differs.any() {
            return Ok(());
        }
        if !self.setting.options.dry_run
            && let Some(places) = &mut self.places
        {
            // The mode that it needs meanwhile, and the last one at the end.
            let meanwhile = Entry { mode: entry.mode | 0o700, ..entry.clone() };
            let now = Differs { time: false, ..differs };
            let adjusted =
                places.open(&current.path).and_then(|open| adjust(self.setting, open, &meanwhile, now));
            if let Err(errno) = adjusted {
                self.setting.problem(Problem::call(&path, "set its attributes", errno))?;
            }
            let mode = Some(entry.mode).filter(|_| differs.perms || differs.owner || differs.group);
            let modified = self.times(entry.modified).filter(|_| differs.time);
            self.directories
                .insert(path.clone(), Last { mode: mode.filter(|_| self.setting.compared.perms), modified });
        }
        tell(
            self.setting,
            Change { path, kind: Kind::Directory, how: How::Attributes, differs, target: vec![] },
        )
    }

    fn symlink(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        if !self.setting.options.links {
            return self.setting.session.skip(&path, "skipped: it is a symbolic link");
        }
        if entry.target.is_empty() {
            return Err(Error::Protocol("a link that leads nowhere"));
        }
        if self.setting.options.safe_links && leads_out(&path, &entry.target) {
            return self.setting.session.skip(&path, "skipped: the link leads out of the tree");
        }
        let mut differs = Differs { new: stat.is_none(), ..Differs::default() };
        if let (Some(stat), Some(places)) = (&stat, &mut self.places)
            && Kind::of(stat.st_mode) == Some(Kind::Symlink)
        {
            let ours = places
                .open(&current.path)
                .and_then(|open| rustix::fs::readlinkat(open, entry.name.as_bytes(), vec![]));
            let same = ours.is_ok_and(|ours| ours.as_bytes() == entry.target);
            differs = compare::attributes(&entry, stat, self.setting.compared, !same);
            differs.content = !same;
            if same {
                return self.same(current, path, entry, differs);
            }
        } else if stat.is_some() {
            differs.new = true;
        }
        self.replace(current, path, entry, stat.as_ref(), differs, |received| &mut received.created_links)
    }

    fn special(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let wanted =
            if entry.kind.is_device() { self.setting.options.devices } else { self.setting.options.specials };
        if !wanted {
            return self.setting.session.skip(&path, "skipped: it is a device, a pipe or a socket");
        }
        let mut differs = Differs { new: true, ..Differs::default() };
        if let Some(stat) = &stat
            && Kind::of(stat.st_mode) == Some(entry.kind)
            && (!entry.kind.is_device() || stat.st_rdev as u64 == entry.device)
        {
            differs = compare::attributes(&entry, stat, self.setting.compared, false);
            if !differs.perms {
                return self.same(current, path, entry, differs);
            }
            // Its mode cannot be set without following its name, so it is made anew.
        }
        self.replace(current, path, entry, stat.as_ref(), differs, |received| &mut received.created_specials)
    }

    /// Only attributes, if any.
    fn same(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        differs: Differs,
    ) -> Result<(), Error> {
        if !differs.any() {
            return Ok(());
        }
        if !self.setting.options.dry_run
            && let Some(places) = &mut self.places
        {
            let adjusted =
                places.open(&current.path).and_then(|open| adjust(self.setting, open, &entry, differs));
            if let Err(errno) = adjusted {
                return self.setting.problem(Problem::call(&path, "set its attributes", errno));
            }
        }
        tell(
            self.setting,
            Change { path, kind: entry.kind, how: How::Attributes, differs, target: entry.target },
        )
    }

    fn replace(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<&Stat>,
        differs: Differs,
        count: impl FnOnce(&mut crate::stats::Received) -> &mut u64,
    ) -> Result<(), Error> {
        if !self.make_way(current, &path, &entry, stat)? {
            return Ok(());
        }
        if !self.setting.options.dry_run
            && let Some(places) = &mut self.places
        {
            let made = places.open(&current.path).and_then(|open| make(self.setting, open, &entry));
            match made {
                Ok(()) => {}
                Err(Errno::PERM) if entry.kind.is_device() => {
                    return self.setting.session.skip(&path, "skipped: only root makes devices");
                }
                Err(errno) => return self.setting.problem(Problem::call(&path, "make it", errno)),
            }
        }
        if differs.new {
            self.setting.count(|received| *count(received) += 1);
        }
        let how = if differs.new || differs.content { How::Made } else { How::Attributes };
        tell(self.setting, Change { path, kind: entry.kind, how, differs, target: entry.target })
    }
}

/// Whether a link in a tree leads out of it: from the root down it would go up too far.
fn leads_out(path: &TreePath, target: &[u8]) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    if target.first() == Some(&b'/') {
        return true;
    }
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

/// Tells a change to whoever watches here, and to the other end if it wants to know.
pub(super) fn tell(setting: &Setting<'_>, change: Change) -> Result<(), Error> {
    (setting.session.watcher)(Event::Change(&change));
    if setting.options.report { setting.say(&ToSender::Change(change)) } else { Ok(()) }
}
