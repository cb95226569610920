//! A file as its difference to the receiver's base: first what large blocks find, then, in the gaps between them, small ones.
//!
//! The file is read once to search and hash it, and of what is new a second time to send it; nothing of it is held
//! meanwhile but where each part comes from. A long one is sent while it is searched.

mod long;

use super::{Answer, Source, Stop, try_out};
use crate::content::{ContentHash, ContentHasher, PIECE};
use crate::error::Error;
use crate::file::{Content, Part, read_exact};
use crate::index::Index;
use crate::message::{Gap, MOST_DATA, MOST_GAP_BYTES, MOST_GAPS, Number, ToReceiver};
use crate::search::{Run, Runs, Search};
use crate::send::desk::Place;
use crate::send::{say, say_data};
use crate::session::Event;
use crate::signature::Shape;

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
/// A file from here on is sent while it is searched.
const LONG: u64 = 32 << 20;
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
        if source.content.size >= LONG {
            return self.long(source, &index);
        }
        let mut hasher = ContentHasher::new();
        let runs = self.look(&mut source.content, &index, Some(&mut hasher), &mut |_| Ok(()))?;
        let (size, hash) = (source.content.size, hasher.finish());
        let runs = if runs.len() > MOST_RUNS { vec![Run::New { length: size }] } else { runs };
        let held: usize = self.waiting.values().map(|waiting| waiting.runs.len()).sum();
        let room = self.waiting.len() < MOST_WAITING && held + runs.len() <= MOST_RUNS;
        let gaps = if room { gaps(&runs, &mut Reached::default(), shape) } else { vec![] };
        if !gaps.is_empty() && self.ask_gaps(number, gaps.iter().map(|(_, gap)| *gap).collect())? {
            self.waiting.insert(number, Waiting { source, runs, hash, gaps });
            return Ok(());
        }
        self.begin(&source)?;
        self.emit(&mut source, &runs, 0)?;
        self.end(&source, hash)
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

    /// Asks for the sums of gaps, if there is room for them.
    fn ask_gaps(&self, number: Number, gaps: Vec<Gap>) -> Result<bool, Error> {
        let bytes = gaps.iter().map(|gap| Shape::of_gap(gap.length).size()).sum();
        if !self.desk.expect_sums(number, bytes) {
            return Ok(false);
        }
        say(self.session, &ToReceiver::AskGaps { number, gaps })?;
        Ok(true)
    }

    /// Where all of the file comes from. `meanwhile` is given what is found, window by window, and may take from it.
    fn look(
        &self,
        content: &mut Content,
        index: &Index,
        mut hasher: Option<&mut ContentHasher>,
        meanwhile: &mut dyn FnMut(&mut Runs) -> Result<(), Stop>,
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
                    meanwhile(&mut search.runs)?;
                }
            }
            if window.len() >= capacity {
                let done = search.window(&window, false);
                window.drain(..done);
                meanwhile(&mut search.runs)?;
            }
            if self.session.is_over() {
                return Err(Error::Stopped.into());
            }
        }
        search.window(&window, true);
        debug_assert_eq!(search.position(), size);
        Ok(search.runs.0)
    }

    /// The sums of the gaps have come: their content is searched for once more.
    pub(super) fn gaps(&mut self, number: Number, sums: Vec<u8>) -> Result<(), Stop> {
        let Some(waiting) = self.waiting.remove(&number) else {
            return Err(Error::Protocol("sums that were not asked for").into());
        };
        let Waiting { mut source, runs, hash, gaps } = waiting;
        let finer = finer(&source, &runs, &gaps, 0, &mut &sums[..])?;
        self.begin(&source)?;
        self.emit(&mut source, &finer, 0)?;
        self.end(&source, hash)
    }

    /// Says where a part of a file comes from that begins there.
    fn emit(&self, source: &mut Source, runs: &[Run], at: u64) -> Result<(), Stop> {
        let mut at = at;
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
                        if buffer.len() >= MOST_DATA {
                            source.packing = Some(packing);
                        }
                        say_data(self.session, &buffer, packing)?;
                        here += buffer.len() as u64;
                    }
                }
            }
            at += run.length();
            let size = source.content.size;
            (self.session.watcher)(Event::Progress { path: &source.path, done: at, size });
        }
        Ok(())
    }
}

/// Looks through gaps once more, with the sums of their small blocks. `at` is where the runs begin in the file; of `sums`
/// those that are used are taken.
fn finer(
    source: &Source,
    runs: &[Run],
    gaps: &[(usize, Gap)],
    at: u64,
    sums: &mut &[u8],
) -> Result<Vec<Run>, Stop> {
    let mut gaps = gaps.iter().peekable();
    let mut finer = Runs::default();
    let mut at = at;
    for (place, run) in runs.iter().enumerate() {
        match (run, gaps.peek()) {
            (Run::New { length }, Some((of, gap))) if *of == place => {
                let shape = Shape::of_gap(gap.length);
                let size = usize::try_from(shape.size()).unwrap_or(usize::MAX);
                let (own, rest) = sums.split_at_checked(size).unwrap_or_default();
                *sums = rest;
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
    Ok(finer.0)
}

/// How far into the base a search has come.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// The end of the last match.
    base: u64,
    /// The end of the last gap that is to be asked about.
    gap: u64,
}

/// The parts of the base between two matches, where something new took their place that may still be much like them.
fn gaps(runs: &[Run], reached: &mut Reached, of: Shape) -> Vec<(usize, Gap)> {
    let mut gaps: Vec<(usize, Gap)> = vec![];
    let (mut new, mut bytes, before) = (0, 0, reached.gap);
    for (at, run) in runs.iter().enumerate() {
        match *run {
            Run::Copy { from, length } => reached.base = from + length,
            Run::Zero { .. } => {}
            Run::New { length } => {
                let next = match runs.get(at + 1) {
                    Some(Run::Copy { from, .. }) => *from,
                    Some(_) => continue,
                    None => of.length,
                };
                let gap = next.saturating_sub(reached.base);
                let shape = Shape::of_gap(gap);
                let worth = length >= u64::from(shape.block)
                    && gap >= u64::from(shape.block)
                    && gap <= length.saturating_mul(4);
                // A gap must follow from the one before, as the message has it.
                let ahead = reached.gap <= reached.base;
                if worth
                    && ahead
                    && length <= LONGEST_GAP
                    && gap <= LONGEST_GAP * 4
                    && gaps.len() < MOST_GAPS
                    && bytes + gap <= MOST_GAP_BYTES
                {
                    gaps.push((at, Gap { from: reached.base, length: gap }));
                    reached.gap = reached.base + gap;
                    bytes += gap;
                    new += length;
                }
            }
        }
    }
    if new < FEW_BYTES || of.block < LARGE_BLOCK {
        reached.gap = before;
        return vec![];
    }
    gaps
}
