//! `Logs`: the records of one environment, from the past, the present, or one after the other.
//!
//! The read is made from a [`Grant`]; there is no other way to one. While it follows, the right is asked for again.

use super::seats::Seat;
use crate::agents::stopping;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Candidates, Grant};
use crate::environment::EnvironmentKey;
use crate::record::{Chunk, Cursor, Filter, Read, Record};
use crate::store::Reader;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use regex::bytes::{Regex, RegexBuilder};
use skpr_proto::v1::{Instant, LogRecord, LogsRequest, LogsResponse};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Status};

/// How often a follower's right is asked for again.
const RECHECK: Duration = Duration::from_secs(60);
/// Patterns in one request, and the memory that each may compile to: together at most 16 MiB a call.
const PATTERNS: usize = 16;
const PATTERN_BYTES: usize = 1 << 20;
/// Names in one request.
const NAMES: usize = 1000;

/// A call whose caller may have what it asks for.
pub(super) struct Opened {
    shared: Arc<Shared>,
    grant: Grant,
    reader: Reader,
    follow: bool,
    first: LogsResponse,
    /// Given back when the stream ends.
    _seat: Seat,
}

pub(super) async fn open(
    shared: &Arc<Shared>,
    request: Request<LogsRequest>,
    access: &mut Access,
) -> Result<Opened, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let request = request.into_inner();
    let usage = |message: String| Failure::new(ErrorKind::Usage, message);
    let environment = request.environment.as_ref().ok_or_else(|| usage("no environment is named".into()))?;
    let name = EnvironmentName::try_from(environment).map_err(|invalid| usage(invalid.to_string()))?;
    let namespace = match &environment.namespace {
        Some(named) => Some(Label::parse("namespace", named).map_err(|invalid| usage(invalid.to_string()))?),
        None => None,
    };
    access.asked(name.to_string());
    let candidates = candidates(shared, &name, namespace.as_ref());
    let grant = shared.auth.grant_logs(&user, &name, &candidates).await?;
    access.allowed(Some(grant.environment()));
    let seat = shared.seats.take(&user.name)?;
    let (follow, asked) = (request.follow, request.cursor.clone());
    let mut read = plan(&grant, request)?;
    if read.follow && read.last == Some(0) && read.cursor.is_none() {
        // From now on: a client that comes back gets what it missed since now.
        read.cursor = Some(Cursor::Live { after: shared.store.head(grant.environment()) });
    }
    let first = LogsResponse {
        // Nothing has been sent yet: a client that comes back asks for the same.
        cursor: read.cursor.map_or(asked, |cursor| cursor.encode()),
        oldest_kept: shared.store.oldest(grant.environment()).map(Instant::from),
        namespace: Some(grant.environment().namespace.to_string()),
        ..LogsResponse::default()
    };
    let reader = shared.store.read(read);
    Ok(Opened { shared: Arc::clone(shared), grant, reader, follow, first, _seat: seat })
}

/// The environments of that name, in that namespace if one is asked for, that run now or that have records.
fn candidates(shared: &Shared, name: &EnvironmentName, namespace: Option<&Label>) -> Candidates {
    let inventory = Arc::clone(&shared.inventory.borrow());
    let known = inventory.environments.keys().cloned().chain(shared.store.environments());
    let wanted = |key: &EnvironmentKey| {
        key.name == *name && namespace.is_none_or(|namespace| *namespace == key.namespace)
    };
    let runs = |key: &EnvironmentKey| {
        inventory.environments.get(key).is_some_and(|state| !state.instances.is_empty())
    };
    known.filter(wanted).map(|key| (key.clone(), runs(&key))).collect()
}

/// What to read, from what was asked.
fn plan(grant: &Grant, request: LogsRequest) -> Result<Read, Failure> {
    let usage = |message: String| Failure::new(ErrorKind::Usage, message);
    let (since, until) = (request.since.map(Into::into), request.until.map(Into::into));
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(usage("the range ends before it begins".into()));
    }
    if request.instances.len() + request.streams.len() > NAMES {
        return Err(usage(format!("more than {NAMES} instances and streams are named")));
    }
    if request.grep.len() + request.exclude.len() > PATTERNS {
        return Err(usage(format!("more than {PATTERNS} patterns are given")));
    }
    let cursor = match &request.cursor {
        cursor if cursor.is_empty() => None,
        cursor => Some(Cursor::decode(cursor).map_err(|invalid| usage(invalid.to_string()))?),
    };
    let last = request.last.map(|last| usize::try_from(last).unwrap_or(usize::MAX));
    Ok(Read {
        environment: grant.environment().clone(),
        since,
        until,
        follow: request.follow,
        last,
        filter: Filter {
            instances: request.instances,
            streams: request.streams,
            grep: compile(&request.grep)?,
            exclude: compile(&request.exclude)?,
        },
        cursor,
    })
}

