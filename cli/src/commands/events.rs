//! `skpr events`: what happened to an environment, and what happens from now on.

use super::call::suggest;
use super::reading::{Frame, Reading, Source};
use super::release::text;
use crate::args::{Events, Format};
use crate::client::Client;
use crate::error::{Error, usage};
use crate::link::Link;
use crate::output::{Output, csv_line, escape_json};
use crate::settings::Settings;
use crate::time::{self, Range, Stamp, Typed};
use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use skpr_proto::v1::{self, EventsRequest, EventsResponse};
use skpr_proto::{EnvironmentName, Label, UnixNanos};
use tonic::{Status, Streaming};

/// Without `--since`, this much is shown.
const WINDOW: SignedDuration = SignedDuration::from_hours(24);
/// Enough for one write to cost little.
const FULL: usize = 64 << 10;

pub(super) async fn run(verb: &Events, settings: &Settings, output: &Output) -> Result<(), Error> {
    if output.format == Format::Name {
        return Err(usage("`-o name` means nothing for events")
            .with_hint("use -o json, -o csv or -o yaml")
            .into());
    }
    let zone = time::zone(verb.timezone.as_deref())?;
    let environment = settings.environment(&verb.target.environment)?;
    let namespace = settings.namespace(verb.target.namespace.as_deref())?;
    let typed = Typed {
        since: verb.since.as_deref(),
        until: verb.until.as_deref(),
        follow: verb.follow,
        last: verb.lines.is_some(),
        window: WINDOW,
    };
    let range = time::range(typed, Timestamp::now(), &zone)?;
    let access = settings.access()?;
    for note in &range.notes {
        output.note(note);
    }
    output.note(&time::describe(&range, verb.follow, verb.lines, &zone));
    let mut reading = Reading {
        follow: verb.follow,
        since: range.since,
        output,
        link: Link::new(&access, output, verb.follow),
        pending: None,
        heard: 0,
        source: Told {
            request: request(&environment, namespace, &range, verb),
            printer: Printer::new(&environment, output, &zone),
        },
        zone,
    };
    match reading.run().await {
        Err(error) => Err(suggest(error, &environment, settings).await),
        done => done,
    }
}

fn request(
    environment: &EnvironmentName,
    namespace: Option<Label>,
    range: &Range,
    verb: &Events,
) -> EventsRequest {
    // The server's "now" is the one that counts when following from now: no history, then all that arrives.
    let from_now = verb.follow && range.since.is_none() && verb.lines.is_none();
    EventsRequest {
        environment: Some(v1::Environment { namespace: namespace.map(String::from), ..environment.into() }),
        since: range.since.map(|since| UnixNanos::from(since).into()),
        until: range.until.map(|until| UnixNanos::from(until).into()),
        follow: verb.follow,
        last: if from_now { Some(0) } else { verb.lines },
        cursor: Bytes::new(),
    }
}

struct Told {
    /// Its cursor is where the next connection goes on.
    request: EventsRequest,
    printer: Printer,
}

impl Source for Told {
    type Answer = EventsResponse;

    async fn call(&self, client: &Client) -> Result<Streaming<EventsResponse>, Status> {
        Ok(client.logs().events(self.request.clone()).await?.into_inner())
    }

    fn frame(answer: &mut EventsResponse) -> Frame {
        Frame {
            cursor: std::mem::take(&mut answer.cursor),
            skipped: answer.skipped,
            oldest_kept: answer.oldest_kept,
            namespace: answer.namespace.take(),
            empty: answer.events.is_empty(),
        }
    }

    fn push(&mut self, answer: EventsResponse) {
        for event in &answer.events {
            self.printer.push(event);
        }
    }

    fn is_full(&self) -> bool {
        self.printer.out.len() >= FULL
    }

    fn flush(&mut self, output: &Output) -> Result<(), Error> {
        if !self.printer.out.is_empty() {
            output.write(&self.printer.out)?;
            self.printer.out.clear();
        }
        Ok(())
    }

    fn resume(&mut self, cursor: Bytes) {
        self.request.cursor = cursor;
    }

