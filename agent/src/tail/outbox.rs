//! Batches: how one is put together, and which are on their way.

use super::cri::Output;
use super::partial::Start;
use skpr_proto::v1::{self, RecordKind};
use skpr_proto::{MAX_BATCH, MAX_BATCH_RECORDS};
use std::collections::VecDeque;

/// What one record costs besides its message, roughly, where it counts against the window.
const RECORD_OVERHEAD: usize = 16;

/// A batch in the making.
#[derive(Debug, Default)]
pub(super) struct Columns {
    positions: Vec<u64>,
    times: Vec<i64>,
    lengths: Vec<u32>,
    flags: Vec<u8>,
    messages: Vec<u8>,
    last_position: u64,
    last_time: i64,
}

/// All of a record but its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) position: u64,
    pub(super) time: i64,
    pub(super) output: Output,
    pub(super) kind: RecordKind,
}

impl Columns {
    /// Room for about as much as `bytes` of log file can hold.
    pub(super) fn with_capacity(bytes: usize) -> Columns {
        let records = bytes / 128 + 1;
        Columns {
            positions: Vec::with_capacity(records),
            times: Vec::with_capacity(records),
            lengths: Vec::with_capacity(records),
            flags: Vec::with_capacity(records),
            messages: Vec::with_capacity(bytes),
            ..Columns::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub(super) fn last_time(&self) -> i64 {
        self.last_time
    }

    /// Whether a message of this length may be added.
    pub(super) fn fits(&self, length: usize) -> bool {
        self.is_empty()
            || (self.messages.len() + length <= MAX_BATCH && self.lengths.len() < MAX_BATCH_RECORDS)
    }

    /// Adds a record whose message comes in two pieces (either may be empty).
    pub(super) fn push(&mut self, head: Head, first: &[u8], second: &[u8]) {
        // The first is absolute: the difference to zero.
        self.positions.push(head.position.wrapping_sub(self.last_position));
        self.times.push(head.time.wrapping_sub(self.last_time));
        self.last_position = head.position;
        self.last_time = head.time;
        self.lengths.push(u32::try_from(first.len() + second.len()).unwrap_or(u32::MAX));
        let stderr = u8::from(head.output == Output::Stderr);
        let kind = u8::try_from(i32::from(head.kind)).unwrap_or_default();
        self.flags.push(stderr | (kind << 1));
        self.messages.extend_from_slice(first);
        self.messages.extend_from_slice(second);
    }

    pub(super) fn into_batch(self, source: v1::Source, generation: u64, attempt: u32) -> v1::Batch {
        v1::Batch {
            id: 0,
            source: Some(source),
            generation,
            position: self.positions,
            time: self.times,
            length: self.lengths,
            flags: self.flags.into(),
            messages: self.messages.into(),
            attempt,
            end: false,
        }
    }
}

/// A batch on its way, and what its acknowledgement means.
#[derive(Debug)]
pub(super) struct Sent {
    id: u64,
    pub(super) container: u64,
    /// How far each file is done with, then.
    pub(super) resume: Vec<Start>,
    pub(super) last_time: i64,
    pub(super) gap: bool,
    /// It says that there is no more.
    pub(super) end: bool,
    pub(super) records: u64,
    pub(super) refused: bool,
    cost: usize,
}

impl Sent {
    pub(super) fn new(container: u64, batch: &v1::Batch, last_time: i64) -> Sent {
        let records = batch.length.len();
        let cost = batch.messages.len() + records * RECORD_OVERHEAD;
        Sent {
            id: 0,
            container,
            resume: Vec::new(),
            last_time,
            gap: false,
            end: batch.end,
            records: records as u64,
            refused: false,
            cost,
        }
    }
}

/// The batches on their way, in order.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: VecDeque<Sent>,
    bytes: usize,
    next_id: u64,
}

impl Window {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, mut sent: Sent) -> u64 {
        self.next_id += 1;
        sent.id = self.next_id;
        self.bytes += sent.cost;
        self.sent.push_back(sent);
        self.next_id
    }

    /// The next batch that an acknowledgement of `id` covers.
    pub(super) fn pop_up_to(&mut self, id: u64) -> Option<Sent> {
        let sent = self.sent.pop_front_if(|sent| sent.id <= id || sent.refused)?;
        self.bytes = self.bytes.saturating_sub(sent.cost);
        Some(sent)
    }

    /// Marks a batch as refused; it counts as done as soon as those before it are.
    pub(super) fn refuse(&mut self, id: u64) -> Option<&Sent> {
        let at = self.sent.binary_search_by_key(&id, |sent| sent.id).ok()?;
        let sent = self.sent.get_mut(at)?;
        sent.refused = true;
        Some(sent)
    }

    /// Whether `id` is the oldest on its way.
    pub(super) fn is_oldest(&self, id: u64) -> bool {
        self.sent.front().is_some_and(|sent| sent.id == id)
    }

    pub(super) fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }
}
