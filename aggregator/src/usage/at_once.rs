//! What the instances of an environment had at once in one cell, some of which took others' places. Pure.
//!
//! A cell is up to five minutes long, and a deploy replaces all instances in less: to add up whatever had a sample in it would
//! count every replaced instance twice. What counts is who was there at the same moment.

use super::cell::Cell;
use super::row::{Amount, PEAKS, SETTINGS};

/// Samples that follow each other sooner were held up together on their way.
const SHORTEST_GAP: i64 = 1000;

/// One instance in one cell. Times are milliseconds after the cell's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presence {
    /// The number of the cell.
    pub(super) cell: usize,
    first: i64,
    last: i64,
    samples: u64,
    /// What CPU was used in the time before `last` that is covered, in nanoseconds, and how long that is.
    cpu_nanos: u64,
    covered: i64,
    peaks: [Amount; PEAKS.len()],
    settings: [Amount; SETTINGS.len()],
    ready: bool,
}

/// What the instances of a cell had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtOnce {
    /// The most there were, and how many of those that were there last were ready.
    pub(super) instances: u32,
    pub(super) ready: u32,
    /// Their CPU together in nanoseconds, and the time that it is about in milliseconds: see [`AtOnce::of`].
    pub(super) cpu_nanos: u64,
    pub(super) covered: u64,
    /// The most they had together.
    pub(super) peaks: [Amount; PEAKS.len()],
    /// Of those that were there last; none when one has none.
    pub(super) settings: [Amount; SETTINGS.len()],
}

impl Presence {
    /// `cpu_nanos`: what was used in the time up to the last sample that is `covered`, in milliseconds.
    pub(super) fn of(cell: usize, width: i64, found: &Cell, cpu_nanos: u64, covered: u64) -> Presence {
        let offset = |offset: Amount| offset.get().and_then(|offset| i64::try_from(offset).ok());
        Presence {
            cell,
            // Without a time it was there for all of it, as far as is known.
            first: offset(found.cpu_first).unwrap_or(0),
            last: offset(found.cpu_last).unwrap_or(width),
            samples: found.samples.get().unwrap_or_default(),
            cpu_nanos,
            covered: i64::try_from(covered).unwrap_or(i64::MAX),
            peaks: found.peaks,
            settings: found.settings,
            ready: found.ready,
        }
    }

    /// When its last sample in the cell is.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The time between two of its samples; none of a burst, which says how a connection was and not how often there is one.
    fn gap(&self) -> Option<i64> {
        let gaps = i64::try_from(self.samples).ok()?.checked_sub(1)?;
        (self.last - self.first).checked_div(gaps).filter(|gap| *gap >= SHORTEST_GAP)
    }

    /// What CPU it had in the `most` milliseconds before its last sample, and how much of these is covered.
    fn within(&self, most: i64) -> (u64, i64) {
        if self.covered <= most {
            return (self.cpu_nanos, self.covered);
        }
        let scaled = u128::from(self.cpu_nanos) * u128::from(most.unsigned_abs());
        let part = scaled.checked_div(u128::from(self.covered.unsigned_abs()));
        (part.and_then(|part| u64::try_from(part).ok()).unwrap_or_default(), most)
    }
}

