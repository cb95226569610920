//! Reading what is stored up to a fixed sequence, on a thread that may block.
//!
//! One piece of work takes one snapshot. It ends early when its caller has gone, and also when its caller is slow: what
//! it holds is then given back, and a later piece goes on from the cursor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skpr_proto::UnixNanos;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::memory::Stretch;
use super::merge::{Item, Memory, Merge};
use super::positions::ORDER_SLACK;
use super::seal::{self, Place};
use super::segment::{Range, ScannedRecord};
use super::table::{Expired, Sealed, Shared, Table};
use crate::record::{Chunk, Cursor, MAX_LAST, MAX_LAST_BYTES, Read, Record, RecordKind};

/// A chunk has at most this many records, and ends with the record that exceeds this many bytes.
pub(super) const CHUNK_RECORDS: usize = 1024;
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// The first chunk is small, so that the first line comes early.
const FIRST_RECORDS: usize = 64;
/// What was found is not kept back longer than this while more is searched for.
const LINGER: Duration = Duration::from_millis(50);
/// A caller that takes no chunk for this long is slow.
const STALL: Duration = Duration::from_secs(2);
/// How much of the newest is searched first for `last`; four times as much each further time.
const FIRST_WINDOW: i64 = 60_000_000_000;

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Finished,
    /// Go on from the last cursor later.
    Paused,
}

/// What to read.
pub(super) struct History {
    pub(super) shared: Arc<Shared>,
    pub(super) table: Arc<Table>,
    pub(super) request: Arc<Read>,
    pub(super) horizon: u64,
    pub(super) after: Option<(UnixNanos, u64)>,
    /// Only the newest this many.
    pub(super) last: Option<usize>,
}

/// Why work ends early.
struct Stop;

struct Snapshot {
    files: Vec<Arc<Sealed>>,
    stretches: Vec<Arc<Stretch>>,
    places: Vec<Place>,
    skipped: u64,
}

impl History {
    pub(super) fn run(self, out: mpsc::Sender<Chunk>, runtime: &tokio::runtime::Handle) -> Outcome {
        let snapshot = self.snapshot();
        let mut output = Output::new(&self, out, runtime, snapshot.skipped);
        let done = match self.last {
            Some(last) => self.newest(&snapshot, last.min(MAX_LAST), &mut output),
            None => self.all(&snapshot, &mut output),
        };
        match done.and_then(|()| output.flush()) {
            Ok(()) => Outcome::Finished,
            Err(Stop) => Outcome::Paused,
        }
    }

