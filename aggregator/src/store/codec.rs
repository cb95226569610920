//! The small binary encoding of what the write-ahead log holds. Reading never panics and never trusts a length.

use bytes::{Buf as _, Bytes};

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    // Longer texts do not exist: every one of them was parsed with a bound of at most a few hundred bytes.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes().get(..usize::from(length)).unwrap_or_default());
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(crate) fn get_text(input: &mut Bytes) -> Option<String> {
    let length = usize::from(input.try_get_u16_le().ok()?);
    (input.len() >= length).then(|| String::from_utf8(input.split_to(length).to_vec()).ok())?
}

pub(crate) fn get_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn get_signed(input: &mut &[u8]) -> Option<i64> {
    let value = get_varint(input)?;
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(a: u64, b: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_signed(&mut out, b);
            let mut input = out.as_slice();
            prop_assert_eq!(get_varint(&mut input), Some(a));
            prop_assert_eq!(get_signed(&mut input), Some(b));
            prop_assert!(input.is_empty());
        }
    }
}
