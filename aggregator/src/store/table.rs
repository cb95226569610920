//! What writer, keeper and readers share: a table per environment, the claims, and the counters.
//!
//! A table changes only under its lock, which is held for a few copies of references: a snapshot taken under it holds
//! each record exactly once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use skpr_proto::{Source, UnixNanos};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::codec::put_text;
use super::disk::Disk;
use super::memory::Stretch;
use super::query::READERS;
use super::segment::{self, SegmentFile};
use crate::environment::{Claim, EnvironmentKey};
use crate::event;

/// How exactly the last use of a claim is known, in seconds.
const USED_EVERY: i64 = 3600;
/// A source that nobody claims any more sends nothing after a day.
const UNKNOWN_FOR: i64 = 86_400;

/// A source's claim, and what its records are called.
pub(super) struct Labels {
    pub(super) source: Source,
    pub(super) claim: Claim,
    pub(super) table: Arc<Table>,
    /// Seconds since the Unix epoch, to the hour.
    pub(super) used: AtomicI64,
    /// As the write-ahead log holds it.
    pub(super) encoded: Box<[u8]>,
    stdout: Arc<str>,
    stderr: Arc<str>,
}

impl Labels {
    pub(super) fn new(source: Source, claim: Claim, table: Arc<Table>, used: i64) -> Labels {
        let mut encoded = Vec::with_capacity(256);
        let environment = &claim.environment;
        for text in [
            source.namespace.as_str(),
            &source.pod,
            source.uid.as_str(),
            source.container.as_str(),
            environment.namespace.as_str(),
            environment.name.project.as_str(),
            environment.name.environment.as_str(),
            claim.node.as_str(),
            &claim.instance,
            &claim.stream_prefix,
        ] {
            put_text(&mut encoded, text);
        }
        // A container's streams all end in the name of an output: none of them is ever called like this.
        let stream = |output: &str| match event::stream_of(&source) {
            Some(stream) => stream.name().into(),
            None => format!("{}{output}", claim.stream_prefix).into(),
        };
        Labels {
            stdout: stream("stdout"),
            stderr: stream("stderr"),
            source,
            claim,
            table,
            used: AtomicI64::new(used),
            encoded: encoded.into(),
        }
    }

    pub(super) fn stream(&self, stderr: bool) -> &Arc<str> {
        if stderr { &self.stderr } else { &self.stdout }
    }

    /// Notes a use; says whether that is worth writing down.
    pub(super) fn touch(&self, now: i64) -> bool {
        let stale = now.saturating_sub(self.used.load(Ordering::Relaxed)) >= USED_EVERY;
        if stale {
            self.used.store(now, Ordering::Relaxed);
        }
        stale
    }
}

/// A sealed file that is part of the store; removed from the disk when it is not any more and nobody reads it.
pub(super) struct Sealed {
    pub(super) file: SegmentFile,
    shared: Arc<Files>,
    expired: AtomicBool,
}

/// Where sealed files are.
pub(super) struct Files {
    pub(super) root: std::path::PathBuf,
    pub(super) disk: Disk,
    /// Bytes of files that have expired and are still being read.
    pub(super) leaving: AtomicU64,
}

impl Sealed {
    pub(super) fn new(file: SegmentFile, shared: &Arc<Files>) -> Arc<Sealed> {
        Arc::new(Sealed { file, shared: Arc::clone(shared), expired: AtomicBool::new(false) })
    }

    /// The file goes when its last reader has gone.
    pub(super) fn expire(&self) {
        if !self.expired.swap(true, Ordering::Relaxed) {
            add(&self.shared.leaving, self.file.bytes);
        }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.expired.load(Ordering::Relaxed) {
            self.shared.leaving.fetch_sub(self.file.bytes, Ordering::Relaxed);
            let removed = self
                .shared
                .disk
                .before_removal()
                .and_then(|()| segment::remove(&self.shared.root, &self.file));
            if let Err(error) = removed {
                // It is not listed any more, so the next start removes it.
                tracing::warn!(path = %self.file.path.display(), %error, "cannot remove an expired segment");
            }
        }
    }
}

/// A file that expired, for telling readers what they missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Expired {
    pub(super) max_time: UnixNanos,
    pub(super) min_sequence: u64,
    pub(super) rows: u64,
}

