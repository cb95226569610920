//! Merges small files of one environment and hour, of which quiet environments make many: one with every seal.
//!
//! Bounded: what is merged at once fits into [`MERGE_BYTES`], and larger files stay as they are, since a reader opens
//! files one after the other as it comes to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;

use super::segment::{self, Hour, Range, Row, ScannedRecord, SegmentFile};
use super::table::{Files, Sealed};
use crate::environment::EnvironmentKey;
use crate::record::Filter;

/// What is merged at once, in message bytes and in records: with a record's overhead about 20 MiB of memory.
const MERGE_BYTES: u64 = 8 << 20;
const MERGE_ROWS: u64 = 100_000;
/// An hour is left alone while it is still being written to, plus this.
const GRACE_SECONDS: i64 = 10 * 60;

/// What became of a merge.
pub(super) enum Merged {
    Into(SegmentFile),
    /// This one of the files cannot be read: all stay as they are, so that a reader finds what is still readable.
    Damaged(Arc<Sealed>),
}

/// Files to merge into one: the small ones of an hour that is over. Nothing is merged into a file more than four times
/// its own size, so that a record is rewritten a bounded number of times.
pub(super) fn choose<'a>(files: impl Iterator<Item = &'a Arc<Sealed>>, now: i64) -> Vec<Arc<Sealed>> {
    let mut hours: BTreeMap<Hour, Vec<&Arc<Sealed>>> = BTreeMap::new();
    for sealed in files {
        hours.entry(Hour::of(sealed.file.min_time)).or_default().push(sealed);
    }
    let over = |hour: &Hour| *hour < Hour::of(seconds(now.saturating_sub(GRACE_SECONDS)));
    for files in hours.iter_mut().filter(|(hour, _)| over(hour)).map(|(_, files)| files) {
        files.sort_by_key(|sealed| sealed.file.raw_bytes);
        let (mut bytes, mut rows, mut count) = (0, 0, 0);
        for sealed in files.iter() {
            let file = &sealed.file;
            let fits = bytes + file.raw_bytes <= MERGE_BYTES && rows + file.rows <= MERGE_ROWS;
            if !fits || (count > 0 && file.raw_bytes > 4 * bytes.max(1 << 10)) {
                break;
            }
            bytes += file.raw_bytes;
            rows += file.rows;
            count += 1;
        }
        if count >= 2 {
            return files.iter().take(count).map(|sealed| Arc::clone(sealed)).collect();
        }
    }
    Vec::new()
}

fn seconds(seconds: i64) -> skpr_proto::UnixNanos {
    skpr_proto::UnixNanos(seconds.saturating_mul(1_000_000_000))
}

/// Writes the records of all files as one.
pub(super) fn merge(files: &Files, key: &EnvironmentKey, chosen: &[Arc<Sealed>]) -> anyhow::Result<Merged> {
    let first = chosen.first().context("choose files to merge")?;
    let mut records: Vec<ScannedRecord> = Vec::new();
    for sealed in chosen {
        match read(files, &sealed.file) {
            Ok(mut read) => records.append(&mut read),
            Err(error) => {
                tracing::error!(path = %sealed.file.path.display(), %error, "a sealed file is damaged, and not merged");
                return Ok(Merged::Damaged(Arc::clone(sealed)));
            }
        }
    }
    records.sort_by_key(|scanned| (scanned.order_time, scanned.record.sequence));
    let rows = records.iter().map(|ScannedRecord { order_time, record }| Row {
        order_time: *order_time,
        time: record.time,
        sequence: record.sequence,
        instance: &record.instance,
        stream: &record.stream,
        kind: record.kind,
        message: &record.message,
    });
    files.disk.before_segment()?;
    Ok(Merged::Into(segment::write(&files.root, key, Hour::of(first.file.min_time), rows)?))
}

fn read(files: &Files, file: &SegmentFile) -> Result<Vec<ScannedRecord>, segment::ScanError> {
    let mut records = Vec::new();
    for batch in segment::scan(&files.root, file, &Range::default(), &Filter::default())? {
        records.append(&mut batch?);
    }
    Ok(records)
}
