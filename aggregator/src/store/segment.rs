//! Sealed segments: immutable Parquet files of one environment and one hour, which any Parquet reader can open.
//!
//! - A file is published whole or not at all, and its checksums are durable before it is.
//! - No byte of a segment is used before its checksum was verified: damage gives an error, never a wrong answer.
//! - Rows are in order of (`order_time`, `sequence`), and reading keeps that order.
//! - Memory does not depend on how large a file is, only on the limits named in `write` and `file`.

mod checksum;
mod columns;
mod delta;
mod file;
mod matching;
mod pages;
mod range;
mod scan;
mod verify;
mod write;

#[cfg(test)]
mod tests;

use crate::environment::EnvironmentKey;
use crate::record::{Filter, Record, RecordKind};
use serde::{Deserialize, Serialize};
use skpr_proto::UnixNanos;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(crate) use checksum::{Checksums, HashingWriter, sidecar};
pub(crate) use file::guarded;
pub use range::Range;
pub use scan::{Scan, count_files};

/// What the manifest knows about one published segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFile {
    /// Relative to the store's root.
    pub path: PathBuf,
    pub rows: u64,
    /// Size of the file; its checksums are not counted.
    pub bytes: u64,
    /// Bytes of all messages.
    pub raw_bytes: u64,
    pub min_time: UnixNanos,
    pub max_time: UnixNanos,
    pub min_sequence: u64,
    pub max_sequence: u64,
}

/// One record to be sealed. `order_time` is never before `time`.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub order_time: UnixNanos,
    pub time: UnixNanos,
    pub sequence: u64,
    pub instance: &'a str,
    pub stream: &'a str,
    pub kind: RecordKind,
    pub message: &'a [u8],
}

/// One record read back, with the time that orders it.
#[derive(Clone, Debug)]
pub struct ScannedRecord {
    pub order_time: UnixNanos,
    pub record: Record,
}

/// One hour, UTC, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hour(i64);

const NANOS_PER_HOUR: i64 = 3_600_000_000_000;

impl Hour {
    pub fn of(time: UnixNanos) -> Hour {
        Hour(time.0.div_euclid(NANOS_PER_HOUR))
    }

    pub fn contains(self, time: UnixNanos) -> bool {
        Hour::of(time) == self
    }

    /// `date=YYYY-MM-DD/hour=HH`, the way other engines expect partitions to be named.
    fn directory(self) -> String {
        let start = self.0.saturating_mul(3600);
        jiff::Timestamp::from_second(start).map_or_else(
            |_| format!("date=unknown/hour={}", self.0),
            |start| start.strftime("date=%Y-%m-%d/hour=%H").to_string(),
        )
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.directory())
    }
}

/// Why a segment was not written. Nothing is published then.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("write segment `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("encode segment")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The rows break a rule that the caller has to keep.
    #[error("seal rows: {0}")]
    Rows(&'static str),
}

/// Why a segment was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The file or its checksums are not there: never written, or expired meanwhile.
    #[error("segment `{}` does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("read segment `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The bytes are not those that were written, or not a segment at all.
    #[error("segment `{}` is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
}

/// Writes `rows`, which are sorted by (`order_time`, `sequence`) and within `hour`, as one new segment below `root`.
/// When it returns, the segment survives a crash of the machine.
pub fn write<'a>(
    root: &Path,
    environment: &EnvironmentKey,
    hour: Hour,
    rows: impl Iterator<Item = Row<'a>>,
) -> Result<SegmentFile, WriteError> {
    write::write(root, environment, hour, rows)
}

/// Reads the records of `file` that are in `range` and pass `filter`, in order, in batches of bounded size.
pub fn scan(root: &Path, file: &SegmentFile, range: &Range, filter: &Filter) -> Result<Scan, ScanError> {
    Scan::open(root, file, range, filter)
}

/// How many records [`scan`] would give, without making them.
pub fn count(root: &Path, file: &SegmentFile, range: &Range, filter: &Filter) -> Result<u64, ScanError> {
    count_files(root, std::slice::from_ref(file), range, filter, 1)
}

/// Reads the whole file and compares it with what the manifest says: checksums, schema, order, counts.
pub fn verify(root: &Path, file: &SegmentFile) -> Result<(), ScanError> {
    verify::verify(root, file)
}

/// What a manifest would say about the segment at `path`, relative to the root. Reads the whole file.
pub fn describe(root: &Path, path: &Path) -> Result<(EnvironmentKey, SegmentFile), ScanError> {
    verify::describe(root, path)
}

/// Removes a segment and its checksums. That it is gone already is no error.
pub fn remove(root: &Path, file: &SegmentFile) -> io::Result<()> {
    let path = resolve(root, file).map_err(io::Error::other)?;
    for path in [sidecar(&path), path] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The file's place; a manifest cannot lead out of the root.
fn resolve(root: &Path, file: &SegmentFile) -> Result<PathBuf, ScanError> {
    let plain = file.path.components().all(|component| matches!(component, Component::Normal(_)));
    if plain && !file.path.as_os_str().is_empty() {
        Ok(root.join(&file.path))
    } else {
        Err(ScanError::Damaged {
            path: file.path.clone(),
            detail: "its path leads out of the store".to_owned(),
        })
    }
}
