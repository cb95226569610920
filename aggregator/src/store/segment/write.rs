//! Writes a segment: encodes rows as they come, and publishes the file only when all of it is on stable storage.
//!
//! Memory: one batch (2 MiB and one message), the pages of one row group (at most 32 MiB and a batch, incompressible;
//! a few MiB of ordinary log lines), and dictionaries.

use super::checksum::{self, Checksums, HashingWriter};
use super::{Hour, Row, SegmentFile, WriteError};
use crate::environment::EnvironmentKey;
use arrow_array::builder::StringBuilder;
use arrow_array::types::TimestampNanosecondType;
use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, PrimitiveArray, RecordBatch};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use skpr_proto::UnixNanos;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows in a row group. More would only make what a reader decodes for one hit larger; the size stays the same.
const GROUP_ROWS: usize = 64 << 10;
/// Bytes of messages and names after which a row group ends in any case.
const GROUP_BYTES: usize = 32 << 20;
/// The most row groups in a segment, 64 Mi rows or 32 GiB, so that its footer stays small enough to be read.
const GROUPS: usize = 1024;
/// Rows given to the encoder at once.
const BATCH_ROWS: usize = 8192;
/// Bytes of messages and names after which a batch ends; the last message may exceed it.
const BATCH_BYTES: usize = 2 << 20;
/// Smaller pages compress worse (64 KiB: 12 %), larger ones make the first record of a window late.
const PAGE_BYTES: usize = 1 << 20;

pub(super) fn write<'a>(
    root: &Path,
    environment: &EnvironmentKey,
    hour: Hour,
    rows: impl Iterator<Item = Row<'a>>,
) -> Result<SegmentFile, WriteError> {
    let directory = PathBuf::from("segments")
        .join(format!("namespace={}", environment.namespace))
        .join(format!("project={}", environment.name.project))
        .join(format!("environment={}", environment.name.environment))
        .join(hour.directory());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::Io { path, source }
    };
    create_directories(root, &directory).map_err(failed(&root.join(&directory)))?;
    let unique = RandomState::new().hash_one(0u8);
    let temporary = Temporary(root.join(&directory).join(format!("{unique:016x}.tmp")));
    let file = File::create_new(&temporary.0).map_err(failed(&temporary.0))?;
    let (file, checksums, totals) = encode(file, environment, hour, rows)?;
    file.sync_all().map_err(failed(&temporary.0))?;

    let name = format!(
        "{}-{}-{}-{:08x}.parquet",
        totals.min_time.0, totals.min_sequence, totals.max_sequence, unique as u32
    );
    let segment = SegmentFile { path: directory.join(name), bytes: checksums.length, ..totals };
    publish(&temporary.0, &root.join(&segment.path), &checksums)
        .map_err(failed(&root.join(&segment.path)))?;
    Ok(segment)
}

/// A file that is removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing; else the store removes what it does not know when it opens.
        drop(fs::remove_file(&self.0));
    }
}

/// Gives the finished file its name, after its checksums are on stable storage.
fn publish(temporary: &Path, path: &Path, checksums: &Checksums) -> io::Result<()> {
    let sidecar = checksum::sidecar(path);
    let unfinished = Temporary(checksum::sidecar(temporary));
    let mut file = File::create_new(&unfinished.0)?;
    file.write_all(&checksums.encode())?;
    file.sync_all()?;
    let directory = File::open(path.parent().unwrap_or(Path::new(".")))?;
    fs::rename(&unfinished.0, &sidecar)?;
    directory.sync_all()?;
    fs::rename(temporary, path).inspect_err(|_| drop(fs::remove_file(&sidecar)))?;
    directory.sync_all()
}

