//! `skpr info`: one environment with its instances, settings, tasks, last release and last events.

use super::call::Cluster;
use super::cron::{Task, Tasks, in_words, tasks_of};
use super::events::Event;
use super::release::text;
use super::summary::{Environment, Instance};
use super::usage;
use crate::args::Info;
use crate::error::Error;
use crate::output::{Cell, Column, Output};
use crate::settings::Settings;
use crate::time;
use futures::StreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;
use skpr_proto::UnixNanos;
use skpr_proto::manifest::{Schedule, Zone};
use skpr_proto::v1::{DescribeResponse, EventsRequest};
use std::collections::BTreeMap;
use std::time::Duration;

const LAST_EVENTS: u32 = 5;
const INSTANCE_COLUMNS: [Column; 11] = [
    Column::fixed("INSTANCE"),
    Column::fixed("VERSION"),
    Column::fixed("STATE"),
    Column::ranked("CPU", 1),
    Column::ranked("MEMORY", 2),
    Column::fixed("AGE"),
    Column::fixed("RESTARTS"),
    Column::fixed("OOM KILLS"),
    Column::fixed("EXIT CODE"),
    Column::fixed("NODE"),
    Column::fixed("TROUBLE"),
];
const TASK_COLUMNS: [Column; 7] = [
    Column::fixed("TASK"),
    Column::fixed("SCHEDULE"),
    Column::ranked("ZONE", 4),
    Column::ranked("NEXT", 3),
    Column::ranked("LAST", 1),
    Column::ranked("STATE", 2),
    Column::ranked("COMMAND", 5),
];
/// Events and tasks are worth a short wait, and not the whole answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    environment: Environment,
    image: Option<String>,
    /// As .skpr.yml says them; what an environment variable holds is hidden.
    settings: Option<Value>,
    /// How the tasks among them are; null where that is not known.
    tasks: Option<Vec<Task>>,
    events: Vec<Event>,
}

pub(super) async fn run(verb: &Info, settings: &Settings, output: &Output) -> Result<(), Error> {
    let mut cluster = Cluster::connect(&verb.target, settings, output).await?;
    let answer = cluster.describe().await?;
    let named = answer.summary.as_ref().and_then(|summary| summary.environment.as_ref());
    if let Some(namespace) = named.and_then(|environment| environment.namespace.clone()) {
        cluster.namespace = Some(namespace);
    }
    let mut whole = whole(answer);
    let ((events, times), tasks) = tokio::join!(last_events(&cluster), tasks(&cluster, &whole));
    let rows = task_rows(whole.settings.as_ref(), tasks.as_ref());
    whole.events = events;
    whole.tasks = tasks.map(|found| found.tasks);
    let shown = people(&whole, &rows, &times, output);
    output.thing(&whole, &shown, &cluster.environment.to_string())
}

fn whole(answer: DescribeResponse) -> Whole {
    let mut environment = Environment::from(answer.summary.unwrap_or_default());
    if environment.release.is_none()
        && let Ok(name) = skpr_proto::EnvironmentName::parse(&environment.project, &environment.environment)
    {
        environment.release =
            answer.releases.first().map(|release| super::release::Release::new(&name, release));
    }
    let mut settings: Option<Value> = serde_json::from_slice(&answer.settings).ok();
    // A site's variables hold its secrets: their names are enough here.
    if let Some(Value::Object(variables)) = settings.as_mut().and_then(|settings| settings.get_mut("env")) {
        variables.values_mut().for_each(|value| *value = Value::from("(hidden)"));
    }
    let image = answer.image.as_deref().map(text);
    Whole { environment, image, settings, tasks: None, events: Vec::new() }
}

/// The newest events, and when they were. An aggregator that has none to tell keeps nobody from the rest.
async fn last_events(cluster: &Cluster<'_>) -> (Vec<Event>, Vec<UnixNanos>) {
    let request = EventsRequest {
        environment: Some(cluster.wire()),
        last: Some(LAST_EVENTS),
        ..EventsRequest::default()
    };
    let read = async {
        let mut stream = cluster.client.logs().events(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(answer) = stream.next().await {
            found.extend(answer?.events);
        }
        Ok::<_, tonic::Status>(found)
    };
    let found = match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(found)) => found,
        Ok(Err(status)) => {
            cluster.output.detail(&format!("the events are not shown: {}", status.message()));
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let time = |event: &skpr_proto::v1::Event| event.time.map_or(UnixNanos(0), UnixNanos::from);
    let events = found
        .iter()
        .map(|event| Event::new(&cluster.environment, time::rfc3339(time(event)), event))
        .collect();
    (events, found.iter().map(time).collect())
}

/// How the tasks are, where there are any. Who is not told that is told the rest.
async fn tasks(cluster: &Cluster<'_>, whole: &Whole) -> Option<Tasks> {
    let described = whole.settings.as_ref()?.get("cron")?.as_object()?;
    if described.is_empty() {
        return None;
    }
    match tokio::time::timeout(PATIENCE, tasks_of(cluster)).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(status)) => {
            cluster.output.detail(&format!("how the tasks went is not shown: {}", status.message()));
            None
        }
        Err(_) => None,
    }
}

