//! The receiver's comparison: of each entry that is told, what has to be done to have it here as well.

mod directories;
mod others;
mod regular;

use super::Setting;
use super::destination::Resolved;
use super::{attributes, temporary};
use crate::change::{Change, Differs};
use crate::entry::{Entry, EntryCodec, Kind, Time};
use crate::error::{Error, Problem};
use crate::file::Identity;
use crate::message::{MOST_TOLD, Number, ToSender};
use crate::name::{Name, TreePath};
use crate::options::Delete;
use crate::place::{self, Names, Places};
use crate::session::Event;
use crate::stats::Totals;
use crate::tree::MOST_LEFTOVERS;
use crate::wire::Cursor;
use rustix::fs::{Stat, fstat};
use std::collections::{BTreeMap, HashSet};

/// Deletions that wait for the end; beyond, the rest stays and is told.
const MOST_EXTRAS: usize = 1 << 20;

/// Bytes of changed directories and further names of files that are remembered to the end: some two hundred thousand.
const MOST_REMEMBERED: usize = 64 << 20;
/// What each takes beside its paths.
const REMEMBERED: usize = 256;

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
    /// It was not there before this transfer, so that nothing is in it yet.
    pub(super) made: bool,
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
    /// This transfer has made it: all in it is new.
    made: bool,
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
    pub(super) entries_of_top: u64,
    pub(super) top_told: bool,
    queued: (u64, u64),
    /// Bytes of what is remembered to the end.
    remembered: usize,
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
            entries_of_top: 0,
            top_told: false,
            queued: (0, 0),
            remembered: 0,
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
                    .or_insert(Last { modified: keep.then_some(modified), ..Last::default() });
            }
        }
        // What one thing is put into was not looked through. What is kept there to go on with may be another's.
        if self.only.is_some() {
            let names = places.open(&TreePath::root()).and_then(Names::read);
            let names = names.iter().flat_map(|names| (0..names.len()).filter_map(|at| names.get(at)));
            for name in names.filter(Name::is_temporary).take(MOST_LEFTOVERS) {
                let open = places.open(&TreePath::root());
                let cleaned =
                    open.and_then(|open| temporary::clean(open, &name, self.setting.options.partial));
                // As above: what stays is seen by the next transfer.
                if cleaned.is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Of a mode that the sender tells, what may be given: senders that keep to the protocol have left out the rest.
    pub(super) fn allowed(&self, mode: u32) -> u32 {
        if self.setting.compared.set_id { mode } else { mode & !0o6000 }
    }

    /// Whether this is the directory whose content comes.
    fn is_top(&self, directory: &TreePath) -> bool {
        match &self.only {
            Some(only) => directory.as_bytes() == only.as_bytes(),
            None => directory.is_root(),
        }
    }

    /// Gives what is there what differs. Whether it could; if not, that is told.
    fn adjust(
        &mut self,
        current: &Current,
        path: &TreePath,
        entry: &Entry,
        differs: Differs,
        found: &Stat,
    ) -> Result<bool, Error> {
        let Some(places) = self.places.as_mut().filter(|_| !self.setting.options.dry_run) else {
            return Ok(true);
        };
        let open = places.open(&current.path);
        match open
            .and_then(|open| attributes::adjust(self.setting, open, entry, differs, &Identity::of(found)))
        {
            Ok(()) => Ok(true),
            Err(errno) => {
                self.setting.problem(Problem::call(path, "set its attributes", errno)).map(|()| false)
            }
        }
    }

    fn times(&self, modified: Time) -> Option<Time> {
        self.setting.compared.times.then_some(modified)
    }

    /// Counts what has to be remembered to the end: the sender decides how much that is.
    fn remember(&mut self, path: &TreePath) -> Result<(), Error> {
        self.remember_bytes(path.as_bytes().len())
    }

    fn remember_bytes(&mut self, bytes: usize) -> Result<(), Error> {
        self.remembered += bytes + REMEMBERED;
        if self.remembered > MOST_REMEMBERED {
            return Err(Error::Refused(
                "more changed directories and links than can be remembered".to_owned(),
            ));
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
        self.remember(&path)?;
        self.before = Some(path.clone());
        self.top_told |= self.is_top(&path);
        let made = self.directories.get(&path).is_some_and(|last| last.made);
        let mut current = Current { path, own: None, at: 0, last: None, missing: false, made };
        // Where one file is all that was asked for, what it is in is not part of the transfer.
        let takes_part = !(self.only.is_some() && current.path.is_root());
        let wants_extras = self.setting.options.delete != Delete::No && takes_part;
        match self.places.as_mut().filter(|_| !self.unmade.contains(&current.path)) {
            None => {
                current.missing = true;
            }
            Some(places) => match fstat(places.root())
                .map(|stat| stat.st_dev)
                .and_then(|top| Ok((top, places.open(&current.path)?)))
            {
                Ok((top, open)) => {
                    let stat = fstat(open).map_err(|source| Error::Start {
                        doing: "look at",
                        path: current.path.to_string(),
                        source,
                    })?;
                    let modified = self.setting.compared.times.then(|| Time::of(&stat));
                    // Whatever is made or removed in it, its time becomes again what it is, or what is told of it.
                    if !self.setting.options.dry_run && takes_part {
                        let last = self.directories.entry(current.path.clone()).or_default();
                        last.modified = last.modified.or(modified);
                    }
                    // As with rsync: what is mounted here is not looked into.
                    let elsewhere = self.setting.options.one_file_system && stat.st_dev != top;
                    if wants_extras && !elsewhere {
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

    /// All is told, so no directory may be half told.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.current.is_some() { Err(Error::Protocol("a directory without an end")) } else { Ok(()) }
    }

    pub(super) fn entries(&mut self, bytes: &[u8], last: bool) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else {
            return Err(Error::Protocol("entries of no directory"));
        };
        let (mut cursor, mut codec, mut count) = (Cursor(bytes), EntryCodec::default(), 1);
        while !cursor.0.is_empty() {
            let mut entry = codec.read(&mut cursor)?;
            entry.mode = self.allowed(entry.mode);
            if current.last.as_ref().is_some_and(|before| *before >= entry.name) {
                return Err(Error::Protocol("entries out of order"));
            }
            if current.path.is_root() && self.only.as_ref().is_some_and(|only| *only != entry.name) {
                return Err(Error::Protocol("an entry that was not asked for"));
            }
            current.last = Some(entry.name.clone());
            self.entries_of_top += u64::from(self.is_top(&current.path));
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
            // Nothing replaces what somebody has put there meanwhile: see `give_name`.
            let found = if current.made {
                Ok(None)
            } else {
                places.open(&current.path).and_then(|open| place::stat(open, &entry.name))
            };
            match found {
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
}

/// Tells a change to whoever watches here, and to the other end if it wants to know.
pub(super) fn tell(setting: &Setting<'_>, change: Change) -> Result<(), Error> {
    (setting.session.watcher)(Event::Change(&change));
    if setting.options.report { setting.say(&ToSender::Change(change)) } else { Ok(()) }
}
