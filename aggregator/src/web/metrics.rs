//! What `/metrics` says. Counted where it happens, put together at each scrape.
//!
//! The number of series is bounded: labels are gRPC methods and codes, a few outcomes, the environments and tasks that the
//! inventory has, and nodes whose agents reported within [`REPORT_KEEP`], at most [`NODES`] of them.

mod agents;
mod environments;
mod nodes;
mod own;
mod process;
mod sessions;
mod tasks;

pub(crate) use sessions::Sessions;

use super::counted::{Counted, count};
use super::text::{Described, Format, Labels, Table, Text, counter};
use crate::aggregator::Shared;
use crate::auth::Monitor;
use crate::event;
use crate::store::Appended;
use skpr_proto::NodeName;
use skpr_proto::v1::AgentReport;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// How long the last report of an agent is shown; a node that is gone leaves no series behind.
const REPORT_KEEP: Duration = Duration::from_secs(5 * 60);
const NODES: usize = 5_000;

const CALLS: Table<u64> = Table {
    labels: &["method", "code"],
    columns: &[counter("skpr_grpc_server_handled", "Calls that have ended, by code", count)],
};
const EVENTS: Table<u64> = Table {
    labels: &["outcome"],
    columns: &[counter("skpr_events", "Events of environments, by what became of them", count)],
};
const DEPLOYS: Table<u64> = Table {
    labels: &["result"],
    columns: &[counter("skpr_deploys", "Releases that have ended, by result", count)],
};
const BATCHES: Table<u64> = Table {
    labels: &["outcome"],
    columns: &[counter("skpr_ingest_batches", "Batches from agents, by outcome", count)],
};
const SAMPLES: Table<u64> = Table {
    labels: &["outcome"],
    columns: &[counter("skpr_usage_samples", "Samples of instances, by what became of them", count)],
};

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) ingest: Ingest,
    pub(crate) events: event::Counts,
    pub(crate) sessions: Sessions,
    calls: Counted<2>,
    reports: Mutex<BTreeMap<NodeName, (Instant, AgentReport)>>,
    /// Of the last scrape, in bytes: the next is about as long, and need not grow to that.
    length: AtomicUsize,
}

/// Counts batches by what became of them.
pub(crate) struct Ingest {
    batches: Counted<1>,
    bytes: AtomicU64,
}

impl Default for Ingest {
    fn default() -> Ingest {
        let outcomes = [["stored"], ["duplicate"], ["refused"], ["failed"], ["malformed"]];
        Ingest { batches: Counted::of(&outcomes), bytes: AtomicU64::new(0) }
    }
}

impl Ingest {
    pub(crate) fn stored(&self, appended: Appended, bytes: usize) {
        self.batches.add([if appended.kept > 0 { "stored" } else { "duplicate" }], 1);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.batches.add(["refused"], 1);
    }

    pub(crate) fn failed(&self) {
        self.batches.add(["failed"], 1);
    }

    pub(crate) fn malformed(&self) {
        self.batches.add(["malformed"], 1);
    }
}

/// Every family of `/metrics`, in the order of a scrape.
pub(super) fn families() -> Vec<Described> {
    const PATH: &str = "/metrics";
    [
        process::TABLE.describe(PATH),
        own::TABLE.describe(PATH),
        CALLS.describe(PATH),
        EVENTS.describe(PATH),
        DEPLOYS.describe(PATH),
        BATCHES.describe(PATH),
        SAMPLES.describe(PATH),
        sessions::TABLE.describe(PATH),
        agents::TABLE.describe(PATH),
        nodes::TABLE.describe(PATH),
        environments::TABLE.describe(PATH),
        tasks::RUNS.describe(PATH),
        tasks::TABLE.describe(PATH),
    ]
    .concat()
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics::default()
    }

    pub(crate) fn handled(&self, method: &'static str, code: Code) {
        self.calls.add([method, code_name(code)], 1);
    }

    /// Keeps the last report of a node's agent.
    pub(crate) fn report(&self, node: &NodeName, report: AgentReport) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() < NODES || reports.contains_key(node) {
            reports.insert(node.clone(), (Instant::now(), report));
        }
    }

    /// The text of one scrape, for whoever may read it.
    pub(super) fn encode(&self, shared: &Shared, format: Format, _: &Monitor) -> String {
        let inventory = std::sync::Arc::clone(&shared.inventory.borrow());
        let before = self.length.load(Ordering::Relaxed);
        let mut text = Text::with_room(format, before + before / 16);
        text.table(&process::TABLE, &[(Labels::default(), process::Process::now())]);
        text.table(&own::TABLE, &[(Labels::default(), self.own(shared, &inventory))]);
        text.table(&CALLS, &self.calls.rows(CALLS.labels));
        text.table(&EVENTS, &self.events.events.rows(EVENTS.labels));
        text.table(&DEPLOYS, &self.events.deploys.rows(DEPLOYS.labels));
        text.table(&BATCHES, &self.ingest.batches.rows(BATCHES.labels));
        let samples = shared.usage.counts().samples();
        let samples = samples.map(|(outcome, samples)| (Labels::of(&[("outcome", outcome)]), samples));
        text.table(&SAMPLES, &samples.collect::<Vec<_>>());
        text.table(&sessions::TABLE, &self.sessions.ended.rows(sessions::TABLE.labels));
        text.table(&agents::TABLE, &agents::rows(self.current_reports()));
        text.table(&nodes::TABLE, &nodes::rows(&shared.usage));
        text.table(&environments::TABLE, &environments::rows(&shared.usage, &inventory));
        text.table(&tasks::RUNS, &tasks::runs(&self.events.runs, &inventory));
        text.table(&tasks::TABLE, &tasks::rows(&inventory));
        text.end();
        self.length.store(text.len(), Ordering::Relaxed);
        text.take()
    }

    fn current_reports(&self) -> BTreeMap<NodeName, (Instant, AgentReport)> {
        let now = Instant::now();
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.retain(|_, (at, _)| now.duration_since(*at) < REPORT_KEEP);
        reports.clone()
    }
}

/// The code as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
