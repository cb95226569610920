//! What the instances of an environment had at once in one cell, some of which took others' places. Pure.
//!
//! A cell is up to five minutes long, and a deploy replaces all instances in less: to add up whatever had a sample in it would
//! count every replaced instance twice. What counts is who was there at the same moment.

use super::cell::Cell;
use super::row::{Amount, PEAKS, SETTINGS};

/// Samples that follow each other sooner were held up together on their way: an agent may take one each second.
const SHORTEST_GAP: i64 = 500;

/// One instance while it is in one cell. Times are milliseconds after the cell's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stay {
    /// The number of the cell.
    pub(super) cell: usize,
    first: i64,
    last: i64,
    /// How often there is a sample of it, where it shows: see [`SHORTEST_GAP`].
    gap: Option<i64>,
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
    /// The most they had together.
    pub(super) peaks: [Amount; PEAKS.len()],
    /// Of those that were there last; none when one has none.
    pub(super) settings: [Amount; SETTINGS.len()],
}

impl Stay {
    pub(super) fn of(cell: usize, width: i64, found: &Cell) -> Stay {
        let offset = |offset: Amount| offset.get().and_then(|offset| i64::try_from(offset).ok());
        Stay {
            cell,
            // Without a time it was there for all of it, as far as is known.
            first: offset(found.cpu_first).unwrap_or(0),
            last: offset(found.cpu_last).unwrap_or(width),
            gap: found.gap().filter(|gap| *gap >= SHORTEST_GAP),
            peaks: found.peaks,
            settings: found.settings,
            ready: found.ready,
        }
    }
}

impl AtOnce {
    /// Of one cell's instances.
    pub(super) fn of(width: i64, present: &[Stay]) -> AtOnce {
        // A sample stands for the time until the next one.
        let usual = usual_gap(present).unwrap_or(width);
        let until = |one: &Stay| one.last + one.gap.unwrap_or(usual);
        let mut moments: Vec<(i64, bool, &Stay)> =
            present.iter().flat_map(|one| [(one.first, true, one), (until(one), false, one)]).collect();
        // Who leaves at a moment is not there with who comes at it.
        moments.sort_by_key(|(time, comes, _)| (*time, *comes));
        let mut now = Together::default();
        let mut found = AtOnce::default();
        for (_, comes, one) in moments {
            now.change(one, comes);
            found.instances = found.instances.max(now.instances);
            for (most, (sum, known)) in found.peaks.iter_mut().zip(now.peaks) {
                *most = Amount::of(most.get().max((known > 0).then_some(sum)));
            }
        }
        // Samples are not to the millisecond, but whoever another came after is not there any more.
        let end = present.iter().map(|one| one.last).max().unwrap_or_default();
        let newest = present.iter().map(|one| one.first).max().unwrap_or_default();
        let last = present
            .iter()
            .filter(|one| until(one) + one.gap.unwrap_or(usual) / 2 > end && until(one) > newest);
        found.ready = last.clone().map(|one| u32::from(one.ready)).sum();
        found.settings = std::array::from_fn(|index| {
            let setting = |one: &Stay| one.settings.get(index).and_then(|setting| setting.get());
            let all: Option<Vec<u64>> = last.clone().map(setting).collect();
            Amount::of(all.and_then(|all| all.into_iter().reduce(u64::saturating_add)))
        });
        found
    }

    /// The same cell in two parts, of which `later` is the later.
    pub(super) fn then(&self, later: &AtOnce) -> AtOnce {
        let mut both = *later;
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
    fn change(&mut self, one: &Stay, comes: bool) {
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
fn usual_gap(present: &[Stay]) -> Option<i64> {
    let mut gaps: Vec<i64> = present.iter().filter_map(|one| one.gap).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: i64 = 300_000;

    fn present(first: i64, last: i64, samples: i64, memory: u64) -> Stay {
        Stay {
            cell: 0,
            first,
            last,
            gap: (last - first).checked_div(samples - 1).filter(|gap| *gap >= SHORTEST_GAP),
            peaks: [Amount::from(memory), Amount::NONE, Amount::from(1)],
            settings: [Amount::from(500), Amount::from(250), Amount::NONE],
            ready: memory != 7,
        }
    }

    fn counted(present: &[Stay]) -> (u32, u32, Option<u64>, Option<u64>) {
        let found = AtOnce::of(WIDTH, present);
        (found.instances, found.ready, found.peaks[0].get(), found.settings[0].get())
    }

    #[test]
    fn an_instance_that_takes_another_s_place_is_no_second_one() {
        let old = present(0, 100_000, 21, 300);
        let new = present(105_000, 295_000, 39, 400);
        assert_eq!(counted(&[old, new]), (1, 1, Some(400), Some(500)));
        // Nor is one that came a moment later than it was due.
        let late = present(106_000, 106_000, 1, 400);
        assert_eq!(counted(&[old, late]), (1, 1, Some(400), Some(500)));
        // For ten seconds there are both.
        let early = present(90_000, 295_000, 42, 400);
        assert_eq!(counted(&[old, early]), (2, 1, Some(700), Some(500)));
    }

    #[test]
    fn instances_with_one_sample_each_are_there_together() {
        assert_eq!(counted(&[present(1000, 1000, 1, 10), present(4000, 4000, 1, 7)]).0, 2);
        // Where others show how often there is one, it stands for no longer.
        let all = [present(2000, 2000, 1, 10), present(100_000, 295_000, 40, 20), present(0, 295_000, 60, 7)];
        assert_eq!(counted(&all), (2, 1, Some(27), Some(1000)));
    }

    /// Samples that a connection had held up came together, and whoever had one only was taken to have gone at once.
    #[test]
    fn a_burst_says_nothing_of_how_often_there_are_samples() {
        let burst = present(9000, 9003, 2, 10);
        let all = [burst, present(6000, 6000, 1, 20), present(2000, 7000, 2, 7)];
        let found = AtOnce::of(10_000, &all);
        assert_eq!((found.instances, found.peaks[0].get(), found.ready), (3, Some(37), 2));
    }

    #[test]
    fn what_nobody_knows_is_not_known() {
        let found = AtOnce::of(WIDTH, &[present(0, 5000, 2, 1), present(0, 5000, 2, 2)]);
        assert_eq!(found.peaks.map(Amount::get), [Some(3), None, Some(2)]);
        assert_eq!(found.settings.map(Amount::get), [Some(1000), Some(500), None]);
        assert_eq!(AtOnce::of(WIDTH, &[]), AtOnce::default());
    }

    #[test]
    fn a_cell_in_two_parts_is_one() {
        let first = AtOnce::of(WIDTH, &[present(0, 100_000, 21, 300), present(0, 100_000, 21, 7)]);
        let second = AtOnce::of(WIDTH, &[present(105_000, 295_000, 39, 400)]);
        let both = first.then(&second);
        assert_eq!((both.instances, both.ready, both.peaks[0].get()), (2, 1, Some(400)));
        assert_eq!(both.settings[0].get(), Some(500));
    }
}
