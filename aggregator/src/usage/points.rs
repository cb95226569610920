//! Cells as the points of a chart: one series of buckets for each instance, or one for the whole environment. Pure.
//!
//! - A bucket holds what counters added since the last cell before it, however long ago that was: counters make up for
//!   a time without samples. An environment's CPU is [`super::spread`].
//! - An environment's memory is the most that its instances together had in one cell, not the sum of what each had at
//!   some time: an instance that took another's place would count twice.

use super::at_once::{AtOnce, Stay};
use super::cell::{Cell, ROLLUP_MILLIS};
use super::row::{Amount, COUNTERS, CPU, OOM_KILLS};
use super::spread::{Latest, Spread};
use crate::environment::EnvironmentKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The most buckets of one series.
pub const MOST_BUCKETS: i64 = 2_000;
/// The most points of an answer; each takes some 150 bytes while it is made.
const MOST_POINTS: usize = 400_000;
/// How far before the first bucket a sample may be that the first one after it is compared with.
pub(super) const LOOKBACK: i64 = ROLLUP_MILLIS;
/// The longest time that can be asked for, so that an environment's cells stay below 30 MiB.
const LONGEST: i64 = 800 * 24 * 60 * 60 * 1000;

/// What is asked of history. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Query {
    pub environment: EnvironmentKey,
    pub since: i64,
    /// Not included.
    pub until: i64,
    pub step: Duration,
    /// Only these; all when there is none.
    pub instances: Vec<Arc<str>>,
    /// A series for each, in place of one for all together.
    pub per_instance: bool,
}

/// The answer. `since`, `until` and `step` are as asked, widened to where samples were put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Points {
    pub since: i64,
    pub until: i64,
    pub step: i64,
    /// Sorted by instance.
    pub series: Vec<Series>,
    /// Files that could not be read, so that something may be missing.
    pub damaged: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// None: of the environment.
    pub instance: Option<Arc<str>>,
    /// In order of time. Buckets without a sample are left out.
    pub points: Vec<Point>,
}

/// One bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// When it begins.
    pub time: i64,
    /// CPU time used; over `covered_millis` it is the average. None: not known.
    pub cpu_nanos: Option<u64>,
    /// The time that `cpu_nanos` is about: less than the bucket's where samples are missing, more where what was used
    /// before without a sample is known only now. Of an environment: from when on and until when anything is known of it.
    pub covered_millis: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    /// None: nobody counts them.
    pub oom_kills: Option<u64>,
    pub restarts: u64,
    pub working_set_bytes: Option<u64>,
    pub not_reclaimable_bytes: Option<u64>,
    pub cache_bytes: Option<u64>,
    /// The last ones known. Of an environment: none when an instance has none.
    pub memory_limit_bytes: Option<u64>,
    pub cpu_share_millicores: Option<u64>,
    pub cpu_limit_millicores: Option<u64>,
    /// The most instances there were at once, and how many were ready last.
    pub instances: u32,
    pub ready: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the time asked for ends before it begins, or is longer than 800 days")]
    Range,
    /// `step` is the shortest that can be answered.
    #[error("{buckets} points are more than can be answered")]
    TooManyBuckets { buckets: i64, step: Duration },
    #[error("so many instances have too many points together")]
    TooManyPoints,
    #[error("list usage files")]
    List(#[source] std::io::Error),
    /// The process is stopping.
    #[error("usage cannot be read now")]
    Closed,
}

/// What was asked, as it can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) since: i64,
    pub(super) until: i64,
    pub(super) step: i64,
    /// Of the cells; the files' where that is narrow enough.
    pub(super) width: i64,
}

impl Grid {
    /// `oldest`: before that there is nothing.
    pub(super) fn of(query: &Query, oldest: i64) -> Result<Grid, ReadError> {
        let (since, until) = (query.since.max(oldest), query.until);
        let asked = i64::try_from(query.step.as_millis()).unwrap_or(LONGEST).clamp(1000, LONGEST);
        if query.since > until || until.saturating_sub(since) > LONGEST || until > i64::MAX / 2 {
            return Err(ReadError::Range);
        }
        let width = asked.min(ROLLUP_MILLIS);
        let up = |value: i64| (value + width - 1).div_euclid(width) * width;
        let since = since.min(until).div_euclid(width) * width;
        let (until, step) = (up(until), up(asked));
        let buckets = (until - since + step - 1) / step;
        if buckets > MOST_BUCKETS {
            let shortest = up((until - since) / MOST_BUCKETS + 1);
            return Err(ReadError::TooManyBuckets {
                buckets,
                step: Duration::from_millis(shortest.unsigned_abs()),
            });
        }
        Ok(Grid { since, until, step, width })
    }

