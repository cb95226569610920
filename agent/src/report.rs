//! The agent's own counters, sent to the aggregator, since an agent listens on nothing that could be scraped.

use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use crate::tail::Counters;
use futures::StreamExt as _;
use skpr_proto::v1;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::IntervalStream;

/// How often the counters are sent; the first time at once.
const INTERVAL: Duration = Duration::from_secs(10);

/// Reports until the call fails. `reconnects` does not change during a connection.
pub(crate) async fn run(
    connection: &Connection,
    counters: watch::Receiver<Counters>,
    reconnects: u64,
) -> LinkError {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reports = IntervalStream::new(ticks).map(move |_| report(&counters.borrow(), reconnects));
    match connection.client().report(connection.request(reports)).await {
        Ok(_) => LinkError::Ended { call: "Report" },
        Err(status) => LinkError::call("Report")(status),
    }
}

fn report(counters: &Counters, reconnects: u64) -> v1::AgentReport {
    v1::AgentReport {
        read_bytes: counters.read_bytes,
        shipped_records: counters.shipped_records,
        lost_bytes: counters.lost_bytes,
        gaps: counters.gaps,
        malformed_lines: counters.malformed_lines,
        truncated_records: counters.truncated_records,
        followed_files: counters.followed_files,
        held_files: counters.held_files,
        backlog_bytes: counters.backlog_bytes,
        reconnects,
        refused_records: counters.refused_records,
        missed_files: counters.missed_files,
        released_files: counters.released_files,
    }
}
