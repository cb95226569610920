//! The sender's answers: the content of one file after the other, as little of it as the receiver's base allows.

mod delta;

use super::desk::{Desk, Job, Place};
use super::{say, say_data};
use crate::content::{ContentHash, ContentHasher, PIECE, is_zero};
use crate::entry::Time;
use crate::error::{Error, Problem};
use crate::file::{self, Content, Identity, Part};
use crate::link::Packing;
use crate::message::{Failure, MOST_DATA, Number, ToReceiver};
use crate::name::TreePath;
use crate::options::Options;
use crate::place::{self, Places};
use crate::session::{Event, Session};
use crate::signature::Shape;
use crate::tree::Only;
use delta::Waiting;
use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;

/// A file up to here is sent whole when its beginning is not the base; a larger one may be worth a signature.
const SMALL: u64 = 4 << 10;
/// What of a file is tried on zstd to see whether it is worth it.
const SAMPLE: usize = 32 << 10;

/// The state of the answering thread.
pub(super) struct Answer<'a> {
    session: &'a Session<'a>,
    desk: &'a Desk,
    places: Places,
    only: Option<Only>,
    options: &'a Options,
    /// Files whose gaps the receiver was asked about.
    waiting: HashMap<Number, Waiting>,
}

/// A file that is open, as it was then.
pub(super) struct Source {
    number: Number,
    path: TreePath,
    content: Content,
    identity: Identity,
    modified: Time,
    packing: Option<Packing>,
}

/// Why there is no content: of this file, or of any.
pub(super) enum Stop {
    File(Failure),
    All(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::All(error)
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::File(match errno {
            Errno::CANCELED => return Stop::All(Error::Stopped),
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Failure::Vanished,
            Errno::STALE => Failure::Changed,
            Errno::ACCESS | Errno::PERM => Failure::Denied,
            _ => Failure::Unreadable,
        })
    }
}

pub(super) fn answer(
    session: &Session<'_>,
    desk: &Desk,
    places: Places,
    only: Option<Only>,
    options: &Options,
) -> Result<(), Error> {
    let mut answer = Answer { session, desk, places, only, options, waiting: HashMap::new() };
    loop {
        let (number, place, job) = desk.job(session)?;
        match answer.job(number, &place, job) {
            Ok(()) => {}
            Err(Stop::All(error)) => return Err(error),
            Err(Stop::File(why)) => answer.fail(number, &place, why)?,
        }
    }
}

