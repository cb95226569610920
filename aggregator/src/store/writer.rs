//! The one thread that appends: it owns the write-ahead log, the committed positions and the sequences.
//!
//! Whatever waits is written and synced together, then becomes visible, then is acknowledged. When that fails, nothing
//! of it happened: positions and sequences go back to what they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skpr_proto::Source;
use tokio::sync::{mpsc, oneshot};

use super::keeper::{Job, SealReply, Snapshot};
use super::lane::Broken;
use super::manifest::RememberedClaim;
use super::memory::{Columns, Stretch};
use super::positions::{Positions, Progress};
use super::table::{GateState, Labels, Shared, Table, add, now_seconds};
use super::wal::{EntryKind, Group, Wal};
use super::{AppendError, Appended};
use crate::batch::{Batch, Flags};

/// A group is written when it has this many bytes, or when nothing more is waiting. A sync takes milliseconds, in which
/// the next group gathers.
const GROUP_BYTES: usize = 1 << 20;

type AppendReply = oneshot::Sender<Result<Appended, AppendError>>;

/// What the writer is asked to do.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every command is an append, which a box would cost an allocation"
)]
pub(super) enum Command {
    Append {
        batch: Batch,
        labels: Arc<Labels>,
        lane: Broken,
        reply: AppendReply,
    },
    /// There are claims to write down.
    Wake,
    /// Time has passed.
    Tick,
    Seal {
        reply: SealReply,
    },
    /// Merge and expire now.
    Housekeep {
        reply: SealReply,
    },
    Close,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    wal: Wal,
    positions: Positions,
    keeper: SyncSender<Job>,
    /// When the oldest record of the active part came.
    active_since: Option<Instant>,
    /// Whether the group being gathered can be taken, or why not.
    room: Result<(), Arc<str>>,
    group: Pending,
}

/// What becomes of a group once it is written.
#[derive(Default)]
struct Pending {
    entries: Group,
    stretches: Vec<Arc<Stretch>>,
    claims: Vec<Arc<Labels>>,
    /// Each table's last sequence, with this group.
    heads: Vec<(Arc<Table>, u64)>,
    /// Progress before the group, to go back to.
    undo: Vec<(Source, Option<Progress>)>,
    replies: Vec<(AppendReply, Broken, Appended)>,
}

impl Pending {
    /// The sequence of the table's next record; `records` are taken.
    fn take_sequences(&mut self, table: &Arc<Table>, records: usize) -> u64 {
        let records = records as u64;
        if let Some((_, head)) = self.heads.iter_mut().find(|(known, _)| Arc::ptr_eq(known, table)) {
            *head += records;
            return *head - records + 1;
        }
        let head = table.lock().head;
        self.heads.push((Arc::clone(table), head + records));
        head + 1
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        wal: Wal,
        positions: Positions,
        keeper: SyncSender<Job>,
    ) -> Writer {
        let recovered = shared.counters.active_bytes.load(Ordering::Relaxed) > 0;
        let active_since = recovered.then(Instant::now);
        Writer { shared, wal, positions, keeper, active_since, room: Ok(()), group: Pending::default() }
    }

