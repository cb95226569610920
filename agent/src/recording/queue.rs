//! What is recorded and not written yet: each recording has its own queue, and all share what they may take.
//!
//! * Putting something in takes a lock that nobody holds for longer than a copy, and never waits for the writer.
//! * What finds no place is counted, and its count goes in its place as soon as there is one.

use super::cast::Header;
use crate::runtime::Size;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One recording: what a terminal shows while the disk takes a tenth of a second, at 10 MB/s. Beyond it something is missing.
pub(super) const PER_RECORDING: u64 = 1 << 20;
/// All of them: sixteen that are full, of the 512 MiB that the chart gives to the program.
const IN_ALL: u64 = 16 << 20;
/// What an event takes beside its bytes.
const EACH: u64 = 64;
/// So much waits that the writer is not to wait any longer.
const URGENT: u64 = PER_RECORDING / 8;

/// What is between sessions and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    more: Condvar,
    left: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    begun: Vec<Arc<Track>>,
    urgent: bool,
    stopping: bool,
}

/// One recording's.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) header: Header,
    queue: Arc<Queue>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Event>,
    cost: u64,
    missing: u64,
    /// A size that found no place.
    size: Option<Size>,
    ended: Option<Duration>,
}

/// What happened, and when since the begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Output(Duration, Vec<u8>),
    Resize(Duration, Size),
    /// So many bytes were shown here.
    Missing(Duration, u64),
    End(Duration),
}

/// What was taken out of a queue. Its place is given back once it is written.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) events: Vec<Event>,
    cost: u64,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { state: Mutex::default(), more: Condvar::new(), left: AtomicU64::new(IN_ALL) }
    }
}

impl Queue {
    pub(super) fn begin(self: &Arc<Self>, header: Header) -> Arc<Track> {
        let track = Arc::new(Track { header, queue: Arc::clone(self), waiting: Mutex::default() });
        self.lock().begun.push(Arc::clone(&track));
        self.more.notify_one();
        track
    }

    /// Nothing more comes.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.more.notify_one();
    }

    /// Waits until there may be something to write: for a new recording, for much to write, or for so long. Returns what has
    /// begun, and whether that was all.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> (Vec<Arc<Track>>, bool) {
        let quiet = |state: &mut State| state.begun.is_empty() && !state.urgent && !state.stopping;
        let mut state = match at_most {
            Some(at_most) => {
                let waited = self.more.wait_timeout_while(self.lock(), at_most, quiet);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.more.wait_while(self.lock(), quiet).unwrap_or_else(PoisonError::into_inner),
        };
        state.urgent = false;
        (std::mem::take(&mut state.begun), state.stopping)
    }

    /// What was taken is written, or given up.
    pub(super) fn give_back(&self, taken: &Taken) {
        self.left.fetch_add(taken.cost, Ordering::Relaxed);
    }

    fn take(&self, cost: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost)).is_ok()
    }

    fn hurry(&self) {
        self.lock().urgent = true;
        self.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Track {
    pub(super) fn output(&self, at: Duration, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let mut waiting = self.lock();
        // The client has the bytes themselves, in a buffer that is not to be kept for the sake of one of them.
        if self.push(&mut waiting, at, length, || Event::Output(at, bytes.to_vec())) {
            let urgent = waiting.cost >= URGENT;
            drop(waiting);
            if urgent {
                self.queue.hurry();
            }
        } else {
            waiting.missing += length;
        }
    }

    pub(super) fn resize(&self, at: Duration, size: Size) {
        let mut waiting = self.lock();
        if !self.push(&mut waiting, at, 0, || Event::Resize(at, size)) {
            waiting.size = Some(size);
        }
    }

    pub(super) fn end(&self, at: Duration) {
        self.lock().ended = Some(at);
        self.queue.hurry();
    }

    /// Takes out what waits; the end comes last, and once.
    pub(super) fn take(&self) -> Taken {
        let mut waiting = self.lock();
        let (mut events, cost) = (std::mem::take(&mut waiting.events), std::mem::take(&mut waiting.cost));
        if let Some(at) = waiting.ended.take() {
            waiting.made_up_for(at, &mut events);
            events.push(Event::End(at));
        }
        Taken { events, cost }
    }

    /// Whether there was a place.
    fn push(&self, waiting: &mut Waiting, at: Duration, length: u64, event: impl FnOnce() -> Event) -> bool {
        let cost = length + EACH;
        if waiting.cost + cost > PER_RECORDING || !self.queue.take(cost) {
            return false;
        }
        waiting.cost += cost;
        let mut events = std::mem::take(&mut waiting.events);
        waiting.made_up_for(at, &mut events);
        events.push(event());
        waiting.events = events;
        true
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Says what found no place before.
    fn made_up_for(&mut self, at: Duration, events: &mut Vec<Event>) {
        let missing = std::mem::take(&mut self.missing);
        if missing > 0 {
            events.push(Event::Missing(at, missing));
        }
        events.extend(self.size.take().map(|size| Event::Resize(at, size)));
    }
}