/// Creates `directory` below `root` so that each of its parts survives a crash.
fn create_directories(root: &Path, directory: &Path) -> io::Result<()> {
    let mut parent = root.to_owned();
    for part in directory {
        let path = parent.join(part);
        match fs::create_dir(&path) {
            Ok(()) => File::open(&parent)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        parent = path;
    }
    Ok(())
}

fn schema() -> Schema {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let fields = [
        ("time", time),
        ("lag", DataType::Int64),
        ("sequence", DataType::Int64),
        ("kind", DataType::Int32),
        ("instance", DataType::Utf8),
        ("stream", DataType::Utf8),
        ("message", DataType::Binary),
    ];
    Schema::new(fields.map(|(name, kind)| Field::new(name, kind, false)).to_vec())
}

fn properties(environment: &EnvironmentKey, hour: Hour) -> Result<WriterProperties, WriteError> {
    let level = ZstdLevel::try_new(3).map_err(encoding)?;
    let text = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let metadata = vec![
        text("skpr.version", env!("CARGO_PKG_VERSION").to_owned()),
        text("skpr.namespace", environment.namespace.to_string()),
        text("skpr.project", environment.name.project.to_string()),
        text("skpr.environment", environment.name.environment.to_string()),
        text("skpr.hour", hour.to_string()),
    ];
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("skpr ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(GROUP_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(metadata));
    // Numbers would become dictionaries by default, which costs 8 % of the file and most of a short window's time.
    for name in ["time", "lag", "sequence", "kind"] {
        let column = ColumnPath::from(name);
        builder = builder
            .set_column_encoding(column.clone(), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(column, false);
    }
    for name in ["instance", "stream"] {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    let message = ColumnPath::from("message");
    let builder = builder
        .set_column_encoding(message.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_dictionary_enabled(message.clone(), false)
        .set_column_statistics_enabled(message, EnabledStatistics::None);
    Ok(builder.build())
}

fn encoding(error: parquet::errors::ParquetError) -> WriteError {
    WriteError::Encode(Box::new(error))
}

/// Encodes all rows into `file`; also returns what is known of them, but for the file's name and length.
fn encode<'a>(
    file: File,
    environment: &EnvironmentKey,
    hour: Hour,
    rows: impl Iterator<Item = Row<'a>>,
) -> Result<(File, Checksums, SegmentFile), WriteError> {
    let schema = Arc::new(schema());
    let options = ArrowWriterOptions::new()
        .with_properties(properties(environment, hour)?)
        .with_skip_arrow_metadata(true);
    let writer = HashingWriter::new(file);
    let mut writer =
        ArrowWriter::try_new_with_options(writer, Arc::clone(&schema), options).map_err(encoding)?;
    let mut totals: Option<SegmentFile> = None;
    let mut last = None;
    let mut batch = Batch::default();
    let mut group_bytes = 0;
    for row in rows {
        check(&row, hour, last)?;
        last = Some((row.order_time, row.sequence));
        add(&mut totals, &row);
        batch.push(&row)?;
        if batch.is_full() {
            if writer.flushed_row_groups().len() >= GROUPS {
                return Err(WriteError::Rows("they are too many for one segment"));
            }
            group_bytes += batch.bytes();
            writer.write(&batch.take(&schema)?).map_err(encoding)?;
            if writer.in_progress_rows() == 0 {
                group_bytes = 0;
            } else if group_bytes >= GROUP_BYTES {
                writer.flush().map_err(encoding)?;
                group_bytes = 0;
            }
        }
    }
    writer.write(&batch.take(&schema)?).map_err(encoding)?;
    let (file, checksums) = writer.into_inner().map_err(encoding)?.finish();
    Ok((file, checksums, totals.ok_or(WriteError::Rows("there are none"))?))
}

fn check(row: &Row<'_>, hour: Hour, last: Option<(UnixNanos, u64)>) -> Result<(), WriteError> {
    if last.is_some_and(|last| last >= (row.order_time, row.sequence)) {
        return Err(WriteError::Rows("they are out of order"));
    }
    if !hour.contains(row.order_time) {
        return Err(WriteError::Rows("one is of another hour"));
    }
    if row.time > row.order_time {
        return Err(WriteError::Rows("one is ordered before its own time"));
    }
    Ok(())
}

fn add(totals: &mut Option<SegmentFile>, row: &Row<'_>) {
    let totals = totals.get_or_insert_with(|| SegmentFile {
        path: PathBuf::new(),
        rows: 0,
        bytes: 0,
        raw_bytes: 0,
        min_time: row.order_time,
        max_time: row.order_time,
        min_sequence: row.sequence,
        max_sequence: row.sequence,
    });
    totals.rows += 1;
    totals.raw_bytes += row.message.len() as u64;
    totals.max_time = row.order_time;
    totals.min_sequence = totals.min_sequence.min(row.sequence);
    totals.max_sequence = totals.max_sequence.max(row.sequence);
}

/// Rows as columns, on their way to the encoder.
#[derive(Default)]
struct Batch {
    time: Vec<i64>,
    lag: Vec<i64>,
    sequence: Vec<i64>,
    kind: Vec<i32>,
    instance: StringBuilder,
    stream: StringBuilder,
    ends: Vec<i32>,
    messages: Vec<u8>,
    names: usize,
}

impl Batch {
    fn push(&mut self, row: &Row<'_>) -> Result<(), WriteError> {
        let lag = row.order_time.0.checked_sub(row.time.0);
        let sequence = i64::try_from(row.sequence).ok();
        let end = i32::try_from(self.messages.len() + row.message.len()).ok();
        let (Some(lag), Some(sequence), Some(end)) = (lag, sequence, end) else {
            return Err(WriteError::Rows("one has a number that is too large"));
        };
        self.time.push(row.order_time.0);
        self.lag.push(lag);
        self.sequence.push(sequence);
        self.kind.push(i32::from(row.kind));
        self.instance.append_value(row.instance);
        self.stream.append_value(row.stream);
        self.messages.extend_from_slice(row.message);
        self.ends.push(end);
        self.names += row.instance.len() + row.stream.len();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.messages.len() + self.names
    }

    fn is_full(&self) -> bool {
        self.time.len() >= BATCH_ROWS || self.bytes() >= BATCH_BYTES
    }

    /// The rows so far, for the encoder; the batch is empty afterwards.
    fn take(&mut self, schema: &Arc<Schema>) -> Result<RecordBatch, WriteError> {
        let Batch { time, lag, sequence, kind, mut instance, mut stream, ends, messages, .. } =
            std::mem::take(self);
        let failed = |error: arrow_schema::ArrowError| WriteError::Encode(Box::new(error));
        let offsets: ScalarBuffer<i32> = std::iter::once(0).chain(ends).collect();
        let messages = BinaryArray::try_new(OffsetBuffer::new(offsets), Buffer::from_vec(messages), None);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(PrimitiveArray::<TimestampNanosecondType>::from(time).with_timezone("UTC")),
            Arc::new(Int64Array::from(lag)),
            Arc::new(Int64Array::from(sequence)),
            Arc::new(Int32Array::from(kind)),
            Arc::new(instance.finish()),
            Arc::new(stream.finish()),
            Arc::new(messages.map_err(failed)?),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
    }
}
