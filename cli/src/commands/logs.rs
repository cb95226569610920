//! `skpr logs`: a range of an environment's records, and what is written from now on.
//!
//! Invariants: the cursor moves on only after the records before it were written to stdout, so a cut connection neither
//! loses nor repeats one; nothing that was received is held back while waiting for more.

mod backoff;
mod printer;

use crate::args::{Format, Logs};
use crate::client::{Access, Client, call_error, was_cut};
use crate::error::{Error, did_you_mean, usage};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal::clean;
use crate::time::{self, Range, Typed};
use backoff::Backoff;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use printer::Printer;
use skpr_proto::v1::{self, LogsRequest, LogsResponse};
use skpr_proto::{EnvironmentName, ErrorKind, Label, UnixNanos};
use std::time::{Duration, Instant};
use tonic::{Status, Streaming};

/// Without `-f` somebody waits for an end: they are told after this long without a connection.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(verb: Logs, settings: &Settings, output: &Output) -> Result<(), Error> {
    if output.format == Format::Name {
        return Err(usage("`-o name` means nothing for log lines")
            .with_hint("use -o json, -o csv or -o yaml")
            .into());
    }
    let zone = time::zone(verb.timezone.as_deref())?;
    let environment = settings.environment(&verb.environment)?;
    let namespace = settings.namespace(verb.namespace.as_deref())?;
    let typed = Typed {
        since: verb.since.as_deref(),
        until: verb.until.as_deref(),
        follow: verb.follow,
        last: verb.lines.is_some(),
    };
    let range = time::range(typed, Timestamp::now(), &zone)?;
    let access = settings.access()?;
    for note in &range.notes {
        output.note(note);
    }
    output.note(&time::describe(&range, verb.follow, verb.lines, &zone));
    let printer = Printer::new(&environment, output, &zone, verb.raw);
    let session = Session {
        request: request(&environment, namespace, &range, verb),
        range,
        zone,
        access,
        output,
        printer,
        pending: None,
        backoff: Backoff::new(),
        reached: false,
        answered: false,
        lost_since: None,
    };
    match session.run().await {
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
        since: range.since.map(|since| time::nanos(since).into()),
        until: range.until.map(|until| time::nanos(until).into()),
        follow: verb.follow,
        last: if from_now { Some(0) } else { verb.lines },
        instances: verb.instance,
        streams: verb.stream,
        grep: verb.grep,
        exclude: verb.exclude,
        cursor: Bytes::new(),
    }
}

/// One `skpr logs`, over as many connections as it takes.
struct Session<'a> {
    /// Its cursor is where the next connection goes on.
    request: LogsRequest,
    range: Range,
    zone: TimeZone,
    access: Access,
    output: &'a Output,
    printer: Printer,
    /// The cursor behind what is in the printer.
    pending: Option<Bytes>,
    backoff: Backoff,
    /// Whether a connection ever came about.
    reached: bool,
    /// Whether the aggregator ever sent records, or that there are none yet.
    answered: bool,
    lost_since: Option<Instant>,
}

/// How one connection ended, when it did not fail.
enum Ended {
    /// All was sent.
    Done,
    /// The server closed a stream that has no end.
    Closed,
}

