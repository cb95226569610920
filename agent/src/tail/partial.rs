//! A message of which only the first chunks have been read.

use skpr_proto::MAX_MESSAGE;
use std::time::Instant;

/// Where reading must start again to get at a chunk: a file, an offset in it, and the hash of the bytes before. And the last position
/// given out before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) marker: u64,
    pub(super) position: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub(super) message: Vec<u8>,
    /// The first chunk's.
    pub(super) time: i64,
    /// More was read than is kept.
    pub(super) truncated: bool,
    /// Its first chunk in each file that has one.
    pub(super) starts: Vec<Start>,
    /// When its last chunk was read.
    pub(super) touched: Instant,
}

impl Partial {
    pub(super) fn new(time: i64, now: Instant) -> Partial {
        Partial { message: Vec::new(), time, truncated: false, starts: Vec::new(), touched: now }
    }

    /// Adds a chunk, as far as there is room.
    pub(super) fn extend(&mut self, chunk: &[u8], now: Instant) {
        let room = MAX_MESSAGE.saturating_sub(self.message.len());
        self.truncated |= chunk.len() > room;
        self.message.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
        self.touched = now;
    }
}
