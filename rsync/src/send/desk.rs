//! What the sender's threads hand each other: what the receiver has said, and which file a number means.
//!
//! Everything here has a bound. A receiver that exceeds one does not keep to the protocol.

mod inner;

use crate::content::ContentHash;
use crate::digest::{Digests, DirectoryDigest};
use crate::error::Error;
use crate::message::{MOST_IN_FLIGHT, MOST_TOLD, Number, ToSender};
use crate::name::{Name, TreePath};
use crate::session::{Session, Signal, lock};
use crate::signature::Shape;
use crate::stats::Received;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

/// Sums that may wait here; the receiver keeps them below a half of it on its own.
const MOST_SUM_BYTES: u64 = 64 << 20;
/// Answered files that may still be asked for again: the receiver has no more than this in flight, and each of
/// them can be answered twice before the first answer is looked at.
const MOST_ANSWERED: usize = 4 * MOST_IN_FLIGHT;

/// Names of files that have others, which may be asked for at any time.
const MOST_FOLLOWERS: usize = 1 << 18;

/// How the receiver wants it.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) shown: Option<Name>,
    pub(super) owner: bool,
    pub(super) group: bool,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: TreePath,
    pub(super) name: Name,
}

/// Something to answer.
#[derive(Debug)]
pub(super) enum Job {
    Whole,
    Tail { length: u64, mark: ContentHash },
    Rest { length: u64, hash: ContentHash },
    Delta { shape: Shape, sums: Vec<u8> },
    Gaps { sums: Vec<u8> },
}

/// A file that is asked for.
#[derive(Debug)]
struct Asked {
    place: Place,
    /// The sums that are coming in, and how many bytes they will have.
    sums: Vec<u8>,
    expects: u64,
    shape: Option<Shape>,
    /// The receiver was asked for sums, and may say of what.
    awaits_shape: bool,
    /// Bytes of sums that it was asked for and that have not come.
    promised: u64,
    /// Not answered yet; or answered, and could be asked for again.
    open: bool,
}

#[derive(Default)]
struct Inner {
    begin: Option<Begin>,
    digests: Digests,
    /// Entries told, and entries that the receiver has dealt with.
    told: u64,
    taken: u64,
    /// The directories of those in between, with the number of their first entry here.
    blocks: VecDeque<Block>,
    /// Further names of files, whose content is asked for only when it turns out that the first name is not there.
    followers: HashMap<Number, Place>,
    jobs: VecDeque<(Number, Job)>,
    asked: HashMap<Number, Asked>,
    answered: VecDeque<Number>,
    queued: Queued,
    open: usize,
    /// Bytes of sums that wait here, and of those that were asked for and have not come.
    sum_bytes: u64,
    promised: u64,
    finished: Option<Received>,
}

struct Block {
    first: u64,
    directory: TreePath,
    /// With their sizes.
    names: Vec<(Name, u64)>,
}

/// Files and bytes that were asked for so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queued {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Desk {
    inner: Mutex<Inner>,
    changed: Signal,
}

impl Desk {
    pub(super) fn wake(&self) {
        self.changed.tell();
    }

    pub(super) fn begin(&self, session: &Session<'_>) -> Result<Begin, Error> {
        let mut inner = lock(&self.inner);
        loop {
            match inner.begin.take() {
                Some(begin) => return Ok(begin),
                None => inner = self.changed.wait(session, inner)?,
            }
        }
    }

    pub(super) fn finish(&self, received: Received) {
        lock(&self.inner).finished = Some(received);
        self.wake();
    }

    pub(super) fn finished(&self, session: &Session<'_>) -> Result<Received, Error> {
        let mut inner = lock(&self.inner);
        loop {
            match inner.finished {
                Some(received) => return Ok(received),
                None => inner = self.changed.wait(session, inner)?,
            }
        }
    }

    /// Takes what the receiver says; what is asked for by now, if that is more than before. Whoever waits is to be woken after it.
    pub(super) fn put(&self, message: ToSender) -> Result<Option<Queued>, Error> {
        let mut inner = lock(&self.inner);
        let before = inner.queued.files;
        match message {
            ToSender::Begin { shown, owner, group } => inner.begin = Some(Begin { shown, owner, group }),
            ToSender::Digests(bytes) => inner.digests.add(bytes)?,
            ToSender::DigestsEnd => inner.digests.complete = true,
            ToSender::Taken(count) => inner.take(u64::from(count))?,
            ToSender::WantWhole(number) => inner.ask(number, Some(Job::Whole), None)?,
            ToSender::WantRest { number, length, hash } => {
                inner.ask(number, Some(Job::Rest { length, hash }), None)?
            }
            ToSender::WantTail { number, length, mark } => {
                inner.ask(number, Some(Job::Tail { length, mark }), None)?
            }
            ToSender::WantDelta { number, shape } => inner.ask(number, None, Some(shape))?,
            ToSender::Sums { number, bytes } => inner.sums(number, &bytes, false)?,
            ToSender::GapSums { number, bytes } => inner.sums(number, &bytes, true)?,
            ToSender::Either(_) | ToSender::Change(_) | ToSender::Finished(_) => {}
        }
        Ok(Some(inner.queued).filter(|queued| queued.files > before))
    }

