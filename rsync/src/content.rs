//! The hash that says whether two files hold the same bytes: BLAKE3, and a run of zeros costs nothing.
//!
//! The content is cut into aligned pieces. Pieces of nothing but zeros go, as offset and length of each unbroken run,
//! into one hash, all other bytes in their order into another; the result is the hash of both and of the length. So it
//! depends on the bytes alone, and not on how they were handed over, and a file of 1 TiB that is nearly all hole is
//! hashed in no time.

use std::fmt;

/// What zeros are counted in, and how the positions of holes are rounded.
pub(crate) const PIECE: usize = 64 << 10;
const ZEROS: [u8; 64] = [0; 64];

/// The first half of the hash; no two files that anybody has share it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentHash(pub(crate) [u8; 16]);

impl fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Content as it comes in, from its beginning.
#[derive(Clone)]
pub(crate) struct ContentHasher {
    data: blake3::Hasher,
    holes: blake3::Hasher,
    length: u64,
    /// Where the run of zeros began that reaches up to the last whole piece.
    run: Option<u64>,
    /// The beginning of a piece that is not whole yet.
    pending: Vec<u8>,
}

impl ContentHasher {
    pub(crate) fn new() -> ContentHasher {
        let (data, holes) = (blake3::Hasher::new(), blake3::Hasher::new());
        ContentHasher { data, holes, length: 0, run: None, pending: vec![] }
    }

    /// How many bytes have come.
    pub(crate) fn length(&self) -> u64 {
        self.length + self.pending.len() as u64
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        if !self.pending.is_empty() {
            let (more, rest) = bytes.split_at(bytes.len().min(PIECE - self.pending.len()));
            self.pending.extend_from_slice(more);
            bytes = rest;
            if self.pending.len() < PIECE {
                return;
            }
            let piece = std::mem::take(&mut self.pending);
            self.piece(&piece);
            self.pending = piece;
            self.pending.clear();
        }
        let mut pieces = bytes.chunks_exact(PIECE);
        pieces.by_ref().for_each(|piece| self.piece(piece));
        self.pending.extend_from_slice(pieces.remainder());
    }

    /// That many bytes that are zero.
    pub(crate) fn zeros(&mut self, mut length: u64) {
        // Up to the next whole piece, and what is left behind the last, like any other bytes.
        while length > 0 {
            if self.pending.is_empty() && length >= PIECE as u64 {
                let whole = length - length % PIECE as u64;
                self.run.get_or_insert(self.length);
                self.length += whole;
                length -= whole;
            } else {
                let some = length.min((PIECE - self.pending.len()) as u64).min(ZEROS.len() as u64);
                self.update(ZEROS.get(..some as usize).unwrap_or_default());
                length -= some;
            }
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        if is_zero(piece) {
            self.run.get_or_insert(self.length);
        } else {
            self.end_run();
            self.data.update(piece);
        }
        self.length += piece.len() as u64;
    }

    fn end_run(&mut self) {
        if let Some(start) = self.run.take() {
            self.holes.update(&start.to_le_bytes());
            self.holes.update(&(self.length - start).to_le_bytes());
        }
    }

    pub(crate) fn finish(mut self) -> ContentHash {
        self.end_run();
        self.data.update(&self.pending);
        let length = self.length();
        let mut whole = blake3::Hasher::new();
        whole.update(self.data.finalize().as_bytes());
        whole.update(self.holes.finalize().as_bytes());
        whole.update(&length.to_le_bytes());
        let mut hash = [0; 16];
        whole.finalize_xof().fill(&mut hash);
        ContentHash(hash)
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(ZEROS.len());
    chunks.all(|chunk| chunk == ZEROS) && chunks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(bytes: &[u8]) -> ContentHash {
        let mut hasher = ContentHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_depends_on_the_bytes_and_not_on_how_they_come(
            parts in proptest::collection::vec((any::<bool>(), 0_usize..200_000), 1..6)
        ) {
            let mut hasher = ContentHasher::new();
            let mut bytes = vec![];
            for (zeros, length) in parts {
                if zeros {
                    hasher.zeros(length as u64);
                    bytes.resize(bytes.len() + length, 0);
                } else {
                    let part = vec![7; length];
                    hasher.update(&part);
                    bytes.extend(part);
                }
            }
            prop_assert_eq!(hasher.length(), bytes.len() as u64);
            prop_assert_eq!(hasher.finish(), hash(&bytes));
        }
    }

    #[test]
    fn where_the_zeros_are_makes_a_difference() {
        let zeros = vec![0; PIECE];
        let data = vec![1; PIECE];
        let all = [
            [&zeros[..], &data].concat(),
            [&data[..], &zeros].concat(),
            data.clone(),
            zeros.clone(),
            [&zeros[..], &zeros].concat(),
            [&zeros[..], &zeros[1..]].concat(),
            vec![],
            vec![0],
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(hash(one), hash(other));
            }
        }
    }

    #[test]
    fn a_tebibyte_of_hole_takes_no_time() {
        let begun = std::time::Instant::now();
        let mut hasher = ContentHasher::new();
        hasher.zeros(1 << 40);
        hasher.update(b"end");
        hasher.finish();
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    }
}
