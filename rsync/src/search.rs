//! Finds the blocks of a base in a new file, a window at a time.
//!
//! The result says of every byte of the new file, in order, where it comes from. What follows a match is compared with
//! the base's next blocks many at once; only where that fails does a window of one block roll on byte by byte. The work
//! that hostile sums can cause is counted, and beyond a budget all the rest counts as new.

use crate::content::{PIECE, is_zero};
use crate::index::{Found, Index};
use crate::signature::{LANES, sums};

/// Strong sums in vain that are always allowed, in bytes; then as many as bytes have been looked at.
const FREE_MISSES: u64 = 8 << 20;
/// The most blocks, by their bytes, that are compared at once.
const LONGEST_STRIDE: usize = 1 << 20;

/// Where some bytes of the new file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// The base, from there.
    Copy { from: u64, length: u64 },
    /// The new file itself.
    New { length: u64 },
    /// They are zero.
    Zero { length: u64 },
}

impl Run {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Run::Copy { length, .. } | Run::New { length } | Run::Zero { length } => *length,
        }
    }
}

/// Runs, joined where one goes on with the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(pub(crate) Vec<Run>);

impl Runs {
    pub(crate) fn push(&mut self, run: Run) {
        if run.length() == 0 {
            return;
        }
        match (self.0.last_mut(), run) {
            (Some(Run::Copy { from, length }), Run::Copy { from: next, length: more })
                if *from + *length == next =>
            {
                *length += more
            }
            (Some(Run::New { length }), Run::New { length: more })
            | (Some(Run::Zero { length }), Run::Zero { length: more }) => *length += more,
            _ => self.0.push(run),
        }
    }
}

/// A search that goes on from window to window.
pub(crate) struct Search<'a> {
    index: &'a Index,
    /// Where the base's first block lies in its file.
    base: u64,
    pub(crate) runs: Runs,
    /// Where the next window begins in the new file.
    at: u64,
    /// The block that would go on with the last match.
    expected: Option<u64>,
    stride: usize,
    pub(crate) matched: u64,
    missed: u64,
    exhausted: bool,
}

