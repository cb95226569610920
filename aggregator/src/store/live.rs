//! Reading what comes after a sequence, in order of sequence: from memory, or from sealed files when the reader is that
//! far behind.

use std::sync::Arc;

use super::history::{CHUNK_BYTES, CHUNK_RECORDS};
use super::memory::Stretch;
use super::segment::{self, Range};
use super::table::{Sealed, Shared, Table, add};
use crate::record::{Filter, Read, Record};

/// How many records are read from files at once, at most.
const WINDOW_RECORDS: u64 = 16 << 10;
/// How many bytes of messages that should be.
const WINDOW_BYTES: u64 = 4 << 20;
/// Records that do not pass the filter are passed over by this many before the cursor is told.
const PROGRESS: u64 = 64 << 10;

/// Where the records after a sequence are.
pub(super) enum Next {
    /// In memory.
    Stretches(Vec<Arc<Stretch>>),
    /// In files, up to this sequence.
    Files(Vec<Arc<Sealed>>, u64),
}

/// What was read.
#[derive(Default)]
pub(super) struct Step {
    pub(super) records: Vec<Record>,
    pub(super) after: u64,
    pub(super) skipped: u64,
}

/// Finds the records after `after`, which is below the table's head.
pub(super) fn find(table: &Table, after: u64) -> Next {
    let state = table.lock();
    let in_memory = state.stretches().next().map_or(state.head + 1, |stretch| stretch.first_sequence);
    if after + 1 < in_memory {
        return find_files(&state.files, after, in_memory - 1);
    }
    let mut weight = 0;
    let mut stretches = Vec::new();
    for part in [&state.sealing, &state.active] {
        let first = part.partition_point(|stretch| stretch.last_sequence() <= after);
        for stretch in part.iter().skip(first) {
            if weight >= CHUNK_BYTES {
                return Next::Stretches(stretches);
            }
            weight += stretch.weight();
            stretches.push(Arc::clone(stretch));
        }
    }
    Next::Stretches(stretches)
}

fn find_files(files: &[Arc<Sealed>], after: u64, last: u64) -> Next {
    let files: Vec<_> = files
        .iter()
        .filter(|sealed| sealed.file.max_sequence > after && sealed.file.min_sequence <= last)
        .map(Arc::clone)
        .collect();
    // What expired is stepped over at once.
    let Some(first) = files.iter().map(|sealed| sealed.file.min_sequence).min() else {
        return Next::Files(files, last);
    };
    if first > after + 1 {
        return Next::Files(Vec::new(), first - 1);
    }
    let rows: u64 = files.iter().map(|sealed| sealed.file.rows).sum();
    let bytes: u64 = files.iter().map(|sealed| sealed.file.raw_bytes).sum();
    let window = (WINDOW_BYTES / (bytes / rows.max(1)).max(1)).clamp(64, WINDOW_RECORDS);
    let up_to = last.min(after.saturating_add(window));
    let files = files.into_iter().filter(|sealed| sealed.file.min_sequence <= up_to).collect();
    Next::Files(files, up_to)
}

/// Reads from memory up to a chunk's worth.
pub(super) fn read_stretches(stretches: &[Arc<Stretch>], request: &Read, after: u64) -> Step {
    let mut step = Step { after, ..Step::default() };
    let mut bytes = 0;
    for stretch in stretches {
        step.skipped += stretch.first_sequence.saturating_sub(step.after + 1);
        let first = (step.after + 1).saturating_sub(stretch.first_sequence);
        for index in usize::try_from(first).unwrap_or(usize::MAX)..stretch.records() {
            if step.records.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                return step;
            }
            step.after = stretch.first_sequence + index as u64;
            let row = stretch.row(index);
            if wanted(request, row.time.0)
                && request.filter.accepts_labels(row.instance, row.stream)
                && request.filter.accepts_message(row.message)
            {
                bytes += row.message.len();
                step.records.push(stretch.record(index).record);
            }
        }
        step.after = step.after.max(stretch.last_sequence());
    }
    step
}

/// Reads from files the records after `after` up to `up_to`. Blocks.
pub(super) fn read_files(
    shared: &Shared,
    files: &[Arc<Sealed>],
    request: &Read,
    after: u64,
    up_to: u64,
) -> Step {
    let range = Range { after_sequence: Some(after), up_to_sequence: Some(up_to), ..Range::default() };
    let mut records = Vec::new();
    let mut seen = 0;
    for sealed in files {
        // Without the filter: what is missing is told from what does not pass by counting.
        let read =
            segment::scan(&shared.files.root, &sealed.file, &range, &Filter::default()).and_then(|scan| {
                for batch in scan {
                    let batch = batch?;
                    seen += batch.len() as u64;
                    records.extend(batch.into_iter().map(|scanned| scanned.record).filter(|record| {
                        wanted(request, record.time.0)
                            && request.filter.accepts_labels(&record.instance, &record.stream)
                            && request.filter.accepts_message(&record.message)
                    }));
                }
                Ok(())
            });
        if let Err(error) = read {
            add(&shared.counters.damage, 1);
            tracing::error!(path = %sealed.file.path.display(), %error, "a sealed file cannot be read");
        }
    }
    records.sort_by_key(|record| record.sequence);
    Step { records, after: up_to, skipped: (up_to - after).saturating_sub(seen) }
}

fn wanted(request: &Read, time: i64) -> bool {
    request.since.is_none_or(|since| time >= since.0) && request.until.is_none_or(|until| time < until.0)
}

/// Whether the cursor has moved far enough to be told although nothing passed the filter.
pub(super) fn is_progress(told: u64, after: u64) -> bool {
    after.saturating_sub(told) >= PROGRESS
}