    fn range(&self) -> Range {
        Range {
            since: self.request.since,
            until: self.request.until,
            after_sequence: None,
            up_to_sequence: Some(self.horizon),
            after: self.after,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let range = self.range();
        let state = self.table.lock();
        let stretches: Vec<_> = state
            .stretches()
            .filter(|stretch| stretch.first_sequence <= self.horizon)
            .map(Arc::clone)
            .collect();
        let files = Arc::clone(&state.files);
        let skipped = self.after.map_or(0, |after| self.skipped(&state.expired, after));
        drop(state);
        let overlaps = |sealed: &&Arc<Sealed>| {
            let file = &sealed.file;
            range.since.is_none_or(|since| file.max_time >= since)
                && range.until.is_none_or(|until| file.min_time.0 < until.0.saturating_add(ORDER_SLACK))
                && file.min_sequence <= self.horizon
                && range.after.is_none_or(|(time, _)| file.max_time >= time)
        };
        let files = files.iter().filter(overlaps).map(Arc::clone).collect();
        let filter = &self.request.filter;
        let places = seal::in_order(&stretches, |stretch, index| {
            let row = stretch.row(index);
            range.contains(row.order_time, row.time, row.sequence)
                && filter.accepts_labels(row.instance, row.stream)
        });
        Snapshot { files, stretches, places, skipped }
    }

    /// How many of the expired records were still to be given.
    fn skipped(&self, expired: &[Expired], after: (UnixNanos, u64)) -> u64 {
        let missed = |expired: &&Expired| {
            expired.max_time >= after.0
                && expired.min_sequence <= self.horizon
                && self.request.since.is_none_or(|since| expired.max_time >= since)
        };
        expired.iter().filter(missed).map(|expired| expired.rows).sum()
    }

    fn all(&self, snapshot: &Snapshot, output: &mut Output) -> Result<(), Stop> {
        let memory = Memory { stretches: &snapshot.stretches, places: &snapshot.places };
        let files = snapshot.files.iter().map(Arc::clone);
        let mut merge = Merge::new(&self.shared, files, memory, self.range(), &self.request.filter);
        while let Some(item) = merge.next() {
            match item {
                Item::Record(scanned) => output.push(scanned)?,
                Item::Damage(sealed) => output.push_made(damage(&sealed))?,
                Item::Nothing => output.breathe()?,
            }
        }
        Ok(())
    }

    /// Searches windows from the newest backwards until there are enough.
    fn newest(&self, snapshot: &Snapshot, wanted: usize, output: &mut Output) -> Result<(), Stop> {
        let mut found: VecDeque<ScannedRecord> = VecDeque::new();
        let mut made = Vec::new();
        let (mut end, mut window, mut bytes) = (i64::MAX, FIRST_WINDOW, 0);
        while found.len() < wanted {
            let Some(newest) = newest_before(snapshot, end) else { break };
            let start = newest.saturating_sub(window);
            let records = self.window(snapshot, start, end, wanted - found.len(), &mut made, output)?;
            for scanned in records.into_iter().rev() {
                bytes += scanned.record.message.len();
                if bytes > MAX_LAST_BYTES && !found.is_empty() {
                    output.skipped += 1;
                } else {
                    found.push_front(scanned);
                }
            }
            if bytes > MAX_LAST_BYTES || self.request.since.is_some_and(|since| start < since.0) {
                break;
            }
            end = start;
            window = window.saturating_mul(4);
        }
        made.into_iter().try_for_each(|record| output.push_made(record))?;
        found.into_iter().try_for_each(|scanned| output.push(scanned))
    }

    /// The newest `wanted` records with an order time from `start` to before `end`.
    fn window(
        &self,
        snapshot: &Snapshot,
        start: i64,
        end: i64,
        wanted: usize,
        made: &mut Vec<Record>,
        output: &mut Output,
    ) -> Result<VecDeque<ScannedRecord>, Stop> {
        let from = snapshot.places.partition_point(|place| place.order_time < start);
        let to = snapshot.places.partition_point(|place| place.order_time < end);
        let memory = Memory {
            stretches: &snapshot.stretches,
            places: snapshot.places.get(from..to).unwrap_or_default(),
        };
        let files = snapshot
            .files
            .iter()
            .filter(|sealed| sealed.file.max_time.0 >= start && sealed.file.min_time.0 < end);
        let before = (UnixNanos(start.saturating_sub(1)), u64::MAX);
        let until = self.request.until.map_or(end, |until| until.0.min(end));
        let range = Range { after: Some(before), until: Some(UnixNanos(until)), ..self.range() };
        let mut merge = Merge::new(&self.shared, files.map(Arc::clone), memory, range, &self.request.filter);
        let mut newest = VecDeque::new();
        let mut bytes = 0;
        for number in 1usize.. {
            let Some(item) = merge.next() else { break };
            // Nothing is given before the end, which may be far.
            if number % CHUNK_RECORDS == 0 {
                output.breathe()?;
            }
            match item {
                Item::Record(scanned) if scanned.order_time.0 < end => {
                    bytes += scanned.record.message.len();
                    newest.push_back(scanned);
                    while newest.len() > wanted || (bytes > MAX_LAST_BYTES && newest.len() > 1) {
                        if newest.len() <= wanted {
                            output.skipped += 1;
                        }
                        bytes -= newest.pop_front().map_or(0, |scanned| scanned.record.message.len());
                    }
                }
                Item::Record(_) => {}
                Item::Damage(sealed) => made.push(damage(&sealed)),
                Item::Nothing => output.breathe()?,
            }
        }
        Ok(newest)
    }
}

/// The newest order time that is before `end`, as far as the files' bounds say.
fn newest_before(snapshot: &Snapshot, end: i64) -> Option<i64> {
    let in_memory = snapshot.places.partition_point(|place| place.order_time < end);
    let memory =
        in_memory.checked_sub(1).and_then(|index| snapshot.places.get(index)).map(|place| place.order_time);
    let files = snapshot.files.iter().filter(|sealed| sealed.file.min_time.0 < end);
    files.map(|sealed| sealed.file.max_time.0.min(end.saturating_sub(1))).chain(memory).max()
}

/// Says in the reader's own words that records are missing.
fn damage(sealed: &Sealed) -> Record {
    let file = &sealed.file;
    let message =
        format!("some of {} stored records cannot be read: a file of the log store is damaged", file.rows);
    Record {
        time: file.min_time,
        sequence: 0,
        instance: Arc::from(""),
        stream: Arc::from("skpr"),
        kind: RecordKind::Gap,
        message: Bytes::from(message),
    }
}

/// Gathers records into chunks.
struct Output<'a> {
    out: mpsc::Sender<Chunk>,
    runtime: &'a tokio::runtime::Handle,
    records: Vec<Record>,
    bytes: usize,
    cursor: Cursor,
    horizon: u64,
    limit: usize,
    skipped: u64,
    flushed: Instant,
}

