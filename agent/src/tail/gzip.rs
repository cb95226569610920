//! Reading a compressed log file from some offset on. One is open at a time in the whole engine, since each costs
//! tens of kilobytes; memory does not depend on what is in the file.

use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// How much is decompressed at a time while skipping.
const SKIP: u64 = 64 << 10;

pub(super) struct Inflater {
    /// Which log file.
    pub(super) file: u64,
    decoder: MultiGzDecoder<FromStart>,
    /// Decompressed bytes that went by.
    offset: u64,
    /// The last of them, which the next call may ask for again.
    carry: Vec<u8>,
}

/// Reads a shared descriptor without moving its offset.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = rustix::io::pread(&*self.file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Inflater {
    pub(super) fn new(file: u64, descriptor: Arc<File>) -> Inflater {
        let decoder = MultiGzDecoder::new(FromStart { file: descriptor, at: 0 });
        Inflater { file, decoder, offset: 0, carry: Vec::new() }
    }

    /// Whether it can go on at `base`, or must start again.
    pub(super) fn reaches(&self, base: u64) -> bool {
        base >= self.offset - self.carry.len() as u64
    }

    /// Fills `buffer` with the decompressed bytes from `base` on, up to `most`; fewer only at the end of the file.
    pub(super) fn fill(&mut self, base: u64, most: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        let carried_from = self.offset - self.carry.len() as u64;
        let kept = usize::try_from(base.saturating_sub(carried_from)).unwrap_or(usize::MAX);
        match self.carry.get(kept..) {
            Some(carry) => buffer.extend_from_slice(carry),
            None => {
                let skip = base - self.offset;
                let mut left = skip;
                while left > 0 {
                    let step = io::copy(&mut (&mut self.decoder).take(left.min(SKIP)), &mut io::sink())?;
                    if step == 0 {
                        return Ok(());
                    }
                    left -= step;
                    self.offset += step;
                }
            }
        }
        let wanted = most.saturating_sub(buffer.len()) as u64;
        let got = (&mut self.decoder).take(wanted).read_to_end(buffer);
        self.offset = base + buffer.len() as u64;
        self.carry.clone_from(buffer);
        got.map(|_| ())
    }
}

/// The first decompressed bytes of a file, as far as they can be had.
pub(super) fn head(descriptor: &Arc<File>, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let decoder = MultiGzDecoder::new(FromStart { file: Arc::clone(descriptor), at: 0 });
    // What came before an error is what there is.
    drop(decoder.take(most as u64).read_to_end(&mut bytes));
    bytes
}
