//! What the instances of an environment have used together: counters that never go back, whatever instances come and go.
//! Pure.
//!
//! - What was added between two samples of an instance counts, also after its counter began anew. A sum of the counters
//!   themselves would fall when an instance goes, which a reader takes for a new beginning.
//! - The first sample of an instance counts only when it began after its node was heard from last: what others used before
//!   anybody looked is nobody's increase.
//! - What could not be true in the time between counts nothing.

use super::row::{Amount, COUNTERS};
use super::sample::nanocores;
use skpr_proto::v1::Sample;
use std::time::Duration;

/// What was used since the aggregator began to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub cpu_nanos: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub oom_kills: u64,
    pub restarts: u64,
}

/// The counters of an instance as one sample has them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    cpu_nanos: Option<u64>,
    oom_kills: Option<u64>,
    restarts: u64,
    /// They are the pod's own, and not those of its containers added up. One kind does not compare with the other, and of the
    /// latter nobody can tell how much of it began anew.
    of_pod: bool,
}

/// What the time between two samples allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between {
    pub(super) elapsed: Duration,
    /// Of the node; 0 when that is not known.
    pub(super) cores: u32,
}

impl Counters {
    pub(super) fn of(sample: &Sample, restarts: u32, of_pod: bool) -> Counters {
        Counters {
            cpu_nanos: sample.cpu_nanos,
            oom_kills: sample.oom_kills,
            restarts: u64::from(restarts),
            of_pod,
        }
    }

    /// An instance that has only begun, with the same kind of counters.
    pub(super) fn at_birth(&self) -> Counters {
        let zero = |counter: Option<u64>| counter.map(|_| 0);
        Counters {
            cpu_nanos: zero(self.cpu_nanos),
            oom_kills: zero(self.oom_kills),
            restarts: 0,
            of_pod: self.of_pod,
        }
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Counters, between: Between) -> Totals {
        let kinds = (before.of_pod, self.of_pod);
        let more = |before: Option<u64>, now: Option<u64>| match (before.zip(now), kinds) {
            (Some((before, now)), (true, true)) => begins_anew(before, now),
            (Some((before, now)), (false, false)) => now.saturating_sub(before),
            (None, _) | (_, (true, false) | (false, true)) => 0,
        };
        let cpu = more(before.cpu_nanos, self.cpu_nanos);
        // These two never begin anew while the pod is there: what goes back had been counted, as when an agent that was started
        // again does not know of the kills of containers that are gone.
        let kills = before.oom_kills.zip(self.oom_kills);
        Totals {
            cpu_nanos: if nanocores(cpu, between.elapsed, between.cores).is_some() { cpu } else { 0 },
            oom_kills: kills.map_or(0, |(before, now)| now.saturating_sub(before)),
            restarts: self.restarts.saturating_sub(before.restarts),
            ..Totals::default()
        }
    }
}

