//! `skpr cron history`: runs, newest first, and what was due and did not begin.

use super::STALE;
use super::execution::{Run, instant};
use crate::args::{CronHistory, Format};
use crate::commands::call::Cluster;
use crate::error::Error;
use crate::output::{Cell, Column, Listing, Output};
use crate::settings::Settings;
use crate::time::{self, Range, Typed};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use skpr_proto::{UnixNanos, v1};
use std::collections::BTreeSet;

/// Where nothing says how many.
const NEWEST: u32 = 20;

const COLUMNS: [Column; 7] = [
    Column::fixed("RUN"),
    Column::ranked("TASK", 3),
    Column::ranked("TRIGGER", 2),
    Column::fixed("BEGAN OR DUE"),
    Column::fixed("TOOK"),
    Column::fixed("OUTCOME"),
    Column::ranked("VERSION", 1),
];

pub(super) async fn run(verb: &CronHistory, settings: &Settings, output: &Output) -> Result<(), Error> {
    let zone = time::zone(verb.timezone.as_deref())?;
    let lines = verb.lines.or(verb.since.is_none().then_some(NEWEST));
    let typed = Typed {
        since: verb.since.as_deref(),
        until: verb.until.as_deref(),
        // History goes back as far as is kept.
        last: true,
        ..Typed::default()
    };
    let range = time::range(typed, Timestamp::now(), &zone)?;
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    for note in &range.notes {
        output.note(note);
    }
    output.note(&time::describe(&range, false, lines, &zone));
    let request = v1::RunsRequest {
        environment: Some(cluster.wire()),
        task: verb.task.clone(),
        since: range.since.map(|since| UnixNanos::from(since).into()),
        until: range.until.map(|until| UnixNanos::from(until).into()),
        failed: verb.failed,
        last: lines.unwrap_or(0),
        run: None,
    };
    let answer = ask(&cluster, request, lines).await?;
    let runs: Vec<Run> = answer.runs.iter().map(Run::new).collect();
    show(&runs, &zone, output)?;
    if runs.is_empty() {
        let which = if verb.failed { "no such run of" } else { "no run of" };
        let of = verb.task.as_deref().map(|task| format!("`{task}` of ")).unwrap_or_default();
        output.note(&format!("{which} {of}{} in that time", cluster.environment));
    }
    after(&answer, &range, &zone, output);
    Ok(())
}

/// As many as are wanted, or all: an answer has so many, and whoever wants more asks for those before them.
async fn ask(
    cluster: &Cluster<'_>,
    mut request: v1::RunsRequest,
    wanted: Option<u32>,
) -> Result<v1::RunsResponse, Error> {
    let wanted = wanted.map_or(usize::MAX, |wanted| usize::try_from(wanted).unwrap_or(usize::MAX));
    let (mut runs, mut known): (Vec<v1::Run>, _) = (Vec::new(), BTreeSet::new());
    loop {
        let answer = cluster.answer(cluster.client.cron().runs(request.clone()).await).await?;
        let before = runs.len();
        runs.extend(answer.runs.iter().filter(|run| known.insert(run.id.clone())).cloned());
        // Several may have begun at the same time: those of the oldest are asked for again.
        let oldest = runs.last().and_then(|run| run.began.or(run.due));
        request.until = oldest.map(|time| v1::Instant { unix_nanos: time.unix_nanos.saturating_add(1) });
        // They are of the same environment, also where another of its name appears meanwhile.
        if let Some(environment) = &mut request.environment
            && !answer.namespace.is_empty()
        {
            environment.namespace = Some(answer.namespace.clone());
        }
        if !answer.more || runs.len() >= wanted || runs.len() == before || oldest.is_none() {
            runs.truncate(wanted);
            return Ok(v1::RunsResponse { runs, ..answer });
        }
    }
}

/// What is not in the list.
fn after(answer: &v1::RunsResponse, range: &Range, zone: &TimeZone, output: &Output) {
    let oldest = answer.oldest_kept.map(UnixNanos::from);
    if answer.more {
        output.note("there are older ones: -n N shows more of them, --until TIME those before a time");
    } else if let Some(oldest) = oldest
        && range.since.is_none_or(|since| oldest > UnixNanos::from(since))
    {
        output.note(&format!("nothing before {} is kept", time::show(instant(oldest), zone)));
    }
    if answer.stale {
        output.warn(STALE);
    }
}

fn show(runs: &[Run], zone: &TimeZone, output: &Output) -> Result<(), Error> {
    if output.format == Format::Table {
        let now = Timestamp::now();
        let rows: Vec<Vec<Cell>> = runs.iter().map(|run| cells(run, now, zone)).collect();
        // Nothing is data where there is nothing.
        return match rows.as_slice() {
            [] => Ok(()),
            rows => output.write(output.fitting_table(&COLUMNS, rows).as_bytes()),
        };
    }
    output.write(&output.render(&Listing {
        items: runs,
        name: |run| run.id.clone(),
        // What is shown to people depends on the width and the zone: see above.
        headers: &[],
        cells: |_| Vec::new(),
        csv_headers: &[
            "run",
            "task",
            "trigger",
            "by",
            "due",
            "began",
            "ended",
            "seconds",
            "outcome",
            "exit_code",
            "reason",
            "version",
            "instance",
        ],
        csv,
    })?)
}

fn cells(run: &Run, now: Timestamp, zone: &TimeZone) -> Vec<Cell> {
    vec![
        Cell::new(run.id.as_str()),
        Cell::new(run.task.as_str()),
        Cell::new(run.cause()),
        Cell::new(run.time(zone)),
        Cell::new(run.took(now)),
        run.cell(run.outcome_and_reason()),
        Cell::new(run.version.as_deref().unwrap_or_default()),
    ]
}

fn csv(run: &Run) -> Vec<String> {
    let filled = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![
        run.id.clone(),
        run.task.clone(),
        run.trigger.clone(),
        filled(&run.by),
        filled(&run.due),
        filled(&run.began),
        filled(&run.ended),
        run.seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
        run.outcome.clone(),
        run.exit_code.map(|code| code.to_string()).unwrap_or_default(),
        filled(&run.reason),
        filled(&run.version),
        filled(&run.instance),
    ]
}