/// One environment's records.
pub(super) struct Table {
    pub(super) key: EnvironmentKey,
    state: Mutex<TableState>,
    /// The last committed sequence.
    pub(super) head: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct TableState {
    pub(super) files: Arc<Vec<Arc<Sealed>>>,
    /// Being written to files.
    pub(super) sealing: Vec<Arc<Stretch>>,
    pub(super) active: Vec<Arc<Stretch>>,
    /// The last committed sequence.
    pub(super) head: u64,
    pub(super) expired: Vec<Expired>,
}

impl Table {
    pub(super) fn new(key: EnvironmentKey) -> Table {
        Table { key, state: Mutex::default(), head: watch::Sender::new(0) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, TableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn oldest(&self) -> Option<UnixNanos> {
        let state = self.lock();
        let files = state.files.iter().map(|sealed| sealed.file.min_time);
        files.chain(state.stretches().map(|stretch| UnixNanos(stretch.min_order_time))).min()
    }
}

impl TableState {
    /// What is in memory, in order of sequence.
    pub(super) fn stretches(&self) -> impl Iterator<Item = &Arc<Stretch>> {
        self.sealing.iter().chain(&self.active)
    }
}

/// Whether a part of memory is being sealed. The writer waits here when both parts are full.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Clone, Default)]
pub(super) enum GateState {
    #[default]
    Open,
    Sealing,
    /// Sealing fails, and is tried again.
    Failing(Arc<str>),
}

impl Gate {
    pub(super) fn set(&self, state: GateState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }

    pub(super) fn state(&self) -> GateState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until nothing is being sealed. Says why when that cannot be hoped for.
    pub(super) fn wait(&self) -> Result<(), Arc<str>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .changed
            .wait_while(state, |state| matches!(state, GateState::Sealing))
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            GateState::Failing(cause) => Err(Arc::clone(cause)),
            GateState::Open | GateState::Sealing => Ok(()),
        }
    }
}

/// Why the store cannot write at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFault {
    pub message: Arc<str>,
    pub since: SystemTime,
}

/// Counters since the store was opened, and gauges now.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub appended_records: u64,
    pub appended_bytes: u64,
    pub duplicate_records: u64,
    pub commits: u64,
    pub refused_batches: u64,
    pub sealed_segments: u64,
    pub sealed_bytes: u64,
    pub compactions: u64,
    pub expired_records: u64,
    /// Those of them that would have been kept had the disk been larger.
    pub expired_for_space: u64,
    /// Sealed files or parts of them that could not be read.
    pub damage: u64,
    /// Gauges.
    pub memory_bytes: u64,
    pub segments: u64,
    pub segment_bytes: u64,
    pub readers: u64,
    /// The store cannot write at the moment, and why.
    pub fault: Option<StorageFault>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) appended_records: AtomicU64,
    pub(super) appended_bytes: AtomicU64,
    pub(super) duplicate_records: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) refused_batches: AtomicU64,
    pub(super) sealed_segments: AtomicU64,
    pub(super) sealed_bytes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) expired_records: AtomicU64,
    pub(super) expired_for_space: AtomicU64,
    pub(super) damage: AtomicU64,
    /// In memory and not being sealed.
    pub(super) active_bytes: AtomicU64,
    pub(super) sealing_bytes: AtomicU64,
    pub(super) readers: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// Everything that is shared.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) files: Arc<Files>,
    tables: RwLock<BTreeMap<EnvironmentKey, Arc<Table>>>,
    claims: RwLock<HashMap<Source, Arc<Labels>>>,
    /// Claims that are not in the write-ahead log yet.
    pending: Mutex<Vec<Arc<Labels>>>,
    pub(super) gate: Gate,
    pub(super) counters: Counters,
    fault: Mutex<Option<StorageFault>>,
    pub(super) reading: Arc<Semaphore>,
    pub(super) closing: CancellationToken,
    /// A thread of the store has panicked: what it owned cannot be trusted, and nothing is stored any more.
    pub(super) failed: CancellationToken,
}

/// Held by a thread of the store: tells everybody when it panics. Dropped after what the thread was given.
pub(super) struct Watched(pub(super) Arc<Shared>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cause: Arc<str> = "a thread of the store has panicked".into();
            self.0.note_fault(Some(Arc::clone(&cause)));
            self.0.gate.set(GateState::Failing(cause));
            self.0.failed.cancel();
        }
    }
}

impl Shared {
    pub(super) fn new(disk: Disk, options: Options) -> Shared {
        Shared {
            files: Arc::new(Files { root: options.directory.clone(), disk, leaving: AtomicU64::new(0) }),
            options,
            tables: RwLock::default(),
            claims: RwLock::default(),
            pending: Mutex::default(),
            gate: Gate::default(),
            counters: Counters::default(),
            fault: Mutex::default(),
            reading: Arc::new(Semaphore::new(READERS)),
            closing: CancellationToken::new(),
            failed: CancellationToken::new(),
        }
    }

