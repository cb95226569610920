//! `skpr cron list`: an environment's tasks, when each is due and how it went.

use super::STALE;
use super::task::{self, Task};
use crate::args::{CronList, Format};
use crate::commands::call::Cluster;
use crate::error::Error;
use crate::output::{Cell, Column, Listing, Output};
use crate::settings::Settings;
use crate::time;

const COLUMNS: [Column; 6] = [
    Column::fixed("TASK"),
    Column::fixed("SCHEDULE"),
    Column::ranked("TIMEZONE", 3),
    Column::ranked("NEXT", 2),
    Column::ranked("LAST", 1),
    Column::fixed("STATE"),
];

pub(super) async fn run(verb: &CronList, settings: &Settings, output: &Output) -> Result<(), Error> {
    let zone = time::zone(verb.timezone.as_deref())?;
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    let found = task::of(&cluster).await?;
    if found.tasks.is_empty() {
        output.note(&format!(
            "{} has no tasks; one is described under `cron` in .skpr.yml, as in `cron: {{tidy: {{schedule: \"@daily\", command: ./tidy}}}}`, and comes with skpr deploy",
            cluster.environment
        ));
    }
    if found.stale {
        output.warn(STALE);
    }
    found.troubles().iter().for_each(|trouble| output.warn(trouble));
    if output.format == Format::Table {
        let rows: Vec<Vec<Cell>> = found
            .tasks
            .iter()
            .map(|task| {
                vec![
                    Cell::new(task.name.as_str()),
                    Cell::new(task.words.as_str()),
                    Cell::new(task.timezone.as_str()),
                    task.next_cell(found.now, &zone),
                    task.last_cell(found.now),
                    task.state_cell(found.now, &zone),
                ]
            })
            .collect();
        // Nothing is data where there is nothing.
        return match rows.as_slice() {
            [] => Ok(()),
            rows => output.write(output.fitting_table(&COLUMNS, rows).as_bytes()),
        };
    }
    output.write(&output.render(&Listing {
        items: &found.tasks,
        name: |task| task.name.clone(),
        // What is shown to people depends on the width: see above.
        headers: &[],
        cells: |_| Vec::new(),
        csv_headers: &[
            "task",
            "words",
            "schedule",
            "timezone",
            "next",
            "last_outcome",
            "last_began",
            "last_ended",
            "last_exit_code",
            "last_success",
            "running",
            "suspended_by",
            "suspended_since",
            "timeout_seconds",
            "overlap",
            "command",
        ],
        csv,
    })?)
}

fn csv(task: &Task) -> Vec<String> {
    let Task {
        name, schedule, words, timezone, command, overlap, next, last, last_success, suspended, ..
    } = task;
    let last = last.as_ref();
    let suspended = suspended.as_ref();
    let running: Vec<&str> = task.running.iter().map(|run| run.id.as_str()).collect();
    let filled = |value: Option<String>| value.unwrap_or_default();
    vec![
        name.clone(),
        words.clone(),
        schedule.clone(),
        timezone.clone(),
        filled(next.clone()),
        filled(last.map(|run| run.outcome.clone())),
        filled(last.and_then(|run| run.began.clone())),
        filled(last.and_then(|run| run.ended.clone())),
        filled(last.and_then(|run| run.exit_code).map(|code| code.to_string())),
        filled(last_success.clone()),
        running.join(" "),
        filled(suspended.map(|suspension| suspension.by.clone())),
        filled(suspended.and_then(|suspension| suspension.since.clone())),
        filled(task.timeout_seconds.map(|seconds| seconds.to_string())),
        overlap.clone(),
        command.clone(),
    ]
}
