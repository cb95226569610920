//! Hands events to whoever stores them, and never waits for it.

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
    pending: VecDeque<Event>,
    dropped: u64,
}

impl Teller {
    pub(super) fn new(out: Sender) -> Self {
        Teller { out, pending: VecDeque::new(), dropped: 0 }
    }

    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>, now: Timestamp) {
        let since = now.checked_sub(NEWS_FOR).map_or(i128::MIN, |since| since.as_nanosecond());
        let news = events.into_iter().filter(|event| i128::from(event.time.0) >= since);
        self.pending.extend(news);
        self.flush();
    }

    /// Hands over what still waits.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            if let Err(TrySendError::Full(event)) = self.out.try_send(event) {
                self.pending.push_front(event);
                break;
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