/// What a counter of the kernel added, that counts from 0 again when its cgroup does.
fn begins_anew(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// An instance's counters as history has them: they begin where the kernel's are when it is seen first, grow by what was
/// added, and so never go back while it is held.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept([Amount; COUNTERS.len()]);

impl Kept {
    /// Takes what was added since the sample before. Returns what a row of this sample has: nothing where the sample does not
    /// tell, and no CPU that containers make up together, of which nobody knows how much began anew.
    pub(super) fn grow(
        &mut self,
        now: &Counters,
        sample: &Sample,
        added: &Totals,
    ) -> [Amount; COUNTERS.len()] {
        let cpu = now.cpu_nanos.filter(|_| now.of_pod);
        let known = [cpu, sample.periods, sample.throttled_periods, now.oom_kills, Some(now.restarts)]
            .map(Amount::of);
        let Totals { cpu_nanos, periods, throttled_periods, oom_kills, restarts } = *added;
        let added = [cpu_nanos, periods, throttled_periods, oom_kills, restarts];
        for ((kept, known), added) in self.0.iter_mut().zip(known).zip(added) {
            *kept = kept.get().map_or(known, |kept| Amount::from(kept.saturating_add(added)));
        }
        let mut row = self.0;
        row.iter_mut()
            .zip(known)
            .filter(|(_, known)| known.get().is_none())
            .for_each(|(kept, _)| *kept = Amount::NONE);
        row
    }
}

/// How often a container ran into its CPU limit since an earlier sample, or since it began.
pub(super) fn throttling(before: Option<Sample>, now: &Sample) -> Totals {
    let more = |of: fn(&Sample) -> Option<u64>| {
        let before = before.map_or(Some(0), |before| of(&before));
        before.zip(of(now)).map_or(0, |(before, now)| begins_anew(before, now))
    };
    let periods = more(|sample| sample.periods);
    let throttled_periods = more(|sample| sample.throttled_periods).min(periods);
    Totals { periods, throttled_periods, ..Totals::default() }
}

impl Totals {
    pub(super) fn add(&mut self, more: &Totals) {
        let counters = [
            (&mut self.cpu_nanos, more.cpu_nanos),
            (&mut self.periods, more.periods),
            (&mut self.throttled_periods, more.throttled_periods),
            (&mut self.oom_kills, more.oom_kills),
            (&mut self.restarts, more.restarts),
        ];
        for (counter, more) in counters {
            *counter = counter.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BETWEEN: Between = Between { elapsed: Duration::from_secs(15), cores: 4 };

    fn counters(cpu_nanos: u64, oom_kills: Option<u64>, of_pod: bool) -> Counters {
        let sample = Sample { cpu_nanos: Some(cpu_nanos), oom_kills, ..Sample::default() };
        Counters::of(&sample, 0, of_pod)
    }

    #[test]
    fn what_was_added_counts_and_a_new_beginning_counts_from_zero() {
        let check = |before: u64, now: u64, expected| {
            let more = counters(now, None, true).since(&counters(before, None, true), BETWEEN);
            assert_eq!(more.cpu_nanos, expected, "{before} {now}");
        };
        check(10, 15, 5);
        check(15, 15, 0);
        check(15, 4, 4);
        // Four cores do not do that in 15 s.
        check(0, 91_000_000_000, 0);
    }

    #[test]
    fn counters_of_a_pod_and_of_its_containers_do_not_compare() {
        let (pod, containers) = (counters(1_000, Some(3), true), counters(10, Some(0), false));
        assert_eq!(containers.since(&pod, BETWEEN).cpu_nanos, 0);
        assert_eq!(pod.since(&containers, BETWEEN).cpu_nanos, 0);
        // Nor do those of containers that went back: how much of the sum began anew, nobody knows.
        assert_eq!(counters(4, None, false).since(&counters(15, None, false), BETWEEN).cpu_nanos, 0);
    }

    #[test]
    fn kills_that_an_agent_has_forgotten_do_not_count_again() {
        let kills = |before, now| {
            counters(0, Some(now), true).since(&counters(0, Some(before), true), BETWEEN).oom_kills
        };
        assert_eq!([kills(2, 3), kills(3, 1), kills(1, 2)], [1, 0, 1]);
    }

    #[test]
    fn a_container_that_began_anew_takes_nothing_back() {
        let sample = |periods, throttled_periods| Sample {
            periods: Some(periods),
            throttled_periods: Some(throttled_periods),
            ..Sample::default()
        };
        let check = |before: Option<Sample>, now, expected| {
            let more = throttling(before, &now);
            assert_eq!((more.periods, more.throttled_periods), expected);
        };
        check(Some(sample(100, 50)), sample(150, 60), (50, 10));
        check(None, sample(3, 1), (3, 1));
        check(Some(sample(100, 50)), sample(3, 1), (3, 1));
        check(Some(Sample::default()), sample(3, 1), (0, 0));
    }

    #[test]
    fn what_is_not_known_adds_nothing_and_a_birth_knows_the_same() {
        let now = counters(7, None, true);
        assert_eq!(now.since(&now.at_birth(), BETWEEN).cpu_nanos, 7);
        assert_eq!(counters(7, Some(2), true).since(&now, BETWEEN).oom_kills, 0);
    }

    #[test]
    fn what_history_has_never_goes_back() {
        let sample = |periods| Sample { periods, ..Sample::default() };
        let mut kept = Kept::default();
        let mut grow = |cpu, of_pod, periods, added: Totals| {
            let row = kept.grow(&counters(cpu, None, of_pod), &sample(periods), &added);
            (row[0].get(), row[1].get(), row[3].get())
        };
        assert_eq!(grow(100, true, Some(50), Totals::default()), (Some(100), Some(50), None));
        // A container of two began anew, and so do the periods of both together.
        let added = Totals { cpu_nanos: 7, periods: 2, ..Totals::default() };
        assert_eq!(grow(107, true, Some(12), added), (Some(107), Some(52), None));
        // The pod's own is not there for once, and the containers have counted less.
        assert_eq!(grow(3, false, None, Totals::default()), (None, None, None));
        // More than the node can do: that nothing was added has been decided.
        assert_eq!(grow(1 << 60, true, Some(13), Totals::default()), (Some(107), Some(52), None));
    }

    #[test]
    fn totals_do_not_run_over() {
        let mut totals = Totals { cpu_nanos: u64::MAX - 1, ..Totals::default() };
        totals.add(&Totals { cpu_nanos: 5, oom_kills: 1, ..Totals::default() });
        assert_eq!(totals, Totals { cpu_nanos: u64::MAX, oom_kills: 1, ..Totals::default() });
    }
}
