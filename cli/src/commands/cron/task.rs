//! A task as users see it, in `skpr cron list` and `skpr info`.

use super::execution::{Run, Stage, instant, to_the_second};
use crate::commands::call::Cluster;
use crate::commands::release::text;
use crate::error::Error;
use crate::output::Cell;
use crate::terminal::clean_lines;
use crate::time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use skpr_proto::manifest::Schedule;
use skpr_proto::{UnixNanos, v1};
use tonic::{Response, Status};

/// In JSON and YAML; what came from the cluster is harmless to print.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Task {
    pub name: String,
    pub schedule: String,
    /// The schedule in words.
    pub words: String,
    pub timezone: String,
    pub command: String,
    pub timeout_seconds: Option<u32>,
    pub overlap: String,
    pub next: Option<String>,
    pub suspended: Option<Suspension>,
    pub running: Vec<Run>,
    pub last: Option<Run>,
    pub last_success: Option<String>,
    /// Why nothing runs when it is due.
    pub trouble: Option<String>,
    #[serde(skip)]
    next_at: Option<UnixNanos>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Suspension {
    pub by: String,
    pub since: Option<String>,
    #[serde(skip)]
    since_at: Option<UnixNanos>,
}

/// The tasks of an environment.
pub(crate) struct Tasks {
    pub tasks: Vec<Task>,
    /// By the aggregator's clock.
    pub now: Timestamp,
    pub stale: bool,
}

/// What the aggregator knows of an environment's tasks.
pub(crate) async fn of(cluster: &Cluster<'_>) -> Result<Tasks, Error> {
    cluster.answer(ask(cluster).await).await.map(Tasks::from)
}

/// The same where nobody asked for it, and no words are wanted where there is nothing to know.
pub(crate) async fn beside(cluster: &Cluster<'_>) -> Result<Tasks, Status> {
    Ok(ask(cluster).await?.into_inner().into())
}

async fn ask(cluster: &Cluster<'_>) -> Result<Response<v1::TasksResponse>, Status> {
    cluster.client.cron().tasks(v1::TasksRequest { environment: Some(cluster.wire()) }).await
}

impl Tasks {
    /// Why tasks do not run, each reason once and with the tasks of which it is.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles: Vec<(&str, Vec<String>)> = Vec::new();
        for task in &self.tasks {
            let Some(trouble) = task.trouble.as_deref() else { continue };
            let name = format!("`{}`", task.name);
            match troubles.iter_mut().find(|(other, _)| *other == trouble) {
                Some((_, names)) => names.push(name),
                None => troubles.push((trouble, vec![name])),
            }
        }
        let sentence = |(trouble, names): (&str, Vec<String>)| match names.as_slice() {
            [one] => format!("{one} does not run: {trouble}"),
            more => format!("{} do not run: {trouble}", more.join(", ")),
        };
        troubles.into_iter().map(sentence).collect()
    }
}

impl From<v1::TasksResponse> for Tasks {
    fn from(answer: v1::TasksResponse) -> Tasks {
        let now = answer.now.map_or_else(Timestamp::now, |now| instant(UnixNanos::from(now)));
        Tasks { tasks: answer.tasks.iter().map(Task::new).collect(), now, stale: answer.stale }
    }
}

/// A schedule in words; as it is written where this program cannot read it.
pub(crate) fn in_words(schedule: &str) -> String {
    match Schedule::parse(schedule) {
        Ok(schedule) => schedule.words(),
        Err(_) => text(schedule),
    }
}

impl Task {
    fn new(task: &v1::Task) -> Task {
        let next_at = task.next.map(UnixNanos::from);
        Task {
            name: text(&task.name),
            schedule: text(&task.schedule),
            words: in_words(&task.schedule),
            timezone: text(&task.timezone),
            command: clean_lines(&task.command),
            timeout_seconds: Some(task.timeout_seconds).filter(|seconds| *seconds > 0),
            overlap: text(&task.overlap),
            next: next_at.map(time::rfc3339),
            suspended: task.suspended.as_ref().map(|suspension| {
                let since_at = suspension.since.map(UnixNanos::from);
                Suspension { by: text(&suspension.by), since: since_at.map(time::rfc3339), since_at }
            }),
            running: task.running.iter().map(Run::new).collect(),
            last: task.last.as_ref().map(Run::new),
            last_success: task.last_success.map(|time| time::rfc3339(UnixNanos::from(time))),
            trouble: task.trouble.as_deref().map(text),
            next_at,
        }
    }

    /// `2026-11-23T03:30:00+11:00 (in 5h)`.
    pub(crate) fn next_cell(&self, now: Timestamp, zone: &TimeZone) -> Cell {
        let Some(next) = self.next_at else { return Cell::new("-") };
        let until = next.0.saturating_sub(UnixNanos::from(now).0) / 1_000_000_000;
        let until = if until <= 0 { "now".to_owned() } else { format!("in {}", time::span(until)) };
        Cell::new(format!("{} ({until})", time::show(instant(next), zone)))
    }

    /// `failed with exit code 3, 5m ago, took 12s`.
    pub(crate) fn last_cell(&self, now: Timestamp) -> Cell {
        let Some(last) = &self.last else { return Cell::new("-") };
        let ago = last.times.ended.or(last.times.either()).map(|then| time::ago(then, now));
        let took = Some(last.took(now)).filter(|took| !took.is_empty()).map(|took| format!("took {took}"));
        let parts = std::iter::once(last.outcome_in_words()).chain(ago).chain(took);
        last.cell(parts.collect::<Vec<_>>().join(", "))
    }

    /// What goes on, and what does not.
    pub(crate) fn state_cell(&self, now: Timestamp, zone: &TimeZone) -> Cell {
        let running = match self.running.as_slice() {
            [] => None,
            [run] if run.stage() == Stage::Waiting => Some(format!("{} waits to begin", run.id)),
            [run] => Some(format!("running {}", run.id)),
            runs => Some(format!("running {}", runs.len())),
        };
        let suspended = self.suspended.as_ref().map(|suspension| {
            let since = suspension
                .since_at
                .map(|since| format!(" since {}", time::show(to_the_second(instant(since)), zone)));
            format!("suspended by {}{}", suspension.by, since.unwrap_or_default())
        });
        let trouble = self.trouble.as_ref().map(|_| "does not run".to_owned());
        let colour = match (&trouble, &suspended, &running) {
            (Some(_), _, _) => "31",
            (None, Some(_), _) => "33",
            (None, None, Some(_)) => "32",
            (None, None, None) => "2",
        };
        let so_far = self.running.first().map(|run| run.took(now)).filter(|so_far| !so_far.is_empty());
        let running = running.map(|running| match so_far {
            Some(so_far) => format!("{running} ({so_far})"),
            None => running,
        });
        let parts: Vec<String> = trouble.into_iter().chain(suspended).chain(running).collect();
        match parts.is_empty() {
            true => Cell::coloured("scheduled", colour),
            false => Cell::coloured(parts.join("; "), colour),
        }
    }
}