    /// Whether the cells of files serve.
    pub(super) fn takes_rollups(&self) -> bool {
        self.width == ROLLUP_MILLIS
    }

    /// From when on rows matter.
    pub(super) fn from(&self) -> i64 {
        self.since - LOOKBACK
    }
}

/// What one or more instances did in one or more cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    added: [u64; COUNTERS.len()],
    /// The time that its CPU is about, in milliseconds.
    covered: u64,
    /// Whether anything is known of CPU, and of kills.
    measured: bool,
    kills_known: bool,
    had: AtOnce,
}

impl Part {
    fn add_counters(&mut self, other: &Part) {
        for (sum, added) in self.added.iter_mut().zip(other.added) {
            *sum = sum.saturating_add(added);
        }
        self.measured |= other.measured;
        self.kills_known |= other.kills_known;
    }

    /// What happened later.
    fn then(&mut self, later: &Part) {
        self.add_counters(later);
        self.covered = self.covered.saturating_add(later.covered);
        self.had = self.had.then(&later.had);
    }

    /// With this CPU in place of what it has.
    fn with_cpu(mut self, cpu_nanos: u64, covered: u64) -> Part {
        self.added[CPU] = cpu_nanos;
        (self.covered, self.measured) = (covered, covered > 0);
        self
    }

    fn point(&self, time: i64) -> Point {
        let [cpu_nanos, periods, throttled_periods, oom_kills, restarts] = self.added;
        let AtOnce { instances, ready, peaks, settings } = self.had;
        let [working_set_bytes, not_reclaimable_bytes, cache_bytes] = peaks.map(Amount::get);
        let [memory_limit_bytes, cpu_share_millicores, cpu_limit_millicores] = settings.map(Amount::get);
        Point {
            time,
            cpu_nanos: self.measured.then_some(cpu_nanos),
            covered_millis: self.covered,
            periods,
            throttled_periods,
            oom_kills: self.kills_known.then_some(oom_kills),
            restarts,
            working_set_bytes,
            not_reclaimable_bytes,
            cache_bytes,
            memory_limit_bytes,
            cpu_share_millicores,
            cpu_limit_millicores,
            instances,
            ready,
        }
    }
}

/// The last values known of an instance.
#[derive(Clone, Copy, Default)]
struct Before {
    counters: [Amount; COUNTERS.len()],
    cpu: Option<Latest>,
}

/// Adds up cells. Each instance's come in order of time; instances may come in any order.
pub(super) struct Summary {
    grid: Grid,
    before: HashMap<Arc<str>, Before>,
    /// The instance of the last cell, whose `Before` is not in the map meanwhile.
    current: Option<(Arc<str>, Before)>,
    sums: Sums,
}

enum Sums {
    /// By cell from `since` on, with what those hours have that are not settled.
    Environment {
        cells: Vec<Part>,
        present: Vec<Stay>,
        /// Their CPU, which is in none of the cells.
        cpu: Spread,
    },
    Instances {
        points: usize,
        series: BTreeMap<Arc<str>, BTreeMap<i64, Part>>,
    },
}

impl Summary {
    pub(super) fn new(grid: Grid, per_instance: bool) -> Summary {
        let cells = usize::try_from((grid.until - grid.since) / grid.width).unwrap_or_default();
        let sums = if per_instance {
            Sums::Instances { points: 0, series: BTreeMap::new() }
        } else {
            let cpu = Spread::new(grid.since, grid.width, cells);
            Sums::Environment { cells: vec![Part::default(); cells], present: Vec::new(), cpu }
        };
        Summary { grid, before: HashMap::new(), current: None, sums }
    }

