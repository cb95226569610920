//! What monitoring sees, in OpenMetrics. Counted where it happens, put together at each scrape.
//!
//! The number of series is bounded: labels are gRPC methods and codes, a few outcomes, and nodes whose agents reported
//! within [`REPORT_KEEP`], at most [`NODES`] of them.

mod process;

use crate::aggregator::Shared;
use crate::store::{Appended, Statistics};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use skpr_proto::NodeName;
use skpr_proto::v1::AgentReport;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// How long the last report of an agent is shown; a node that is gone leaves no series behind.
const REPORT_KEEP: Duration = Duration::from_secs(5 * 60);
const NODES: usize = 5_000;

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) ingest: Ingest,
    calls: Family<CallLabels, Counter>,
    reports: Mutex<BTreeMap<NodeName, (Instant, AgentReport)>>,
}

/// Counts batches by what became of them.
#[derive(Default)]
pub(crate) struct Ingest {
    batches: Family<OutcomeLabels, Counter>,
    bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

impl Ingest {
    pub(crate) fn stored(&self, appended: Appended, bytes: usize) {
        self.count(if appended.kept > 0 { "stored" } else { "duplicate" });
        self.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn refused(&self) {
        self.count("refused");
    }

    pub(crate) fn failed(&self) {
        self.count("failed");
    }

    pub(crate) fn malformed(&self) {
        self.count("malformed");
    }

    fn count(&self, outcome: &'static str) {
        self.batches.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics::default()
    }

    pub(crate) fn handled(&self, method: &'static str, code: Code) {
        self.calls.get_or_create(&CallLabels { method, code: code_name(code) }).inc();
    }

    /// Keeps the last report of a node's agent.
    pub(crate) fn report(&self, node: &NodeName, report: AgentReport) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() < NODES || reports.contains_key(node) {
            reports.insert(node.clone(), (Instant::now(), report));
        }
    }

    /// The text of one scrape.
    pub(crate) fn encode(&self, shared: &Shared) -> Result<String, fmt::Error> {
        let mut all = Registry::default();
        process::register(&mut all);
        let registry = all.sub_registry_with_prefix("skpr");
        let inventory = std::sync::Arc::clone(&shared.inventory.borrow());
        let gauges = [
            ("environments", "Environments that the platform knows", inventory.environments.len()),
            ("pods", "Pods that belong to an environment", inventory.pods.len()),
            (
                "platform_stale",
                "1 when the platform has not answered for a while",
                usize::from(inventory.stale),
            ),
            ("open_calls", "Calls under way", shared.gate.len()),
        ];
        for (name, help, value) in gauges {
            registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        }
        registry.register("grpc_server_handled", "Calls that have ended, by code", self.calls.clone());
        registry.register(
            "audit_lost_lines",
            "Audit lines that stdout did not take",
            ConstCounter::new(shared.audit.lost()),
        );
        registry.register("ingest_batches", "Batches from agents, by outcome", self.ingest.batches.clone());
        let bytes = self.ingest.bytes.clone();
        registry.register_with_unit("ingest_message", "Message bytes acknowledged", Unit::Bytes, bytes);
        register_store(registry, &shared.store.statistics());
        self.register_agents(registry);
        let mut out = String::new();
        text::encode(&mut out, &all)?;
        Ok(out)
    }

    fn register_agents(&self, registry: &mut Registry) {
        let now = Instant::now();
        let reports = {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.retain(|_, (at, _)| now.duration_since(*at) < REPORT_KEEP);
            reports.clone()
        };
        type Read = fn(&AgentReport) -> u64;
        let counters: [(&str, &str, Read); 10] = [
            ("agent_read_bytes", "Bytes read from log files", |report| report.read_bytes),
            ("agent_shipped_records", "Records acknowledged", |report| report.shipped_records),
            ("agent_lost_bytes", "Bytes known to be lost", |report| report.lost_bytes),
            ("agent_gaps", "Gap records written for known losses", |report| report.gaps),
            ("agent_malformed_lines", "Lines not in the container runtime's format", |report| {
                report.malformed_lines
            }),
            ("agent_truncated_records", "Records longer than is kept", |report| report.truncated_records),
            ("agent_refused_records", "Records refused for good", |report| report.refused_records),
            ("agent_missed_files", "Log files gone before they could be opened", |report| {
                report.missed_files
            }),
            ("agent_released_files", "Log files of unclaimed pods let go unread", |report| {
                report.released_files
            }),
            ("agent_reconnects", "Connections made again", |report| report.reconnects),
        ];
        for (name, help, read) in counters {
            let family = Family::<NodeLabels, Counter>::default();
            for (node, (_, report)) in &reports {
                family.get_or_create(&NodeLabels { node: node.to_string() }).inc_by(read(report));
            }
            registry.register(name, help, family);
        }
        let gauges: [(&str, &str, Read); 3] = [
            ("agent_followed_files", "Log files followed", |report| report.followed_files),
            ("agent_held_files", "Log files held open unread, because not claimed yet", |report| {
                report.held_files
            }),
            ("agent_backlog_bytes", "Bytes on disk that are not acknowledged yet", |report| {
                report.backlog_bytes
            }),
        ];
        for (name, help, read) in gauges {
            let family = Family::<NodeLabels, Gauge>::default();
            for (node, (_, report)) in &reports {
                let value = i64::try_from(read(report)).unwrap_or(i64::MAX);
                family.get_or_create(&NodeLabels { node: node.to_string() }).set(value);
            }
            registry.register(name, help, family);
        }
    }
}

fn register_store(registry: &mut Registry, statistics: &Statistics) {
    let counters = [
        ("store_appended_records", "Records stored", statistics.appended_records),
        ("store_appended_bytes", "Message bytes stored", statistics.appended_bytes),
        ("store_duplicate_records", "Records that were stored already", statistics.duplicate_records),
        ("store_commits", "Group commits", statistics.commits),
        (
            "store_refused_batches",
            "Batches not stored because the disk failed or is full",
            statistics.refused_batches,
        ),
        ("store_sealed_segments", "Files written", statistics.sealed_segments),
        ("store_sealed_bytes", "Bytes of files written", statistics.sealed_bytes),
        ("store_compactions", "Files merged", statistics.compactions),
        ("store_expired_records", "Records removed by age or size", statistics.expired_records),
        (
            "store_expired_for_space_records",
            "Records removed because the disk was nearly full",
            statistics.expired_for_space,
        ),
        ("store_damage", "Files or parts of files that could not be read", statistics.damage),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let gauges = [
        ("store_memory_bytes", "Records in memory, not in files yet", statistics.memory_bytes),
        ("store_segments", "Files", statistics.segments),
        ("store_segment_bytes", "Bytes of files", statistics.segment_bytes),
        ("store_readers", "Reads under way", statistics.readers),
        ("store_write_fault", "1 while the store cannot write", u64::from(statistics.fault.is_some())),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
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
