//! Samples as they come from agents, which may send anything: what is believed of them, what an instance's are made of,
//! and what two of them say about the time between. Pure.
//!
//! - What could not be true is unknown, never a number: values of 2^53 and more, times of 2^63 ns and more, and what counters
//!   say that went back.

use super::row::{Amount, TOO_LARGE};
use skpr_proto::v1::{NodeSample, Sample};
use std::time::Duration;

/// The shortest time that a rate is made of; of a shorter one the kernel's own steps show.
const SHORTEST: Duration = Duration::from_millis(200);
/// Every smaller number is exact also as a float, which JSON makes of it. A time is more than that after 104 days of one core.
const INEXACT: u64 = 1 << 53;
/// No machine has more cores.
const MOST_CORES: u32 = 8192;

/// What counters say about the time between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The time between the two.
    pub window: Duration,
    pub cpu_nanocores: Option<u64>,
    /// How many periods a CPU limit was enforced in, and in how many of those it was hit.
    pub periods: u64,
    pub throttled_periods: u64,
    /// For how many thousandths of the time some process waited for CPU, memory, I/O.
    pub pressures: [Option<u16>; 3],
}

/// What processes wait for, as the kernel counts how long they did.
const PRESSURES: [fn(&Sample) -> Option<u64>; 3] = [
    |sample| sample.cpu_pressure_micros,
    |sample| sample.memory_pressure_micros,
    |sample| sample.io_pressure_micros,
];

impl Rates {
    /// None when the samples cannot be compared. `cores`: what the node has, 0 when that is not known.
    pub(super) fn between(
        before: &Sample,
        now: &Sample,
        window: Option<Duration>,
        cores: u32,
    ) -> Option<Rates> {
        let window = window.filter(|window| *window >= SHORTEST)?;
        let added = |of: fn(&Sample) -> Option<u64>| of(now)?.checked_sub(of(before)?);
        let periods = added(|sample| sample.periods).unwrap_or_default();
        let throttled = added(|sample| sample.throttled_periods).unwrap_or_default();
        Some(Rates {
            window,
            cpu_nanocores: added(|sample| sample.cpu_nanos).and_then(|nanos| nanocores(nanos, window, cores)),
            periods,
            throttled_periods: throttled.min(periods),
            pressures: PRESSURES.map(|of| thousandths(added(of)?, window)),
        })
    }

    /// The share of its periods in which a CPU limit was hit; none without a limit.
    pub fn throttled(&self) -> Option<f64> {
        (self.periods > 0).then(|| self.throttled_periods as f64 / self.periods as f64)
    }
}

/// The most of one: each of several may wait at the same time.
pub(super) fn most_pressures(rates: impl IntoIterator<Item = Rates>) -> [Option<u16>; 3] {
    rates.into_iter().fold([None; 3], |most, rates| {
        let [cpu, memory, io] = rates.pressures;
        [most[0].max(cpu), most[1].max(memory), most[2].max(io)]
    })
}

/// As much of the time as there is, where clocks differ by a little.
fn thousandths(micros: u64, window: Duration) -> Option<u16> {
    let share = u128::from(micros).saturating_mul(1000).checked_div(window.as_micros())?;
    u16::try_from(share.min(1000)).ok()
}

/// None when it is more than the node can do, by more than times are inexact.
pub(super) fn nanocores(nanos: u64, window: Duration, cores: u32) -> Option<u64> {
    let rate = u128::from(nanos).saturating_mul(1_000_000_000).checked_div(window.as_nanos())?;
    let cores = if (1..=MOST_CORES).contains(&cores) { cores } else { MOST_CORES };
    u64::try_from(rate).ok().filter(|rate| *rate <= u64::from(cores) * 1_500_000_000)
}

/// The numbers of a sample whose sum over several is unknown when one has none: no limit is no number.
fn limits(sample: &mut Sample) -> [&mut Option<u64>; 3] {
    [&mut sample.cpu_limit_millicores, &mut sample.cpu_share_millicores, &mut sample.memory_limit_bytes]
}

/// Times in nanoseconds, of which the known ones are added up.
fn times(sample: &mut Sample) -> [&mut Option<u64>; 4] {
    [
        &mut sample.cpu_nanos,
        &mut sample.cpu_user_nanos,
        &mut sample.cpu_system_nanos,
        &mut sample.throttled_nanos,
    ]
}

/// The others, likewise.
fn amounts(sample: &mut Sample) -> [&mut Option<u64>; 12] {
    [
        &mut sample.periods,
        &mut sample.throttled_periods,
        &mut sample.memory_usage_bytes,
        &mut sample.memory_working_set_bytes,
        &mut sample.memory_not_reclaimable_bytes,
        &mut sample.memory_cache_bytes,
        &mut sample.memory_peak_bytes,
        &mut sample.oom_kills,
        &mut sample.cpu_pressure_micros,
        &mut sample.memory_pressure_micros,
        &mut sample.io_pressure_micros,
        &mut sample.processes,
    ]
}

