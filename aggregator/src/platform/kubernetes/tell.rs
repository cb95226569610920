//! Hands events to whoever stores them, and never waits for it.
//!
//! * What would be told again after a start may be dropped, and is counted; what is told once is kept.

use crate::event::{Event, QUEUE, Sender};
use jiff::{SignedDuration, Timestamp};
use std::collections::VecDeque;
use tokio::sync::mpsc::error::TrySendError;

/// What happened longer ago is not told of: it was told when it happened, or nobody was there for it.
const NEWS_FOR: SignedDuration = SignedDuration::from_hours(1);

/// A queue in front of the queue: as many again may wait, and then the oldest is dropped and counted.
#[derive(Debug)]
pub(super) struct Teller {
    out: Sender,
    /// What nobody can tell once more, for as long as it takes: whoever makes it waits while this is behind.
    kept: VecDeque<Event>,
    pending: VecDeque<Event>,
    dropped: u64,
}

impl Teller {
    pub(super) fn new(out: Sender) -> Self {
        Teller { out, kept: VecDeque::new(), pending: VecDeque::new(), dropped: 0 }
    }

    /// Tells what nobody can have told before, however long ago it was.
    pub(super) fn tell_all(&mut self, events: impl IntoIterator<Item = Event>) {
        self.kept.extend(events);
        self.flush();
    }

    /// Whether more of that should wait.
    pub(super) fn is_behind(&self) -> bool {
        self.kept.len() > QUEUE
    }

    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>, now: Timestamp) {
        let since = now.checked_sub(NEWS_FOR).map_or(i128::MIN, |since| since.as_nanosecond());
        let news = events.into_iter().filter(|event| i128::from(event.time.0) >= since);
        self.pending.extend(news);
        self.flush();
    }

    /// Hands over what still waits.
    pub(super) fn flush(&mut self) {
        for queue in [&mut self.kept, &mut self.pending] {
            while let Some(event) = queue.pop_front() {
                if let Err(TrySendError::Full(event)) = self.out.try_send(event) {
                    queue.push_front(event);
                    break;
                }
            }
        }
        let before = self.dropped;
        while self.pending.len() > QUEUE {
            self.pending.pop_front();
            self.dropped += 1;
        }
        if self.dropped > before {
            tracing::warn!(total = self.dropped, "events were dropped, storing them is behind");
        }
    }
}