impl AtOnce {
    /// Of one cell's instances. Times before `reached`, if there are any, are counted in an earlier cell: instances are sampled
    /// at different moments, and what they cover overlaps from cell to cell.
    ///
    /// An instance that is heard of again after a while brings the CPU of all of that while. The others have theirs of this
    /// cell only, so it counts with its part of it.
    pub(super) fn of(width: i64, present: &[Presence], reached: Option<i64>) -> AtOnce {
        let end = present.iter().map(|one| one.last).max().unwrap_or_default();
        // A sample stands for the time until the next one.
        let usual = usual_gap(present).unwrap_or(width);
        let most = reached.map_or(width, |reached| width.max(end.saturating_sub(reached)));
        let used = |one: &Presence| match one.gap().unwrap_or(usual) {
            gap if one.covered <= most.saturating_add(gap) => (one.cpu_nanos, one.covered),
            _ => one.within(most),
        };
        let until = |one: &Presence| one.last + one.gap().unwrap_or(usual);
        let mut moments: Vec<(i64, bool, &Presence)> =
            present.iter().flat_map(|one| [(one.first, true, one), (until(one), false, one)]).collect();
        // Who leaves at a moment is not there with who comes at it.
        moments.sort_by_key(|(time, comes, _)| (*time, *comes));
        let mut now = Together::default();
        let mut found = AtOnce::default();
        let times = present.iter().map(|one| (one.last.saturating_sub(used(one).1), one.last));
        found.covered = covered(times.collect(), reached);
        found.cpu_nanos = present.iter().map(|one| used(one).0).fold(0, u64::saturating_add);
        for (_, comes, one) in moments {
            now.change(one, comes);
            found.instances = found.instances.max(now.instances);
            for (most, (sum, known)) in found.peaks.iter_mut().zip(now.peaks) {
                *most = Amount::of(most.get().max((known > 0).then_some(sum)));
            }
        }
        // Samples are not to the millisecond.
        let last = present.iter().filter(|one| until(one) + one.gap().unwrap_or(usual) / 2 > end);
        found.ready = last.clone().map(|one| u32::from(one.ready)).sum();
        found.settings = std::array::from_fn(|index| {
            let setting = |one: &Presence| one.settings.get(index).and_then(|setting| setting.get());
            let all: Option<Vec<u64>> = last.clone().map(setting).collect();
            Amount::of(all.and_then(|all| all.into_iter().reduce(u64::saturating_add)))
        });
        found
    }

    /// The same cell in two parts, of which `later` is the later.
    pub(super) fn then(&self, later: &AtOnce) -> AtOnce {
        let mut both = AtOnce {
            cpu_nanos: self.cpu_nanos.saturating_add(later.cpu_nanos),
            covered: self.covered.saturating_add(later.covered),
            ..*later
        };
        both.instances = self.instances.max(later.instances);
        for (peak, earlier) in both.peaks.iter_mut().zip(self.peaks) {
            *peak = Amount::of(peak.get().max(earlier.get()));
        }
        both
    }
}

/// Who is there at a moment: how many, and each peak as its sum and of how many it is known.
#[derive(Clone, Copy, Default)]
struct Together {
    instances: u32,
    peaks: [(u64, u32); PEAKS.len()],
}

impl Together {
    fn change(&mut self, one: &Presence, comes: bool) {
        let with = |count: u32| if comes { count + 1 } else { count.saturating_sub(1) };
        self.instances = with(self.instances);
        for ((sum, known), peak) in self.peaks.iter_mut().zip(one.peaks) {
            let Some(peak) = peak.get() else { continue };
            *known = with(*known);
            *sum = if comes { sum.saturating_add(peak) } else { sum.saturating_sub(peak) };
        }
    }
}