/// A sample while it is held: half as large as the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    limits: [Amount; 3],
    times: [Amount; 4],
    amounts: [Amount; 12],
}

impl Small {
    /// Of one that is clean.
    pub(super) fn of(mut sample: Sample) -> Small {
        Small {
            limits: limits(&mut sample).map(|value| Amount::of(*value)),
            times: times(&mut sample).map(|value| Amount::of(*value)),
            amounts: amounts(&mut sample).map(|value| Amount::of(*value)),
        }
    }

    pub(super) fn whole(&self) -> Sample {
        let mut sample = Sample::default();
        limits(&mut sample).into_iter().zip(self.limits).for_each(|(value, small)| *value = small.get());
        times(&mut sample).into_iter().zip(self.times).for_each(|(value, small)| *value = small.get());
        amounts(&mut sample).into_iter().zip(self.amounts).for_each(|(value, small)| *value = small.get());
        sample
    }
}

fn forget<'a>(too_large: u64, values: impl IntoIterator<Item = &'a mut Option<u64>>) -> u64 {
    let mut forgotten = 0;
    for value in values {
        if value.is_some_and(|value| value >= too_large) {
            *value = None;
            forgotten += 1;
        }
    }
    forgotten
}

/// Makes what is too large unknown; how many values that were.
pub(super) fn clean(sample: &mut Sample) -> u64 {
    forget(INEXACT, limits(sample)) + forget(TOO_LARGE, times(sample)) + forget(INEXACT, amounts(sample))
}

pub(super) fn clean_node(sample: &mut NodeSample) -> u64 {
    let absurd = u64::from(sample.cores > MOST_CORES);
    if absurd > 0 {
        sample.cores = 0;
    }
    let amounts = [
        &mut sample.memory_total_bytes,
        &mut sample.memory_working_set_bytes,
        &mut sample.cpu_pressure_micros,
        &mut sample.memory_pressure_micros,
        &mut sample.io_pressure_micros,
    ];
    absurd + forget(TOO_LARGE, [&mut sample.cpu_nanos]) + forget(INEXACT, amounts)
}

/// All together; none of none.
pub(super) fn sum<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Option<Sample> {
    let mut samples = samples.into_iter();
    let mut sum = *samples.next()?;
    samples.for_each(|other| add(&mut sum, other));
    Some(sum)
}

/// Makes of a sum that of one sample more.
pub(super) fn add(sum: &mut Sample, other: &Sample) {
    let mut other = *other;
    for (sum, other) in limits(sum).into_iter().zip(limits(&mut other)) {
        *sum = sum.zip(*other).map(|(sum, other)| sum.saturating_add(other));
    }
    let together = |(sum, other): (&mut Option<u64>, &mut Option<u64>)| {
        *sum = match (*sum, *other) {
            (Some(sum), Some(other)) => Some(sum.saturating_add(other)),
            (sum, other) => sum.or(other),
        };
    };
    times(sum).into_iter().zip(times(&mut other)).for_each(together);
    amounts(sum).into_iter().zip(amounts(&mut other)).for_each(together);
}

