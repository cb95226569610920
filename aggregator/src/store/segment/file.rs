//! Opens a segment: verified reads of its bytes, its footer, and whether that describes a file of ours.
//!
//! - Bytes are read in whole blocks and only handed on when their checksum agrees.
//! - What the footer and the page headers claim is checked before memory is taken for it: at most [`MAX_READ`] at once
//!   and [`MAX_PAGE`] per page, whoever wrote the file.

use super::checksum::{self, BLOCK, Checksums};
use super::range::{Bounds, Statistics};
use super::{ScanError, SegmentFile};
use bytes::{Buf, Bytes};
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMask, ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
    RowGroupMetaData,
};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics as Chunk;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest piece read at once: any page.
const MAX_READ: usize = 8 << 20;
/// The largest footer, and the largest page index. Those of the most row groups that the writer makes have about 1 MiB
/// each; what is decoded from hostile ones can be some hundred times as large.
const MAX_FOOTER: usize = 2 << 20;
/// The largest page after decompression. Ours hold up to 1 MiB, a batch of the writer (2 MiB) and one longest message.
const MAX_PAGE: u64 = 8 << 20;
/// The most rows in a row group; the writer makes 64 Ki.
const MAX_GROUP_ROWS: usize = 1 << 18;

/// The columns of a segment, in order.
pub(super) const COLUMNS: [(&str, Type); 7] = [
    ("time", Type::INT64),
    ("lag", Type::INT64),
    ("sequence", Type::INT64),
    ("kind", Type::INT32),
    ("instance", Type::BYTE_ARRAY),
    ("stream", Type::BYTE_ARRAY),
    ("message", Type::BYTE_ARRAY),
];
pub(super) const TIME: usize = 0;
pub(super) const LAG: usize = 1;
pub(super) const SEQUENCE: usize = 2;
pub(super) const KIND: usize = 3;
pub(super) const INSTANCE: usize = 4;
pub(super) const STREAM: usize = 5;
pub(super) const MESSAGE: usize = 6;

/// The bytes of a segment, verified.
pub(super) struct Blocks {
    file: File,
    checksums: Checksums,
}

impl Blocks {
    fn open(path: &Path) -> Result<Blocks, ScanError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ScanError::Missing { path: path.to_owned() },
            _ => ScanError::Io { path: path.to_owned(), source },
        };
        let damaged = |detail: &str| ScanError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let sidecar = File::open(checksum::sidecar(path)).map_err(failed)?;
        let size = sidecar.metadata().map_err(failed)?.len();
        if size != Checksums::encoded_length(length) {
            return Err(damaged("the checksums are for a file of another length"));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| damaged("it is too large"))?];
        sidecar.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let checksums = Checksums::decode(&bytes).map_err(damaged)?;
        if checksums.length != length {
            return Err(damaged("the checksums are for a file of another length"));
        }
        Ok(Blocks { file, checksums })
    }

    /// Reads `length` bytes from `start`, after verifying every block that they touch.
    fn read(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.checksums.length);
        let Some(end) = end.filter(|_| length <= MAX_READ) else {
            return Err(ParquetError::General(format!("{length} bytes at {start} cannot be read")));
        };
        let first = start / BLOCK as u64;
        let from = first * BLOCK as u64;
        let to = end.next_multiple_of(BLOCK as u64).min(self.checksums.length);
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact_at(&mut bytes, from).map_err(|error| ParquetError::External(Box::new(error)))?;
        if !self.checksums.agree(first as usize, &bytes) {
            return Err(ParquetError::General(format!("the checksum at {from} does not agree")));
        }
        let skip = (start - from) as usize;
        Ok(Bytes::from(bytes).slice(skip..skip + length))
    }

    /// Verifies every block.
    pub(super) fn verify(&self) -> Result<(), ParquetError> {
        let mut start = 0;
        while start < self.checksums.length {
            let length = (self.checksums.length - start).min(16 * BLOCK as u64);
            self.read(start, length as usize)?;
            start += length;
        }
        Ok(())
    }
}

/// Reads pages: what is read starts with a page header, and a page that claims to be huge is refused before it is
/// decompressed.
pub(super) struct PageSource(pub(super) Blocks);

impl Length for PageSource {
    fn len(&self) -> u64 {
        self.0.checksums.length
    }
}

