//! The blocks of a base by their sums, as the sender looks them up at every byte of a new file.
//!
//! Nothing here takes longer because a peer chose the sums: the blocks are sorted, so that any number of them with the
//! same weak sum costs one strong sum and one binary search.

use crate::signature::{Shape, WEAK, strong_sum};

/// Spreads weak sums, whose bits are far from even.
const SPREAD: u32 = 0x9e37_79b1;
/// How many bits of the filter there are for a block, before rounding up: about one position in twenty passes it in vain.
const BITS_PER_BLOCK: usize = 16;
const SMALLEST_FILTER: u32 = 12;
const LARGEST_FILTER: u32 = 23;

/// See the module.
pub(crate) struct Index {
    pub(crate) shape: Shape,
    sums: Vec<u8>,
    /// Whether any block may have a weak sum, by the top bits of the spread sum.
    filter: Vec<u64>,
    filter_shift: u32,
    /// Where the blocks with these top bits begin in `order`.
    buckets: Vec<u32>,
    bucket_shift: u32,
    /// Spread weak sum and number of each block, sorted by both sums; of equal ones only the first. Without the short
    /// last block.
    order: Vec<(u32, u32)>,
}

impl Index {
    /// None if the sums are not those of this shape.
    pub(crate) fn new(shape: Shape, sums: Vec<u8>) -> Option<Index> {
        if sums.len() as u64 != shape.size() {
            return None;
        }
        let whole = usize::try_from(shape.length / u64::from(shape.block)).ok()?;
        let entries = sums.chunks_exact(shape.width()).take(whole);
        let mut order: Vec<(u32, u32)> =
            entries.zip(0..).map(|(entry, block)| (spread(weak_of(entry)), block)).collect();
        order.sort_unstable_by(|one, other| {
            one.0
                .cmp(&other.0)
                .then_with(|| strong_of(&sums, shape, one.1).cmp(strong_of(&sums, shape, other.1)))
                .then(one.1.cmp(&other.1))
        });
        order.dedup_by(|later, first| {
            later.0 == first.0 && strong_of(&sums, shape, later.1) == strong_of(&sums, shape, first.1)
        });
        let bits =
            (order.len() * BITS_PER_BLOCK).next_power_of_two().ilog2().clamp(SMALLEST_FILTER, LARGEST_FILTER);
        let filter_shift = 32 - bits;
        let mut filter = vec![0_u64; 1 << (bits - 6)];
        for (key, _) in &order {
            let at = key >> filter_shift;
            if let Some(word) = filter.get_mut((at >> 6) as usize) {
                *word |= 1 << (at & 63);
            }
        }
        let bucket_bits = order.len().next_power_of_two().ilog2().clamp(1, 20);
        let bucket_shift = 32 - bucket_bits;
        let mut buckets = Vec::with_capacity((1 << bucket_bits) + 1);
        let mut at = 0;
        for bucket in 0..=(1_u64 << bucket_bits) {
            while order.get(at).is_some_and(|(key, _)| u64::from(key >> bucket_shift) < bucket) {
                at += 1;
            }
            buckets.push(at as u32);
        }
        Some(Index { shape, sums, filter, filter_shift, buckets, bucket_shift, order })
    }

    /// Whether a block may have this weak sum; most positions end here.
    #[inline]
    pub(crate) fn may_have(&self, weak: u32) -> bool {
        let at = spread(weak) >> self.filter_shift;
        self.filter.get((at >> 6) as usize).is_some_and(|word| word >> (at & 63) & 1 == 1)
    }

    /// What is known of a place in the new file, given its weak sum and its bytes.
    pub(crate) fn find(&self, weak: u32, bytes: &[u8]) -> Found {
        let key = spread(weak);
        let bucket = (key >> self.bucket_shift) as usize;
        let bounds = self.buckets.get(bucket).zip(self.buckets.get(bucket + 1));
        let some = bounds
            .and_then(|(start, end)| self.order.get(*start as usize..*end as usize))
            .unwrap_or_default();
        let start = some.partition_point(|(other, _)| *other < key);
        let end = some.partition_point(|(other, _)| *other <= key);
        let Some(same @ [_, ..]) = some.get(start..end) else { return Found::Nothing };
        let strong = strong_sum(bytes, self.shape.strong);
        let found =
            same.binary_search_by(|(_, block)| strong_of(&self.sums, self.shape, *block).cmp(&strong[..]));
        match found.ok().and_then(|at| same.get(at)) {
            Some((_, block)) => Found::Block(*block),
            None => Found::OnlyWeak,
        }
    }

    /// The sums from this block on.
    pub(crate) fn sums_from(&self, block: u64) -> &[u8] {
        let at = usize::try_from(block).ok().and_then(|block| block.checked_mul(self.shape.width()));
        at.and_then(|at| self.sums.get(at..)).unwrap_or_default()
    }

    /// The sums of the last block and its length, where it is shorter than the others.
    pub(crate) fn short_last(&self) -> Option<(usize, &[u8])> {
        let length = usize::try_from(self.shape.length % u64::from(self.shape.block)).ok()?;
        let at = self.sums.len().checked_sub(self.shape.width())?;
        (length > 0).then_some((length, self.sums.get(at..)?))
    }
}

/// What an index knows of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A strong sum was computed in vain.
    OnlyWeak,
    Block(u32),
}

fn spread(weak: u32) -> u32 {
    weak.wrapping_mul(SPREAD)
}

fn weak_of(entry: &[u8]) -> u32 {
    entry.first_chunk::<WEAK>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn strong_of(sums: &[u8], shape: Shape, block: u32) -> &[u8] {
    let at = block as usize * shape.width();
    sums.get(at + WEAK..at + shape.width()).unwrap_or_default()
}
