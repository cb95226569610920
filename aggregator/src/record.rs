//! Records as readers see them, what a reader asks for, and the cursor that resumes it.
//!
//! A history cursor names a place in the order (order time, sequence) below a fixed horizon; a live cursor names a
//! sequence. Sequences have no holes, so a reader that goes on from a cursor neither loses nor repeats a record.

use bytes::{Buf as _, BufMut as _, Bytes};
use regex::bytes::Regex;
use skpr_proto::UnixNanos;
use std::sync::Arc;

use crate::environment::EnvironmentKey;

pub use skpr_proto::v1::RecordKind;

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub time: UnixNanos,
    /// Counts up per environment in order of arrival, from 1. A gap record that the reader itself made, because
    /// stored records could not be read, has 0.
    pub sequence: u64,
    pub instance: Arc<str>,
    pub stream: Arc<str>,
    pub kind: RecordKind,
    pub message: Bytes,
}

/// Which records are wanted. Empty lists want all. Gap records are filtered like any other.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub instances: Vec<String>,
    pub streams: Vec<String>,
    /// None of these streams.
    pub except_streams: &'static [&'static str],
    /// The message matches each of these,
    pub grep: Vec<Regex>,
    /// and none of these.
    pub exclude: Vec<Regex>,
}

impl Filter {
    /// Whether every record passes.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
            && self.streams.is_empty()
            && self.except_streams.is_empty()
            && self.grep.is_empty()
            && self.exclude.is_empty()
    }

    /// Whether records of this instance and stream are wanted.
    pub fn accepts_labels(&self, instance: &str, stream: &str) -> bool {
        let wanted = |list: &[String], value: &str| list.is_empty() || list.iter().any(|item| item == value);
        wanted(&self.instances, instance)
            && wanted(&self.streams, stream)
            && !self.except_streams.contains(&stream)
    }

    /// Whether a record with this message is wanted.
    pub fn accepts_message(&self, message: &[u8]) -> bool {
        self.grep.iter().all(|regex| regex.is_match(message))
            && !self.exclude.iter().any(|regex| regex.is_match(message))
    }
}

/// What a reader asks for.
#[derive(Clone, Debug)]
pub struct Read {
    pub environment: EnvironmentKey,
    /// Inclusive, by the record's own time.
    pub since: Option<UnixNanos>,
    /// Exclusive.
    pub until: Option<UnixNanos>,
    /// Go on with what arrives after the history.
    pub follow: bool,
    /// Without `follow`, with a cursor of a read that had it: up to what is stored when the read begins.
    pub to_now: bool,
    /// Only the newest this many that pass the filter (at most [`MAX_LAST`] records and [`MAX_LAST_BYTES`] of
    /// messages; what falls out because of the latter is counted in the first chunk's `skipped`). Not used when a
    /// cursor is given: the cursor lies within the newest already.
    pub last: Option<usize>,
    pub filter: Filter,
    pub cursor: Option<Cursor>,
}

/// The most records that `last` keeps.
pub const MAX_LAST: usize = 100_000;
/// The most message bytes that `last` keeps.
pub const MAX_LAST_BYTES: usize = 16 << 20;

/// A piece of a reader's answer, in order.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub records: Vec<Record>,
    /// Everything up to here has been given.
    pub cursor: Cursor,
    /// History is done: records come in order of arrival from here on. The first live chunk may be empty.
    pub live: bool,
    /// Records in the range that can no longer be given: expired, or lost to a damaged file. An upper bound: it
    /// cannot be known whether they would have passed the filter.
    pub skipped: u64,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Reading records up to sequence `horizon` in the order of (order time, sequence); the last one given is named.
    History { horizon: u64, order_time: UnixNanos, sequence: u64 },
    /// Reading records in order of sequence; this one was given last.
    Live { after: u64 },
}

/// Not the bytes of a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one of this server's")]
pub struct InvalidCursor;

impl Cursor {
    /// The cursor as opaque bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(25);
        match *self {
            Cursor::History { horizon, order_time, sequence } => {
                out.put_u8(1);
                out.put_u64_le(horizon);
                out.put_i64_le(order_time.0);
                out.put_u64_le(sequence);
            }
            Cursor::Live { after } => {
                out.put_u8(2);
                out.put_u64_le(after);
            }
        }
        out.into()
    }

    /// Reads what [`Cursor::encode`] wrote.
    pub fn decode(mut bytes: &[u8]) -> Result<Cursor, InvalidCursor> {
        match (bytes.try_get_u8(), bytes.len()) {
            (Ok(1), 24) => Ok(Cursor::History {
                horizon: bytes.get_u64_le(),
                order_time: UnixNanos(bytes.get_i64_le()),
                sequence: bytes.get_u64_le(),
            }),
            (Ok(2), 8) => Ok(Cursor::Live { after: bytes.get_u64_le() }),
            _ => Err(InvalidCursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_survive_the_wire(a: u64, b: i64, c: u64) {
            for cursor in [Cursor::Live { after: a }, Cursor::History { horizon: a, order_time: UnixNanos(b), sequence: c }] {
                prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
            }
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            if let Ok(cursor) = Cursor::decode(&bytes) {
                prop_assert_eq!(cursor.encode(), bytes);
            }
        }
    }
}
