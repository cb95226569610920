//! What environments use and how they are: sums over their instances.
//!
//! Gauges of CPU and memory are of the instances with a fresh sample, and absent when there is none; those of instances and
//! releases are the platform's. Counters are what was used since the aggregator began to look, by instances that are gone
//! too, and never go back.

use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, Inventory};
use crate::release::State;
use crate::usage::{Sum, Totals, Usage};
use crate::web::text::{Labels, Table, Value, counter, gauge};
use skpr_proto::v1::Sample;

pub(super) struct Row {
    sum: Option<Sum>,
    instances: u64,
    ready: u64,
    /// Without a fresh sample.
    stale: u64,
    minimum: u32,
    maximum: u32,
    /// None where skpr does not look after it.
    failed: Option<bool>,
}

pub(super) const TABLE: Table<Row> = Table {
    labels: &["project", "environment", "namespace"],
    columns: &[
        counter("skpr_environment_cpu_seconds", "CPU time used", |row| {
            row.total(|totals| totals.cpu_nanos).map(Value::Billionths)
        }),
        gauge("skpr_environment_cpu_share_cores", "CPU that is guaranteed when it is short", |row| {
            row.sampled(|sample| sample.cpu_share_millicores).map(Value::Thousandths)
        }),
        gauge("skpr_environment_cpu_limit_cores", "CPU limit, when every instance has one", |row| {
            row.sampled(|sample| sample.cpu_limit_millicores).map(Value::Thousandths)
        }),
        counter("skpr_environment_cpu_periods", "Periods in which a CPU limit was enforced", |row| {
            row.total(|totals| totals.periods).map(Value::Count)
        }),
        counter("skpr_environment_cpu_throttled_periods", "Periods in which a CPU limit was hit", |row| {
            row.total(|totals| totals.throttled_periods).map(Value::Count)
        }),
        gauge("skpr_environment_memory_working_set_bytes", "Memory that Kubernetes acts on", |row| {
            row.sampled(|sample| sample.memory_working_set_bytes).map(Value::Count)
        }),
        gauge(
            "skpr_environment_memory_not_reclaimable_bytes",
            "Memory that cannot be given back: at the limit an instance is killed",
            |row| row.sampled(|sample| sample.memory_not_reclaimable_bytes).map(Value::Count),
        ),
        gauge("skpr_environment_memory_cache_bytes", "Cached files", |row| {
            row.sampled(|sample| sample.memory_cache_bytes).map(Value::Count)
        }),
        gauge("skpr_environment_memory_limit_bytes", "Memory limit, when every instance has one", |row| {
            row.sampled(|sample| sample.memory_limit_bytes).map(Value::Count)
        }),
        counter("skpr_environment_oom_kills", "Processes killed because memory ran out", |row| {
            row.total(|totals| totals.oom_kills).map(Value::Count)
        }),
        counter("skpr_environment_restarts", "Containers started again", |row| {
            row.total(|totals| totals.restarts).map(Value::Count)
        }),
        gauge("skpr_environment_instances", "Instances, but for those that were asked to end", |row| {
            Some(Value::Count(row.instances))
        }),
        gauge("skpr_environment_ready_instances", "Instances that are ready", |row| {
            Some(Value::Count(row.ready))
        }),
        gauge(
            "skpr_environment_stale_instances",
            "Instances without a sample of the last two intervals",
            |row| Some(Value::Count(row.stale)),
        ),
        gauge("skpr_environment_minimum_instances", "Instances at least", |row| known(row.minimum)),
        gauge("skpr_environment_maximum_instances", "Instances at most", |row| known(row.maximum)),
        gauge(
            "skpr_environment_release_failed",
            "1 while the last release that has ended is one that failed",
            |row| row.failed.map(|failed| Value::Count(u64::from(failed))),
        ),
    ],
};

impl Row {
    fn total(&self, of: fn(&Totals) -> u64) -> Option<u64> {
        self.sum.as_ref().map(|sum| of(&sum.totals))
    }

    fn sampled(&self, of: fn(&Sample) -> Option<u64>) -> Option<u64> {
        of(self.sum.as_ref()?.sample.as_ref()?)
    }
}

/// 0 is not known.
fn known(instances: u32) -> Option<Value> {
    (instances > 0).then(|| Value::Count(u64::from(instances)))
}

pub(super) fn rows(usage: &Usage, inventory: &Inventory) -> Vec<(Labels, Row)> {
    let sums = usage.sums(inventory);
    let row = |(key, state): (&EnvironmentKey, &EnvironmentState)| {
        let labels = Labels::of(&[
            ("project", key.name.project.as_str()),
            ("environment", key.name.environment.as_str()),
            ("namespace", key.namespace.as_str()),
        ]);
        let sum = sums.get(key).copied();
        let fresh = sum.map_or(0, |sum| sum.fresh);
        let row = Row {
            sum,
            instances: state.staying().count() as u64,
            ready: state.ready() as u64,
            // One that no node has yet is nobody's to sample.
            stale: state
                .instances
                .values()
                .filter(|instance| instance.node.is_some())
                .count()
                .saturating_sub(fresh) as u64,
            minimum: state.wanted.minimum,
            maximum: state.wanted.maximum,
            failed: state.managed.as_ref().map(|managed| {
                let ended = managed.releases.iter().rev().find(|release| !release.state.is_open());
                ended.is_some_and(|release| matches!(release.state, State::Failed | State::RolledBack))
            }),
        };
        (labels, row)
    };
    inventory.environments.iter().map(row).collect()
}