    /// Works until told to close, or until nobody can ask any more.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            self.room = self.make_room();
            let mut next = Some(command);
            let mut sealed = None;
            let mut closing = false;
            while let Some(command) = next {
                match command {
                    Command::Append { batch, labels, lane, reply } => self.add(batch, labels, lane, reply),
                    Command::Wake | Command::Tick => {}
                    Command::Seal { reply } => sealed = Some(reply),
                    Command::Housekeep { reply } => drop(self.keeper.send(Job::Housekeep { reply })),
                    Command::Close => closing = true,
                }
                let full = self.group.entries.len() >= GROUP_BYTES || sealed.is_some() || closing;
                next = if full { None } else { inbox.try_recv().ok() };
            }
            self.commit();
            match sealed {
                Some(reply) => self.seal_now(reply),
                None => self.seal_when_due(),
            }
            if closing {
                return;
            }
        }
    }

    fn add(&mut self, batch: Batch, labels: Arc<Labels>, lane: Broken, reply: AppendReply) {
        let refused = match &self.room {
            Err(cause) => Some(Arc::clone(cause)),
            Ok(()) if lane.is_set() => Some("an earlier batch could not be written".into()),
            Ok(()) => None,
        };
        if let Some(cause) = refused {
            lane.set();
            add(&self.shared.counters.refused_batches, 1);
            drop(reply.send(Err(AppendError::Storage(cause))));
            return;
        }
        let Batch { source, generation, positions, times, ends, flags, messages } = batch;
        let progress = self.positions.of(&source);
        let committed = progress.committed(generation);
        let dropped =
            positions.partition_point(|position| committed.is_some_and(|committed| *position <= committed));
        let appended = Appended { kept: positions.len() - dropped, dropped };
        if let (Some(last), true) = (positions.last(), appended.kept > 0) {
            self.group.undo.push((source, Some(progress.clone())));
            let columns = keep(progress, dropped, times, ends, &flags, &messages);
            progress.commit(generation, *last);
            let first_sequence = self.group.take_sequences(&labels.table, appended.kept);
            let stretch = Stretch::new(labels, first_sequence, columns);
            self.group.entries.add(EntryKind::Append, |out| encode_append(out, &stretch, generation, *last));
            self.group.stretches.push(Arc::new(stretch));
        }
        self.group.replies.push((reply, lane, appended));
    }

    /// Waits for a part of memory to fill. Not while a group is being gathered: what is sealed takes the positions
    /// with it, and they must be those of records that are stored.
    fn make_room(&mut self) -> Result<(), Arc<str>> {
        if self.is_full() {
            self.shared.gate.wait()?;
            self.seal_when_due();
        }
        Ok(())
    }

    fn commit(&mut self) {
        let now = now_seconds();
        self.group.claims = self.shared.take_pending();
        for stretch in &self.group.stretches {
            stretch.labels.touch(now);
        }
        for labels in &self.group.claims {
            self.group.entries.add(EntryKind::Claim, |out| encode_claim(out, labels));
        }
        let mut group = std::mem::take(&mut self.group);
        let written = if group.entries.is_empty() { Ok(()) } else { self.write(&mut group.entries) };
        match written {
            Ok(()) => self.publish(&mut group),
            Err(cause) => self.refuse(&mut group, &cause),
        }
        // The buffer is used again.
        group.entries.clear();
        self.group.entries = group.entries;
    }

    fn write(&mut self, entries: &mut Group) -> Result<(), Arc<str>> {
        let committed = self.wal.commit(entries).map_err(|error| Arc::from(error.to_string()));
        if committed.is_ok() {
            add(&self.shared.counters.commits, 1);
            // Sealing has its own faults, which a commit does not mend.
            if !matches!(self.shared.gate.state(), GateState::Failing(_)) {
                self.shared.note_fault(None);
            }
        }
        committed
    }

    fn publish(&mut self, group: &mut Pending) {
        let counters = &self.shared.counters;
        let mut weight = 0;
        for stretch in group.stretches.drain(..) {
            weight += stretch.weight();
            add(&counters.appended_records, stretch.records() as u64);
            add(&counters.appended_bytes, stretch.message_bytes() as u64);
            let table = Arc::clone(&stretch.labels.table);
            let mut state = table.lock();
            state.head = stretch.last_sequence();
            state.active.push(stretch);
        }
        add(&counters.active_bytes, weight as u64);
        if weight > 0 {
            self.active_since.get_or_insert_with(Instant::now);
        }
        for (table, head) in group.heads.drain(..) {
            table.head.send_replace(head);
        }
        for (reply, _, appended) in group.replies.drain(..) {
            add(&counters.duplicate_records, appended.dropped as u64);
            // Whoever asked may be gone.
            drop(reply.send(Ok(appended)));
        }
    }

    fn refuse(&mut self, group: &mut Pending, cause: &Arc<str>) {
        self.shared.note_fault(Some(Arc::clone(cause)));
        for (source, progress) in group.undo.drain(..).rev() {
            self.positions.set(source, progress);
        }
        self.shared.put_back_pending(std::mem::take(&mut group.claims));
        add(&self.shared.counters.refused_batches, group.replies.len() as u64);
        for (reply, lane, _) in group.replies.drain(..) {
            lane.set();
            drop(reply.send(Err(AppendError::Storage(Arc::clone(cause)))));
        }
    }

    fn is_full(&self) -> bool {
        let active = self.shared.counters.active_bytes.load(Ordering::Relaxed);
        active >= self.shared.options.seal_bytes as u64
    }

    fn is_due(&self) -> bool {
        let seal_age: Duration = self.shared.options.seal_age;
        self.is_full() || self.active_since.is_some_and(|since| since.elapsed() >= seal_age)
    }

    fn seal_when_due(&mut self) {
        if self.is_due() && matches!(self.shared.gate.state(), GateState::Open) {
            self.seal(None);
        }
    }

    fn seal_now(&mut self, reply: SealReply) {
        // What failed is tried first; the caller asks again for what came since.
        match self.shared.gate.wait() {
            Ok(()) => self.seal(Some(reply)),
            Err(_) => drop(self.keeper.send(Job::Retry { reply })),
        }
    }

    /// Hands what is in memory to the keeper, and goes on in a new file and a new part of memory.
    fn seal(&mut self, reply: Option<SealReply>) {
        let shared = &self.shared;
        shared.gate.set(GateState::Sealing);
        let active = shared.counters.active_bytes.swap(0, Ordering::Relaxed);
        add(&shared.counters.sealing_bytes, active);
        self.active_since = None;
        let mut heads = Vec::new();
        for table in shared.tables() {
            let mut state = table.lock();
            let mut active = std::mem::take(&mut state.active);
            state.sealing.append(&mut active);
            heads.push((Arc::clone(&table), state.head));
        }
        shared.forget_claims(now_seconds());
        let claims = shared.claims();
        self.positions.retain(|source| shared.claimed(source).is_some());
        let claims = claims
            .iter()
            .map(|labels| RememberedClaim::new(labels, self.positions.get(&labels.source)))
            .collect();
        let snapshot = Snapshot { wal_covered: self.wal.rotate(), heads, claims };
        let job = Job::Seal { snapshot, reply };
        if self.keeper.send(job).is_err() {
            tracing::error!("the keeper has ended, nothing is sealed any more");
            shared.gate.set(GateState::Failing("the store's keeper has ended".into()));
        }
    }
}

