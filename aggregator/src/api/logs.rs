//! `Logs`: the records of one environment, from the past, the present, or one after the other.

use super::reading::{self, Asked, Opened, Told};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::event;
use crate::record::{Filter, Record};
use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use skpr_proto::error::usage;
use skpr_proto::v1::{LogRecord, LogsRequest, LogsResponse};
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;
use tonic::Request;

/// Patterns in one request, and the memory that each may compile to: together at most 16 MiB a call.
const PATTERNS: usize = 16;
const PATTERN_BYTES: usize = 1 << 20;
/// Names in one request.
const NAMES: usize = 1000;

pub(super) async fn open(
    shared: &Arc<Shared>,
    request: Request<LogsRequest>,
    access: &mut Access,
) -> Result<Opened, Failure> {
    let (metadata, _, mut request) = request.into_parts();
    let environment = request.environment.take();
    let asked = Asked {
        environment: environment.as_ref(),
        since: request.since.map(Into::into),
        until: request.until.map(Into::into),
        follow: request.follow,
        to_now: request.to_now,
        last: request.last,
        cursor: std::mem::take(&mut request.cursor),
    };
    reading::open(shared, &metadata, asked, || filter(request), access).await
}

fn filter(request: LogsRequest) -> Result<Filter, Failure> {
    if request.instances.len() + request.streams.len() > NAMES {
        return Err(usage(format!("more than {NAMES} instances and streams are named")));
    }
    if request.grep.len() + request.exclude.len() > PATTERNS {
        return Err(usage(format!("more than {PATTERNS} patterns are given")));
    }
    // Events are about the instances and not by them: only who names their streams sees them among the logs.
    let except_streams: &[&str] = if request.streams.is_empty() { &event::STREAMS } else { &[] };
    Ok(Filter {
        instances: request.instances,
        streams: request.streams,
        except_streams,
        grep: compile(&request.grep)?,
        exclude: compile(&request.exclude)?,
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

pub(super) fn response(told: Told) -> LogsResponse {
    match told {
        Told::First { cursor, oldest_kept, namespace } => {
            LogsResponse { cursor, oldest_kept, namespace: Some(namespace), ..LogsResponse::default() }
        }
        Told::Records(chunk) => LogsResponse {
            records: chunk.records.into_iter().map(record).collect(),
            cursor: chunk.cursor.encode(),
            live: chunk.live,
            skipped: chunk.skipped,
            ..LogsResponse::default()
        },
    }
}

pub(super) fn record(record: Record) -> LogRecord {
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
