//! Bytes of log files into one shared buffer, and the two hashes by which a file is recognised.

use super::gzip::Inflater;
use skpr_proto::MAX_MESSAGE;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// How much is read in a turn.
pub(super) const QUANTUM: usize = 256 << 10;
/// The longest physical line that is kept; containers' runtimes write at most 16 KiB and a header.
pub(super) const LONGEST_LINE: usize = MAX_MESSAGE + 4096;
/// How many bytes before an offset prove that it is in the file it belongs to.
pub(super) const MARKER: usize = 256;
/// How much of the first line makes the generation.
pub(super) const FIRST_LINE: usize = 1024;

fn hash(bytes: &[u8]) -> u64 {
    let (first, _) =
        blake3::hash(bytes).as_bytes().split_first_chunk::<8>().map_or(([0; 8], 0), |(first, _)| (*first, 0));
    u64::from_le_bytes(first)
}

/// Hash of the last bytes of `before`, which end at the offset in question.
pub(super) fn marker(before: &[u8]) -> u64 {
    hash(before.get(before.len().saturating_sub(MARKER)..).unwrap_or(before))
}

/// Hash of a file's first line, when that is there: whole, or 1024 bytes of it, or as much as there will ever be.
pub(super) fn generation(head: &[u8], complete: bool) -> Option<u64> {
    let head = head.get(..FIRST_LINE).unwrap_or(head);
    match memchr::memchr(b'\n', head) {
        Some(end) => head.get(..=end).map(hash),
        None if head.len() == FIRST_LINE || (complete && !head.is_empty()) => Some(hash(head)),
        None => None,
    }
}

/// A part of a file. The buffer is the only one in the engine.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes are before the offset that was asked for.
    before: usize,
}

impl Buffer {
    /// The bytes before the offset, at most [`MARKER`].
    pub(super) fn before(&self) -> &[u8] {
        self.bytes.get(..self.before).unwrap_or_default()
    }

    /// The bytes from the offset on.
    pub(super) fn after(&self) -> &[u8] {
        self.bytes.get(self.before..).unwrap_or_default()
    }

    /// Hash of the bytes before the offset plus `length`.
    pub(super) fn marker_at(&self, length: usize) -> u64 {
        marker(self.bytes.get(..self.before + length).unwrap_or(&self.bytes))
    }

    /// Reads up to `most` bytes at the offset, and the bytes before it. Fewer: the end of the file, for now.
    pub(super) fn fill_plain(&mut self, file: &File, offset: u64, most: usize) -> io::Result<()> {
        self.before = usize::try_from(offset).map_or(MARKER, |offset| offset.min(MARKER));
        let base = offset - self.before as u64;
        self.bytes.resize(self.before + most, 0);
        let mut filled = 0;
        while let Some(room) = self.bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::pread(file, room, base + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes.truncate(filled);
        self.before = self.before.min(filled);
        Ok(())
    }

    /// The same from a compressed file.
    pub(super) fn fill_gzip(
        &mut self,
        slot: &mut Option<Inflater>,
        id: u64,
        file: &Arc<File>,
        offset: u64,
        most: usize,
    ) -> io::Result<()> {
        let before = usize::try_from(offset).map_or(MARKER, |offset| offset.min(MARKER));
        let base = offset - before as u64;
        let usable = slot.take().filter(|inflater| inflater.file == id && inflater.reaches(base));
        let inflater = slot.insert(usable.unwrap_or_else(|| Inflater::new(id, Arc::clone(file))));
        let filled = inflater.fill(base, before + most, &mut self.bytes);
        self.before = before.min(self.bytes.len());
        filled
    }

    /// Gives back what an unusually long line took.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > 2 * QUANTUM {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_needs_a_whole_first_line() {
        assert_eq!(generation(b"", false), None);
        assert_eq!(generation(b"", true), None);
        assert_eq!(generation(b"half a li", false), None);
        assert!(generation(b"half a li", true).is_some());
        let one = generation(b"a line\n", false);
        assert!(one.is_some());
        assert_eq!(generation(b"a line\nand more", false), one);
        assert_ne!(generation(b"a linf\n", false), one);
        let long = [b'x'; 2000];
        assert_eq!(generation(&long[..1023], false), None);
        assert_eq!(generation(&long[..1024], false), generation(&long, false));
    }
}
