//! A file as its difference to the receiver's base: first what large blocks find, then, in the gaps between them, small ones.
//!
//! The file is read once to search and hash it, and of what is new a second time to send it; nothing of it is held
//! meanwhile but where each part comes from.

use super::{Answer, Source, Stop, try_out};
use crate::content::{ContentHash, ContentHasher, PIECE};
use crate::error::Error;
use crate::file::{Content, Part, read_exact};
use crate::index::Index;
use crate::message::{Gap, MOST_DATA, MOST_GAP_BYTES, MOST_GAPS, Number, ToReceiver};
use crate::search::{Run, Runs, Search};
use crate::send::desk::Place;
use crate::send::{say, say_as};
use crate::session::Event;
use crate::signature::Shape;
use rustix::io::Errno;

/// What is searched at once.
const WINDOW: usize = 4 << 20;
/// Blocks smaller than this leave gaps that are not worth asking about.
const LARGE_BLOCK: u32 = 2 << 10;
/// A gap that is longer on either side holds something new.
const LONGEST_GAP: u64 = 1 << 20;
/// Gaps that hold less than this altogether are sent as they are.
const FEW_BYTES: u64 = 16 << 10;
/// A base that large is tried at some places before the whole file is searched for it.
const WORTH_PROBING: u64 = 8 << 20;
const PROBES: u64 = 16;
/// Files of several parts that wait for the receiver's answer. Their parts are held meanwhile.
const MOST_WAITING: usize = 64;
/// Parts of one file; beyond, everything counts as new.
const MOST_RUNS: usize = 1 << 20;

/// A file that waits for the sums of its gaps.
pub(in crate::send) struct Waiting {
    source: Source,
    runs: Vec<Run>,
    hash: ContentHash,
    /// Each with the place of its run.
    gaps: Vec<(usize, Gap)>,
}

