//! The connection: packets of one zstd stream in each direction, with messages in them.
//!
//! A packet has four bytes in front: its kind, and its length in three. What a peer makes of few bytes is never held:
//! decompression goes on only as far as the next message, and a message has its longest form.

mod inbox;
mod outbox;

pub(crate) use inbox::{Inbox, Pulse};
pub(crate) use outbox::{Outbox, Packing};

use std::io::{Read, Write};

/// The longest content of a packet.
const MOST_PACKET: usize = 256 << 10;
/// The head of a packet.
const HEAD: usize = 4;
/// The packet's content goes on with the direction's zstd stream, or is messages as they are.
const COMPRESSED: u8 = 0;
const PLAIN: u8 = 1;
/// How far back zstd refers, as a power of two: 8 MiB are what either end holds of it.
const WINDOW: u32 = 23;

/// The two halves of a connection and how to end it.
pub struct Link {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    /// Makes blocked reads and writes of both halves return. Called when the other end is silent for too long.
    pub close: Box<dyn Fn() + Send + Sync>,
}

/// A packet of messages as they are, for whoever has no outbox. They are few.
pub(crate) fn plain_packet(messages: &[u8]) -> Vec<u8> {
    let [low, middle, high, _] = (messages.len() as u32).to_le_bytes();
    [&[PLAIN, low, middle, high], messages].concat()
}

#[cfg(test)]
mod tests;
