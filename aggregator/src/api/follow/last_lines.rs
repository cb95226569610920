//! What the instance that made a release fail said last.

use crate::api::logs::record;
use crate::auth::{Grant, ReadLogs};
use crate::event;
use crate::record::{Filter, Read, Record};
use crate::store::Store;
use skpr_proto::UnixNanos;
use skpr_proto::v1::{FollowResponse, LogRecord};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So many lines show what happened, each of them up to this.
const LINES: usize = 20;
const LINE_BYTES: usize = 4 << 10;
/// A line is here within 200 ms of its writing; an instance that died may also have said nothing.
const ARRIVE_WITHIN: Duration = Duration::from_secs(2);
/// A node's clock, by which lines have their times, may be behind: nanoseconds. The instance is of this release all the
/// same.
const CLOCKS_DIFFER: i64 = 60_000_000_000;
/// The last lines of a process come together: once there is one, the others are not far.
const SETTLE: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Fetched once for a stream.
#[derive(Debug, Default)]
pub(super) struct LastLines(Option<Vec<LogRecord>>);

impl LastLines {
    pub(super) fn are_known(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn lines(&self) -> &Vec<LogRecord> {
        const NONE: &Vec<LogRecord> = &Vec::new();
        self.0.as_ref().unwrap_or(NONE)
    }

    /// Takes them from the store. Without the right to read them, and where no instance is to blame, there are none.
    pub(super) async fn fetch(
        &mut self,
        store: &Store,
        grant: Option<&Grant<ReadLogs>>,
        response: &FollowResponse,
    ) {
        let release = response.release.as_ref();
        let instance = release.and_then(|release| release.instance.clone());
        let (Some(grant), Some(release), Some(instance)) = (grant, release, instance) else {
            self.0 = Some(Vec::new());
            return;
        };
        let read = Read {
            environment: grant.environment().clone(),
            since: release
                .began
                .map(|began| UnixNanos(UnixNanos::from(began).0.saturating_sub(CLOCKS_DIFFER))),
            until: None,
            follow: false,
            to_now: false,
            last: Some(LINES),
            filter: Filter {
                instances: vec![instance],
                except_streams: &event::STREAMS,
                ..Filter::default()
            },
            cursor: None,
        };
        // What has never run has said nothing, and nothing is on its way.
        let died = release.exit_code.is_some();
        let began = Instant::now();
        let mut lines = newest(store, &read).await;
        while died && began.elapsed() < if lines.is_empty() { ARRIVE_WITHIN } else { SETTLE } {
            sleep(LOOK_EVERY).await;
            lines = newest(store, &read).await;
        }
        self.0 = Some(lines.into_iter().map(shortened).collect());
    }
}

async fn newest(store: &Store, read: &Read) -> Vec<Record> {
    let mut reader = store.read(read.clone());
    let mut records = Vec::new();
    while let Some(Ok(chunk)) = reader.next().await {
        records.extend(chunk.records);
    }
    records
}

fn shortened(mut line: Record) -> LogRecord {
    line.message.truncate(LINE_BYTES);
    record(line)
}