impl ChunkReader for PageSource {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, _start: u64) -> Result<Self::T, ParquetError> {
        Err(ParquetError::General("a page is not where the index says".to_owned()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.0.read(start, length)?;
        match uncompressed_size(&bytes) {
            Some(size) if size <= MAX_PAGE => Ok(bytes),
            _ => Err(ParquetError::General(format!("the page at {start} has no valid header"))),
        }
    }
}

/// Reads the footer and the indexes.
struct FooterSource<'a>(&'a Blocks);

impl Length for FooterSource<'_> {
    fn len(&self) -> u64 {
        self.0.checksums.length
    }
}

impl ChunkReader for FooterSource<'_> {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let length = self.0.checksums.length.saturating_sub(start).min(MAX_FOOTER as u64);
        Ok(self.0.read(start, length as usize)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if length > MAX_FOOTER {
            return Err(ParquetError::General(format!("a footer of {length} bytes is too large")));
        }
        self.0.read(start, length)
    }
}

/// The second field of a page header (Thrift compact protocol; the first three fields are required i32s).
fn uncompressed_size(header: &[u8]) -> Option<u64> {
    const NEXT_FIELD_I32: u8 = 0x15;
    let mut bytes = header.iter().copied();
    let mut field = || {
        if bytes.next()? != NEXT_FIELD_I32 {
            return None;
        }
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return (value & 1 == 0).then_some(value >> 1); // zigzag; negative sizes are refused
            }
        }
        None
    };
    field()?;
    field()
}

/// A row group.
pub(super) struct Group {
    pub(super) rows: usize,
    pub(super) statistics: Statistics,
}

/// An open segment whose footer is consistent.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) source: Arc<PageSource>,
    pub(super) metadata: ParquetMetaData,
    pub(super) groups: Vec<Group>,
}

impl Segment {
    pub(super) fn open(root: &Path, file: &SegmentFile) -> Result<Segment, ScanError> {
        let segment = Segment::open_unlisted(super::resolve(root, file)?)?;
        if segment.length() != file.bytes {
            return Err(segment.damaged("its length is not the one in the manifest"));
        }
        if !segment.holds(file) {
            return Err(segment.damaged("it holds other rows than the manifest says"));
        }
        Ok(segment)
    }

    /// Opens a segment of which no manifest says anything.
    pub(super) fn open_unlisted(path: PathBuf) -> Result<Segment, ScanError> {
        let blocks = Blocks::open(&path)?;
        let parse = || {
            let skip_all = ColumnChunkMask::columns([]);
            ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Required)
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_column_index_mask(skip_all)
                .parse_and_finish(&FooterSource(&blocks))
        };
        let metadata = guarded(parse).map_err(|error| failed(&path, error))?;
        let groups = validate(&metadata, blocks.checksums.length)
            .map_err(|detail| ScanError::Damaged { path: path.clone(), detail: detail.to_owned() })?;
        Ok(Segment { path, source: Arc::new(PageSource(blocks)), metadata, groups })
    }

    pub(super) fn length(&self) -> u64 {
        self.source.0.checksums.length
    }

    /// The bounds of a number over all row groups.
    pub(super) fn bounds(&self, of: fn(&Statistics) -> Bounds) -> Option<Bounds> {
        let all = || self.groups.iter().map(|group| of(&group.statistics));
        Some(Bounds {
            min: all().map(|bounds| bounds.min).min()?,
            max: all().map(|bounds| bounds.max).max()?,
        })
    }

    pub(super) fn rows(&self) -> u64 {
        self.groups.iter().map(|group| group.rows as u64).sum()
    }

    fn holds(&self, file: &SegmentFile) -> bool {
        let times = Bounds { min: file.min_time.0, max: file.max_time.0 };
        let sequences = self.bounds(|statistics| statistics.sequence).is_some_and(|sequence| {
            u64::try_from(sequence.min) == Ok(file.min_sequence)
                && u64::try_from(sequence.max) == Ok(file.max_sequence)
        });
        self.rows() == file.rows
            && self.bounds(|statistics| statistics.order_time) == Some(times)
            && sequences
    }

    pub(super) fn damaged(&self, detail: impl ToString) -> ScanError {
        ScanError::Damaged { path: self.path.clone(), detail: detail.to_string() }
    }

    pub(super) fn failed(&self, error: ParquetError) -> ScanError {
        failed(&self.path, error)
    }

    pub(super) fn chunk(&self, group: usize, column: usize) -> Option<&ColumnChunkMetaData> {
        self.metadata.row_groups().get(group)?.columns().get(column)
    }

    pub(super) fn locations(&self, group: usize, column: usize) -> Option<&Vec<PageLocation>> {
        self.metadata.page_index()?.page_locations(group, column)
    }
}

