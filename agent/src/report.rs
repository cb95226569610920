//! What the claimed pods use, and the agent's own counters, sent to the aggregator, since an agent listens on nothing that
//! could be scraped.
//!
//! A round of samples goes out as it comes, with the counters; without one, the counters go alone. Nothing waits in line:
//! while the aggregator does not take a report, a later round takes the place of an earlier one.

use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use crate::tail::Counters;
use crate::usage::Round;
use futures::Stream;
use skpr_proto::v1;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How often the counters are sent at least; the first time at once.
const INTERVAL: Duration = Duration::from_secs(10);

/// Reports until the call fails. `reconnects` does not change during a connection.
pub(crate) async fn run(
    connection: &Connection,
    counters: watch::Receiver<Counters>,
    rounds: watch::Receiver<Round>,
    reconnects: u64,
) -> LinkError {
    let reports = reports(counters, rounds, reconnects);
    match connection.client().report(connection.request(reports)).await {
        Ok(_) => LinkError::Ended { call: "Report" },
        Err(status) => LinkError::call("Report")(status),
    }
}

fn reports(
    counters: watch::Receiver<Counters>,
    mut rounds: watch::Receiver<Round>,
    reconnects: u64,
) -> impl Stream<Item = v1::AgentReport> {
    // A round is told once: another connection may have had the one that is there.
    rounds.mark_unchanged();
    futures::stream::unfold((counters, rounds, true), move |(counters, mut rounds, first)| async move {
        let sampled = !first && matches!(timeout(INTERVAL, next(&mut rounds)).await, Ok(()));
        let round = rounds.borrow_and_update().clone();
        let usage = round.usage.filter(|_| sampled).map(|usage| v1::Usage::clone(&usage));
        let report = v1::AgentReport {
            usage,
            unreadable_cgroups: round.unreadable_cgroups,
            ..report(&counters.borrow(), reconnects)
        };
        Some((report, (counters, rounds, false)))
    })
}

/// Waits for the next round, for ever when there is none any more.
async fn next(rounds: &mut watch::Receiver<Round>) {
    if rounds.changed().await.is_err() {
        std::future::pending::<()>().await;
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
        usage: None,
        unreadable_cgroups: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use std::pin::pin;
    use std::sync::Arc;
    use tokio::time::Instant;

    fn round(monotonic_nanos: u64) -> Round {
        let usage = v1::Usage { monotonic_nanos, ..v1::Usage::default() };
        Round { usage: Some(Arc::new(usage)), unreadable_cgroups: 3 }
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_is_reported_once_and_the_counters_at_least_every_ten_seconds() {
        let (_counted, counters) = watch::channel(Counters { read_bytes: 7, ..Counters::default() });
        let (sampled, rounds) = watch::channel(round(1));
        let mut reports = pin!(reports(counters, rounds, 2));
        let begun = Instant::now();
        let first = reports.next().await.unwrap();
        assert_eq!((first.read_bytes, first.reconnects, first.unreadable_cgroups), (7, 2, 3));
        assert_eq!(first.usage, None);
        for time in [2, 3] {
            sampled.send_replace(round(time));
            assert_eq!(reports.next().await.unwrap().usage.unwrap().monotonic_nanos, time);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sampled.send_replace(round(4));
        sampled.send_replace(round(5));
        assert_eq!(reports.next().await.unwrap().usage.unwrap().monotonic_nanos, 5);
        assert_eq!(reports.next().await.unwrap().usage, None);
        assert_eq!(begun.elapsed(), INTERVAL);
        drop(sampled);
        assert_eq!(reports.next().await.unwrap().usage, None);
        assert_eq!(begun.elapsed(), INTERVAL * 2);
    }
}