impl<'a> Output<'a> {
    fn new(
        history: &History,
        out: mpsc::Sender<Chunk>,
        runtime: &'a tokio::runtime::Handle,
        skipped: u64,
    ) -> Self {
        let (order_time, sequence) = history.after.unwrap_or((UnixNanos(i64::MIN), 0));
        Output {
            out,
            runtime,
            records: Vec::new(),
            bytes: 0,
            cursor: Cursor::History { horizon: history.horizon, order_time, sequence },
            horizon: history.horizon,
            limit: FIRST_RECORDS,
            skipped,
            flushed: Instant::now(),
        }
    }

    fn push(&mut self, scanned: ScannedRecord) -> Result<(), Stop> {
        let ScannedRecord { order_time, record } = scanned;
        self.cursor = Cursor::History { horizon: self.horizon, order_time, sequence: record.sequence };
        self.push_made(record)
    }

    /// A record that is not stored: the cursor stays.
    fn push_made(&mut self, record: Record) -> Result<(), Stop> {
        self.bytes += record.message.len();
        self.records.push(record);
        if self.records.len() >= self.limit || self.bytes >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    /// To be called while nothing is found.
    fn breathe(&mut self) -> Result<(), Stop> {
        if self.out.is_closed() {
            return Err(Stop);
        }
        if !self.records.is_empty() && self.flushed.elapsed() >= LINGER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.records.is_empty() && self.skipped == 0 {
            return Ok(());
        }
        let chunk = Chunk {
            records: std::mem::take(&mut self.records),
            cursor: self.cursor,
            live: false,
            skipped: std::mem::take(&mut self.skipped),
        };
        self.bytes = 0;
        self.limit = (self.limit * 4).min(CHUNK_RECORDS);
        self.flushed = Instant::now();
        match self.out.try_send(chunk) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Stop),
            Err(TrySendError::Full(chunk)) => {
                let room =
                    self.runtime.block_on(async { tokio::time::timeout(STALL, self.out.reserve()).await });
                match room {
                    Ok(Ok(room)) => {
                        room.send(chunk);
                        Ok(())
                    }
                    // What this chunk holds is read again when the caller has come so far.
                    Ok(Err(_)) | Err(_) => Err(Stop),
                }
            }
        }
    }
}