    pub(super) fn add(&mut self, cell: &Cell) -> Result<(), ReadError> {
        if self.current.as_ref().is_none_or(|(instance, _)| *instance != cell.instance) {
            if let Some((instance, before)) = self.current.take() {
                self.before.insert(instance, before);
            }
            let before = self.before.remove(&cell.instance).unwrap_or_default();
            self.current = Some((Arc::clone(&cell.instance), before));
        }
        let Some((_, before)) = &mut self.current else { return Ok(()) };
        let part = step(before, cell);
        if cell.start < self.grid.since || cell.start >= self.grid.until {
            return Ok(());
        }
        match &mut self.sums {
            Sums::Environment { cells, present, cpu } => {
                let width = self.grid.width;
                let index = usize::try_from((cell.start - self.grid.since) / width).unwrap_or(usize::MAX);
                if let Some(sum) = cells.get_mut(index) {
                    if let (true, Some(latest)) = (part.measured, &before.cpu) {
                        cpu.add(latest);
                    }
                    sum.add_counters(&part.with_cpu(0, 0));
                    present.push(Stay::of(index, width, cell));
                }
            }
            Sums::Instances { points, series } => {
                let index = (cell.start - self.grid.since) / self.grid.step;
                let series = match series.get_mut(&cell.instance) {
                    Some(series) => series,
                    None => series.entry(Arc::clone(&cell.instance)).or_default(),
                };
                let sum = series.entry(index).or_insert_with(|| {
                    *points += 1;
                    Part::default()
                });
                sum.then(&part);
                if *points > MOST_POINTS {
                    return Err(ReadError::TooManyPoints);
                }
            }
        }
        Ok(())
    }

    /// Puts the instances of an environment together, once all of an hour or a day are added.
    pub(super) fn settle(&mut self) {
        let Sums::Environment { cells, present, .. } = &mut self.sums else { return };
        present.sort_by_key(|one| one.cell);
        for of_cell in present.chunk_by(|one, other| one.cell == other.cell) {
            let Some(sum) = of_cell.first().and_then(|first| cells.get_mut(first.cell)) else { continue };
            let now = AtOnce::of(self.grid.width, of_cell);
            // Its hour's end may have cut the cell in two.
            sum.had = if sum.had.instances > 0 { sum.had.then(&now) } else { now };
        }
        present.clear();
    }

    pub(super) fn finish(self, damaged: u64) -> Points {
        let Grid { since, until, step, width } = self.grid;
        let points = |sums: BTreeMap<i64, Part>| {
            sums.iter().map(|(index, part)| part.point(since + index * step)).collect()
        };
        let series = match self.sums {
            Sums::Environment { cells, mut cpu, .. } => {
                let known = self.before.values().chain(self.current.iter().map(|(_, before)| before));
                known.filter_map(|before| before.cpu.as_ref()).for_each(|latest| cpu.go_on(latest));
                let mut sums: BTreeMap<i64, Part> = BTreeMap::new();
                for (index, (cell, (nanos, covered))) in (0..).zip(cells.iter().zip(cpu.cells())) {
                    if cell.had.instances > 0 {
                        sums.entry(index * width / step).or_default().then(&cell.with_cpu(nanos, covered));
                    }
                }
                vec![Series { instance: None, points: points(sums) }]
            }
            Sums::Instances { series, .. } => series
                .into_iter()
                .map(|(instance, sums)| Series { instance: Some(instance), points: points(sums) })
                .collect(),
        };
        Points { since, until, step, series, damaged }
    }
}

/// What the cell adds to what was known before, which it then becomes.
fn step(before: &mut Before, cell: &Cell) -> Part {
    let mut part = Part {
        kills_known: cell.counters.get(OOM_KILLS).is_some_and(|kills| kills.last.get().is_some()),
        ..Part::default()
    };
    let had = &mut part.had;
    (had.peaks, had.settings) = (cell.peaks, cell.settings);
    (had.instances, had.ready) = (1, u32::from(cell.ready));
    for ((sum, counter), before) in part.added.iter_mut().zip(cell.counters).zip(&mut before.counters) {
        let Some(first) = counter.first.get() else { continue };
        let since = before.get().map_or(0, |before| first.saturating_sub(before));
        *sum = since.saturating_add(counter.added());
        *before = counter.last;
    }
    let time = |offset: Amount| offset.get().and_then(|offset| cell.start.checked_add_unsigned(offset));
    if let (Some(first), Some(last)) = (time(cell.cpu_first), time(cell.cpu_last)) {
        let from = before.cpu.map_or(first, |cpu| cpu.until);
        part.measured = before.cpu.is_some() || last > first;
        part.covered = u64::try_from(last.saturating_sub(from)).unwrap_or_default();
        let gap = cell.gap().unwrap_or(last.saturating_sub(from));
        before.cpu = Some(Latest { from, until: last, cpu_nanos: part.added[CPU], gap });
    }
    part
}
