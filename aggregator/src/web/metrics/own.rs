//! The aggregator itself: its store, its history of usage, what it looks after.

use super::Metrics;
use crate::aggregator::Shared;
use crate::inventory::Inventory;
use crate::release;
use crate::store::Statistics;
use crate::usage;
use crate::web::text::{Table, Value, counter, gauge};
use std::sync::atomic::Ordering;

pub(super) struct Own {
    environments: u64,
    pods: u64,
    platform_stale: bool,
    open_releases: u64,
    open_calls: u64,
    open_sessions: u64,
    session_bytes: u64,
    lost_audit_lines: u64,
    ingested_bytes: u64,
    store: Statistics,
    usage: usage::Numbers,
}

pub(super) const TABLE: Table<Own> = Table {
    labels: &[],
    columns: &[
        gauge("skpr_environments", "Environments that the platform knows", |own| count(own.environments)),
        gauge("skpr_pods", "Pods that belong to an environment", |own| count(own.pods)),
        gauge("skpr_platform_stale", "1 while the platform does not answer", |own| {
            count(u64::from(own.platform_stale))
        }),
        gauge("skpr_open_releases", "Releases under way", |own| count(own.open_releases)),
        gauge("skpr_open_calls", "Calls under way", |own| count(own.open_calls)),
        gauge("skpr_open_sessions", "Sessions with instances", |own| count(own.open_sessions)),
        counter("skpr_session_bytes", "Bytes that sessions have moved, both ways", |own| {
            count(own.session_bytes)
        }),
        counter("skpr_audit_lost_lines", "Audit lines that stdout did not take", |own| {
            count(own.lost_audit_lines)
        }),
        counter("skpr_ingest_message_bytes", "Message bytes acknowledged", |own| count(own.ingested_bytes)),
        counter("skpr_store_appended_records", "Records stored", |own| count(own.store.appended_records)),
        counter("skpr_store_appended_bytes", "Message bytes stored", |own| count(own.store.appended_bytes)),
        counter("skpr_store_duplicate_records", "Records that were stored already", |own| {
            count(own.store.duplicate_records)
        }),
        counter("skpr_store_commits", "Group commits", |own| count(own.store.commits)),
        counter(
            "skpr_store_refused_batches",
            "Batches not stored because the disk failed or is full",
            |own| count(own.store.refused_batches),
        ),
        counter("skpr_store_sealed_segments", "Files written", |own| count(own.store.sealed_segments)),
        counter("skpr_store_sealed_bytes", "Bytes of files written", |own| count(own.store.sealed_bytes)),
        counter("skpr_store_compactions", "Files merged", |own| count(own.store.compactions)),
        counter("skpr_store_expired_records", "Records removed by age or size", |own| {
            count(own.store.expired_records)
        }),
        counter(
            "skpr_store_expired_for_space_records",
            "Records removed because the disk was nearly full",
            |own| count(own.store.expired_for_space),
        ),
        counter("skpr_store_damage", "Files or parts of files that could not be read", |own| {
            count(own.store.damage)
        }),
        gauge("skpr_store_memory_bytes", "Records in memory, not in files yet", |own| {
            count(own.store.memory_bytes)
        }),
        gauge("skpr_store_segments", "Files", |own| count(own.store.segments)),
        gauge("skpr_store_segment_bytes", "Bytes of files", |own| count(own.store.segment_bytes)),
        gauge("skpr_store_readers", "Reads under way", |own| count(own.store.readers)),
        gauge("skpr_store_write_fault", "1 while the store cannot write", |own| {
            count(u64::from(own.store.fault.is_some()))
        }),
        counter("skpr_usage_unknown_values", "Values of samples that were too large to be true", |own| {
            count(own.usage.unknown_values)
        }),
        counter("skpr_usage_sealed_rows", "Samples in sealed files", |own| count(own.usage.sealed_rows)),
        counter("skpr_usage_sealed_bytes", "Bytes of sealed files of samples", |own| {
            count(own.usage.sealed_bytes)
        }),
        counter("skpr_usage_expired_files", "Files of samples removed by age or size", |own| {
            count(own.usage.expired_files)
        }),
        counter("skpr_usage_damage", "Files of samples, or parts of them, that could not be read", |own| {
            count(own.usage.damaged_files)
        }),
        gauge("skpr_usage_write_fault", "1 while samples cannot be written", |own| {
            count(u64::from(own.usage.fault))
        }),
    ],
};

#[expect(clippy::unnecessary_wraps, reason = "columns are read this way")]
fn count(count: u64) -> Option<Value> {
    Some(Value::Count(count))
}

impl Metrics {
    pub(super) fn own(&self, shared: &Shared, inventory: &Inventory) -> Own {
        let managed = inventory.environments.values().filter_map(|state| state.managed.as_ref());
        let open = managed.filter(|managed| release::open(&managed.releases).is_some());
        let (open_sessions, session_bytes) = self.sessions.numbers();
        Own {
            environments: inventory.environments.len() as u64,
            pods: inventory.pods.len() as u64,
            platform_stale: inventory.stale,
            open_releases: open.count() as u64,
            open_calls: shared.gate.len() as u64,
            open_sessions,
            session_bytes,
            lost_audit_lines: shared.audit.lost(),
            ingested_bytes: self.ingest.bytes.load(Ordering::Relaxed),
            store: shared.store.statistics(),
            usage: shared.usage.counts().numbers(),
        }
    }
}
