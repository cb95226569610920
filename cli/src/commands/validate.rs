//! `skpr validate`: everything that is wrong with a `.skpr.yml`, or what its environments resolve to.
//!
//! Works offline, needs no login and no home. The values of variables are not shown: this runs in CI.

use crate::args::Validate;
use crate::error::Error;
use crate::output::{Cell, Listing, Output};
use crate::project::Project;
use crate::terminal::clean;
use jiff::Timestamp;
use serde::Serialize;
use skpr_proto::manifest::{Environment, FILE_NAME, Instances, Manifest, Zone};
use skpr_proto::{ErrorKind, Failure, Label};
use std::path::PathBuf;

/// How many of a task's next times are said.
const NEXT_TIMES: usize = 3;

/// What an environment resolves to, in short.
#[derive(Serialize)]
struct Row {
    environment: String,
    production: bool,
    instances: Instances,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<String>,
    domains: Vec<String>,
    variables: Vec<String>,
    volumes: Vec<String>,
    tasks: Vec<Task>,
}

#[derive(Serialize)]
struct Task {
    name: String,
    schedule: String,
    /// The schedule in words.
    words: String,
    timezone: String,
    /// When it is due by its schedule.
    next: Vec<Timestamp>,
}

pub(super) fn run(verb: &Validate, output: &Output) -> Result<(), Error> {
    let manifest = load(verb.file.clone(), output)?;
    let now = Timestamp::now();
    let mut rows: Vec<Row> = manifest
        .environments
        .keys()
        .filter_map(|name| Some(row(&manifest.project, name, &manifest.resolve(name)?, now)))
        .collect();
    // As `skpr list` has them: production last.
    rows.sort_by_key(|row| row.production);
    output.write(&output.render(&Listing {
        items: &rows,
        name: |row| row.environment.clone(),
        headers: &["ENVIRONMENT", "INSTANCES", "CPU", "MEMORY", "PORT", "DOMAINS", "VOLUMES", "TASKS"],
        cells: |row| fields(row).into_iter().map(Cell::new).collect(),
        csv_headers: &["environment", "instances", "cpu", "memory", "port", "domains", "volumes", "tasks"],
        csv: fields,
    })?)?;
    for row in &rows {
        for task in &row.tasks {
            output.note(&due(&row.environment, task));
        }
    }
    Ok(())
}

/// The manifest; of several problems all are said, the last as what ends the command.
fn load(file: Option<PathBuf>, output: &Output) -> Result<Manifest, Error> {
    let path = match file {
        Some(path) if path.is_dir() => path.join(FILE_NAME),
        Some(path) => path,
        None => Project::find()?,
    };
    Manifest::load_all(&path).map_err(|problems| {
        let mut failures: Vec<Failure> = problems.into_iter().map(Failure::from).collect();
        let last = failures.pop();
        for failure in failures {
            output.report(&Error::from(failure));
        }
        let unread = || Failure::new(ErrorKind::InvalidConfiguration, "the file cannot be read");
        Error::from(last.unwrap_or_else(unread))
    })
}

fn row(project: &Label, name: &Label, settings: &Environment, now: Timestamp) -> Row {
    let cpu = settings.cpu.as_ref().map(|cpu| match &cpu.limit {
        Some(limit) => format!("{}–{limit}", cpu.share),
        None => cpu.share.to_string(),
    });
    let memory = settings.memory.as_ref().map(|memory| match (&memory.min, &memory.max) {
        (Some(min), Some(max)) => format!("{min}–{max}"),
        (Some(min), None) => format!("{min}–"),
        (None, Some(max)) => format!("–{max}"),
        (None, None) => String::new(),
    });
    let tasks = settings.cron.iter().flatten().map(|(name, task)| {
        let next = std::iter::successors(task.next_after(now), |time| task.next_after(*time));
        Task {
            name: name.to_string(),
            schedule: task.schedule.to_string(),
            words: task.schedule.words(),
            timezone: task.zone().to_string(),
            next: next.take(NEXT_TIMES).collect(),
        }
    });
    Row {
        environment: format!("{project}/{name}"),
        production: settings.production == Some(true),
        instances: settings.instances.clone().unwrap_or(Instances { min: 1, max: 1, cpu: None }),
        cpu,
        memory,
        port: settings.port.map(std::num::NonZeroU16::get),
        health: settings.health.as_ref().map(ToString::to_string),
        domains: settings.domains.iter().flatten().map(ToString::to_string).collect(),
        variables: settings.env.iter().flatten().map(|(name, _)| name.to_string()).collect(),
        volumes: settings.volumes.iter().flatten().map(|(name, _)| name.to_string()).collect(),
        tasks: tasks.collect(),
    }
}

fn fields(row: &Row) -> Vec<String> {
    let Instances { min, max, cpu } = &row.instances;
    let mut instances = if min == max { min.to_string() } else { format!("{min}–{max}") };
    if let Some(cpu) = cpu {
        instances.push_str(&format!(" at {cpu}"));
    }
    let tasks: Vec<&str> = row.tasks.iter().map(|task| task.name.as_str()).collect();
    vec![
        row.environment.clone(),
        instances,
        row.cpu.clone().unwrap_or_default(),
        row.memory.clone().unwrap_or_default(),
        row.port.map(|port| port.to_string()).unwrap_or_default(),
        row.domains.join(" "),
        row.volumes.join(" "),
        tasks.join(" "),
    ]
}

fn due(environment: &str, task: &Task) -> String {
    let zone = Zone::parse(&task.timezone).unwrap_or_else(|_| Zone::utc()).time_zone();
    let times: Vec<String> = task
        .next
        .iter()
        .map(|time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string())
        .collect();
    let Task { name, words, timezone, .. } = task;
    let text = match times.as_slice() {
        [] => format!("{environment}: task {name} is due {words} ({timezone}), and not within five years"),
        times => format!("{environment}: task {name} is due {words} ({timezone}): {}", times.join(", ")),
    };
    clean(&text).into_owned()
}
