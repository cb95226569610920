//! Rows and cells as Parquet, which any reader of it can open: native integers as differences, zstd, one row after the
//! other of each instance. Pure: bytes in, bytes out.

use super::row::{Amount, Record};
use crate::environment::EnvironmentKey;
use crate::store::segment::guarded;
use arrow_array::builder::{BooleanBuilder, Int64Builder, StringDictionaryBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array as _, ArrayRef, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::io::Write;
use std::sync::Arc;

/// Rows given to the encoder, and taken from the decoder, at once.
const BATCH_ROWS: usize = 8192;
/// The hours that a file has, as its metadata names them.
const HOURS: &str = "skpr.hours";

/// Encodes records, sorted by instance and time, as they come.
pub(super) struct Encoder<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: Arc<Schema>,
    batch: Batch,
}

/// Records as columns, on their way to the encoder.
struct Batch {
    times: Vec<i64>,
    instances: StringDictionaryBuilder<Int32Type>,
    ready: BooleanBuilder,
    numbers: Vec<Int64Builder>,
}

impl Batch {
    fn new(numbers: usize) -> Batch {
        Batch {
            times: Vec::new(),
            instances: StringDictionaryBuilder::new(),
            ready: BooleanBuilder::new(),
            numbers: std::iter::repeat_with(Int64Builder::new).take(numbers).collect(),
        }
    }

    fn columns(&mut self) -> Vec<ArrayRef> {
        let times = PrimitiveArray::<TimestampMillisecondType>::from(std::mem::take(&mut self.times));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(times.with_timezone("UTC")),
            Arc::new(self.instances.finish()),
            Arc::new(self.ready.finish()),
        ];
        columns.extend(self.numbers.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        columns
    }
}

impl<W: Write + Send> Encoder<W> {
    /// `hours`, counted from the Unix epoch, is what the file is about.
    pub(super) fn new<R: Record>(
        writer: W,
        environment: &EnvironmentKey,
        hours: &[i64],
    ) -> Result<Encoder<W>, ParquetError> {
        let schema = Arc::new(schema::<R>());
        let options = ArrowWriterOptions::new()
            .with_properties(properties::<R>(environment, hours)?)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(writer, Arc::clone(&schema), options)?;
        Ok(Encoder { writer, schema, batch: Batch::new(R::NAMES.len()) })
    }

    pub(super) fn add<R: Record>(&mut self, record: &R) -> Result<(), ParquetError> {
        self.batch.times.push(record.time());
        self.batch.instances.append(record.instance())?;
        self.batch.ready.append_value(record.ready());
        for (column, number) in self.batch.numbers.iter_mut().zip(record.numbers()) {
            column.append_option(number.get().map(u64::cast_signed));
        }
        if self.batch.times.len() >= BATCH_ROWS { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), ParquetError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), self.batch.columns())?;
        self.writer.write(&batch)
    }

    pub(super) fn finish(mut self) -> Result<W, ParquetError> {
        self.write()?;
        self.writer.into_inner()
    }
}

fn schema<R: Record>() -> Schema {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let instance = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let fixed = [(R::TIME, time), ("instance", instance), ("ready", DataType::Boolean)]
        .map(|(name, kind)| Field::new(name, kind, false));
    let numbers = R::NAMES.iter().map(|name| Field::new(*name, DataType::Int64, true));
    Schema::new(fixed.into_iter().chain(numbers).collect::<Vec<_>>())
}

fn properties<R: Record>(
    environment: &EnvironmentKey,
    hours: &[i64],
) -> Result<WriterProperties, ParquetError> {
    let text = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let hours: Vec<_> = hours.iter().map(i64::to_string).collect();
    let metadata = vec![
        text("skpr.version", env!("CARGO_PKG_VERSION").to_owned()),
        text("skpr.namespace", environment.namespace.to_string()),
        text("skpr.project", environment.name.project.to_string()),
        text("skpr.environment", environment.name.environment.to_string()),
        text(HOURS, hours.join(",")),
    ];
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("skpr ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(metadata));
    // Numbers would become dictionaries by default, which costs both size and time.
    for name in std::iter::once(R::TIME).chain(R::NAMES.iter().copied()) {
        let column = ColumnPath::from(name);
        builder = builder
            .set_column_encoding(column.clone(), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(column, false);
    }
    Ok(builder.build())
}

fn general(text: &str) -> ParquetError {
    ParquetError::General(text.to_owned())
}

/// Gives every record to `each` that `wanted` has the instance of; `each` says whether to go on. Returns the hours that
/// the file is about.
pub(super) fn decode<R: Record>(
    bytes: Bytes,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(R) -> bool,
) -> Result<Vec<i64>, ParquetError> {
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema::<R>()));
    let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options))?;
    let hours = hours_of(builder.metadata().file_metadata().key_value_metadata());
    let mut batches = guarded(|| builder.with_batch_size(BATCH_ROWS).build())?;
    let mut last: Option<Arc<str>> = None;
    while let Some(batch) = guarded(|| Ok(batches.next().transpose()?))? {
        if !rows(&batch, &wanted, &mut last, &mut each)? {
            break;
        }
    }
    Ok(hours)
}

fn hours_of(metadata: Option<&Vec<KeyValue>>) -> Vec<i64> {
    let hours = metadata.into_iter().flatten().find(|pair| pair.key == HOURS);
    let hours = hours.and_then(|pair| pair.value.as_deref()).unwrap_or_default();
    hours.split(',').filter_map(|hour| hour.parse().ok()).collect()
}

/// Whether to go on. `last` is the name of the record before, which most have in common with it.
fn rows<R: Record>(
    batch: &RecordBatch,
    wanted: &impl Fn(&str) -> bool,
    last: &mut Option<Arc<str>>,
    each: &mut impl FnMut(R) -> bool,
) -> Result<bool, ParquetError> {
    let missing = || general("a column is missing");
    let column = |index: usize| batch.columns().get(index).ok_or_else(missing);
    let times = column(0)?.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(missing)?;
    let instances = column(1)?.as_dictionary_opt::<Int32Type>().ok_or_else(missing)?;
    let names = instances.values().as_string_opt::<i32>().ok_or_else(missing)?;
    let ready = column(2)?.as_boolean_opt().ok_or_else(missing)?;
    let numbers = batch.columns().iter().skip(3);
    let numbers = numbers.map(|column| column.as_primitive_opt::<Int64Type>().ok_or_else(missing));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let mut key = None;
    let mut take = false;
    for (row, time) in times.values().iter().enumerate() {
        let this = instances.keys().values().get(row);
        if this != key {
            key = this;
            let name = instances.key(row).filter(|key| *key < names.len()).map(|key| names.value(key));
            let name = name.ok_or_else(|| general("an instance has no name"))?;
            take = wanted(name);
            if last.as_deref() != Some(name) {
                *last = Some(name.into());
            }
        }
        let (true, Some(instance)) = (take, &*last) else { continue };
        let number = |column: &&PrimitiveArray<Int64Type>| {
            let value = column.values().get(row).filter(|_| column.is_valid(row));
            Amount::of(value.and_then(|value| u64::try_from(*value).ok()))
        };
        let record = R::of(*time, Arc::clone(instance), ready.value(row), numbers.iter().map(number));
        if !each(record) {
            return Ok(false);
        }
    }
    Ok(true)
}
