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
use std::time::{Duration, Instant};

/// What was used since the aggregator began to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub cpu_nanos: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub oom_kills: u64,
    pub restarts: u64,
}

/// How long a counter that is not told any more is waited for.
const FOR_ONCE: Duration = Duration::from_secs(60);

/// The counters of an instance as they are known after a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    cpu_nanos: Option<u64>,
    /// When that was.
    cpu_at: Instant,
    oom_kills: Option<u64>,
    restarts: u64,
    /// CPU is the pod's own, and not that of its containers added up. One kind does not compare with the other, and of the
    /// latter nobody can tell how much of it began anew.
    cpu_is_of_pod: bool,
}

impl Counters {
    /// As a sample says that is taken `at` this time.
    pub(super) fn of(sample: &Sample, restarts: u32, cpu_is_of_pod: bool, at: Instant) -> Counters {
        Counters {
            cpu_nanos: sample.cpu_nanos,
            cpu_at: at,
            oom_kills: sample.oom_kills,
            restarts: u64::from(restarts),
            cpu_is_of_pod,
        }
    }

    /// An instance that has only begun, with the same kind of counters.
    pub(super) fn at_birth(&self, at: Instant) -> Counters {
        let zero = |counter: Option<u64>| counter.map(|_| 0);
        Counters {
            cpu_nanos: zero(self.cpu_nanos),
            cpu_at: at,
            oom_kills: zero(self.oom_kills),
            restarts: 0,
            cpu_is_of_pod: self.cpu_is_of_pod,
        }
    }

    /// With what was known `before` where this does not say: a file that cannot be read for once loses nothing, since the next
    /// sample is compared with the one before. So it is for a pod whose containers alone are known for once.
    pub(super) fn or(mut self, before: &Counters) -> Counters {
        if self.cpu_at.saturating_duration_since(before.cpu_at) >= FOR_ONCE {
            return self;
        }
        let only_containers = before.cpu_is_of_pod && !self.cpu_is_of_pod;
        // Containers count without those of the pod that have ended.
        self.oom_kills = if only_containers {
            before.oom_kills.or(self.oom_kills)
        } else {
            self.oom_kills.or(before.oom_kills)
        };
        if before.cpu_nanos.is_some() && (self.cpu_nanos.is_none() || only_containers) {
            (self.cpu_nanos, self.cpu_at) = (before.cpu_nanos, before.cpu_at);
            self.cpu_is_of_pod = before.cpu_is_of_pod;
        }
        self
    }

    /// Whether CPU was taken at this time, and of the same kind: of two such samples there is a rate.
    pub(super) fn cpu_compares(&self, at: Instant, now: &Counters) -> bool {
        self.cpu_at == at && self.cpu_is_of_pod == now.cpu_is_of_pod
    }

    /// The pod's own CPU counter, if that is known.
    fn cpu_of_pod(&self) -> Option<u64> {
        self.cpu_nanos.filter(|_| self.cpu_is_of_pod)
    }

    /// What was added since `before`.
    /// `cores`: of the node; 0 when that is not known. `inexact`: by how much times may be wrong.
    pub(super) fn since(&self, before: &Counters, cores: u32, inexact: Duration) -> Totals {
        let kinds = (before.cpu_is_of_pod, self.cpu_is_of_pod);
        let more = |before: Option<u64>, now: Option<u64>| match (before.zip(now), kinds) {
            (Some((before, now)), (true, true)) => begins_anew(before, now),
            (Some((before, now)), (false, false)) => now.saturating_sub(before),
            (None, _) | (_, (true, false) | (false, true)) => 0,
        };
        let cpu = more(before.cpu_nanos, self.cpu_nanos);
        let elapsed = self.cpu_at.saturating_duration_since(before.cpu_at) + inexact;
        // These two never begin anew while the pod is there: what goes back had been counted, as when an agent that was started
        // again does not know of the kills of containers that are gone.
        let kills = before.oom_kills.zip(self.oom_kills);
        Totals {
            cpu_nanos: if nanocores(cpu, elapsed, cores).is_some() { cpu } else { 0 },
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
    /// tell, of which `now` are the counters, and no CPU that containers make up together, of which nobody knows how much began
    /// anew.
    pub(super) fn grow(
        &mut self,
        now: &Counters,
        sample: &Sample,
        added: &Totals,
    ) -> [Amount; COUNTERS.len()] {
        let known =
            [now.cpu_of_pod(), sample.periods, sample.throttled_periods, now.oom_kills, Some(now.restarts)]
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

    fn counters(cpu_nanos: u64, oom_kills: Option<u64>, of_pod: bool) -> Counters {
        let sample = Sample { cpu_nanos: Some(cpu_nanos), oom_kills, ..Sample::default() };
        Counters::of(&sample, 0, of_pod, Instant::now())
    }

    /// On four cores, within 15 s.
    fn added(before: &Counters, now: &Counters) -> Totals {
        let at = before.cpu_at;
        Counters { cpu_at: at, ..*now }.since(before, 4, Duration::from_secs(15))
    }

    #[test]
    fn what_was_added_counts_and_a_new_beginning_counts_from_zero() {
        let check = |before: u64, now: u64, expected| {
            let more = added(&counters(before, None, true), &counters(now, None, true));
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
        assert_eq!(added(&pod, &containers).cpu_nanos, 0);
        assert_eq!(added(&containers, &pod).cpu_nanos, 0);
        // Nor do those of containers that went back: how much of the sum began anew, nobody knows.
        assert_eq!(added(&counters(15, None, false), &counters(4, None, false)).cpu_nanos, 0);
    }

    /// What was used around such a sample was once lost.
    #[test]
    fn a_sample_that_does_not_say_loses_nothing() {
        let first = counters(1_000, Some(3), true);
        let nothing = Counters { cpu_nanos: None, oom_kills: None, cpu_is_of_pod: false, ..first };
        for between in [nothing, counters(10, None, false), counters(10, Some(0), false)] {
            let second = between.or(&first);
            let third = counters(1_500, Some(4), true).or(&second);
            let (none, all) = (added(&first, &second), added(&second, &third));
            assert_eq!((none.cpu_nanos, none.oom_kills), (0, 0));
            assert_eq!((all.cpu_nanos, all.oom_kills), (500, 1));
        }
        // Who has not told for long does not hold up what is known.
        let late = Counters { cpu_at: first.cpu_at + FOR_ONCE, ..counters(10, Some(0), false) };
        assert_eq!((late.or(&first).cpu_nanos, late.or(&first).oom_kills), (Some(10), Some(0)));
        // The time between is of both: 80 s of CPU in 20 s of four cores.
        let late = first.cpu_at + Duration::from_secs(20);
        let third = Counters { cpu_nanos: Some(80_000_001_000), cpu_at: late, ..first };
        assert_eq!(third.since(&nothing.or(&first), 4, Duration::ZERO).cpu_nanos, 80_000_000_000);
        // Who knows its containers only goes on with these, until the pod itself is known.
        let (one, two) = (counters(10, None, false), counters(30, None, false));
        assert_eq!(added(&one, &two.or(&one)).cpu_nanos, 20);
        assert_eq!(added(&two, &first.or(&two)).cpu_nanos, 0);
    }

    #[test]
    fn kills_that_an_agent_has_forgotten_do_not_count_again() {
        let kills =
            |before, now| added(&counters(0, Some(before), true), &counters(0, Some(now), true)).oom_kills;
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
        assert_eq!(added(&now.at_birth(now.cpu_at), &now).cpu_nanos, 7);
        assert_eq!(added(&now, &counters(7, Some(2), true)).oom_kills, 0);
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