impl Session<'_> {
    async fn run(mut self) -> Result<(), Error> {
        loop {
            let error = match self.connection().await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Closed) => None,
                Err(Cut::Final(error)) => return Err(error),
                Err(Cut::Lost(error)) => Some(error),
            };
            if let Some(error) = error {
                // An address that never answered is more likely wrong than away.
                let given_up = self.lost_since.is_some_and(|since| since.elapsed() > PATIENCE);
                if !self.reached || (given_up && !(self.request.follow && self.answered)) {
                    return Err(error);
                }
                self.output.detail(error.text().trim_end().replace('\n', "; ").as_str());
            }
            if self.lost_since.is_none() {
                self.lost_since = Some(Instant::now());
                self.output.note("connection lost, reconnecting…");
            }
            tokio::time::sleep(self.backoff.next()).await;
        }
    }

    /// From connecting to the end of the stream.
    async fn connection(&mut self) -> Result<Ended, Cut> {
        let client = Client::connect(&self.access).await.map_err(Cut::from)?;
        self.reached = true;
        let call = client.logs().logs(self.request.clone()).await;
        let mut stream = call.map_err(|status| self.cut(&status))?.into_inner();
        self.read(&mut stream).await
    }

    async fn read(&mut self, stream: &mut Streaming<LogsResponse>) -> Result<Ended, Cut> {
        let mut first = true;
        loop {
            let next = match stream.next().now_or_never() {
                Some(next) => next,
                // Nothing more is here at the moment: what is, must be seen before the wait.
                None => {
                    self.written()?;
                    stream.next().await
                }
            };
            match next {
                Some(Ok(response)) => {
                    if first {
                        self.connected(&response);
                        first = false;
                    }
                    self.take(response)?;
                }
                Some(Err(status)) => {
                    self.written()?;
                    return Err(self.cut(&status));
                }
                None => {
                    self.written()?;
                    return Ok(if self.request.follow { Ended::Closed } else { Ended::Done });
                }
            }
        }
    }

    fn connected(&mut self, response: &LogsResponse) {
        if self.lost_since.take().is_some() {
            self.output.note("connected again");
        }
        self.backoff.reset();
        // The cursor belongs to this environment, also when by then another of its name is the one that runs.
        if let (Some(namespace), Some(environment)) = (&response.namespace, &mut self.request.environment) {
            environment.namespace = Some(namespace.clone());
        }
        let oldest = response.oldest_kept.map(UnixNanos::from);
        if let (false, Some(oldest), Some(since)) = (self.answered, oldest, self.range.since)
            && oldest > time::nanos(since)
        {
            let oldest = Timestamp::from_nanosecond(i128::from(oldest.0)).unwrap_or_default();
            self.output.note(&format!("nothing before {} is kept", time::show(oldest, &self.zone)));
        }
        self.answered = true;
    }

    fn take(&mut self, response: LogsResponse) -> Result<(), Cut> {
        if response.skipped > 0 {
            self.written()?;
            self.output.warn(&format!("{} records expired before they could be sent", response.skipped));
        }
        for record in &response.records {
            self.printer.push(record);
        }
        if !response.cursor.is_empty() {
            self.pending = Some(response.cursor);
        }
        if self.printer.is_full() { self.written() } else { Ok(()) }
    }

    /// Writes what is buffered; then, and only then, moves the cursor.
    fn written(&mut self) -> Result<(), Cut> {
        self.printer.flush(self.output).map_err(Cut::Final)?;
        if let Some(cursor) = self.pending.take() {
            self.request.cursor = cursor;
        }
        Ok(())
    }

    fn cut(&self, status: &Status) -> Cut {
        let error = call_error(status, &self.access.endpoint);
        let kind = ErrorKind::from_code(status.code());
        // What an aggregator says before its first answer, the user is told at once.
        let away = self.answered && matches!(kind, ErrorKind::Unavailable | ErrorKind::TimedOut);
        if was_cut(status) || away { Cut::Lost(error) } else { Cut::Final(error) }
    }
}

/// Why a connection ended early.
enum Cut {
    /// A new connection may go on.
    Lost(Error),
    Final(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        match &error {
            Error::Failed { failure, .. } if failure.kind.retryable() => Cut::Lost(error),
            _ => Cut::Final(error),
        }
    }
}

/// A name that the aggregator does not know, or does not let the caller know, was perhaps mistyped.
async fn suggest(error: Error, environment: &EnvironmentName, settings: &Settings) -> Error {
    let Error::Failed { mut failure, causes } = error else { return error };
    if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::NotAllowed) {
        let names = match settings.access() {
            Ok(access) => match Client::connect(&access).await {
                Ok(client) => super::list::names(&client, &access, settings).await,
                Err(_) => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        let full = environment.to_string();
        let near = did_you_mean(&full, names.iter().map(String::as_str).filter(|name| **name != full));
        match near {
            Some(name) => {
                failure.hint =
                    Some(format!("did you mean `{}`? `skpr list --all` shows what you may see", clean(name)))
            }
            None if failure.hint.is_none() => failure.hint = Some("skpr list --all".to_owned()),
            None => {}
        }
    }
    Error::Failed { failure, causes }
}
