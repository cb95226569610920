//! Checksums of a segment, in a file beside it: Parquet's writer puts none in, and a flipped bit in a message would
//! otherwise be answered as if it had been logged.
//!
//! Layout, little-endian: magic, block size (u32), length of the segment (u64), one crc32c per block (u32), crc32c of
//! all of that (u32).

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes under one checksum: what is read at least, and a power of two that disks and page cache like.
pub(crate) const BLOCK: usize = 64 << 10;

/// The last digit is the version of the layout.
const MAGIC: &[u8; 8] = b"skprcrc1";
const HEADER: usize = MAGIC.len() + 4 + 8;

/// Where the checksums of the segment at `path` are.
pub(crate) fn sidecar(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".crc");
    PathBuf::from(name)
}

/// The checksums of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checksums {
    pub(crate) length: u64,
    blocks: Vec<u32>,
}

impl Checksums {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 4 * self.blocks.len() + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(BLOCK as u32).to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        for block in &self.blocks {
            bytes.extend_from_slice(&block.to_le_bytes());
        }
        let own = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&own.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Checksums, &'static str> {
        let (content, own) = bytes.split_last_chunk::<4>().ok_or("the checksums are cut short")?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*own) {
            return Err("the checksums are damaged themselves");
        }
        let (magic, rest) = content.split_first_chunk::<8>().ok_or("the checksums are cut short")?;
        let (block, rest) = rest.split_first_chunk::<4>().ok_or("the checksums are cut short")?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or("the checksums are cut short")?;
        if magic != MAGIC || u32::from_le_bytes(*block) as usize != BLOCK {
            return Err("the checksums are of an unknown version");
        }
        let length = u64::from_le_bytes(*length);
        let (blocks, tail) = rest.as_chunks::<4>();
        if blocks.len() as u64 != length.div_ceil(BLOCK as u64) || !tail.is_empty() {
            return Err("the checksums are for a file of another length");
        }
        Ok(Checksums { length, blocks: blocks.iter().map(|block| u32::from_le_bytes(*block)).collect() })
    }

    /// How large the file of the checksums of `length` bytes is.
    pub(crate) fn encoded_length(length: u64) -> u64 {
        HEADER as u64 + 4 * length.div_ceil(BLOCK as u64) + 4
    }

    /// Whether `bytes`, which start at block number `first` and end at a block's end or the file's, are as written.
    pub(crate) fn agree(&self, first: usize, bytes: &[u8]) -> bool {
        let expected = self.blocks.get(first..).unwrap_or_default();
        let chunks = bytes.chunks(BLOCK);
        chunks.len() <= expected.len()
            && chunks.zip(expected).all(|(chunk, crc)| crc32c::crc32c(chunk) == *crc)
    }
}

/// Passes bytes on and computes their checksums on the way, so that nothing is read again to make them.
pub(crate) struct HashingWriter<W> {
    inner: W,
    crc: u32,
    /// Bytes in the block that `crc` is about.
    filled: usize,
    checksums: Checksums,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        HashingWriter { inner, crc: 0, filled: 0, checksums: Checksums { length: 0, blocks: Vec::new() } }
    }

    pub(crate) fn finish(mut self) -> (W, Checksums) {
        if self.filled > 0 {
            self.checksums.blocks.push(self.crc);
        }
        (self.inner, self.checksums)
    }

    fn add(&mut self, mut bytes: &[u8]) {
        self.checksums.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.checksums.blocks.push(self.crc);
                (self.crc, self.filled) = (0, 0);
            }
            bytes = later;
        }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.add(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksums_of(bytes: &[u8], step: usize) -> (Vec<u8>, Checksums) {
        let mut writer = HashingWriter::new(Vec::new());
        for part in bytes.chunks(step) {
            writer.write_all(part).unwrap();
        }
        writer.finish()
    }

    #[test]
    fn checksums_do_not_depend_on_how_the_bytes_arrived() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let (written, expected) = checksums_of(&bytes, BLOCK * 10);
            assert_eq!(written, bytes);
            assert_eq!(checksums_of(&bytes, 1000).1, expected);
            let encoded = expected.encode();
            assert_eq!(encoded.len() as u64, Checksums::encoded_length(length as u64));
            assert_eq!(Checksums::decode(&encoded), Ok(expected.clone()));
            assert!(expected.agree(0, &bytes));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = vec![7; BLOCK + 100];
        let checksums = checksums_of(&bytes, 999).1;
        for position in [0, 5, BLOCK - 1, BLOCK, BLOCK + 99] {
            let mut damaged = bytes.clone();
            damaged[position] ^= 4;
            assert!(!checksums.agree(0, &damaged), "{position}");
        }
        let encoded = checksums.encode();
        for position in 0..encoded.len() {
            let mut damaged = encoded.clone();
            damaged[position] ^= 1;
            assert!(Checksums::decode(&damaged).is_err(), "{position}");
            assert!(Checksums::decode(&encoded[..position]).is_err(), "{position}");
        }
    }
}
