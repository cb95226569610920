//! A batch as it arrives, validated: past this module every column fits the others.
//!
//! Hostile input: whatever the message holds, validation returns; it allocates no more than the message's own size.

use bytes::Bytes;
use skpr_proto::{InvalidId, MAX_BATCH_RECORDS, MAX_MESSAGE, Source, UnixNanos, v1};

use crate::record::RecordKind;

/// Times are kept between the years 1980 and 2200: what lies outside is a broken clock, and moved to the nearer end.
const EARLIEST: i64 = 315_532_800 * 1_000_000_000;
const LATEST: i64 = 7_258_118_400 * 1_000_000_000;

/// The bit in a record's flags that says stderr.
const STDERR: u8 = 1;

/// Records of one source and one file in file order, as columns of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) source: Source,
    pub(crate) generation: u64,
    /// Strictly increasing.
    pub(crate) positions: Vec<u64>,
    pub(crate) times: Vec<i64>,
    /// Where each message ends in `messages`.
    pub(crate) ends: Vec<u32>,
    /// Each a valid [`Flags`].
    pub(crate) flags: Bytes,
    pub(crate) messages: Bytes,
}

/// A record's flags: which of the two outputs, and what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) stderr: bool,
    pub(crate) kind: RecordKind,
}

impl Flags {
    pub(crate) fn decode(flags: u8) -> Option<Flags> {
        Some(Flags { stderr: flags & STDERR != 0, kind: RecordKind::try_from(i32::from(flags >> 1)).ok()? })
    }
}

/// Why a batch is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    #[error("the batch names no source")]
    NoSource,
    #[error(transparent)]
    Source(#[from] InvalidId),
    #[error("the batch is empty")]
    Empty,
    #[error("the batch has {0} records, at most {MAX_BATCH_RECORDS} are allowed")]
    TooManyRecords(usize),
    #[error("the columns have different lengths")]
    Uneven,
    #[error("a message has {0} bytes, at most {MAX_MESSAGE} are allowed")]
    MessageTooLong(u32),
    #[error("the lengths do not add up to the messages")]
    LengthMismatch,
    #[error("positions do not increase")]
    Positions,
    #[error("a record's flags are `{0}`, which is unknown")]
    Flags(u8),
    #[error("an end has records")]
    RecordsAtEnd,
}

impl Batch {
    /// Checks a message from an agent.
    pub fn validate(message: v1::Batch) -> Result<Batch, InvalidBatch> {
        let v1::Batch { source, generation, mut position, mut time, length, flags, messages, .. } = message;
        let source = Source::try_from(&source.ok_or(InvalidBatch::NoSource)?)?;
        let records = position.len();
        if records == 0 {
            return Err(InvalidBatch::Empty);
        }
        if records > MAX_BATCH_RECORDS {
            return Err(InvalidBatch::TooManyRecords(records));
        }
        if time.len() != records || length.len() != records || flags.len() != records {
            return Err(InvalidBatch::Uneven);
        }
        if let Some(flags) = flags.iter().find(|flags| Flags::decode(**flags).is_none()) {
            return Err(InvalidBatch::Flags(*flags));
        }
        positions_from_differences(&mut position)?;
        times_from_differences(&mut time);
        let ends = ends_from_lengths(length, messages.len())?;
        Ok(Batch { source, generation, positions: position, times: time, ends, flags, messages })
    }

    /// Whose records have all come, of a message that says so in place of records.
    pub(crate) fn end(message: &v1::Batch) -> Result<Source, InvalidBatch> {
        let v1::Batch { source, position, time, length, flags, messages, .. } = message;
        let is_empty = position.is_empty() && time.is_empty() && length.is_empty();
        if !is_empty || !flags.is_empty() || !messages.is_empty() {
            return Err(InvalidBatch::RecordsAtEnd);
        }
        Ok(Source::try_from(source.as_ref().ok_or(InvalidBatch::NoSource)?)?)
    }

