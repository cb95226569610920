//! How numbers and bytes are written into messages, and read back from a peer that may lie.
//!
//! A number is a base-128 varint, least significant part first, in its shortest form only; bytes follow their length.

/// What a message holds that no honest peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) &'static str);

pub(crate) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small numbers of either sign are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_number(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The rest of a message that is being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("a message that is cut short"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Malformed("a number beyond 64 bits"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return if part == 0 && shift > 0 {
                    Err(Malformed("a number in a longer form than needed"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Malformed("a number beyond 64 bits"))
    }

    /// A number that is at most this.
    pub(crate) fn at_most(&mut self, most: u64, problem: &'static str) -> Result<u64, Malformed> {
        self.number().and_then(|value| if value > most { Err(Malformed(problem)) } else { Ok(value) })
    }

    pub(crate) fn number32(&mut self, problem: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed(problem))
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) =
            self.0.split_at_checked(length).ok_or(Malformed("a message that is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed("a message that is cut short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// Bytes that follow their length, which is checked before anything is made room for.
    pub(crate) fn bytes(&mut self, most: usize) -> Result<&'a [u8], Malformed> {
        let length = self.at_most(most as u64, "bytes that are longer than allowed")?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag that is neither on nor off")),
        }
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes behind the end of a message")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = vec![];
            put_number(&mut out, value);
            put_signed(&mut out, signed);
            put_bytes(&mut out, &bytes);
            let mut cursor = Cursor(&out);
            prop_assert_eq!(cursor.number(), Ok(value));
            prop_assert_eq!(cursor.signed(), Ok(signed));
            prop_assert_eq!(cursor.bytes(300), Ok(&bytes[..]));
            prop_assert_eq!(cursor.end(), Ok(()));
        }

        #[test]
        fn a_number_has_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = Cursor(&bytes);
            if let Ok(value) = cursor.number() {
                let mut out = vec![];
                put_number(&mut out, value);
                prop_assert_eq!(out.as_slice(), &bytes[..bytes.len() - cursor.0.len()]);
            }
        }
    }
}
