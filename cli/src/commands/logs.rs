//! `skpr logs`: a range of an environment's records, and what is written from now on.

mod printer;

use super::call::suggest;
use super::reading::{Frame, Reading, Source};
use crate::args::{Format, Logs};
use crate::client::Client;
use crate::error::{Error, usage};
use crate::link::Link;
use crate::output::Output;
use crate::settings::Settings;
use crate::time::{self, Range, Typed};
use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use printer::Printer;
use skpr_proto::v1::{self, LogsRequest, LogsResponse};
use skpr_proto::{EnvironmentName, Label, UnixNanos};
use tonic::{Status, Streaming};

/// Without `--since`, this much is shown.
const WINDOW: SignedDuration = SignedDuration::from_mins(15);

pub(super) async fn run(verb: Logs, settings: &Settings, output: &Output) -> Result<(), Error> {
    if output.format == Format::Name {
        return Err(usage("`-o name` means nothing for log lines")
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
        source: Records {
            printer: Printer::new(&environment, output, &zone, verb.raw),
            request: request(&environment, namespace, &range, verb),
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
    verb: Logs,
) -> LogsRequest {
    // The server's "now" is the one that counts when following from now: no history, then all that arrives.
    let from_now = verb.follow && range.since.is_none() && verb.lines.is_none();
    LogsRequest {
        environment: Some(v1::Environment { namespace: namespace.map(String::from), ..environment.into() }),
        since: range.since.map(|since| UnixNanos::from(since).into()),
        until: range.until.map(|until| UnixNanos::from(until).into()),
        follow: verb.follow,
        last: if from_now { Some(0) } else { verb.lines },
        instances: verb.instance,
        streams: verb.stream,
        grep: verb.grep,
        exclude: verb.exclude,
        cursor: Bytes::new(),
        to_now: false,
    }
}

pub(super) struct Records {
    /// Its cursor is where the next connection goes on.
    request: LogsRequest,
    printer: Printer,
}

impl Records {
    /// Of one instance, which is not named in every line.
    pub(super) fn of_instance(
        request: LogsRequest,
        environment: &EnvironmentName,
        output: &Output,
        zone: &TimeZone,
        raw: bool,
    ) -> Records {
        Records { request, printer: Printer::new(environment, output, zone, raw).without_names() }
    }
}

impl Reading<'_, Records> {
    /// Goes on, where it followed, to what is stored by now.
    pub(super) async fn rest(&mut self) -> Result<(), Error> {
        self.follow = false;
        self.source.request.follow = false;
        self.source.request.to_now = true;
        self.run().await
    }
}

impl Source for Records {
    type Answer = LogsResponse;

    async fn call(&self, client: &Client) -> Result<Streaming<LogsResponse>, Status> {
        Ok(client.logs().logs(self.request.clone()).await?.into_inner())
    }

    fn frame(answer: &mut LogsResponse) -> Frame {
        Frame {
            cursor: std::mem::take(&mut answer.cursor),
            skipped: answer.skipped,
            oldest_kept: answer.oldest_kept,
            namespace: answer.namespace.take(),
            empty: answer.records.is_empty(),
        }
    }

    fn push(&mut self, answer: LogsResponse) {
        for record in &answer.records {
            self.printer.push(record);
        }
    }

    fn is_full(&self) -> bool {
        self.printer.is_full()
    }

    fn flush(&mut self, output: &Output) -> Result<(), Error> {
        self.printer.flush(output)
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