    /// Records of the aggregator's own: positions, which increase, times and messages.
    pub(crate) fn own(source: Source, generation: u64, records: Vec<(u64, UnixNanos, Bytes)>) -> Batch {
        let mut messages = Vec::new();
        let (mut positions, mut times, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for (position, time, message) in records {
            messages.extend_from_slice(&message);
            positions.push(position);
            times.push(in_range(time).0);
            ends.push(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        }
        let flags = vec![0; positions.len()].into();
        Batch { source, generation, positions, times, ends, flags, messages: messages.into() }
    }

    /// Where the records come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How many records there are; never 0.
    pub fn records(&self) -> usize {
        self.positions.len()
    }

    /// How many bytes the messages have together.
    pub fn message_bytes(&self) -> usize {
        self.messages.len()
    }
}

/// The time, or the nearer end of what is kept.
pub(crate) fn in_range(time: UnixNanos) -> UnixNanos {
    UnixNanos(time.0.clamp(EARLIEST, LATEST))
}

fn positions_from_differences(column: &mut [u64]) -> Result<(), InvalidBatch> {
    let mut previous: Option<u64> = None;
    for position in column {
        if let Some(previous) = previous {
            let absolute = previous.checked_add(*position).filter(|absolute| *absolute > previous);
            *position = absolute.ok_or(InvalidBatch::Positions)?;
        }
        previous = Some(*position);
    }
    Ok(())
}

fn times_from_differences(column: &mut [i64]) {
    let mut absolute = 0i64;
    for time in column {
        absolute = absolute.saturating_add(*time);
        *time = in_range(UnixNanos(absolute)).0;
    }
}

fn ends_from_lengths(mut lengths: Vec<u32>, total: usize) -> Result<Vec<u32>, InvalidBatch> {
    let mut end = 0u32;
    for length in &mut lengths {
        if usize::try_from(*length).map_or(true, |length| length > MAX_MESSAGE) {
            return Err(InvalidBatch::MessageTooLong(*length));
        }
        end = end.checked_add(*length).ok_or(InvalidBatch::LengthMismatch)?;
        *length = end;
    }
    if usize::try_from(end) == Ok(total) { Ok(lengths) } else { Err(InvalidBatch::LengthMismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> v1::Batch {
        v1::Batch {
            id: 1,
            source: Some(v1::Source {
                namespace: "default".into(),
                pod: "web-0".into(),
                uid: "0a".into(),
                container: "php".into(),
            }),
            generation: 7,
            position: vec![10, 5, 1],
            time: vec![1_700_000_000_000_000_000, -5, 10],
            length: vec![1, 0, 2],
            flags: Bytes::from_static(&[0, 1, 4]),
            messages: Bytes::from_static(b"abb"),
            attempt: 0,
            end: false,
        }
    }

    #[test]
    fn an_end_is_of_a_source_and_has_no_records() {
        let end = v1::Batch { source: message().source, end: true, ..v1::Batch::default() };
        assert_eq!(&*Batch::end(&end).unwrap().pod, "web-0");
        assert_eq!(Batch::end(&message()), Err(InvalidBatch::RecordsAtEnd));
        let messages = Bytes::from_static(b"a");
        assert_eq!(Batch::end(&v1::Batch { messages, ..end.clone() }), Err(InvalidBatch::RecordsAtEnd));
        assert_eq!(Batch::end(&v1::Batch { source: None, ..end }), Err(InvalidBatch::NoSource));
    }

    #[test]
    fn differences_are_added_up() {
        let batch = Batch::validate(message()).unwrap();
        assert_eq!(batch.positions, [10, 15, 16]);
        assert_eq!(
            batch.times,
            [1_700_000_000_000_000_000, 1_699_999_999_999_999_995, 1_700_000_000_000_000_005]
        );
        assert_eq!(batch.ends, [1, 1, 3]);
    }

    fn refused(change: impl FnOnce(&mut v1::Batch), expected: InvalidBatch) {
        let mut message = message();
        change(&mut message);
        assert_eq!(Batch::validate(message), Err(expected));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        refused(|m| m.source = None, InvalidBatch::NoSource);
        refused(|m| m.position.clear(), InvalidBatch::Empty);
        refused(|m| m.position.push(1), InvalidBatch::Uneven);
        refused(|m| m.time = vec![0], InvalidBatch::Uneven);
        refused(|m| m.position = vec![10, 0, 1], InvalidBatch::Positions);
        refused(|m| m.position = vec![10, u64::MAX, 1], InvalidBatch::Positions);
        refused(|m| m.length = vec![1, 1, 2], InvalidBatch::LengthMismatch);
        refused(|m| m.length = vec![u32::MAX, 1, 2], InvalidBatch::MessageTooLong(u32::MAX));
        refused(|m| m.flags = Bytes::from_static(&[0, 1, 6]), InvalidBatch::Flags(6));
        refused(
            |m| m.position = vec![1; MAX_BATCH_RECORDS + 1],
            InvalidBatch::TooManyRecords(MAX_BATCH_RECORDS + 1),
        );
    }

    #[test]
    fn a_mad_clock_is_brought_into_range() {
        let mut message = message();
        message.time = vec![i64::MIN, i64::MIN, i64::MAX];
        let batch = Batch::validate(message).unwrap();
        assert!(batch.times.iter().all(|time| (EARLIEST..=LATEST).contains(time)));
    }

    proptest! {
        #[test]
        fn validation_never_panics(
            position in prop::collection::vec(prop_oneof![any::<u64>(), 0..4u64], 0..6),
            time in prop::collection::vec(any::<i64>(), 0..6),
            length in prop::collection::vec(prop_oneof![any::<u32>(), 0..4u32], 0..6),
            flags in prop::collection::vec(0..8u8, 0..6),
            messages in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let message = v1::Batch { position, time, length, flags: flags.into(), messages: messages.into(), ..message() };
            if let Ok(batch) = Batch::validate(message) {
                prop_assert!(batch.positions.is_sorted_by(|a, b| a < b));
                prop_assert!(batch.ends.is_sorted());
                prop_assert_eq!(*batch.ends.last().unwrap() as usize, batch.messages.len());
            }
        }
    }
}
