//! How the tasks of environments go: what has become of their runs, and how they are now.
//!
//! Of each task that the inventory has, and of no other; every outcome is there from the beginning, so that the first failure
//! shows as an increase. Counters begin with the aggregator.

use crate::environment::EnvironmentKey;
use crate::event;
use crate::inventory::Inventory;
use crate::run::TaskState;
use crate::web::counted::count;
use crate::web::text::{Labels, Table, Value, counter, gauge};
use skpr_proto::Label;

pub(super) struct Row {
    /// In milliseconds since the Unix epoch.
    last_success: Option<u64>,
    suspended: bool,
    running: u64,
}

pub(super) const RUNS: Table<u64> = Table {
    labels: &["project", "environment", "namespace", "task", "outcome"],
    columns: &[counter("skpr_cron_runs", "Runs that have ended or did not begin, by outcome", count)],
};

pub(super) const TABLE: Table<Row> = Table {
    labels: &["project", "environment", "namespace", "task"],
    columns: &[
        gauge(
            "skpr_cron_last_success_timestamp_seconds",
            "When the last run ended that succeeded, as Unix time",
            |row| row.last_success.map(Value::Thousandths),
        ),
        gauge("skpr_cron_suspended", "1 while it takes no runs by itself", |row| {
            Some(Value::Count(u64::from(row.suspended)))
        }),
        gauge("skpr_cron_running_runs", "Runs that have begun or wait to begin", |row| {
            Some(Value::Count(row.running))
        }),
    ],
};

/// A row for each outcome of each task.
pub(super) fn runs(counted: &event::RunCounts, inventory: &Inventory) -> Vec<(Labels, u64)> {
    counted.forget(inventory);
    let rows = tasks(inventory).flat_map(|(key, task, _)| {
        counted.of(key, task).map(|(outcome, runs)| (labels(key, task, &[("outcome", outcome.name())]), runs))
    });
    rows.collect()
}

pub(super) fn rows(inventory: &Inventory) -> Vec<(Labels, Row)> {
    let row = |(key, task, state): (&EnvironmentKey, &Label, &TaskState)| {
        let row = Row {
            last_success: state.last_success.and_then(|at| u64::try_from(at.as_millisecond()).ok()),
            suspended: state.suspended.is_some(),
            running: state.running.len() as u64,
        };
        (labels(key, task, &[]), row)
    };
    tasks(inventory).map(row).collect()
}

fn tasks(inventory: &Inventory) -> impl Iterator<Item = (&EnvironmentKey, &Label, &TaskState)> {
    let managed =
        inventory.environments.iter().filter_map(|(key, state)| Some((key, state.managed.as_ref()?)));
    managed.flat_map(|(key, managed)| managed.tasks.iter().map(move |(task, state)| (key, task, state)))
}

fn labels(key: &EnvironmentKey, task: &Label, further: &[(&str, &str)]) -> Labels {
    let own = [
        ("project", key.name.project.as_str()),
        ("environment", key.name.environment.as_str()),
        ("namespace", key.namespace.as_str()),
        ("task", task.as_str()),
    ];
    Labels::of(&[&own, further].concat())
}
