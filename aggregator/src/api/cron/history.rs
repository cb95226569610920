//! Puts what was told of runs together: of each run the latest that is known, newest first. Pure.
//!
//! * Events come in pages, from the newest backwards, in any order within a page and some more than once. Each has all that
//!   was known of its run, so that of a run the latest alone counts.
//! * No event of a run is older than the run itself, but for [`SLACK`]: once all is read up to a moment, the runs after it are
//!   known for good, and reading ends with as many of them as are wanted, however many there are before.
//! * Bounded: what is kept are the runs that are wanted, a page, and at most [`MOST_OPEN`] that ended after what has been read
//!   and began before it. Of more than those the oldest are left out, and the answer says that there are more.

use crate::record::MAX_LAST;
use crate::run::{Outcome, Run, RunId};
use crate::store::ORDER_SLACK;
use jiff::Timestamp;
use skpr_proto::{Label, UnixNanos};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most runs of an answer: with at most 3 KiB each less than the 4 MiB that a client takes.
pub(super) const LIMIT: usize = 1_000;
/// How much older than its run an event may seem: the clocks of a node, of Kubernetes and our own say when it began and ended.
pub(super) const SLACK: Duration = Duration::from_secs(120);
/// How long a run may be under way before it must be among those that the platform says run.
const NEW: Duration = Duration::from_secs(60);
/// Runs that were under way at one moment: a hundred tasks with a hundred runs each at once, which is 5 MiB.
const MOST_OPEN: usize = 10_000;
/// Events of a page, at least and at most.
const PAGE: (usize, usize) = (256, 4096);
/// The largest page, for more events of one moment than a page has.
const LARGEST_PAGE: usize = MAX_LAST;

/// Which runs are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) task: Option<Label>,
    /// Inclusive.
    pub(super) since: Option<UnixNanos>,
    /// Exclusive.
    pub(super) until: Option<UnixNanos>,
    /// Only failures.
    pub(super) failed: bool,
    /// Only the newest so many.
    pub(super) last: usize,
}

/// What the platform says of runs now.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) time: Timestamp,
    /// Those that run or wait to. None: it does not say.
    pub(super) running: Option<BTreeSet<RunId>>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Newest first.
    pub(super) runs: Vec<Run>,
    /// There are older ones that are wanted, too.
    pub(super) more: bool,
}

/// Where a run stands among the others.
type Place = (UnixNanos, RunId);

/// The runs that were told of as far as that has been read.
pub(super) struct History {
    asked: Asked,
    now: Now,
    pages: Pages,
    /// What is still to be read can change nothing.
    is_done: bool,
    /// There may be events of these that were not read.
    open: BTreeMap<RunId, Run>,
    /// Of these there are none, and they are wanted.
    known: BTreeMap<RunId, Run>,
    /// Runs up to here were left out.
    floor: Option<Place>,
}

impl History {
    pub(super) fn new(asked: Asked, now: Now) -> History {
        let pages = Pages::for_runs(asked.last);
        History {
            asked,
            now,
            pages,
            is_done: false,
            open: BTreeMap::new(),
            known: BTreeMap::new(),
            floor: None,
        }
    }

    /// Which page of the events is to be read and taken in next; none when it is enough.
    pub(super) fn next_page(&self) -> Option<Pages> {
        (!self.is_done).then_some(self.pages)
    }

    /// That page has been taken in.
    pub(super) fn turn(&mut self, page: Page) {
        match self.pages.turn(page) {
            Turned::Whole => self.is_done = true,
            Turned::UpTo(time) => {
                self.read_up_to(time);
                self.is_done = self.is_enough();
            }
            Turned::Again => {}
        }
    }

    /// Takes in what was known of a run at some moment.
    pub(super) fn take(&mut self, run: Run) {
        let place = self.now.place(&run);
        let is_left_out = self.floor.as_ref().is_some_and(|floor| place <= *floor);
        if is_left_out || !self.asked.covers(&run, place.0) {
            return;
        }
        match self.known.get_mut(&run.id).or_else(|| self.open.get_mut(&run.id)) {
            Some(known) => later(known, run),
            None => drop(self.open.insert(run.id.clone(), run)),
        }
    }

    /// Everything that was told at `from` or later has been taken in.
    fn read_up_to(&mut self, from: UnixNanos) {
        self.settle(moved(from, SLACK));
        if let Some(excess) = self.open.len().checked_sub(MOST_OPEN).filter(|excess| *excess > 0) {
            let mut places: Vec<Place> = self.open.values().map(|run| self.now.place(run)).collect();
            places.sort_unstable();
            self.floor = self.floor.take().max(places.into_iter().nth(excess - 1));
            let (now, floor) = (&self.now, &self.floor);
            self.open.retain(|_, run| Some(now.place(run)) > *floor);
        }
    }

