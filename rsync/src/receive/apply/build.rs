//! One file that is being built, in order from its first byte to its last.

use super::is_same_base;
use crate::content::{ContentHash, ContentHasher};
use crate::entry::{Entry, Time};
use crate::error::{Error, Problem};
use crate::file::read_exact;
use crate::message::Number;
use crate::place::{self, Places};
use crate::receive::Setting;
use crate::receive::attributes::{Owned, attributes_of_open, new_mode};
use crate::receive::flights::Flight;
use crate::receive::temporary::{Temporary, partial_name};
use crate::session::Event;
use rustix::fs::{Mode, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd as _;

/// What is copied at once.
const READ: usize = 128 << 10;
/// What is written at once of zeros.
const ZEROS: u64 = 8 << 20;
/// How often it is told how far a file is.
const TELL_EVERY: u64 = 1 << 20;

/// How it ended.
pub(super) enum Outcome {
    Placed,
    /// It is not what the sender has.
    Wrong,
    Failed(&'static str, Errno),
}

/// See the module. Once something fails, the rest of what the sender says of it is passed over.
pub(super) struct Build {
    pub(super) number: Number,
    pub(super) flight: Flight,
    size: u64,
    modified: Time,
    temporary: Result<Temporary, (&'static str, Errno)>,
    base: Option<File>,
    /// The base could not be read.
    wrong: bool,
    hasher: ContentHasher,
    literal: u64,
    told: u64,
    buffer: Vec<u8>,
}

impl Build {
    pub(super) fn begin(
        setting: &Setting<'_>,
        places: &mut Places,
        number: Number,
        flight: Flight,
        size: u64,
        modified: Time,
    ) -> Build {
        let opened = places.shared(&flight.directory).map_err(|errno| ("open its directory", errno));
        let mut base = None;
        let temporary = opened.and_then(|directory| {
            base = flight.base.as_ref().and_then(|base| place::open_file(directory.as_fd(), &base.name).ok());
            Temporary::create(directory, &flight.entry.name, setting.options.sparse)
                .map_err(|errno| ("write", errno))
        });
        let base = base.map(|(file, _)| File::from(file));
        Build {
            number,
            flight,
            size,
            modified,
            temporary,
            base,
            wrong: false,
            hasher: ContentHasher::new(),
            literal: 0,
            told: 0,
            buffer: vec![],
        }
    }

    /// So much more is coming; never more than was announced.
    fn expect(&self, length: u64) -> Result<(), Error> {
        if length > self.size - self.hasher.length() {
            Err(Error::Protocol("a file longer than announced"))
        } else {
            Ok(())
        }
    }

    fn write(&mut self, part: impl FnOnce(&mut Temporary) -> Result<(), Errno>) {
        if !self.wrong
            && let Ok(temporary) = &mut self.temporary
            && let Err(errno) = part(temporary)
        {
            self.temporary = Err(("write", errno));
        }
    }

    /// Tells how far it is, if that is worth it.
    pub(super) fn progress(&mut self, setting: &Setting<'_>) {
        let done = self.hasher.length();
        if done - self.told >= TELL_EVERY && done < self.size {
            self.told = done;
            (setting.session.watcher)(Event::Progress { path: &self.flight.path, done, size: self.size });
        }
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.expect(bytes.len() as u64)?;
        self.hasher.update(bytes);
        self.literal += bytes.len() as u64;
        self.write(|temporary| temporary.write(bytes));
        Ok(())
    }

    pub(super) fn zeros(&mut self, setting: &Setting<'_>, length: u64) -> Result<(), Error> {
        self.expect(length)?;
        let mut left = length;
        while left > 0 {
            // A hole is made at once.
            let some = if setting.options.sparse { left } else { left.min(ZEROS) };
            self.write(|temporary| temporary.zeros(some));
            if self.temporary.is_err() {
                self.hasher.zeros(left);
                break;
            }
            self.hasher.zeros(some);
            left -= some;
            self.go_on(setting)?;
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, setting: &Setting<'_>, from: u64, length: u64) -> Result<(), Error> {
        self.expect(length)?;
        let size = self.flight.base.as_ref().map_or(0, |base| base.size);
        let end = from.checked_add(length).filter(|end| *end <= size);
        let end = end.ok_or(Error::Protocol("a copy from beyond the base"))?;
        let mut at = from;
        while at < end {
            let some = (end - at).min(READ as u64) as usize;
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(some, 0);
            // A base that has gone or become shorter means that all of the file is asked for.
            self.wrong |= self.base.as_ref().is_none_or(|base| read_exact(base, &mut buffer, at).is_err());
            if self.wrong || self.temporary.is_err() {
                // It will not be placed: all that counts is its length.
                self.hasher.zeros(end - at);
                break;
            }
            self.hasher.update(&buffer);
            self.write(|temporary| temporary.write(&buffer));
            self.buffer = buffer;
            at += some as u64;
            self.go_on(setting)?;
        }
        Ok(())
    }

    /// One message may stand for hours of work.
    fn go_on(&mut self, setting: &Setting<'_>) -> Result<(), Error> {
        self.progress(setting);
        if setting.session.is_over() { Err(Error::Stopped) } else { Ok(()) }
    }

    pub(super) fn end(
        self,
        setting: &Setting<'_>,
        places: &mut Places,
        hash: ContentHash,
    ) -> Result<Outcome, Error> {
        if self.hasher.length() != self.size {
            return Err(Error::Protocol("a file shorter than announced"));
        }
        if self.wrong || self.hasher.clone().finish() != hash {
            return Ok(Outcome::Wrong);
        }
        self.end_unchecked(setting, places)
    }

    /// Gives it its attributes and its name.
    pub(super) fn end_unchecked(self, setting: &Setting<'_>, places: &mut Places) -> Result<Outcome, Error> {
        let Build { flight, size, modified, temporary, base, literal, .. } = self;
        let mut temporary = match temporary {
            Ok(temporary) => temporary,
            Err((doing, errno)) => return Ok(Outcome::Failed(doing, errno)),
        };
        if let (Some(description), Some(base)) = (&flight.base, &base)
            && !fstat(base).is_ok_and(|stat| is_same_base(description, &stat))
        {
            return Ok(Outcome::Wrong);
        }
        let nothing_there = flight.mode.is_none() && !flight.replaces;
        let entry = Entry { modified, ..flight.entry };
        // An existing file keeps its mode unless modes are wanted.
        let mode = match flight.mode.filter(|_| !setting.compared.perms) {
            Some(mode) => Mode::from_raw_mode(mode & if setting.compared.set_id { 0o7777 } else { 0o1777 }),
            None => new_mode(setting, entry.mode),
        };
        let finished = temporary
            .end()
            .and_then(|()| attributes_of_open(setting, temporary.file.as_fd(), &entry, Some(mode)))
            .and_then(|owned| temporary.place(&entry.name, nothing_there).map(|()| owned));
        match finished {
            Ok(Owned::AsTold) => {}
            Ok(Owned::ByUs(errno)) => setting.problem(Problem::call(&flight.path, "set its owner", errno))?,
            Err(errno) => return Ok(Outcome::Failed("put it in place", errno)),
        }
        if setting.keeps_partials
            && let Ok(directory) = places.open(&flight.directory)
        {
            // It is there only after an interruption.
            place::discard(directory, &partial_name(&entry.name));
        }
        setting.count(|received| {
            received.transferred += 1;
            received.transferred_size += size;
            received.created_files += u64::from(flight.differs.new);
            received.literal += literal;
            received.matched += size - literal;
        });
        (setting.session.watcher)(Event::Progress { path: &flight.path, done: size, size });
        Ok(Outcome::Placed)
    }

    /// The file will not be finished.
    pub(super) fn give_up(self, keep: bool) {
        // What lacks a part of the base is no beginning of it.
        if let Ok(temporary) = self.temporary
            && keep
            && !self.wrong
        {
            temporary.keep(&self.flight.entry.name);
        }
    }
}