/// The columns of what is kept, without what is in the store already.
fn keep(
    progress: &mut Progress,
    dropped: usize,
    mut times: Vec<i64>,
    mut ends: Vec<u32>,
    flags: &Bytes,
    messages: &Bytes,
) -> Columns {
    let start = dropped.checked_sub(1).and_then(|last| ends.get(last).copied()).unwrap_or_default();
    times.drain(..dropped.min(times.len()));
    ends.drain(..dropped.min(ends.len()));
    if start > 0 {
        for end in &mut ends {
            *end = end.saturating_sub(start);
        }
    }
    let flags: Box<[u8]> = flags.get(dropped..).unwrap_or_default().into();
    let stderr = |flags: &u8| Flags::decode(*flags).is_some_and(|flags| flags.stderr);
    let order_times =
        times.iter().zip(&flags).map(|(time, flags)| progress.order(stderr(flags), *time)).collect();
    // A copy: what arrived is a piece of a network buffer, which would stay in memory as a whole.
    let messages = Bytes::copy_from_slice(messages.get(start as usize..).unwrap_or_default());
    Columns { times, order_times, ends, flags, messages }
}

fn encode_append(out: &mut Vec<u8>, stretch: &Stretch, generation: u64, position: u64) {
    out.extend_from_slice(&stretch.labels.encoded);
    for value in [generation, position, stretch.first_sequence] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    stretch.encode(out);
}

fn encode_claim(out: &mut Vec<u8>, labels: &Labels) {
    out.extend_from_slice(&labels.encoded);
    out.extend_from_slice(&labels.used.load(Ordering::Relaxed).to_le_bytes());
}
