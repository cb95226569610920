//! What is used now, as the CLI is told it.

use super::super::wire;
use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, InstanceState};
use crate::usage::{EnvironmentUsage, InstanceUsage, Usage};
use skpr_proto::v1::{EnvironmentSummary, UsageNow};
use std::time::Duration;

/// Puts what is used now into the summary of an environment and into those instances that it has.
pub(in crate::api) fn fill(
    usage: &Usage,
    key: &EnvironmentKey,
    state: &EnvironmentState,
    summary: &mut EnvironmentSummary,
) {
    for instance in &mut summary.instance {
        let restarts = u64::from(instance.restarts);
        instance.usage = usage.instance(key, &instance.name).map(|usage| instance_now(&usage, restarts));
    }
    summary.usage = of_environment(&usage.environment(key, |_| true), state, |_| true);
}

/// None when nothing is known of any that is wanted.
pub(super) fn of_environment(
    usage: &EnvironmentUsage,
    state: &EnvironmentState,
    wanted: impl Fn(&str) -> bool,
) -> Option<UsageNow> {
    let counted = state.instances.iter().filter(|(name, _)| wanted(name));
    environment_now(usage, counted.map(|(_, instance)| u64::from(instance.detail.restarts)).sum())
}

pub(super) fn of_instance(usage: &InstanceUsage, state: &InstanceState) -> UsageNow {
    instance_now(usage, u64::from(state.detail.restarts))
}

pub(super) fn of_silent(state: &InstanceState) -> UsageNow {
    UsageNow { restarts: u64::from(state.detail.restarts), ..UsageNow::default() }
}

fn environment_now(usage: &EnvironmentUsage, restarts: u64) -> Option<UsageNow> {
    if usage.fresh == 0 && usage.stale.is_empty() {
        return None;
    }
    let throttled = (usage.periods > 0).then(|| usage.throttled_periods as f64 / usage.periods as f64);
    Some(UsageNow {
        cpu_millicores: usage.cpu_nanocores.map(millicores),
        throttled,
        restarts,
        instances: wire::count(usage.fresh),
        age_millis: Some(millis(usage.age)),
        stale: usage.fresh == 0,
        missing: wire::count(usage.unknown.len() + if usage.fresh > 0 { usage.stale.len() } else { 0 }),
        ..with_pressures(usage.pressures, gauges(&usage.sample))
    })
}

fn instance_now(usage: &InstanceUsage, restarts: u64) -> UsageNow {
    let rates = usage.rates;
    UsageNow {
        cpu_millicores: rates.and_then(|rates| rates.cpu_nanocores).map(millicores),
        throttled: rates.and_then(|rates| rates.throttled()),
        restarts,
        instances: u32::from(!usage.stale),
        age_millis: Some(millis(usage.age)),
        stale: usage.stale,
        ..with_pressures(rates.map(|rates| rates.pressures).unwrap_or_default(), gauges(&usage.sample))
    }
}

fn gauges(sample: &skpr_proto::v1::Sample) -> UsageNow {
    UsageNow {
        cpu_share_millicores: sample.cpu_share_millicores,
        cpu_limit_millicores: sample.cpu_limit_millicores,
        memory_working_set_bytes: sample.memory_working_set_bytes,
        memory_not_reclaimable_bytes: sample.memory_not_reclaimable_bytes,
        memory_cache_bytes: sample.memory_cache_bytes,
        memory_peak_bytes: sample.memory_peak_bytes,
        memory_limit_bytes: sample.memory_limit_bytes,
        oom_kills: sample.oom_kills,
        processes: sample.processes,
        ..UsageNow::default()
    }
}

/// `pressures` are thousandths.
fn with_pressures(pressures: [Option<u16>; 3], now: UsageNow) -> UsageNow {
    let [cpu, memory, io] = pressures.map(|pressure| pressure.map(|pressure| f64::from(pressure) / 1000.0));
    UsageNow { cpu_pressure: cpu, memory_pressure: memory, io_pressure: io, ..now }
}

/// Not in whole ones: twenty instances that use seven tenths of one each use fourteen.
fn millicores(nanocores: u64) -> f64 {
    nanocores as f64 / 1e6
}

fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty instances of less than a millicore each were once shown as none together.
    #[test]
    fn less_than_a_millicore_is_not_none() {
        let usage =
            EnvironmentUsage { cpu_nanocores: Some(14_250_000), fresh: 20, ..EnvironmentUsage::default() };
        assert_eq!(environment_now(&usage, 0).unwrap().cpu_millicores, Some(14.25));
        assert_eq!(millicores(700_000), 0.7);
    }
}