impl<'a> Search<'a> {
    pub(crate) fn new(index: &'a Index, base: u64) -> Search<'a> {
        Search {
            index,
            base,
            runs: Runs::default(),
            at: 0,
            expected: None,
            stride: LANES,
            matched: 0,
            missed: 0,
            exhausted: false,
        }
    }

    /// How far the search has come in the new file.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Whether the sums have cost more than they may.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Bytes that nobody has to look for.
    pub(crate) fn skip(&mut self, run: Run) {
        self.at += run.length();
        self.expected = None;
        self.runs.push(run);
    }

    /// Looks through a window, and says how much of it is done. What is left is shorter than a block, and belongs in front of the
    /// next window; with `last` there is none, and all is done.
    pub(crate) fn window(&mut self, window: &[u8], last: bool) -> usize {
        let block = self.index.shape.block as usize;
        let mut here = 0;
        while window.len() >= here + block && !self.is_exhausted() {
            let rest = window.get(here..).unwrap_or_default();
            let done = match self.zeros(rest) {
                0 => match self.stride(rest) {
                    0 => self.roll(rest),
                    done => done,
                },
                done => done,
            };
            here += done;
            self.at += done as u64;
        }
        let rest = window.get(here..).unwrap_or_default();
        if last || self.is_exhausted() {
            self.tail(rest);
            self.at += rest.len() as u64;
            return window.len();
        }
        here
    }

    /// A piece of zeros at its place is found without the base.
    fn zeros(&mut self, rest: &[u8]) -> usize {
        match rest.get(..PIECE) {
            Some(piece) if self.at.is_multiple_of(PIECE as u64) && is_zero(piece) => {
                self.expected = None;
                self.runs.push(Run::Zero { length: PIECE as u64 });
                PIECE
            }
            _ => 0,
        }
    }

    /// Compares what follows a match with the base's next blocks: twice as many as the last time, once that went well.
    fn stride(&mut self, rest: &[u8]) -> usize {
        let Some(expected) = self.expected else { return 0 };
        let (block, width) = (self.index.shape.block as usize, self.index.shape.width());
        let most = (LONGEST_STRIDE / block).max(1);
        let count = self.stride.min(most).min(rest.len() / block);
        let ours = sums(
            rest.get(..count * block).unwrap_or_default(),
            self.index.shape.block,
            self.index.shape.strong,
        );
        let theirs = self.index.sums_from(expected);
        let same = ours
            .chunks_exact(width)
            .zip(theirs.chunks_exact(width))
            .take_while(|(one, other)| one == other)
            .count();
        self.stride = if same == count { (count * 2).min(most) } else { LANES };
        if same == 0 {
            self.expected = None;
            return 0;
        }
        self.matches(expected, same as u64);
        same * block
    }

    fn matches(&mut self, first: u64, count: u64) {
        let block = u64::from(self.index.shape.block);
        self.runs.push(Run::Copy { from: self.base + first * block, length: count * block });
        self.matched += count * block;
        self.expected = Some(first + count);
    }

    /// Looks at every position until one matches, zeros begin or the bytes end.
    fn roll(&mut self, rest: &[u8]) -> usize {
        let block = self.index.shape.block as usize;
        let Some(first) = rest.get(..block) else { return 0 };
        let mut rolling = Rolling::new(first);
        let mut done = 0;
        let leaving = rest.iter().copied();
        let mut entering = rest.get(block..).unwrap_or_default().iter().copied();
        for old in leaving {
            if self.index.may_have(rolling.sum()) {
                let bytes = rest.get(done..done + block).unwrap_or_default();
                match self.index.find(rolling.sum(), bytes) {
                    Found::Block(number) => {
                        self.runs.push(Run::New { length: done as u64 });
                        self.matches(u64::from(number), 1);
                        return done + block;
                    }
                    Found::OnlyWeak => {
                        self.missed += block as u64;
                        if self.missed > FREE_MISSES + self.at + done as u64 {
                            self.exhausted = true;
                            break;
                        }
                    }
                    Found::Nothing => {}
                }
            }
            done += 1;
            let Some(new) = entering.next() else { break };
            rolling.rotate(old, new);
            // A piece of zeros may begin here. Behind it a whole block is summed up anew, which longer ones are not worth.
            if block <= PIECE
                && new == 0
                && old == 0
                && (self.at + done as u64).is_multiple_of(PIECE as u64)
                && rest.get(done..done + PIECE).is_some_and(is_zero)
            {
                break;
            }
        }
        self.runs.push(Run::New { length: done as u64 });
        done
    }

    /// The end of the new file: it may be the base's short last block.
    fn tail(&mut self, rest: &[u8]) {
        let block = u64::from(self.index.shape.block);
        let found = self.index.short_last().and_then(|(length, theirs)| {
            let start = rest.len().checked_sub(length)?;
            let ours = sums(rest.get(start..)?, u32::try_from(length).ok()?, self.index.shape.strong);
            (ours == theirs).then_some((start as u64, length as u64))
        });
        let Some((start, length)) = found.filter(|_| !self.is_exhausted()) else {
            self.runs.push(Run::New { length: rest.len() as u64 });
            return;
        };
        self.runs.push(Run::New { length: start });
        let from = self.base + self.index.shape.length / block * block;
        self.runs.push(Run::Copy { from, length });
        self.matched += length;
    }
}

/// The weak sum of a block that moves on by a byte: `fast_rsync`'s.
#[derive(Clone, Copy, Debug)]
struct Rolling {
    low: u32,
    high: u32,
    length: u32,
}

impl Rolling {
    fn new(block: &[u8]) -> Rolling {
        let (low, high) = block.iter().fold((0_u32, 0_u32), |(low, high), byte| {
            let low = low.wrapping_add(u32::from(*byte) + 31);
            (low, high.wrapping_add(low))
        });
        Rolling { low, high, length: block.len() as u32 }
    }

    #[inline]
    fn sum(self) -> u32 {
        self.low & 0xffff | self.high << 16
    }

    #[inline]
    fn rotate(&mut self, old: u8, new: u8) {
        self.low = self.low.wrapping_add(u32::from(new)).wrapping_sub(u32::from(old));
        let leaves = self.length.wrapping_mul(u32::from(old) + 31);
        self.high = self.high.wrapping_add(self.low).wrapping_sub(leaves);
    }
}

#[cfg(test)]
mod tests;
