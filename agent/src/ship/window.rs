//! What was sent on one stream and is not answered yet. Pure.

use crate::link::failure::LinkError;
use std::collections::VecDeque;
use tokio::time::Instant;

/// Message bytes handed out and not answered; the tail engine counts them. The store answers within about 20 ms (its
/// group commit), so 8 MiB allow 400 MB/s, twice what is asked of one node. The bytes themselves are not kept.
pub(crate) const BYTES: usize = 8 << 20;
/// Batches sent and not answered: many quiet sources make small batches. 1,024 entries are 32 KiB of memory.
const BATCHES: usize = 1024;

/// The unanswered batches of one stream, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    sent: VecDeque<Sent>,
    last_id: u64,
}

#[derive(Debug)]
struct Sent {
    id: u64,
    ticket: u64,
    at: Instant,
}

impl Window {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether one more batch may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < BATCHES
    }

    /// When the oldest unanswered batch was sent.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.at)
    }

    /// Notes a batch and returns the id that it goes out with.
    pub(crate) fn send(&mut self, ticket: u64) -> u64 {
        self.last_id += 1;
        self.sent.push_back(Sent { id: self.last_id, ticket, at: Instant::now() });
        self.last_id
    }

    /// Everything up to `id` is answered: returns the tail's ticket for it, or nothing when that is no news.
    pub(crate) fn answer(&mut self, id: u64) -> Result<Option<u64>, LinkError> {
        if id > self.last_id {
            return Err(LinkError::AckOutOfRange { id, sent: self.last_id });
        }
        let mut newest = None;
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.id <= id) {
            newest = Some(sent.ticket);
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cumulative() {
        let mut window = Window::default();
        assert_eq!([70, 71, 72].map(|ticket| window.send(ticket)), [1, 2, 3]);
        assert_eq!(window.answer(2).unwrap(), Some(71));
        assert_eq!(window.answer(2).unwrap(), None);
        assert_eq!(window.answer(0).unwrap(), None);
        assert!(!window.is_empty());
        assert_eq!(window.answer(3).unwrap(), Some(72));
        assert!(window.is_empty());
    }

    #[test]
    fn an_answer_to_what_was_not_sent_is_an_error() {
        let mut window = Window::default();
        assert!(matches!(window.answer(1), Err(LinkError::AckOutOfRange { id: 1, sent: 0 })));
    }

    #[test]
    fn room_ends_and_comes_back() {
        let mut window = Window::default();
        for ticket in 1..=BATCHES as u64 {
            assert!(window.has_room());
            window.send(ticket);
        }
        assert!(!window.has_room());
        window.answer(1).unwrap();
        assert!(window.has_room());
    }
}
