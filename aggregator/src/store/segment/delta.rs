//! Decodes the two encodings that segments use for numbers: `DELTA_BINARY_PACKED` and the hybrid of runs and packed bits
//! that dictionary ids are in. Pure; any input gives values or an error, and memory is bounded by the count expected.

use std::ops::Range;

/// The bytes do not follow the encoding, or hold another number of values than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page is not encoded as it says")]
pub(super) struct Malformed;

/// Enough for every writer; a larger block would only be there to make us allocate.
const MAX_BLOCK: u64 = 1 << 16;

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

/// Calls `each` with up to `count` values of `width` bits that are packed in `bytes`, least significant bit first.
fn unpack(bytes: &[u8], width: u32, count: usize, padded: &mut Vec<u8>, mut each: impl FnMut(u64)) {
    if width == 0 {
        return (0..count).for_each(|_| each(0));
    }
    padded.clear();
    padded.extend_from_slice(bytes);
    padded.extend_from_slice(&[0; 16]); // so that the last value can be loaded like any other
    let mask = u64::MAX >> (64 - width.min(64));
    for i in 0..count {
        let bit = i * width as usize;
        let Some(chunk) = padded.get(bit / 8..).and_then(|rest| rest.first_chunk::<16>()) else { return };
        each((u128::from_le_bytes(*chunk) >> (bit % 8)) as u64 & mask);
    }
}

/// Decodes exactly `expected` numbers; also returns how many bytes they took.
pub(super) fn decode(bytes: &[u8], expected: usize) -> Result<(Vec<i64>, usize), Malformed> {
    let mut cursor = Cursor(bytes);
    let block = cursor.varint()?;
    let miniblocks = cursor.varint()?;
    let count = cursor.varint()?;
    let mut value = cursor.zigzag()?;
    if count != expected as u64 || miniblocks == 0 || block > MAX_BLOCK || block % miniblocks != 0 {
        return Err(Malformed);
    }
    let per_miniblock = (block / miniblocks) as usize;
    if per_miniblock == 0 || !per_miniblock.is_multiple_of(32) {
        return Err(Malformed);
    }
    let mut values = Vec::with_capacity(expected);
    if expected > 0 {
        values.push(value);
    }
    let mut padded = Vec::new();
    while values.len() < expected {
        let smallest = cursor.zigzag()?;
        let widths = cursor.take(miniblocks as usize)?;
        for width in widths {
            if values.len() == expected {
                break; // what is not needed has a width and no bytes
            }
            let width = u32::from(*width);
            if width > 64 {
                return Err(Malformed);
            }
            let packed = cursor.take(per_miniblock / 8 * width as usize)?;
            let count = per_miniblock.min(expected - values.len());
            unpack(packed, width, count, &mut padded, |delta| {
                value = value.wrapping_add(smallest).wrapping_add(delta as i64);
                values.push(value);
            });
        }
    }
    Ok((values, bytes.len() - cursor.0.len()))
}

/// The lengths at the start of a `DELTA_LENGTH_BYTE_ARRAY` page as offsets (one more than rows), and where in the page
/// the bytes are that they point into.
pub(super) fn decode_offsets(bytes: &[u8], rows: usize) -> Result<(Vec<u32>, Range<usize>), Malformed> {
    let (lengths, start) = decode(bytes, rows)?;
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut end = 0u32;
    offsets.push(end);
    for length in lengths {
        end = u32::try_from(length).ok().and_then(|length| end.checked_add(length)).ok_or(Malformed)?;
        offsets.push(end);
    }
    if start + end as usize == bytes.len() { Ok((offsets, start..bytes.len())) } else { Err(Malformed) }
}

/// Decodes exactly `expected` dictionary ids, each below `limit`, and appends them to `ids`.
pub(super) fn decode_ids(
    bytes: &[u8],
    expected: usize,
    limit: u32,
    ids: &mut Vec<u32>,
) -> Result<(), Malformed> {
    let mut cursor = Cursor(bytes);
    let width = u32::from(cursor.byte()?);
    if width > 32 {
        return Err(Malformed);
    }
    let end = ids.len() + expected;
    let mut padded = Vec::new();
    while ids.len() < end {
        let header = cursor.varint()?;
        let left = end - ids.len();
        if header & 1 == 1 {
            let groups = usize::try_from(header >> 1).map_err(|_| Malformed)?;
            let packed = cursor.take(groups.checked_mul(width as usize).ok_or(Malformed)?)?;
            let count = groups.saturating_mul(8).min(left);
            if count == 0 {
                return Err(Malformed);
            }
            unpack(packed, width, count, &mut padded, |id| ids.push(id as u32));
        } else {
            let mut id = [0; 4];
            for (to, from) in id.iter_mut().zip(cursor.take(width.div_ceil(8) as usize)?) {
                *to = *from;
            }
            let count = usize::try_from(header >> 1).map_err(|_| Malformed)?.min(left);
            if count == 0 {
                return Err(Malformed);
            }
            ids.resize(ids.len() + count, u32::from_le_bytes(id));
        }
    }
    let valid = ids.get(end - expected..).unwrap_or_default().iter().all(|id| *id < limit);
    if valid { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decodes_the_example_of_the_parquet_format() {
        // 7, 5, 3, 1, 2, 3, 4, 5: block of 128 in 4, 8 values, first 7, smallest delta -2, width 2.
        let mut bytes = vec![0x80, 0x01, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111];
        bytes.extend([0; 6]);
        assert_eq!(decode(&bytes, 8), Ok((vec![7, 5, 3, 1, 2, 3, 4, 5], bytes.len())));
        assert_eq!(decode(&bytes, 9), Err(Malformed));
    }

    #[test]
    fn decodes_runs_and_packed_ids() {
        let mut ids = Vec::new();
        decode_ids(&[3, 10 << 1, 4, 3, 0b1000_1000, 0b1100_0110, 0b1111_1010], 18, 8, &mut ids).unwrap();
        assert_eq!(ids, [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(decode_ids(&[3, 10 << 1, 4], 10, 4, &mut Vec::new()), Err(Malformed));
        assert_eq!(decode_ids(&[3, 0, 4], 10, 8, &mut Vec::new()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), rows in 0usize..300) {
            if let Ok((values, used)) = decode(&bytes, rows) {
                prop_assert_eq!(values.len(), rows);
                prop_assert!(used <= bytes.len());
            }
            if let Ok((offsets, _)) = decode_offsets(&bytes, rows) {
                prop_assert_eq!(offsets.len(), rows + 1);
            }
            let mut ids = Vec::new();
            if decode_ids(&bytes, rows, 7, &mut ids).is_ok() {
                prop_assert_eq!(ids.len(), rows);
            }
        }
    }
}