    fn belongs_to(&mut self, namespace: String) {
        if let Some(environment) = &mut self.request.environment {
            environment.namespace = Some(namespace);
        }
    }
}

/// Events as lines of each format.
struct Printer {
    format: Format,
    colour: bool,
    stamp: Stamp,
    environment: EnvironmentName,
    out: Vec<u8>,
}

/// In JSON and YAML.
#[derive(Serialize)]
pub(super) struct Event {
    pub time: String,
    pub project: String,
    pub environment: String,
    pub kind: String,
    pub text: String,
    pub instance: Option<String>,
    pub release: Option<u64>,
    pub by: Option<String>,
    pub warning: bool,
    pub sequence: u64,
}

impl Event {
    pub(super) fn new(environment: &EnvironmentName, time: String, event: &v1::Event) -> Self {
        Event {
            time,
            project: environment.project.to_string(),
            environment: environment.environment.to_string(),
            kind: text(&event.kind),
            text: text(&event.text),
            instance: event.instance.as_deref().map(text),
            release: event.release,
            by: event.by.as_deref().map(text),
            warning: event.warning,
            sequence: event.sequence,
        }
    }

    /// The sentence, and by whom.
    pub(super) fn sentence(&self) -> String {
        match &self.by {
            Some(by) => format!("{} (by {by})", self.text),
            None => self.text.clone(),
        }
    }
}

/// As wide as the longest kind.
const KIND_WIDTH: usize = "out-of-memory".len();

impl Printer {
    fn new(environment: &EnvironmentName, output: &Output, zone: &TimeZone) -> Self {
        // Programs get one zone, people theirs.
        let zone = if output.format == Format::Table { zone.clone() } else { TimeZone::UTC };
        let header: &[u8] = b"time,project,environment,kind,text,instance,release,by,warning,sequence\n";
        Printer {
            format: output.format,
            colour: output.colour,
            stamp: Stamp::new(zone),
            environment: environment.clone(),
            out: if output.format == Format::Csv { header.to_vec() } else { Vec::new() },
        }
    }

    fn push(&mut self, event: &v1::Event) {
        let time = event.time.map_or(UnixNanos(0), UnixNanos::from);
        let digits = if self.format == Format::Table { 3 } else { 9 };
        let mut stamp = Vec::new();
        self.stamp.push(&mut stamp, time, digits);
        let stamp = String::from_utf8_lossy(&stamp).into_owned();
        let event = Event::new(&self.environment, stamp, event);
        let line = match self.format {
            Format::Table | Format::Name => self.line(&event),
            Format::Json => object(&event) + "\n",
            // JSON is YAML, and a list can be continued for as long as there are events.
            Format::Yaml => format!("- {}\n", object(&event)),
            Format::Csv => csv(&event),
        };
        self.out.extend_from_slice(line.as_bytes());
    }

    fn line(&self, event: &Event) -> String {
        let Event { time, kind, .. } = event;
        let sentence = event.sentence();
        if !self.colour {
            let mark = if event.warning { '!' } else { '|' };
            return format!("{time} {kind:KIND_WIDTH$} {mark} {sentence}\n");
        }
        let (mark, colour) = if event.warning { ('!', "31") } else { ('|', "2") };
        format!("\x1b[2m{time}\x1b[0m {kind:KIND_WIDTH$} \x1b[{colour}m{mark}\x1b[0m {sentence}\n")
    }
}

fn object(event: &Event) -> String {
    // It holds text and numbers only, which always become JSON.
    escape_json(serde_json::to_string(event).unwrap_or_default())
}

fn csv(event: &Event) -> String {
    let fields = [
        event.time.as_str(),
        &event.project,
        &event.environment,
        &event.kind,
        &event.text,
        event.instance.as_deref().unwrap_or_default(),
        &event.release.map(|release| release.to_string()).unwrap_or_default(),
        event.by.as_deref().unwrap_or_default(),
        if event.warning { "true" } else { "false" },
        &event.sequence.to_string(),
    ];
    csv_line(fields.into_iter())
}
