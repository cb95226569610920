//! One end of a transfer as its threads see it: the outbox, who has failed, and what is told to whoever watches.
//!
//! The first failure ends all: it is kept, told to the other end, and every wait returns. A thread that only
//! reads is let go by the end of the connection, which the pulse forces if the other end does not bring it about.

use crate::change::Change;
use crate::error::{Code, Error, Problem};
use crate::link::{Link, Outbox, Packing, Pulse};
use crate::message::Either;
use crate::name::TreePath;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, Thread};
use std::time::{Duration, Instant};

/// After so much silence the other end is taken for dead; it says something at least every [`ALIVE`].
const SILENCE: Duration = Duration::from_secs(60);
/// So many times as long, an end may take nothing that says all the time that it is there.
const SLOWER: u64 = 10;
const ALIVE: Duration = Duration::from_secs(10);
/// How long a connection may stay open after a failure, so that the other end can read of it.
const GRACE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// What a transfer tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// An entry that has become what it should be, or would become so in a dry run.
    Change(&'a Change),
    /// One that has not. With [`Code::Done`] it was left out on purpose, which is only said.
    Problem(&'a Problem),
    /// Bytes of a file that have been dealt with.
    Progress { path: &'a TreePath, done: u64, size: u64 },
    /// Files and bytes that are known to be transferred so far.
    Queued { files: u64, bytes: u64 },
}

/// Told of every event, by several threads.
pub type Watcher<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// See the module.
pub(crate) struct Session<'a> {
    pub(crate) outbox: Outbox,
    pub(crate) watcher: Watcher<'a>,
    pub(crate) pulse: Pulse,
    silence: Duration,
    failure: Mutex<Option<Error>>,
    over: Arc<AtomicBool>,
    /// The worst problem so far, as an exit code.
    code: Mutex<Code>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(outbox: Outbox, watcher: Watcher<'a>) -> Session<'a> {
        Session {
            outbox,
            watcher,
            pulse: Pulse::new(),
            silence: SILENCE,
            failure: Mutex::new(None),
            over: Arc::default(),
            code: Mutex::new(Code::Done),
        }
    }

    /// With another patience than usual.
    pub(crate) fn patient(mut self, silence: Option<Duration>) -> Session<'a> {
        self.silence = silence.unwrap_or(SILENCE);
        self
    }

    /// Set once it is over, for what goes on for long.
    pub(crate) fn over(&self) -> &Arc<AtomicBool> {
        &self.over
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Keeps the first failure, and tells the other end. That the connection is gone is only kept until the other end's last
    /// words say why.
    pub(crate) fn fail(&self, error: Error) {
        let first = !self.over.swap(true, Ordering::AcqRel);
        let last_words = Session::last_words(&error);
        let mut failure = lock(&self.failure);
        let says_why = matches!(error, Error::Peer { .. });
        if first || says_why && matches!(*failure, Some(Error::Link(_) | Error::Ended)) {
            *failure = Some(error);
        }
        drop(failure);
        if first {
            self.announce(last_words);
        }
    }

    /// An error that ends a transfer before any part of it has begun.
    pub(crate) fn refuse(&self, error: Error) -> Error {
        if !self.over.swap(true, Ordering::AcqRel) {
            self.announce(Session::last_words(&error));
        }
        error
    }

    /// What the other end is told of an error, unless it is the reason itself.
    fn last_words(error: &Error) -> Option<Either> {
        let known = matches!(error, Error::Link(_) | Error::Ended | Error::Peer { .. } | Error::Timeout(_));
        (!known).then(|| Either::Abort { code: error.code(), text: error.line().into_bytes() })
    }

    fn announce(&self, last_words: Option<Either>) {
        let Some(abort) = last_words else { return };
        let mut message = vec![];
        abort.encode(&mut message);
        // If this cannot be sent, the other end sees the connection end.
        drop(self.outbox.send(&message, Packing::Compress).and_then(|()| self.outbox.flush()));
    }

    /// Whether it is over only because the connection is gone; then the other end's last words are still of interest.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(*lock(&self.failure), Some(Error::Link(_) | Error::Ended))
    }

    /// Done, and nobody may fail any more.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// Runs a part of the session; its failure is the session's.
    pub(crate) fn guard<T>(&self, part: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        part().map_err(|error| self.fail(error)).ok()
    }

    /// A problem of one file, found at this end or told by the other.
    pub(crate) fn problem(&self, problem: &Problem) {
        self.note(problem.code);
        (self.watcher)(Event::Problem(problem));
    }

    pub(crate) fn note(&self, code: Code) {
        let mut worst = lock(&self.code);
        // What is partial outweighs what has vanished; deletions that were stopped are told unless something else is.
        let weight = |code: Code| match code {
            Code::Done => 0,
            Code::MaxDelete => 1,
            Code::Vanished => 2,
            _ => 3,
        };
        if weight(code) > weight(*worst) {
            *worst = code;
        }
    }

    pub(crate) fn code(&self) -> Code {
        *lock(&self.code)
    }

    /// Has the other end watched over while something is read from it: until what is returned is dropped.
    pub(crate) fn watched<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        close: &'scope (dyn Fn() + Send + Sync),
    ) -> Watched {
        let reading = Arc::new(AtomicBool::new(true));
        let read = Arc::clone(&reading);
        let watch = scope.spawn(move || self.watch(close, &read)).thread().clone();
        Watched { reading, watch }
    }

    /// Keeps the connection alive and watches over the other end, until the session is over; then sees to it that
    /// whoever still reads is let go.
    fn watch(&self, close: &(dyn Fn() + Send + Sync), reading: &AtomicBool) {
        let mut over_at = None;
        while reading.load(Ordering::Acquire) {
            // It is woken when nothing is read any more.
            std::thread::park_timeout(TICK);
            if self.is_over() {
                let since: &Instant = over_at.get_or_insert_with(Instant::now);
                if since.elapsed() > GRACE {
                    close();
                    return;
                }
                continue;
            }
            // One that says that it is there may take its time for what it writes to its disk, though not for ever.
            let silence = self.pulse.silence().max(self.outbox.stuck() / SLOWER);
            if Duration::from_millis(silence) > self.silence {
                self.fail(Error::Timeout(self.silence.as_secs()));
                close();
                return;
            }
            let mut message = vec![];
            Either::Alive.encode(&mut message);
            // That it cannot be sent fails nothing: the other end may have finished and gone, and whoever reads will hear
            // that, or that the connection has ended.
            drop(self.outbox.keep_alive(&message, ALIVE.min(self.silence / 4)));
        }
    }
}

/// Held by whoever reads.
pub(crate) struct Watched {
    reading: Arc<AtomicBool>,
    watch: Thread,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.reading.store(false, Ordering::Release);
        self.watch.unpark();
    }
}

/// A change that threads wait for. Telling it costs nothing while nobody does.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    condvar: Condvar,
    waiting: AtomicUsize,
}

impl Signal {
    /// Waits for a change of what the guard protects, and is woken at least now and then to see that the session is over.
    pub(crate) fn wait<'b, T>(
        &self,
        session: &Session<'_>,
        guard: MutexGuard<'b, T>,
    ) -> Result<MutexGuard<'b, T>, Error> {
        if session.is_over() {
            return Err(Error::Stopped);
        }
        // Whoever changes something locks it after this, and so sees that somebody waits.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let (guard, _) = self.condvar.wait_timeout(guard, TICK).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Ok(guard)
    }

    /// Something has changed, and its lock is free again.
    pub(crate) fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.condvar.notify_all();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts of a link.
pub(crate) type Halves =
    (Box<dyn std::io::Read + Send>, Box<dyn std::io::Write + Send>, Box<dyn Fn() + Send + Sync>);

pub(crate) fn halves(link: Link) -> Halves {
    (link.reader, link.writer, link.close)
}