/// Runs a part of the Parquet library that asserts what a hostile file can break.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(ParquetError::General("the file breaks the format".to_owned())))
}

fn failed(path: &Path, error: ParquetError) -> ScanError {
    let path = path.to_owned();
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => ScanError::Io { path, source: *source },
            Err(other) => ScanError::Damaged { path, detail: other.to_string() },
        },
        error => ScanError::Damaged { path, detail: error.to_string() },
    }
}

/// Whether the footer is one of ours.
fn validate(metadata: &ParquetMetaData, length: u64) -> Result<Vec<Group>, &'static str> {
    let schema = metadata.file_metadata().schema_descr();
    let columns = schema.columns().iter().map(|column| (column.name(), column.physical_type()));
    let required =
        schema.columns().iter().all(|column| column.max_def_level() == 0 && column.max_rep_level() == 0);
    if !columns.eq(COLUMNS) || !required {
        return Err("its columns are not those of a segment");
    }
    let mut groups = Vec::with_capacity(metadata.num_row_groups());
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let rows = usize::try_from(group.num_rows()).ok().filter(|rows| (1..=MAX_GROUP_ROWS).contains(rows));
        let rows = rows.ok_or("a row group has an impossible number of rows")?;
        for column in 0..COLUMNS.len() {
            let locations = metadata.page_index().and_then(|index_of| index_of.page_locations(index, column));
            pages_are_consistent(group, column, rows, locations.ok_or("a page index is missing")?, length)?;
        }
        let statistics = statistics(group).ok_or("a row group has no statistics")?;
        groups.push(Group { rows, statistics });
    }
    Ok(groups)
}

fn pages_are_consistent(
    group: &RowGroupMetaData,
    column: usize,
    rows: usize,
    locations: &[PageLocation],
    length: u64,
) -> Result<(), &'static str> {
    let chunk = group.columns().get(column).ok_or("a column is missing")?;
    let starts_and_sizes =
        [chunk.data_page_offset(), chunk.dictionary_page_offset().unwrap_or(0), chunk.compressed_size()];
    if starts_and_sizes.iter().any(|value| !(0..=length.min(i64::MAX as u64) as i64).contains(value)) {
        return Err("a column lies outside of the file");
    }
    let (start, size) = chunk.byte_range();
    let first = locations.first().ok_or("a column has no pages")?;
    let ascending =
        locations.is_sorted_by(|a, b| a.first_row_index < b.first_row_index && a.offset < b.offset);
    let inside = locations.iter().all(|page| {
        let end = page.offset.checked_add(i64::from(page.compressed_page_size));
        page.compressed_page_size > 0
            && u64::try_from(page.offset).is_ok_and(|offset| offset >= start)
            && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= start + size)
    });
    let rows_inside = locations.last().is_some_and(|last| last.first_row_index < rows as i64);
    // What lies before the first page is taken for a dictionary, which only the two columns of strings have.
    let dictionary = u64::try_from(first.offset).is_ok_and(|offset| offset > start);
    let expected = matches!(column, INSTANCE | STREAM);
    if ascending && inside && rows_inside && first.first_row_index == 0 && (!dictionary || expected) {
        Ok(())
    } else {
        Err("a page index contradicts the row group")
    }
}

fn statistics(group: &RowGroupMetaData) -> Option<Statistics> {
    let bounds = |column: usize| match group.columns().get(column)?.statistics()? {
        Chunk::Int64(values) => Some(Bounds { min: *values.min_opt()?, max: *values.max_opt()? }),
        _ => None,
    };
    Some(Statistics { order_time: bounds(TIME)?, lag: bounds(LAG)?, sequence: bounds(SEQUENCE)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_in_a_page_header_is_read_as_thrift_writes_it() {
        // type = 0, uncompressed = 300 (zigzag 600), compressed = 5.
        assert_eq!(uncompressed_size(&[0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0x0a]), Some(300));
        for bad in [&[][..], &[0x15], &[0x15, 0, 0x16, 0], &[0x15, 0, 0x15, 1], &[0x15, 0, 0x15, 0xff, 0xff]]
        {
            assert_eq!(uncompressed_size(bad), None, "{bad:?}");
        }
    }
}