impl Answer<'_> {
    pub(super) fn delta(
        &mut self,
        number: Number,
        place: &Place,
        shape: Shape,
        sums: Vec<u8>,
    ) -> Result<(), Stop> {
        let Some(index) = Index::new(shape, sums) else {
            return Err(Error::Protocol("sums of another shape").into());
        };
        let mut source = self.open(number, place)?;
        if !self.is_related(&source, &index)? {
            return self.whole(source);
        }
        let (runs, hash) = self.search(&mut source, &index)?;
        let held: usize = self.waiting.values().map(|waiting| waiting.runs.len()).sum();
        let room = self.waiting.len() < MOST_WAITING && held + runs.len() <= MOST_RUNS;
        let gaps = if shape.block >= LARGE_BLOCK && room { gaps(&runs, shape.length) } else { vec![] };
        let bytes: u64 = gaps.iter().map(|(_, gap)| Shape::of_gap(gap.length).size()).sum();
        if !gaps.is_empty() && self.desk.expect_sums(number, bytes) {
            say(
                self.session,
                &ToReceiver::AskGaps { number, gaps: gaps.iter().map(|(_, gap)| *gap).collect() },
            )?;
            self.waiting.insert(number, Waiting { source, runs, hash, gaps });
            return Ok(());
        }
        self.emit(source, &runs, hash)
    }

    /// Whether anything of a large file, at places all over it, is in the base.
    fn is_related(&self, source: &Source, index: &Index) -> Result<bool, Stop> {
        let (size, block) = (source.content.size, index.shape.block as usize);
        let mut buffer = vec![0; (2 * block).max(2 * PIECE)];
        if size < WORTH_PROBING.max(buffer.len() as u64) {
            return Ok(true);
        }
        for probe in 0..PROBES {
            let at = (size - buffer.len() as u64) / (PROBES - 1).max(1) * probe / PIECE as u64 * PIECE as u64;
            let at = at.min(size - buffer.len() as u64);
            read_exact(&source.content.file, &mut buffer, at)?;
            let mut search = Search::new(index, 0);
            search.window(&buffer, false);
            if search.runs.0.iter().any(|run| !matches!(run, Run::New { .. })) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where all of the file comes from, and its hash. A large one is hashed beside the search: they take about as long.
    fn search(&self, source: &mut Source, index: &Index) -> Result<(Vec<Run>, ContentHash), Stop> {
        if source.content.size < WORTH_PROBING {
            let mut hasher = ContentHasher::new();
            let runs = self.look(&mut source.content, index, Some(&mut hasher))?;
            return Ok((runs, hasher.finish()));
        }
        let mut again = source.content.again()?;
        let (runs, hash) = std::thread::scope(|scope| {
            let hashing = scope.spawn(move || {
                let mut hasher = ContentHasher::new();
                again.hash(&mut hasher, self.session.over())?;
                Ok(hasher.finish())
            });
            let runs = self.look(&mut source.content, index, None);
            (runs, hashing.join().unwrap_or(Err(Errno::IO)))
        });
        Ok((runs?, hash?))
    }

    fn look(
        &self,
        content: &mut Content,
        index: &Index,
        mut hasher: Option<&mut ContentHasher>,
    ) -> Result<Vec<Run>, Stop> {
        let size = content.size;
        let mut search = Search::new(index, 0);
        let capacity = WINDOW.max(2 * index.shape.block as usize);
        let mut window: Vec<u8> = Vec::with_capacity(capacity.min(usize::try_from(size).unwrap_or(capacity)));
        while let Some(part) = content.next()? {
            match part {
                Part::Data(bytes) => {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(bytes);
                    }
                    window.extend_from_slice(bytes);
                }
                Part::Hole(length) => {
                    if let Some(hasher) = &mut hasher {
                        hasher.zeros(length);
                    }
                    search.window(&window, true);
                    window.clear();
                    search.skip(Run::Zero { length });
                }
            }
            if window.len() >= capacity {
                let done = search.window(&window, false);
                window.drain(..done);
                if self.session.is_over() {
                    return Err(Error::Stopped.into());
                }
            }
        }
        search.window(&window, true);
        debug_assert_eq!(search.position(), size);
        let runs = search.runs.0;
        Ok(if runs.len() > MOST_RUNS { vec![Run::New { length: size }] } else { runs })
    }

    /// The sums of the gaps have come: their content is searched for once more.
    pub(super) fn gaps(&mut self, number: Number, sums: Vec<u8>) -> Result<(), Stop> {
        let Some(waiting) = self.waiting.remove(&number) else {
            return Err(Error::Protocol("sums that were not asked for").into());
        };
        let Waiting { source, runs, hash, gaps } = waiting;
        let mut sums = &sums[..];
        let mut gaps = gaps.iter().peekable();
        let mut finer = Runs::default();
        let mut at = 0;
        for (place, run) in runs.iter().enumerate() {
            match (run, gaps.peek()) {
                (Run::New { length }, Some((of, gap))) if *of == place => {
                    let shape = Shape::of_gap(gap.length);
                    let (own, rest) = sums
                        .split_at_checked(usize::try_from(shape.size()).unwrap_or(usize::MAX))
                        .unwrap_or_default();
                    sums = rest;
                    gaps.next();
                    let mut bytes = vec![0; usize::try_from(*length).unwrap_or(0)];
                    read_exact(&source.content.file, &mut bytes, at)?;
                    let Some(index) = Index::new(shape, own.to_vec()) else {
                        return Err(Error::Protocol("sums of another shape").into());
                    };
                    let mut search = Search::new(&index, gap.from);
                    search.window(&bytes, true);
                    search.runs.0.into_iter().for_each(|run| finer.push(run));
                }
                (run, _) => finer.push(*run),
            }
            at += run.length();
        }
        self.emit(source, &finer.0, hash)
    }

    fn emit(&mut self, mut source: Source, runs: &[Run], hash: ContentHash) -> Result<(), Stop> {
        self.begin(&source)?;
        let mut at = 0;
        let mut buffer = vec![];
        for run in runs {
            match *run {
                Run::Copy { from, length } => say(self.session, &ToReceiver::Copy { from, length })?,
                Run::Zero { length } => say(self.session, &ToReceiver::Zero(length))?,
                Run::New { length } => {
                    let end = at + length;
                    let mut here = at;
                    while here < end {
                        buffer.resize(usize::try_from(end - here).unwrap_or(MOST_DATA).min(MOST_DATA), 0);
                        read_exact(&source.content.file, &mut buffer, here)?;
                        let packing = source.packing.unwrap_or_else(|| try_out(&buffer));
                        if buffer.len() >= super::SAMPLE {
                            source.packing = Some(packing);
                        }
                        say_as(self.session, &ToReceiver::Data(buffer.clone()), packing)?;
                        here += buffer.len() as u64;
                    }
                }
            }
            at += run.length();
            (self.session.watcher)(Event::Progress {
                path: &source.path,
                done: at,
                size: source.content.size,
            });
        }
        self.end(&source, hash)
    }
}

/// The parts of the base between two matches, where something new took their place that may still be much like them.
fn gaps(runs: &[Run], base_length: u64) -> Vec<(usize, Gap)> {
    let mut gaps: Vec<(usize, Gap)> = vec![];
    let (mut new, mut base, mut bytes) = (0, 0, 0);
    for (at, run) in runs.iter().enumerate() {
        match *run {
            Run::Copy { from, length } => base = from + length,
            Run::Zero { .. } => {}
            Run::New { length } => {
                let next = match runs.get(at + 1) {
                    Some(Run::Copy { from, .. }) => *from,
                    Some(_) => continue,
                    None => base_length,
                };
                let gap = next.saturating_sub(base);
                let shape = Shape::of_gap(gap);
                let worth = length >= u64::from(shape.block)
                    && gap >= u64::from(shape.block)
                    && gap <= length.saturating_mul(4);
                // A gap must follow from the one before, as the message has it.
                let ahead = gaps.last().is_none_or(|(_, last)| last.from + last.length <= base);
                if worth
                    && ahead
                    && length <= LONGEST_GAP
                    && gap <= LONGEST_GAP * 4
                    && gaps.len() < MOST_GAPS
                    && bytes + gap <= MOST_GAP_BYTES
                {
                    gaps.push((at, Gap { from: base, length: gap }));
                    bytes += gap;
                    new += length;
                }
            }
        }
    }
    if new < FEW_BYTES { vec![] } else { gaps }
}