fn people(whole: &Whole, tasks: &[Vec<Cell>], event_times: &[UnixNanos], output: &Output) -> String {
    let now = Timestamp::now();
    let environment = &whole.environment;
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("{name:<12}{value}\n"));
        }
    };
    let production = if environment.production { " (production)" } else { "" };
    line("environment", format!("{}{production}", environment.name()));
    line("namespace", environment.namespace.clone().unwrap_or_default());
    let stale = if environment.stale { " (stale: the platform has not been heard from)" } else { "" };
    line("health", format!("{}{stale}", environment.health.name().replace('-', " ")));
    line("trouble", environment.trouble.clone().unwrap_or_default());
    line("version", environment.versions.join(", "));
    line("image", whole.image.clone().unwrap_or_default());
    if let Some(release) = &environment.release {
        let began = release.age_and_author(now);
        line(
            "release",
            format!("{} ({}), {}, {began}", release.number, release.version, release.state_in_words()),
        );
        line("", release.reason.clone().unwrap_or_default());
    }
    line("instances", format!("{} ready", environment.count()));
    line("uses", usage::sentence(environment.usage.as_ref()));
    for (name, value) in settings_lines(whole.settings.as_ref()) {
        line(name, value);
    }
    if !environment.instance.is_empty() {
        let rows: Vec<Vec<Cell>> = environment.instance.iter().map(|instance| cells(instance, now)).collect();
        out.push_str(&format!("\n{}", output.fitting_table(&INSTANCE_COLUMNS, &rows)));
    }
    if !tasks.is_empty() {
        out.push_str(&format!("\n{}", output.fitting_table(&TASK_COLUMNS, tasks)));
    }
    if !whole.events.is_empty() {
        let rows: Vec<Vec<Cell>> = whole
            .events
            .iter()
            .zip(event_times)
            .map(|(event, then)| {
                let kind =
                    if event.warning { Cell::coloured(&*event.kind, "31") } else { Cell::new(&*event.kind) };
                vec![Cell::new(time::ago(*then, now)), kind, Cell::new(event.sentence())]
            })
            .collect();
        out.push_str(&format!("\n{}", output.table(&["WHEN", "EVENT", "WHAT HAPPENED"], &rows)));
    }
    out
}

fn cells(instance: &Instance, now: Timestamp) -> Vec<Cell> {
    let state = match instance {
        Instance { leaving: true, .. } => Cell::coloured("leaving", "2"),
        Instance { ready: true, .. } => Cell::coloured("ready", "32"),
        Instance { trouble: Some(_), .. } => Cell::coloured("trouble", "31"),
        _ => Cell::coloured("starting", "33"),
    };
    let age = instance.created_at.map(|created| time::ago(created, now).replace(" ago", ""));
    vec![
        Cell::new(&*instance.name),
        Cell::new(&*instance.version),
        state,
        usage::cpu_cell(instance.usage.as_ref()),
        usage::memory_cell(instance.usage.as_ref()),
        Cell::new(age.unwrap_or_default()),
        Cell::new(instance.restarts.to_string()),
        Cell::new(instance.out_of_memory_kills.to_string()),
        Cell::new(instance.exit_code.map(|code| code.to_string()).unwrap_or_default()),
        Cell::new(&*instance.node),
        Cell::new(instance.trouble.as_deref().unwrap_or_default()),
    ]
}

/// The settings that have a short form, in the order of .skpr.yml.
fn settings_lines(settings: Option<&Value>) -> Vec<(&'static str, String)> {
    let Some(Value::Object(settings)) = settings else { return Vec::new() };
    let get = |key: &str| settings.get(key).unwrap_or(&Value::Null);
    let names = |value: &Value| match value {
        Value::Object(map) => map.keys().map(|key| text(key)).collect::<Vec<_>>().join(", "),
        Value::Array(list) => list.iter().map(short).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    vec![
        ("cpu", short(get("cpu"))),
        ("memory", short(get("memory"))),
        ("port", short(get("port"))),
        ("health on", short(get("health"))),
        ("command", names(get("command")).replace(", ", " ")),
        ("variables", names(get("env"))),
        ("volumes", names(get("volumes"))),
        ("domains", names(get("domains"))),
    ]
}

/// `500m`, `min 256Mi, max 1Gi`.
fn short(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(string) => text(string),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{} {}", text(key), short(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => text(&other.to_string()),
    }
}

/// The tasks of the settings, with what is known of how they went.
fn task_rows(settings: Option<&Value>, known: Option<&Tasks>) -> Vec<Vec<Cell>> {
    let Some(Value::Object(described)) = settings.and_then(|settings| settings.get("cron")) else {
        return Vec::new();
    };
    let (now, local) = (known.map_or_else(Timestamp::now, |known| known.now), TimeZone::system());
    let described: BTreeMap<&String, &Value> = described.iter().collect();
    let field = |task: &Value, key: &str| task.get(key).map(short).unwrap_or_default();
    let row = |(name, task): (&String, &Value)| {
        let (name, schedule, zone) = (text(name), field(task, "schedule"), field(task, "timezone"));
        let zone = if zone.is_empty() { Zone::utc().to_string() } else { zone };
        let found = known.and_then(|known| known.tasks.iter().find(|task| task.name == name));
        let [next, last, state] = match found {
            Some(task) => [task.next_cell(now, &local), task.last_cell(now), task.state_cell(now, &local)],
            None => [Cell::new(by_schedule(&schedule, &zone, now)), Cell::new("?"), Cell::new("?")],
        };
        let words = Cell::new(in_words(&schedule));
        vec![Cell::new(name), words, Cell::new(zone), next, last, state, Cell::new(field(task, "command"))]
    };
    described.into_iter().map(row).collect()
}

/// When it is due next, were it not suspended.
fn by_schedule(schedule: &str, zone: &str, now: Timestamp) -> String {
    let (Ok(schedule), Ok(zone)) = (Schedule::parse(schedule), Zone::parse(zone)) else {
        return "?".to_owned();
    };
    let next = schedule.next_after(now, &zone);
    next.map_or_else(|| "-".to_owned(), |next| time::show(next, &TimeZone::system()))
}
