//! The spool of an environment and an hour: blocks of rows, appended until the hour is over. Pure.
//!
//! - A block is a marker, its length, a checksum of both length and content, and the content: the rows of each instance,
//!   each as what changed since the one before.
//! - Reading takes every block whose checksum agrees and nothing else; what a write left half done is cut off.

use super::row::{Amount, NUMBERS, Record as _, Row};
use crate::store::codec::{get_signed, get_varint, put_signed, put_varint};
use std::sync::Arc;

/// Begins each block; the digit is the version of the layout.
const MARKER: [u8; 4] = *b"\xf5us1";
/// Marker, length, checksum.
const HEADER: usize = 12;

/// The rows, sorted by instance and time, as one block.
pub(super) fn block(rows: &[Row]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|row| row.instance == first.instance).count();
        let (same, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        put_varint(&mut out, first.instance.len() as u64);
        out.extend_from_slice(first.instance.as_bytes());
        put_varint(&mut out, same.len() as u64);
        let (mut time, mut before) = (0, [0; NUMBERS]);
        for row in same {
            put_signed(&mut out, row.time.wrapping_sub(time));
            time = row.time;
            put_varint(&mut out, known(row) << 1 | u64::from(row.ready));
            for (value, before) in row.numbers().zip(&mut before) {
                if let Some(value) = value.get().map(u64::cast_signed) {
                    put_signed(&mut out, value.wrapping_sub(*before));
                    *before = value;
                }
            }
        }
        rest = others;
    }
    // A block is a flush's rows of one environment, far below 4 GiB.
    let length = u32::try_from(out.len() - HEADER).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = checksum(length, out.get(HEADER..).unwrap_or_default()).to_le_bytes();
    let header = MARKER.into_iter().chain(length).chain(checksum);
    out.iter_mut().zip(header).for_each(|(byte, header)| *byte = header);
    out
}

/// A bit for each number that the row has.
fn known(row: &Row) -> u64 {
    row.numbers().enumerate().map(|(bit, value)| u64::from(value.get().is_some()) << bit).sum()
}

fn checksum(length: [u8; 4], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), content)
}

/// What reading a spool found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Up to the end of the last good block.
    pub(super) length: u64,
    /// Bytes before that which are no good block.
    pub(super) damaged: u64,
}

/// Gives every row of every good block to `each`.
pub(super) fn replay(bytes: &[u8], mut each: impl FnMut(Row)) -> Replayed {
    let mut replayed = Replayed::default();
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        match content(rest) {
            Some(content) => {
                replayed.damaged += at as u64 - replayed.length;
                // The checksum is right, so only a writer of another layout could make rows that are not.
                rows(content, &mut each);
                at += HEADER + content.len();
                replayed.length = at as u64;
            }
            None => {
                let next = rest.get(1..).and_then(|rest| memchr::memmem::find(rest, &MARKER));
                at = next.map_or(bytes.len(), |next| at + 1 + next);
            }
        }
    }
    replayed
}

fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (marker, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let content = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (*marker == MARKER && checksum(*length, content) == u32::from_le_bytes(*sum)).then_some(content)
}

fn rows(mut input: &[u8], each: &mut impl FnMut(Row)) -> Option<()> {
    while !input.is_empty() {
        let length = usize::try_from(get_varint(&mut input)?).ok()?;
        let (name, rest) = input.split_at_checked(length)?;
        let instance: Arc<str> = std::str::from_utf8(name).ok()?.into();
        input = rest;
        let (mut time, mut before) = (0i64, [0i64; NUMBERS]);
        for _ in 0..get_varint(&mut input)? {
            time = time.wrapping_add(get_signed(&mut input)?);
            let flags = get_varint(&mut input)?;
            let mut numbers = [Amount::NONE; NUMBERS];
            for (bit, (number, before)) in numbers.iter_mut().zip(&mut before).enumerate() {
                if flags >> (bit + 1) & 1 == 1 {
                    *before = before.wrapping_add(get_signed(&mut input)?);
                    *number = Amount::of(u64::try_from(*before).ok());
                }
            }
            each(Row::of(time, Arc::clone(&instance), flags & 1 == 1, numbers.into_iter()));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows as any_rows;
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> (Vec<Row>, Replayed) {
        let mut rows = Vec::new();
        let replayed = replay(bytes, |row| rows.push(row));
        (rows, replayed)
    }

    proptest! {
        #[test]
        fn rows_come_back_and_a_torn_tail_does_not(
            first in any_rows(40), second in any_rows(40), cut in 0usize..2000, flip in 0usize..2000,
        ) {
            let (a, b) = (block(&first), block(&second));
            let both = [a.clone(), b.clone()].concat();
            let all: Vec<_> = first.iter().chain(&second).cloned().collect();
            prop_assert_eq!(read(&both), (all, Replayed { length: both.len() as u64, damaged: 0 }));

            let torn = &both[..a.len() + cut % b.len()];
            prop_assert_eq!(read(torn), (first.clone(), Replayed { length: a.len() as u64, damaged: 0 }));

            // Damage to the first block costs that block.
            let mut damaged = both.clone();
            damaged[flip % a.len()] ^= 0x10;
            let expected = Replayed { length: both.len() as u64, damaged: a.len() as u64 };
            prop_assert_eq!(read(&damaged), (second, expected));
        }

        #[test]
        fn anything_at_all_can_be_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            let sum = checksum(length, &bytes).to_le_bytes();
            bytes.splice(0..0, MARKER.into_iter().chain(length).chain(sum));
            prop_assert_eq!(read(&bytes).1.length, bytes.len() as u64);
        }
    }
}