    /// The runs from then on are known for good.
    fn settle(&mut self, from: UnixNanos) {
        let now = &self.now;
        let (known, open) =
            std::mem::take(&mut self.open).into_iter().partition(|(_, run)| now.place(run).0 >= from);
        self.open = open;
        let known: BTreeMap<RunId, Run> = known;
        let judged = known.into_iter().map(|(id, run)| (id, now.judged(run)));
        let failed = self.asked.failed;
        self.known.extend(judged.filter(|(_, run)| !failed || run.outcome.is_some_and(Outcome::is_failure)));
    }

    /// Whether what is still to be read can change nothing.
    fn is_enough(&self) -> bool {
        self.known.len() > self.asked.last
    }

    /// What has been found, when everything has been read or it is enough.
    pub(super) fn found(mut self) -> Found {
        if !self.is_enough() {
            self.settle(UnixNanos(i64::MIN));
        }
        let mut runs: Vec<Run> = self.known.into_values().collect();
        runs.sort_by_cached_key(|run| Reverse(self.now.place(run)));
        let above = |run: &Run| self.floor.as_ref().is_none_or(|floor| self.now.place(run) > *floor);
        let more = runs.len() > self.asked.last || self.floor.is_some();
        runs.retain(above);
        runs.truncate(self.asked.last);
        Found { runs, more }
    }
}

/// The time a while later.
fn moved(time: UnixNanos, later: Duration) -> UnixNanos {
    UnixNanos(time.0.saturating_add(i64::try_from(later.as_nanos()).unwrap_or(i64::MAX)))
}

impl Asked {
    fn covers(&self, run: &Run, time: UnixNanos) -> bool {
        self.task.as_ref().is_none_or(|task| run.task == *task)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
    }
}

impl Now {
    /// One that waits to begin at no time of its own is the newest.
    fn place(&self, run: &Run) -> Place {
        (run.time().unwrap_or(self.time).into(), run.id.clone())
    }

    /// The run, and what must have become of it when nobody has told how it ended.
    fn judged(&self, run: Run) -> Run {
        let Some(running) = &self.running else { return run };
        // What has just begun may not have come to the platform's list yet.
        let is_new = |began: Timestamp| self.time.duration_since(began).unsigned_abs() < NEW;
        if run.outcome.is_some() || running.contains(&run.id) || run.began.is_some_and(is_new) {
            return run;
        }
        Run { outcome: Some(Outcome::Unknown), reason: Some("its end was not seen".to_owned()), ..run }
    }
}

/// Keeps what is known later of one run: how it ended before that it runs, and that it ran before that it did not.
fn later(known: &mut Run, other: Run) {
    let rank = |run: &Run| {
        let rank = match (run.outcome, run.began) {
            (None, None) => 0,
            (Some(outcome), _) if !outcome.is_end() => 1,
            (None, Some(_)) => 2,
            (Some(Outcome::Unknown), _) => 3,
            (Some(_), _) => 4,
        };
        (rank, run.ended, run.outcome)
    };
    if rank(&other) > rank(known) {
        *known = other;
    }
}

/// Which page of the events is to be read: the newest that are older than the page before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Exclusive.
    pub(super) until: Option<UnixNanos>,
    /// At most so many events.
    pub(super) size: usize,
}

/// What a page had.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Page {
    pub(super) events: usize,
    pub(super) oldest: Option<UnixNanos>,
    /// It has less than was asked for because it would have been too long.
    pub(super) is_cut: bool,
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turned {
    /// There is nothing more.
    Whole,
    /// Everything from here on has been read.
    UpTo(UnixNanos),
    /// The same is to be read with a larger page.
    Again,
}

impl Pages {
    /// Where a run has two events, as most have.
    fn for_runs(last: usize) -> Pages {
        let (least, most) = PAGE;
        Pages { until: None, size: last.saturating_mul(3).clamp(least, most) }
    }

    fn turn(&mut self, page: Page) -> Turned {
        let is_last = page.events < self.size && !page.is_cut;
        let Some(oldest) = page.oldest.filter(|_| !is_last) else { return Turned::Whole };
        // What is not in the page stands before all of it in the store's order, which is that of time but for a little.
        let next = UnixNanos(oldest.0.saturating_add(ORDER_SLACK).saturating_add(1));
        if self.until.is_none_or(|until| next < until) {
            self.until = Some(next);
            // Where few of the events are wanted, there is far to go.
            self.size = self.size.saturating_mul(2).min(PAGE.1).max(self.size);
            return Turned::UpTo(next);
        }
        if self.size < LARGEST_PAGE && !page.is_cut {
            self.size = self.size.saturating_mul(4).min(LARGEST_PAGE);
            return Turned::Again;
        }
        self.until = Some(oldest);
        Turned::UpTo(oldest)
    }
}

#[cfg(test)]
mod tests;