fn compile(patterns: &[String]) -> Result<Vec<Regex>, Failure> {
    let one = |pattern: &String| {
        let limited =
            RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        limited.map_err(|error| {
            // The library's message shows the pattern over several lines; its last line is the reason.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let shown: String = pattern.chars().take(200).flat_map(char::escape_debug).collect();
            Failure::new(ErrorKind::Usage, format!("`{shown}` is not a usable regular expression: {reason}"))
        })
    };
    patterns.iter().map(one).collect()
}

struct Sending {
    opened: Opened,
    access: Access,
    forbidden: BoxFuture<'static, Failure>,
    first: Option<LogsResponse>,
}

pub(super) fn stream(mut opened: Opened, access: Access) -> BoxStream<'static, Result<LogsResponse, Status>> {
    let forbidden = forbidden(Arc::clone(&opened.shared), opened.grant.clone());
    let first = Some(std::mem::take(&mut opened.first));
    let sending = Sending { opened, access, forbidden, first };
    stream::unfold(Some(sending), async |sending| {
        let mut sending = sending?;
        match sending.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(sending))),
            Ok(None) => {
                sending.access.completed();
                None
            }
            Err(failure) => Some((Err(sending.access.failed(failure)), None)),
        }
    })
    .boxed()
}

/// Resolves when the right is gone. A source of rights that cannot be asked now does not take it away.
fn forbidden(shared: Arc<Shared>, grant: Grant) -> BoxFuture<'static, Failure> {
    Box::pin(async move {
        loop {
            tokio::time::sleep(RECHECK).await;
            match shared.auth.recheck_grant(&grant).await {
                Err(failure) if failure.kind == ErrorKind::NotAllowed => return failure,
                Ok(()) | Err(_) => {}
            }
        }
    })
}

impl Sending {
    async fn next(&mut self) -> Result<Option<LogsResponse>, Failure> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Opened { shared, reader, follow, .. } = &mut self.opened;
        let chunk = tokio::select! {
            biased;
            () = shared.stopping.ending.cancelled() => return Err(Failure::from(&stopping())),
            failure = &mut self.forbidden => return Err(failure),
            chunk = reader.next() => chunk,
        };
        match chunk {
            Some(Ok(chunk)) => {
                let bytes = chunk.records.iter().map(|record| record.message.len()).sum();
                self.access.sent(chunk.records.len(), bytes);
                Ok(Some(response(chunk)))
            }
            Some(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "read of logs failed");
                Err(Failure::new(ErrorKind::Failed, "the store could not be read; its log says why"))
            }
            // A follower has no end of its own: the store is closing.
            None if *follow => Err(Failure::from(&stopping())),
            None => Ok(None),
        }
    }
}

fn response(chunk: Chunk) -> LogsResponse {
    LogsResponse {
        records: chunk.records.into_iter().map(record).collect(),
        cursor: chunk.cursor.encode(),
        live: chunk.live,
        skipped: chunk.skipped,
        oldest_kept: None,
        namespace: None,
    }
}

fn record(record: Record) -> LogRecord {
    LogRecord {
        time: Some(record.time.into()),
        instance: record.instance.to_string(),
        stream: record.stream.to_string(),
        sequence: record.sequence,
        message: Bytes::clone(&record.message),
        kind: record.kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_pattern_is_named_with_its_reason() {
        for (pattern, part) in [("(", "unclosed"), ("a{1000}{1000}", "size"), ("\u{1b}[", "\\u{1b}")] {
            let failure = compile(&[pattern.to_owned()]).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage);
            assert!(failure.message.contains(part), "{failure}");
            assert!(!failure.message.contains(['\n', '\u{1b}']), "{failure}");
        }
        assert_eq!(compile(&["GET /.* 50\\d".to_owned()]).unwrap().len(), 1);
    }
}