    /// The environment's table, made when there is none.
    pub(super) fn table(&self, key: &EnvironmentKey) -> Arc<Table> {
        if let Some(table) = self.existing(key) {
            return table;
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tables.entry(key.clone()).or_insert_with(|| Arc::new(Table::new(key.clone()))))
    }

    pub(super) fn existing(&self, key: &EnvironmentKey) -> Option<Arc<Table>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).get(key).map(Arc::clone)
    }

    pub(super) fn tables(&self) -> Vec<Arc<Table>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    pub(super) fn environments(&self) -> Vec<EnvironmentKey> {
        let has_records = |table: &Arc<Table>| {
            let state = table.lock();
            !state.files.is_empty() || state.stretches().next().is_some()
        };
        self.tables().iter().filter(|table| has_records(table)).map(|table| table.key.clone()).collect()
    }

    pub(super) fn claimed(&self, source: &Source) -> Option<Arc<Labels>> {
        self.claims.read().unwrap_or_else(PoisonError::into_inner).get(source).map(Arc::clone)
    }

    pub(super) fn claims(&self) -> Vec<Arc<Labels>> {
        self.claims.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Says whether there is something to write down.
    pub(super) fn remember(&self, source: &Source, claim: &Claim) -> bool {
        let now = now_seconds();
        let labels = match self.claimed(source).filter(|labels| labels.claim == *claim) {
            Some(labels) if !labels.touch(now) => return false,
            Some(labels) => labels,
            None => {
                let table = self.table(&claim.environment);
                self.put_claim(Arc::new(Labels::new(source.clone(), claim.clone(), table, now)))
            }
        };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(labels);
        true
    }

    pub(super) fn put_claim(&self, labels: Arc<Labels>) -> Arc<Labels> {
        let mut claims = self.claims.write().unwrap_or_else(PoisonError::into_inner);
        claims.insert(labels.source.clone(), Arc::clone(&labels));
        labels
    }

    /// Forgets claims that were not used for as long as records are kept.
    pub(super) fn forget_claims(&self, now: i64) {
        let keep = i64::try_from(self.options.keep_age.as_secs()).unwrap_or(i64::MAX);
        // The last use may be that much later than is known, and a batch be under way.
        let before = now.saturating_sub(keep).saturating_sub(2 * USED_EVERY);
        let mut claims = self.claims.write().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|_, labels| labels.used.load(Ordering::Relaxed) >= before);
    }

    /// Forgets claims that are not kept and that were not used for [`UNKNOWN_FOR`].
    pub(super) fn forget_unless(&self, now: i64, is_kept: impl Fn(&Source) -> bool) {
        let before = now.saturating_sub(UNKNOWN_FOR);
        let mut claims = self.claims.write().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|source, labels| labels.used.load(Ordering::Relaxed) >= before || is_kept(source));
    }

    pub(super) fn take_pending(&self) -> Vec<Arc<Labels>> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put_back_pending(&self, mut labels: Vec<Arc<Labels>>) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).append(&mut labels);
    }

    /// Notes that writing fails, or with `None` that it works. Logged once per change.
    pub(super) fn note_fault(&self, message: Option<Arc<str>>) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match (message, fault.take()) {
            (None, None) => {}
            (None, Some(_)) => tracing::info!("the store can write again"),
            (Some(message), before) => {
                if before.is_none() {
                    tracing::error!(error = %message, "the store cannot write");
                }
                let since = before.map_or_else(SystemTime::now, |before| before.since);
                *fault = Some(StorageFault { message, since });
            }
        }
    }

    pub(super) fn statistics(&self) -> Statistics {
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut segments, mut segment_bytes) = (0, 0);
        for table in self.tables() {
            let files = Arc::clone(&table.lock().files);
            segments += files.len() as u64;
            segment_bytes += files.iter().map(|sealed| sealed.file.bytes).sum::<u64>();
        }
        Statistics {
            appended_records: get(&counters.appended_records),
            appended_bytes: get(&counters.appended_bytes),
            duplicate_records: get(&counters.duplicate_records),
            commits: get(&counters.commits),
            refused_batches: get(&counters.refused_batches),
            sealed_segments: get(&counters.sealed_segments),
            sealed_bytes: get(&counters.sealed_bytes),
            compactions: get(&counters.compactions),
            expired_records: get(&counters.expired_records),
            expired_for_space: get(&counters.expired_for_space),
            damage: get(&counters.damage),
            memory_bytes: get(&counters.active_bytes) + get(&counters.sealing_bytes),
            segments,
            segment_bytes,
            readers: get(&counters.readers),
            fault: self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

pub(super) fn now_seconds() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
