//! The CPU that the instances of an environment used, spread over the cells in which they used it. Pure.
//!
//! - A counter says what was used between two samples, and instances are sampled at different moments. What each used is
//!   therefore spread evenly over the time between its samples, whichever cells that is in: whoever comes, goes, is late or
//!   was silent for an hour adds to each cell what it used there.
//! - An environment's CPU is known from the first to the last moment in a cell at which one instance's is.

/// See the module. Times are milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Spread {
    since: i64,
    width: i64,
    cells: Vec<Used>,
    /// The latest moment up to which anything is known.
    newest: i64,
}

/// What was used in one cell, and between which milliseconds of it.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_nanos: u64,
    from: u32,
    /// 0: nothing is known.
    until: u32,
}

/// What an instance used in the latest time that is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) cpu_nanos: u64,
    /// How often there is a sample of it.
    pub(super) gap: i64,
}

impl Spread {
    /// `width`: of a cell, of which there are `count` from `since` on.
    pub(super) fn new(since: i64, width: i64, count: usize) -> Spread {
        Spread { since, width, cells: vec![Used::default(); count], newest: i64::MIN }
    }

    /// Takes what an instance used.
    pub(super) fn add(&mut self, latest: &Latest) {
        self.spread(latest.from, latest.until, latest.cpu_nanos);
    }

    fn spread(&mut self, from: i64, until: i64, cpu_nanos: u64) {
        let length = until.saturating_sub(from);
        if length <= 0 {
            return;
        }
        self.newest = self.newest.max(until);
        let mut at = from.max(self.since);
        while at < until {
            let offset = at - self.since;
            let start = at - offset.rem_euclid(self.width);
            let Some(cell) =
                usize::try_from(offset / self.width).ok().and_then(|index| self.cells.get_mut(index))
            else {
                return;
            };
            let end = until.min(start + self.width);
            cell.add(at - start, end - start, part(cpu_nanos, end - at, length));
            at = end;
        }
    }

    /// An instance that was only sampled some moments before the others has not ended there: until the newest of their samples
    /// it is taken to go on as it did.
    pub(super) fn go_on(&mut self, latest: &Latest) {
        let late = self.newest.saturating_sub(latest.until);
        if late <= latest.gap.saturating_add(latest.gap / 2) {
            let covered = latest.until.saturating_sub(latest.from);
            self.spread(latest.until, self.newest, part(latest.cpu_nanos, late, covered));
        }
    }

    /// By cell, what was used in nanoseconds and the time in which that was, in milliseconds.
    pub(super) fn cells(&self) -> impl Iterator<Item = (u64, u64)> {
        self.cells.iter().map(|used| (used.cpu_nanos, u64::from(used.until.saturating_sub(used.from))))
    }
}

impl Used {
    fn add(&mut self, from: i64, until: i64, cpu_nanos: u64) {
        let [from, until] = [from, until].map(|offset| u32::try_from(offset).unwrap_or_default());
        self.from = if self.until == 0 { from } else { self.from.min(from) };
        self.until = self.until.max(until);
        self.cpu_nanos = self.cpu_nanos.saturating_add(cpu_nanos);
    }
}

