//! What the agents said of themselves last.

use crate::web::text::{Labels, Table, Value, counter, gauge};
use skpr_proto::NodeName;
use skpr_proto::v1::AgentReport;
use std::collections::BTreeMap;
use std::time::SystemTime;
use tokio::time::Instant;

/// A report, and when it came in milliseconds since the Unix epoch.
pub(super) struct Told {
    at: u64,
    report: AgentReport,
}

pub(super) const TABLE: Table<Told> = Table {
    labels: &["node"],
    columns: &[
        gauge(
            "skpr_agent_last_report_timestamp_seconds",
            "When the agent reported last, as Unix time",
            |told| Some(Value::Thousandths(told.at)),
        ),
        counter("skpr_agent_read_bytes", "Bytes read from log files", |told| count(told.report.read_bytes)),
        counter("skpr_agent_shipped_records", "Records acknowledged", |told| {
            count(told.report.shipped_records)
        }),
        counter("skpr_agent_lost_bytes", "Bytes known to be lost", |told| count(told.report.lost_bytes)),
        counter("skpr_agent_gaps", "Gap records written for known losses", |told| count(told.report.gaps)),
        counter("skpr_agent_malformed_lines", "Lines not in the container runtime's format", |told| {
            count(told.report.malformed_lines)
        }),
        counter("skpr_agent_truncated_records", "Records longer than is kept", |told| {
            count(told.report.truncated_records)
        }),
        counter("skpr_agent_refused_records", "Records refused for good", |told| {
            count(told.report.refused_records)
        }),
        counter("skpr_agent_missed_files", "Log files gone before they could be opened", |told| {
            count(told.report.missed_files)
        }),
        counter("skpr_agent_released_files", "Log files of unclaimed pods let go unread", |told| {
            count(told.report.released_files)
        }),
        counter("skpr_agent_unreadable_cgroups", "Cgroups that could not be sampled", |told| {
            count(told.report.unreadable_cgroups)
        }),
        counter("skpr_agent_reconnects", "Connections made again", |told| count(told.report.reconnects)),
        gauge("skpr_agent_followed_files", "Log files followed", |told| count(told.report.followed_files)),
        gauge("skpr_agent_held_files", "Log files held open unread, because not claimed yet", |told| {
            count(told.report.held_files)
        }),
        gauge("skpr_agent_backlog_bytes", "Bytes on disk that are not acknowledged yet", |told| {
            count(told.report.backlog_bytes)
        }),
    ],
};

#[expect(clippy::unnecessary_wraps, reason = "columns are read this way")]
fn count(count: u64) -> Option<Value> {
    Some(Value::Count(count))
}

pub(super) fn rows(reports: BTreeMap<NodeName, (Instant, AgentReport)>) -> Vec<(Labels, Told)> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let row = |(node, (at, report)): (NodeName, (Instant, AgentReport))| {
        let at = since_epoch.saturating_sub(at.elapsed()).as_millis();
        let told = Told { at: u64::try_from(at).unwrap_or_default(), report };
        (Labels::of(&[("node", node.as_str())]), told)
    };
    reports.into_iter().map(row).collect()
}