impl Answer<'_> {
    fn job(&mut self, number: Number, place: &Place, job: Job) -> Result<(), Stop> {
        match job {
            Job::Whole => {
                let source = self.open(number, place)?;
                self.whole(source)
            }
            Job::Tail { length, mark } => self.tail(number, place, length, mark),
            Job::Rest { length, hash } => self.rest(number, place, length, hash),
            Job::Delta { shape, sums } => self.delta(number, place, shape, sums),
            Job::Gaps { sums } => self.gaps(number, sums),
        }
    }

    fn fail(&mut self, number: Number, place: &Place, why: Failure) -> Result<(), Error> {
        self.waiting.remove(&number);
        say(self.session, &ToReceiver::Failed { number, why })?;
        self.desk.answered(number);
        let path = place.directory.join(&place.name).unwrap_or_default();
        // The receiver may ask again for what has changed; the rest is final.
        match why {
            Failure::Changed | Failure::Forgotten => {}
            Failure::Vanished => {
                self.session.problem(&Problem::vanished(&path, "it vanished before it was sent"))
            }
            Failure::Denied => {
                self.session.problem(&Problem::says(&path, "cannot open it: permission denied"))
            }
            Failure::Unreadable => self.session.problem(&Problem::says(&path, "cannot read it")),
        }
        Ok(())
    }

    fn open(&mut self, number: Number, place: &Place) -> Result<Source, Stop> {
        let path = place.directory.join(&place.name).unwrap_or_default();
        let only = self.only.as_ref().filter(|only| place.directory.is_root() && only.shown == place.name);
        let name = only.map_or(&place.name, |only| &only.real);
        let directory = self.places.open(&place.directory)?;
        let (file, stat) = place::open_file(directory, name)?;
        let content = Content::new(File::from(file), &stat);
        Ok(Source {
            number,
            path,
            content,
            identity: Identity::of(&stat),
            modified: Time::of(&stat),
            packing: None,
        })
    }

    fn begin(&self, source: &Source) -> Result<(), Error> {
        let (number, size, modified) = (source.number, source.content.size, source.modified);
        say(self.session, &ToReceiver::File { number, size, modified })
    }

    fn whole(&mut self, mut source: Source) -> Result<(), Stop> {
        self.begin(&source)?;
        let hasher = self.stream(&mut source, ContentHasher::new())?;
        self.end(&source, hasher.finish())
    }

    /// Sends what is left of the content, and hashes it.
    fn stream(&self, source: &mut Source, mut hasher: ContentHasher) -> Result<ContentHasher, Stop> {
        let size = source.content.size;
        loop {
            let packing = source.packing;
            match source.content.next()? {
                None => return Ok(hasher),
                Some(Part::Hole(length)) => {
                    hasher.zeros(length);
                    say(self.session, &ToReceiver::Zero(length))?;
                }
                Some(Part::Data(bytes)) => {
                    let packing = packing.unwrap_or_else(|| try_out(bytes));
                    let aligned = hasher.length().is_multiple_of(PIECE as u64);
                    hasher.update(bytes);
                    self.data(bytes, packing, aligned)?;
                    source.packing = Some(packing);
                }
            }
            let progress = Event::Progress { path: &source.path, done: hasher.length(), size };
            (self.session.watcher)(progress);
        }
    }

    /// Sends some content; pieces of zeros go as their length.
    fn data(&self, bytes: &[u8], packing: Packing, aligned: bool) -> Result<(), Error> {
        let size = if aligned { PIECE } else { MOST_DATA };
        let mut start = 0;
        let mut at = 0;
        let flush = |start: usize, end: usize| match bytes.get(start..end) {
            Some(some @ [_, ..]) => say_data(self.session, some, packing),
            _ => Ok(()),
        };
        for piece in bytes.chunks(size) {
            let end = at + piece.len();
            if piece.len() == PIECE && aligned && is_zero(piece) {
                flush(start, at)?;
                say(self.session, &ToReceiver::Zero(piece.len() as u64))?;
                start = end;
            } else if end - start >= MOST_DATA {
                flush(start, end)?;
                start = end;
            }
            at = end;
        }
        flush(start, bytes.len())
    }

    /// The end of a file, if it still is, or begins with, what was opened.
    fn end(&self, source: &Source, hash: ContentHash) -> Result<(), Stop> {
        let now = fstat(&source.content.file)?;
        if Identity::of(&now) != source.identity && !self.begins_with(source, &now, hash)? {
            return Err(Stop::File(Failure::Changed));
        }
        say(self.session, &ToReceiver::End(hash))?;
        self.desk.answered(source.number);
        if self.session.is_over() { Err(Error::Stopped.into()) } else { Ok(()) }
    }

    /// A log grows all the time. What was sent of one that has is a state that it had, if it still begins with that; its
    /// time is that of the state, so that the next transfer goes on from there.
    fn begins_with(&self, source: &Source, now: &Stat, hash: ContentHash) -> Result<bool, Stop> {
        let (mut again, mut hasher) = (source.content.again()?, ContentHasher::new());
        if now.st_size.unsigned_abs() < again.size {
            return Ok(false);
        }
        again.hash(&mut hasher, self.session.over())?;
        Ok(hasher.finish() == hash)
    }

    /// The receiver has a file that may be the beginning of this one. If it turns out not to be, the hash at the end tells, and the
    /// receiver asks again in another way.
    fn tail(&mut self, number: Number, place: &Place, length: u64, mark: ContentHash) -> Result<(), Stop> {
        let mut source = self.open(number, place)?;
        if length > source.content.size || file::mark(&source.content.file, length)? != mark {
            return self.ask_sums(source, place, length);
        }
        self.begin(&source)?;
        // The receiver copies while this end hashes what it copies.
        say(self.session, &ToReceiver::Copy { from: 0, length })?;
        self.session.outbox.flush()?;
        let (size, mut hasher) = (source.content.size, ContentHasher::new());
        source.content = source.content.until(length);
        source.content.hash(&mut hasher, self.session.over())?;
        source.content = source.content.until(size);
        let hasher = self.stream(&mut source, hasher)?;
        self.end(&source, hasher.finish())
    }

    /// The receiver has a file that is all of this one, unless its time says too little.
    fn rest(&mut self, number: Number, place: &Place, length: u64, hash: ContentHash) -> Result<(), Stop> {
        let mut source = self.open(number, place)?;
        if length == source.content.size {
            let mut hasher = ContentHasher::new();
            source.content.hash(&mut hasher, self.session.over())?;
            if hasher.finish() == hash {
                self.desk.answered(number);
                return Ok(say(self.session, &ToReceiver::Same(number))?);
            }
        }
        self.ask_sums(source, place, length)
    }

    /// The base is no beginning; its blocks may still be in the file, if that is worth asking.
    fn ask_sums(&mut self, source: Source, place: &Place, length: u64) -> Result<(), Stop> {
        let number = source.number;
        if self.options.dry_run {
            // It differs, and that is all that is wanted.
            self.desk.answered(number);
            return Ok(say(self.session, &ToReceiver::AskSums(number))?);
        }
        let shape = Shape::of_file(length).filter(|_| source.content.size > SMALL);
        if shape.is_some_and(|shape| self.desk.ask_sums(number, shape.size())) {
            return Ok(say(self.session, &ToReceiver::AskSums(number))?);
        }
        let source = self.open(number, place)?;
        self.whole(source)
    }
}

/// Whether zstd makes anything of the beginning of a file. To find it out costs more than it saves on a small one.
fn try_out(bytes: &[u8]) -> Packing {
    let Some(sample) = bytes.get(..SAMPLE).filter(|_| bytes.len() >= MOST_DATA) else {
        return Packing::Compress;
    };
    match zstd::bulk::compress(sample, 1) {
        Ok(small) if small.len() * 20 > sample.len() * 19 => Packing::AsItIs,
        _ => Packing::Compress,
    }
}