/// `time` of a `whole` in which `amount` was used.
fn part(amount: u64, time: i64, whole: i64) -> u64 {
    let part = u128::from(amount) * u128::from(time.unsigned_abs());
    u64::try_from(part.checked_div(whole.unsigned_abs().into()).unwrap_or_default()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CORE: u64 = 1_000_000;

    /// Millicores by cell of 5 s; none where nothing is known.
    fn millicores(spread: &Spread) -> Vec<Option<u64>> {
        let cells = spread.cells();
        cells.map(|(nanos, millis)| (nanos / 1000).checked_div(millis)).collect()
    }

    /// One whole core from sample to sample.
    fn busy(spread: &mut Spread, samples: impl IntoIterator<Item = i64>) -> Latest {
        let samples: Vec<i64> = samples.into_iter().collect();
        for pair in samples.windows(2) {
            spread.spread(pair[0], pair[1], (pair[1] - pair[0]).unsigned_abs() * CORE);
        }
        let until = *samples.last().unwrap();
        Latest { from: until - 5000, until, cpu_nanos: 5000 * CORE, gap: 5000 }
    }

    /// A cell in which one was sampled and the other was not once had fifty cores, or a half of what there was.
    #[test]
    fn whoever_goes_takes_nobody_s_time_along() {
        let mut spread = Spread::new(0, 5000, 7);
        busy(&mut spread, (0..=5).map(|at| at * 5000 - 100));
        busy(&mut spread, (-1..=7).map(|at| at * 5000));
        let found = millicores(&spread);
        assert_eq!(found[..4], [Some(2000); 4]);
        assert_eq!(found[4], Some(1980));
        assert_eq!(found[5..], [Some(1000); 2]);
    }

    #[test]
    fn late_rounds_and_long_silence_are_spread_over_their_time() {
        let mut spread = Spread::new(0, 5000, 6);
        busy(&mut spread, (-1..=6).map(|at| at * 5000 + at % 3 * 400));
        // A round is missed, then an hour of a quarter of a core comes at once.
        busy(&mut spread, [-5000, 0, 10_000, 15_000]);
        spread.spread(-3_600_000, 30_000, 3_630_000 * CORE / 4);
        assert_eq!(millicores(&spread)[..5], [2250, 2250, 2250, 1250, 1250].map(Some));
    }

    #[test]
    fn the_newest_cell_is_whole_although_instances_are_sampled_one_after_another() {
        let mut spread = Spread::new(0, 10_000, 2);
        let all = [
            busy(&mut spread, (-1..=3).map(|at| at * 5000)),
            busy(&mut spread, (-1..=2).map(|at| at * 5000 + 2500)),
            busy(&mut spread, (-1..=0).map(|at| at * 5000 + 2500)),
        ];
        all.iter().for_each(|latest| spread.go_on(latest));
        // The third has ended after two and a half seconds.
        assert_eq!(millicores(&spread), [Some(2250), Some(2000)]);
    }

    #[test]
    fn nothing_is_known_of_a_time_before_and_after() {
        let mut spread = Spread::new(10_000, 5000, 3);
        spread.spread(0, 10_000, CORE);
        spread.spread(40_000, 50_000, CORE);
        spread.spread(20_000, 20_000, CORE);
        spread.go_on(&Latest { from: 0, until: 0, cpu_nanos: CORE, gap: 5000 });
        assert_eq!(millicores(&spread), [None; 3]);
        spread.spread(i64::MIN, i64::MAX, u64::MAX);
        assert!(millicores(&spread).iter().all(Option::is_some));
    }

    proptest! {
        /// However the samples of instances lie, each cell has what they used in it.
        #[test]
        fn cells_have_what_was_used_in_them(
            width in 1000i64..20_000,
            instances in prop::collection::vec((0i64..60_000, prop::collection::vec(1i64..30_000, 1..20), 0u64..8), 1..6),
        ) {
            let mut spread = Spread::new(20_000, width, 10);
            let mut lives = Vec::new();
            for (begin, gaps, cores) in instances {
                let mut at = begin;
                for gap in gaps {
                    spread.spread(at, at + gap, cores * gap.unsigned_abs() * CORE);
                    at += gap;
                }
                lives.push((begin, at, cores));
            }
            for (index, (nanos, covered)) in (0..).zip(spread.cells()) {
                let start = 20_000 + index * width;
                let inside = |from: i64, until: i64| (from.max(start), until.min(start + width));
                let there = lives.iter().map(|(from, until, cores)| (inside(*from, *until), *cores));
                let there: Vec<_> = there.filter(|((from, until), _)| from < until).collect();
                let expected: u64 = there.iter().map(|((from, until), cores)| cores * (until - from).unsigned_abs()).sum();
                prop_assert!((nanos / CORE).abs_diff(expected) <= 1, "{nanos} {expected}");
                let from = there.iter().map(|((from, _), _)| *from).min().unwrap_or(0);
                let until = there.iter().map(|((_, until), _)| *until).max().unwrap_or(0);
                prop_assert_eq!(covered, (until - from).unsigned_abs());
            }
        }
    }
}