    /// The receiver's next directory, once it is known whether there is one.
    pub(super) fn next_digest(
        &self,
        session: &Session<'_>,
    ) -> Result<Option<(TreePath, DirectoryDigest)>, Error> {
        let mut inner = lock(&self.inner);
        loop {
            if !inner.digests.is_empty() || inner.digests.complete {
                return inner.digests.next();
            }
            inner = self.changed.wait(session, inner)?;
        }
    }

    /// Notes entries that are about to be told, once the receiver has room for them.
    pub(super) fn tell(
        &self,
        session: &Session<'_>,
        directory: &TreePath,
        names: Vec<(Name, u64)>,
        followers: Vec<usize>,
    ) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        // The message itself counts as well, so that empty directories do not pile up either.
        let count = names.len() as u64 + 1;
        if inner.told + count > inner.taken + MOST_TOLD {
            drop(inner);
            session.outbox.flush()?;
            inner = lock(&self.inner);
            while inner.told + count > inner.taken + MOST_TOLD {
                inner = self.changed.wait(session, inner)?;
            }
        }
        let first = inner.told;
        inner.told += count;
        for at in followers {
            let number =
                Number::try_from(first + at as u64).ok().filter(|_| inner.followers.len() < MOST_FOLLOWERS);
            if let Some((number, (name, _))) = number.zip(names.get(at)) {
                inner.followers.insert(number, Place { directory: directory.clone(), name: name.clone() });
            }
        }
        inner.blocks.push_back(Block { first, directory: directory.clone(), names });
        Ok(())
    }

    /// The next file to answer for. The outbox is flushed before there is any waiting.
    pub(super) fn job(&self, session: &Session<'_>) -> Result<(Number, Place, Job), Error> {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(job) = inner.job() {
                return Ok(job);
            }
            drop(inner);
            session.outbox.flush()?;
            inner = lock(&self.inner);
            while inner.jobs.is_empty() {
                inner = self.changed.wait(session, inner)?;
            }
        }
    }

    /// The sums of gaps that the receiver was asked for; with `wait`, once they have come.
    pub(super) fn gap_sums(
        &self,
        session: &Session<'_>,
        number: Number,
        wait: bool,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut inner = lock(&self.inner);
        loop {
            let is_it = |(of, job): &(Number, Job)| *of == number && matches!(job, Job::Gaps { .. });
            let found = inner.jobs.iter().position(is_it).and_then(|at| inner.jobs.remove(at));
            if let Some((_, Job::Gaps { sums })) = found {
                inner.sum_bytes = inner.sum_bytes.saturating_sub(sums.len() as u64);
                return Ok(Some(sums));
            }
            if !wait {
                return Ok(None);
            }
            inner = self.changed.wait(session, inner)?;
        }
    }

    /// A file is answered; it is remembered for as long as the receiver may find the answer to be wrong.
    pub(super) fn answered(&self, number: Number) {
        let mut inner = lock(&self.inner);
        inner.promise(number, 0);
        if let Some(asked) = inner.asked.get_mut(&number)
            && std::mem::replace(&mut asked.open, false)
        {
            inner.open -= 1;
            inner.answered.push_back(number);
        }
        while inner.answered.len() > MOST_ANSWERED {
            if let Some(number) = inner.answered.pop_front()
                && inner.asked.get(&number).is_some_and(|asked| !asked.open)
            {
                inner.asked.remove(&number);
            }
        }
    }

    /// Whether sums of so many bytes may be asked for; if so, they will be.
    pub(super) fn ask_sums(&self, number: Number, bytes: u64) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.has_room(bytes) {
            return false;
        }
        inner.promise(number, bytes);
        inner.asked.get_mut(&number).is_some_and(|asked| {
            asked.awaits_shape = true;
            true
        })
    }

    /// From now on this many bytes of sums are expected for a file. False if there is no room for them.
    pub(super) fn expect_sums(&self, number: Number, bytes: u64) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.has_room(bytes) {
            return false;
        }
        inner.promise(number, bytes);
        inner.asked.get_mut(&number).is_some_and(|asked| {
            asked.expects = bytes;
            asked.sums = vec![];
            true
        })
    }
}
