//! What the receiver tells of a file it has: two sums of each block, a weak one that rolls and a strong one.
//!
//! The sums are `fast_rsync`'s, computed a segment at a time, so that a file of any size takes the same memory. A shape
//! from a peer is checked before anything is done with it, and bounds the number of blocks by itself.

use crate::content::PIECE;
use crate::wire::{Cursor, Malformed, put_number};
use fast_rsync::{Signature, SignatureOptions};

/// What a weak sum takes.
pub(crate) const WEAK: usize = 4;
/// What `fast_rsync` writes before the sums.
const HEADER: usize = 12;
/// Blocks whose strong sums are computed at the price of one.
pub(crate) const LANES: usize = 8;
const SMALLEST_BLOCK: u64 = 64;
/// From here on blocks grow with the file instead of in number.
const USUAL_BLOCK: u64 = 64 << 10;
const LARGEST_BLOCK: u64 = 16 << 20;
/// Half a million blocks: 5 MiB of sums, and 15 MiB with their index, at the sender.
const MOST_BLOCKS: u64 = 1 << 19;
/// All that an MD4 has.
const LONGEST_STRONG: u64 = 16;

/// How a base is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The bytes that the blocks cover; the last may be shorter.
    pub(crate) length: u64,
    /// A power of two.
    pub(crate) block: u32,
    /// Bytes kept of each strong sum.
    pub(crate) strong: u8,
}

impl Shape {
    /// For a whole file: blocks of about twice the root of its size, since small changes are looked at again with
    /// smaller ones. None for a file that is too big for the largest.
    pub(crate) fn of_file(length: u64) -> Option<Shape> {
        let root = length.isqrt() * 2;
        let near = if root.is_power_of_two() {
            root
        } else {
            root.next_power_of_two()
                / if root.count_ones() > 1 && root < root.next_power_of_two() / 4 * 3 { 2 } else { 1 }
        };
        let mut block = near.clamp(SMALLEST_BLOCK * 4, USUAL_BLOCK);
        while length.div_ceil(block) > MOST_BLOCKS {
            block *= 2;
        }
        // A wrong match is found out and costs the whole file; its chance is positions times blocks over the sums' range.
        let strong = match length {
            0..0x10_0000 => 3,
            0x10_0000..0x4000_0000 => 4,
            _ => 6,
        };
        (block <= LARGEST_BLOCK).then_some(Shape { length, block: block as u32, strong })
    }

    /// For what lies between two matches.
    pub(crate) fn of_gap(length: u64) -> Shape {
        Shape { length, block: 512, strong: 3 }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.length.div_ceil(u64::from(self.block))
    }

    /// Bytes of the two sums of a block.
    pub(crate) fn width(&self) -> usize {
        WEAK + usize::from(self.strong)
    }

    /// Bytes of all sums.
    pub(crate) fn size(&self) -> u64 {
        self.blocks() * self.width() as u64
    }

    /// How much is read and summed up at once: whole blocks, and whole pieces. Several blocks cost little more than one.
    pub(crate) fn segment(&self) -> usize {
        let block = self.block as usize;
        (LANES * block).clamp(PIECE * 16, PIECE * 64).max(block)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.length);
        put_number(out, u64::from(self.block));
        out.push(self.strong);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Shape, Malformed> {
        let length = cursor.at_most(i64::MAX as u64, "a base that is too long")?;
        let block = cursor.number()?;
        if !block.is_power_of_two() || !(SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&block) {
            return Err(Malformed("a block size out of range"));
        }
        let strong = cursor.byte()?;
        if !(1..=LONGEST_STRONG).contains(&u64::from(strong)) {
            return Err(Malformed("a strong sum of an impossible length"));
        }
        if length == 0 || length.div_ceil(block) > MOST_BLOCKS {
            return Err(Malformed("a signature of too many blocks or of none"));
        }
        Ok(Shape { length, block: block as u32, strong })
    }
}

/// The sums of the blocks of a segment that begins at a block's beginning.
pub(crate) fn sums(segment: &[u8], block: u32, strong: u8) -> Vec<u8> {
    if segment.is_empty() || block == 0 {
        return vec![];
    }
    let crypto_hash_size = u32::from(strong.min(LONGEST_STRONG as u8));
    let options = SignatureOptions { block_size: block, crypto_hash_size };
    let mut bytes = Signature::calculate(segment, options).into_serialized();
    bytes.drain(..HEADER.min(bytes.len()));
    bytes
}

/// The two sums of one block.
pub(crate) fn strong_sum(block: &[u8], strong: u8) -> Vec<u8> {
    sums(block, u32::try_from(block.len()).unwrap_or(u32::MAX), strong).split_off(WEAK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(length: u64, block: u64, strong: u8) {
        let mut out = vec![];
        put_number(&mut out, length);
        put_number(&mut out, block);
        out.push(strong);
        assert!(Shape::decode(&mut Cursor(&out)).is_err(), "{length} {block} {strong}");
    }

    #[test]
    fn impossible_block_sizes_are_refused() {
        for block in [0, 1, 2, 63, 700, 3000, (1 << 16) + 1, 1 << 25, 1 << 31, u64::MAX] {
            refused(1 << 20, block, 4);
        }
    }

    #[test]
    fn impossible_sum_lengths_are_refused() {
        for strong in [0, 17, 255] {
            refused(1 << 20, 1024, strong);
        }
    }

    #[test]
    fn impossible_block_counts_are_refused() {
        refused(0, 1024, 4);
        refused(u64::MAX, 1024, 4);
        refused(i64::MAX as u64, 16 << 20, 4);
        refused(1 << 40, 64, 4);
    }

    #[test]
    fn every_size_of_a_file_has_a_shape_that_crosses_the_wire() {
        for shift in 0..43 {
            for length in [1_u64 << shift, (1 << shift) + 1, (1 << shift) * 3 / 2] {
                let shape = Shape::of_file(length).unwrap();
                let mut out = vec![];
                shape.encode(&mut out);
                assert_eq!(Shape::decode(&mut Cursor(&out)), Ok(shape), "{length}");
            }
        }
        assert_eq!(Shape::of_file(256 << 20).unwrap().block, 32 << 10);
        assert_eq!(Shape::of_file(20_000).unwrap().block, 256);
        assert_eq!(Shape::of_file(1 << 60), None);
    }

    proptest! {
        #[test]
        fn segments_add_up_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 1..5000), blocks in 1_usize..5) {
            let whole = sums(&bytes, 256, 5);
            let parts: Vec<u8> = bytes.chunks(256 * blocks).flat_map(|segment| sums(segment, 256, 5)).collect();
            prop_assert_eq!(whole, parts);
        }
    }
}
