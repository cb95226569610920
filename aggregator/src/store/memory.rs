//! Records that are not in a sealed file yet: one stretch per stored batch, as columns.

use bytes::{Buf as _, Bytes};
use skpr_proto::UnixNanos;
use std::sync::Arc;

use super::codec::{get_signed, get_varint, put_signed, put_varint};
use super::segment::{Row, ScannedRecord};
use super::table::Labels;
use crate::batch::Flags;
use crate::record::{Record, RecordKind};

/// What a stretch costs beside its columns.
const STRETCH_OVERHEAD: usize = 256;

/// Consecutive records of one source and file.
pub(super) struct Stretch {
    pub(super) labels: Arc<Labels>,
    pub(super) first_sequence: u64,
    pub(super) min_order_time: i64,
    times: Box<[i64]>,
    /// Only when one of them differs from its time.
    order_times: Option<Box<[i64]>>,
    ends: Box<[u32]>,
    flags: Box<[u8]>,
    messages: Bytes,
}

/// The columns of a stretch, to make one of.
pub(super) struct Columns {
    pub(super) times: Vec<i64>,
    pub(super) order_times: Vec<i64>,
    pub(super) ends: Vec<u32>,
    pub(super) flags: Box<[u8]>,
    pub(super) messages: Bytes,
}

impl Stretch {
    /// `columns` is not empty and fits together.
    pub(super) fn new(labels: Arc<Labels>, first_sequence: u64, columns: Columns) -> Stretch {
        let Columns { times, order_times, ends, flags, messages } = columns;
        Stretch {
            labels,
            first_sequence,
            min_order_time: order_times.iter().copied().min().unwrap_or_default(),
            order_times: (order_times != times).then(|| order_times.into_boxed_slice()),
            times: times.into_boxed_slice(),
            ends: ends.into_boxed_slice(),
            flags,
            messages,
        }
    }

    pub(super) fn records(&self) -> usize {
        self.times.len()
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.first_sequence + (self.times.len() as u64).saturating_sub(1)
    }

    pub(super) fn message_bytes(&self) -> usize {
        self.messages.len()
    }

    /// About how much memory it takes.
    pub(super) fn weight(&self) -> usize {
        let record = if self.order_times.is_some() { 21 } else { 13 };
        self.messages.len() + self.times.len() * record + STRETCH_OVERHEAD
    }

    pub(super) fn order_time(&self, index: usize) -> i64 {
        let order_times = self.order_times.as_ref().unwrap_or(&self.times);
        order_times.get(index).copied().unwrap_or_default()
    }

    pub(super) fn time(&self, index: usize) -> i64 {
        self.times.get(index).copied().unwrap_or_default()
    }

    fn span(&self, index: usize) -> std::ops::Range<usize> {
        let end = |index: usize| self.ends.get(index).map_or(0, |end| *end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        start..end(index)
    }

    pub(super) fn message(&self, index: usize) -> &[u8] {
        self.messages.get(self.span(index)).unwrap_or_default()
    }

    fn decoded_flags(&self, index: usize) -> Flags {
        let flags = self.flags.get(index).copied().and_then(Flags::decode);
        flags.unwrap_or(Flags { stderr: false, kind: RecordKind::Line })
    }

    pub(super) fn stream(&self, index: usize) -> &Arc<str> {
        self.labels.stream(self.decoded_flags(index).stderr)
    }

    pub(super) fn row(&self, index: usize) -> Row<'_> {
        Row {
            order_time: UnixNanos(self.order_time(index)),
            time: UnixNanos(self.time(index)),
            sequence: self.first_sequence + index as u64,
            instance: &self.labels.claim.instance,
            stream: self.stream(index),
            kind: self.decoded_flags(index).kind,
            message: self.message(index),
        }
    }

    pub(super) fn record(&self, index: usize) -> ScannedRecord {
        let flags = self.decoded_flags(index);
        ScannedRecord {
            order_time: UnixNanos(self.order_time(index)),
            record: Record {
                time: UnixNanos(self.time(index)),
                sequence: self.first_sequence + index as u64,
                instance: Arc::clone(&self.labels.claim.instance),
                stream: Arc::clone(self.labels.stream(flags.stderr)),
                kind: flags.kind,
                message: self
                    .messages
                    .get(self.span(index))
                    .map_or_else(Bytes::new, |m| self.messages.slice_ref(m)),
            },
        }
    }

    /// Writes the columns for the write-ahead log; [`Columns::decode`] reads them.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.times.len() as u64);
        let mut previous = 0i64;
        for time in &self.times {
            put_signed(out, time.wrapping_sub(previous));
            previous = *time;
        }
        out.push(u8::from(self.order_times.is_some()));
        for (order_time, time) in self.order_times.iter().flatten().zip(&self.times) {
            put_signed(out, order_time.wrapping_sub(*time));
        }
        let mut previous = 0u32;
        for end in &self.ends {
            put_varint(out, u64::from(end.wrapping_sub(previous)));
            previous = *end;
        }
        out.extend_from_slice(&self.flags);
        out.extend_from_slice(&self.messages);
    }

    /// Whether stderr, and the order time, of each record.
    pub(super) fn orders(&self) -> impl Iterator<Item = (bool, i64)> {
        (0..self.records()).map(|index| (self.decoded_flags(index).stderr, self.order_time(index)))
    }
}

impl Columns {
    /// Reads what [`Stretch::encode`] wrote. The messages stay where they are.
    pub(super) fn decode(mut payload: Bytes) -> Option<Columns> {
        let mut input = payload.as_ref();
        // Each record takes three bytes at least, which bounds what a damaged count can make us allocate.
        let records = usize::try_from(get_varint(&mut input)?).ok()?;
        if records == 0 || records > input.len() {
            return None;
        }
        let mut times = Vec::with_capacity(records);
        let mut previous = 0i64;
        for _ in 0..records {
            previous = previous.wrapping_add(get_signed(&mut input)?);
            times.push(previous);
        }
        let (&differs, rest) = input.split_first()?;
        input = rest;
        let mut order_times = times.clone();
        if differs != 0 {
            for order_time in &mut order_times {
                *order_time = order_time.wrapping_add(get_signed(&mut input)?);
            }
        }
        let mut ends = Vec::with_capacity(records);
        let mut end = 0u32;
        for _ in 0..records {
            end = end.checked_add(u32::try_from(get_varint(&mut input)?).ok()?)?;
            ends.push(end);
        }
        let flags: Box<[u8]> = input.get(..records)?.into();
        if flags.iter().any(|flags| Flags::decode(*flags).is_none()) {
            return None;
        }
        let messages_at = payload.len() - input.len() + records;
        payload.advance(messages_at);
        (payload.len() == end as usize).then_some(Columns {
            times,
            order_times,
            ends,
            flags,
            messages: payload,
        })
    }
}