/// An instance's sample, of its pod's own and of those of its containers. `named`: those that the platform has a name
/// for; what else runs in the pod keeps its namespaces.
pub(super) fn of_instance(total: Option<&Sample>, named: &[Sample], all: &[Sample]) -> Option<Sample> {
    if named.is_empty() {
        return total.copied().or_else(|| sum(all));
    }
    let mut instance = sum(named)?;
    let counted = match total {
        Some(total) if total.cpu_nanos.is_some() => *total,
        _ => sum(all)?,
    };
    // Of the pod, since a container that is started again begins at 0. Throttling stays the containers': the pod's own
    // counter is about its own limit only.
    instance.cpu_nanos = counted.cpu_nanos;
    instance.cpu_user_nanos = counted.cpu_user_nanos;
    instance.cpu_system_nanos = counted.cpu_system_nanos;
    if let Some(total) = total {
        instance.oom_kills = total.oom_kills.or(instance.oom_kills);
    }
    Some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(nanos: u64) -> Sample {
        Sample { cpu_nanos: Some(nanos), ..Sample::default() }
    }

    #[test]
    fn a_rate_is_what_was_added_over_the_time_between() {
        let check = |before, now, millis, cores, expected| {
            let window = Some(Duration::from_millis(millis));
            let rates = Rates::between(&cpu(before), &cpu(now), window, cores);
            let millicores =
                rates.and_then(|rates| rates.cpu_nanocores).map(|nanocores| nanocores / 1_000_000);
            assert_eq!(millicores, expected, "{before} {now} {millis}");
        };
        check(1_000_000_000, 3_500_000_000, 5000, 4, Some(500));
        check(1_000_000_000, 999_999_999, 5000, 4, None);
        check(0, 40_000_000_000, 5000, 4, None);
        check(0, 40_000_000_000, 5000, 0, Some(8000));
        check(0, 1, 0, 4, None);
        assert_eq!(Rates::between(&cpu(1), &cpu(2), None, 4), None);
    }

    #[test]
    fn a_sample_that_is_held_is_whole_and_half_as_large() {
        let mut sample = Sample::default();
        let mut number = 0;
        let mut next = |value: &mut Option<u64>| {
            number += 1;
            *value = (number % 3 > 0).then_some(number);
        };
        limits(&mut sample).into_iter().for_each(&mut next);
        times(&mut sample).into_iter().for_each(&mut next);
        amounts(&mut sample).into_iter().for_each(&mut next);
        assert_eq!(Small::of(sample).whole(), sample);
        // No field was forgotten: each of a message takes two words.
        assert_eq!(size_of::<Small>() * 2, size_of::<Sample>());
    }

    #[test]
    fn pressure_is_the_part_of_the_time_that_was_waited() {
        let waited = |cpu, io| Sample {
            cpu_pressure_micros: Some(cpu),
            io_pressure_micros: io,
            memory_pressure_micros: Some(7),
            ..Sample::default()
        };
        let window = Some(Duration::from_secs(5));
        let rates = Rates::between(&waited(1_000_000, None), &waited(1_625_000, Some(1)), window, 4).unwrap();
        assert_eq!(rates.pressures, [Some(125), Some(0), None]);
        // Its clock is a little ahead, and a counter went back.
        let rates = Rates::between(&waited(0, Some(9)), &waited(5_000_900, Some(1)), window, 4).unwrap();
        assert_eq!(rates.pressures, [Some(1000), Some(0), None]);
    }

    #[test]
    fn limits_are_known_only_when_all_have_one() {
        let with = |limit, used| Sample {
            memory_limit_bytes: limit,
            memory_working_set_bytes: used,
            ..Sample::default()
        };
        let both = sum(&[with(Some(1), Some(5)), with(Some(2), None)]).unwrap();
        assert_eq!((both.memory_limit_bytes, both.memory_working_set_bytes), (Some(3), Some(5)));
        assert_eq!(sum(&[with(Some(1), None), with(None, None)]).unwrap().memory_limit_bytes, None);
        assert_eq!(sum(&[]), None);
    }

    #[test]
    fn an_instance_has_its_pod_s_counters_and_its_containers_memory() {
        let container = Sample {
            cpu_nanos: Some(10),
            memory_working_set_bytes: Some(100),
            periods: Some(7),
            oom_kills: Some(0),
            ..Sample::default()
        };
        let sandbox = Sample { cpu_nanos: Some(1), memory_working_set_bytes: Some(1), ..Sample::default() };
        let total = Sample {
            cpu_nanos: Some(500),
            memory_working_set_bytes: Some(150),
            oom_kills: Some(3),
            ..Sample::default()
        };
        let instance = of_instance(Some(&total), &[container], &[container, sandbox]).unwrap();
        let found =
            (instance.cpu_nanos, instance.memory_working_set_bytes, instance.oom_kills, instance.periods);
        assert_eq!(found, (Some(500), Some(100), Some(3), Some(7)));
        assert_eq!(of_instance(None, &[container], &[container, sandbox]).unwrap().cpu_nanos, Some(11));
        assert_eq!(of_instance(Some(&total), &[], &[container]), Some(total));
        assert_eq!(of_instance(None, &[], &[]), None);
    }

    #[test]
    fn what_is_too_large_is_unknown_and_counted() {
        let mut sample = Sample {
            cpu_nanos: Some(u64::MAX),
            memory_limit_bytes: Some(INEXACT),
            processes: Some(INEXACT - 1),
            ..Sample::default()
        };
        assert_eq!(clean(&mut sample), 2);
        assert_eq!(sample, Sample { processes: Some(INEXACT - 1), ..Sample::default() });
    }

    #[test]
    fn cpu_is_known_beyond_a_hundred_days_of_it() {
        let mut now = cpu(1 << 54);
        let mut node = NodeSample { cpu_nanos: Some(1 << 60), ..NodeSample::default() };
        assert_eq!((clean(&mut now), clean_node(&mut node)), (0, 0));
        let rates = Rates::between(&cpu((1 << 54) - 500_000_000), &now, Some(Duration::from_secs(1)), 4);
        assert_eq!(rates.and_then(|rates| rates.cpu_nanocores), Some(500_000_000));
        assert_eq!(node.cpu_nanos, Some(1 << 60));
    }
}