/// How often there is a sample, as the instance in the middle has it.
fn usual_gap(present: &[Presence]) -> Option<i64> {
    let mut gaps: Vec<i64> = present.iter().filter_map(Presence::gap).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

/// How much time from `reached` on is in at least one of these times.
fn covered(mut times: Vec<(i64, i64)>, reached: Option<i64>) -> u64 {
    times.sort_unstable();
    let (mut sum, mut reached) = (0, reached.unwrap_or(i64::MIN));
    for (from, until) in times {
        sum += until.saturating_sub(from.max(reached)).max(0);
        reached = reached.max(until);
    }
    sum.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: i64 = 300_000;

    fn present(first: i64, last: i64, samples: u64, memory: u64) -> Presence {
        Presence {
            cell: 0,
            first,
            last,
            samples,
            cpu_nanos: 0,
            covered: last - first,
            peaks: [Amount::from(memory), Amount::NONE, Amount::from(1)],
            settings: [Amount::from(500), Amount::from(250), Amount::NONE],
            ready: memory != 7,
        }
    }

    fn counted(present: &[Presence]) -> (u32, u32, Option<u64>, Option<u64>, u64) {
        let found = AtOnce::of(WIDTH, present, Some(0));
        (found.instances, found.ready, found.peaks[0].get(), found.settings[0].get(), found.covered)
    }

    #[test]
    fn an_instance_that_takes_another_s_place_is_no_second_one() {
        let old = present(0, 100_000, 21, 300);
        let new = present(105_000, 295_000, 39, 400);
        assert_eq!(counted(&[old, new]), (1, 1, Some(400), Some(500), 290_000));
        // For ten seconds there are both.
        let early = present(90_000, 295_000, 42, 400);
        assert_eq!(counted(&[old, early]), (2, 1, Some(700), Some(500), 295_000));
    }

    #[test]
    fn instances_with_one_sample_each_are_there_together() {
        assert_eq!(counted(&[present(1000, 1000, 1, 10), present(4000, 4000, 1, 7)]).0, 2);
        // Where others show how often there is one, it stands for no longer.
        let all = [present(2000, 2000, 1, 10), present(100_000, 295_000, 40, 20), present(0, 295_000, 60, 7)];
        assert_eq!(counted(&all), (2, 1, Some(27), Some(1000), 295_000));
    }

    /// Two instances that are sampled 2.5 s apart were once taken to cover 12.5 s in every 10.
    #[test]
    fn what_one_cell_covers_the_next_does_not() {
        let both = [sampled(9000), sampled(6500)];
        assert_eq!(AtOnce::of(10_000, &both, Some(-1000)).covered, 10_000);
    }

    /// Half a core for ten seconds.
    fn sampled(last: i64) -> Presence {
        Presence { cpu_nanos: 5_000_000_000, covered: 10_000, ..present(last - 5000, last, 2, 1) }
    }

    /// The hour of one that had been silent was once divided among all: they seemed to stand still, or to have used an hour's
    /// CPU in ten seconds.
    #[test]
    fn an_instance_that_was_silent_counts_like_the_others() {
        let hour = 3_600_000;
        let back = Presence { cpu_nanos: hour * 250_000, covered: 3_600_000, ..sampled(6500) };
        for reached in [Some(-1000), None] {
            let found = AtOnce::of(10_000, &[sampled(9000), back], reached);
            // Half a core and a quarter of one.
            assert_eq!(found.cpu_nanos, 7_500_000_000, "{reached:?}");
            assert!((10_000..=12_500).contains(&found.covered), "{found:?}");
        }
        // When nobody was heard of, all have the same long time.
        let all = AtOnce::of(10_000, &[back, back], Some(6500 - 3_600_000));
        assert_eq!((all.cpu_nanos, all.covered), (2 * back.cpu_nanos, 3_600_000));
    }

    /// Samples that a connection had held up came together, and whoever had one only was taken to have gone at once.
    #[test]
    fn a_burst_says_nothing_of_how_often_there_are_samples() {
        let burst = present(9000, 9003, 2, 10);
        let all = [burst, present(6000, 6000, 1, 20), present(2000, 7000, 2, 7)];
        let found = AtOnce::of(10_000, &all, Some(0));
        assert_eq!((found.instances, found.peaks[0].get(), found.ready), (3, Some(37), 2));
    }

    #[test]
    fn what_nobody_knows_is_not_known() {
        let found = AtOnce::of(WIDTH, &[present(0, 5000, 2, 1), present(0, 5000, 2, 2)], Some(0));
        assert_eq!(found.peaks.map(Amount::get), [Some(3), None, Some(2)]);
        assert_eq!(found.settings.map(Amount::get), [Some(1000), Some(500), None]);
        assert_eq!(AtOnce::of(WIDTH, &[], None), AtOnce::default());
    }

    #[test]
    fn a_cell_in_two_parts_is_one() {
        let first = AtOnce::of(WIDTH, &[present(0, 100_000, 21, 300), present(0, 100_000, 21, 7)], Some(0));
        let second = AtOnce::of(WIDTH, &[present(105_000, 295_000, 39, 400)], Some(100_000));
        let both = first.then(&second);
        assert_eq!((both.instances, both.ready, both.peaks[0].get()), (2, 1, Some(400)));
        assert_eq!((both.settings[0].get(), both.covered), (Some(500), 290_000));
    }
}
