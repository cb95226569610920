//! A long file is sent while it is searched: what is found of one part goes to the receiver, which builds the file from it,
//! while the next is looked through. Where a part has gaps, those behind it wait for the answer.

use super::{Answer, LONGEST_GAP, MOST_RUNS, Reached, Source, Stop, finer, gaps};
use crate::content::ContentHasher;
use crate::index::Index;
use crate::message::{Gap, MOST_GAP_BYTES, MOST_GAPS};
use crate::search::{Run, Runs};
use crate::signature::Shape;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much of the file makes a part.
const PART: u64 = 16 << 20;
/// Parts that may wait for an answer before the search does as well.
const MOST_PARTS: usize = 64;

/// Where a part of the file comes from.
struct Part {
    at: u64,
    runs: Vec<Run>,
    /// Each with the place of its run.
    gaps: Vec<(usize, Gap)>,
}

/// What is found and not sent.
struct Parts<'a> {
    answer: &'a Answer<'a>,
    source: Source,
    shape: Shape,
    waiting: VecDeque<Part>,
    /// How many of them the receiver was asked about.
    asked: usize,
    reached: Reached,
    /// Where the next part begins.
    at: u64,
}

impl Answer<'_> {
    /// The file is read a second time beside the search to hash it: they take about as long.
    pub(super) fn long(&self, source: Source, index: &Index) -> Result<(), Stop> {
        let (mut content, mut again) = (source.content.again()?, source.content.again()?);
        let mut parts = Parts {
            answer: self,
            source,
            shape: index.shape,
            waiting: VecDeque::new(),
            asked: 0,
            reached: Reached::default(),
            at: 0,
        };
        self.begin(&parts.source)?;
        let enough = AtomicBool::new(false);
        let hash = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| {
                let mut hasher = ContentHasher::new();
                again.hash(&mut hasher, &enough)?;
                Ok(hasher.finish())
            });
            let found = self.look(&mut content, index, None, &mut |runs| parts.take(runs));
            let sent = found.and_then(|rest| parts.add(rest)).and_then(|()| parts.go_on(true));
            // The hash of what is not sent is of no use.
            enough.store(sent.is_err(), Ordering::Release);
            sent.and_then(|()| Ok(hashing.join().unwrap_or(Err(Errno::IO))?))
        });
        if let Err(Stop::File(_)) = &hash
            && parts.asked > 0
        {
            // The receiver has not heard that it is over, and what it answers would be taken for something else.
            self.desk.gap_sums(self.session, parts.source.number, true)?;
        }
        self.end(&parts.source, hash?)
    }
}

impl Parts<'_> {
    /// Takes what makes a part. New content at its end may be a gap, of which the other end is to be known.
    fn take(&mut self, runs: &mut Runs) -> Result<(), Stop> {
        let open = runs.0.pop_if(|last| matches!(last, Run::New { length } if *length <= LONGEST_GAP));
        let length: u64 = runs.0.iter().map(Run::length).sum();
        let whole = if length >= PART { std::mem::take(&mut runs.0) } else { vec![] };
        runs.0.extend(open);
        if whole.is_empty() { Ok(()) } else { self.add(whole) }
    }

    fn add(&mut self, runs: Vec<Run>) -> Result<(), Stop> {
        let gaps = gaps(&runs, &mut self.reached, self.shape);
        let part = Part { at: self.at, runs, gaps };
        self.at += part.runs.iter().map(Run::length).sum::<u64>();
        self.waiting.push_back(part);
        let held: usize = self.waiting.iter().map(|part| part.runs.len()).sum();
        self.go_on(self.waiting.len() > MOST_PARTS || held > MOST_RUNS)
    }

    /// Sends what can be sent, and asks for what is needed for more. With `wait`, until all is sent.
    fn go_on(&mut self, wait: bool) -> Result<(), Stop> {
        loop {
            if self.asked > 0 {
                let (session, number) = (self.answer.session, self.source.number);
                let Some(sums) = self.answer.desk.gap_sums(session, number, wait)? else { return Ok(()) };
                let mut sums = &sums[..];
                for part in self.waiting.drain(..std::mem::take(&mut self.asked)) {
                    let runs = finer(&self.source, &part.runs, &part.gaps, part.at, &mut sums)?;
                    self.answer.emit(&mut self.source, &runs, part.at)?;
                }
            }
            while let Some(part) = self.waiting.pop_front_if(|part| part.gaps.is_empty()) {
                self.answer.emit(&mut self.source, &part.runs, part.at)?;
            }
            if self.waiting.is_empty() {
                return Ok(self.answer.session.outbox.flush()?);
            }
            self.ask()?;
        }
    }

    /// Asks about the parts that wait, or as many of them as may be asked about at a time.
    fn ask(&mut self) -> Result<(), Stop> {
        let (mut all, mut bytes) = (vec![], 0);
        for part in &self.waiting {
            bytes += part.gaps.iter().map(|(_, gap)| gap.length).sum::<u64>();
            if self.asked > 0 && (all.len() + part.gaps.len() > MOST_GAPS || bytes > MOST_GAP_BYTES) {
                break;
            }
            all.extend(part.gaps.iter().map(|(_, gap)| *gap));
            self.asked += 1;
        }
        if !self.answer.ask_gaps(self.source.number, all)? {
            // There is no room for the answer: they are new as they are.
            self.waiting.iter_mut().take(std::mem::take(&mut self.asked)).for_each(|part| part.gaps.clear());
        }
        Ok(self.answer.session.outbox.flush()?)
    }
}
