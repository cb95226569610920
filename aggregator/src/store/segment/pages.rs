//! Reads the pages of one column of one row group, and decodes those of a segment's encodings.

use super::ScanError;
use super::delta::{self, Malformed};
use super::file::{MESSAGE, PageSource, Segment, guarded};
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageReader};
use parquet::file::reader::SerializedPageReader;
use std::ops::Range;
use std::sync::Arc;

/// The pages of one column of one row group, one after the other.
struct Pages {
    reader: SerializedPageReader<PageSource>,
    /// Which rows of the row group each page has that is not read yet.
    rows: std::vec::IntoIter<Range<usize>>,
}

/// A page of values, decompressed.
struct DataPage {
    rows: Range<usize>,
    encoding: Encoding,
    bytes: Bytes,
}

impl Pages {
    fn open(segment: &Segment, group: usize, column: usize) -> Result<Pages, ScanError> {
        let missing = || segment.damaged("a column is missing");
        let chunk = segment.chunk(group, column).ok_or_else(missing)?;
        let locations = segment.locations(group, column).ok_or_else(missing)?;
        let rows = segment.groups.get(group).ok_or_else(missing)?.rows;
        let ends = locations.iter().skip(1).map(|page| page.first_row_index as usize).chain([rows]);
        let ranges: Vec<_> =
            locations.iter().zip(ends).map(|(page, end)| page.first_row_index as usize..end).collect();
        let source = Arc::clone(&segment.source);
        let reader = guarded(|| SerializedPageReader::new(source, chunk, rows, Some(locations.clone())))
            .map_err(|error| segment.failed(error))?;
        Ok(Pages { reader, rows: ranges.into_iter() })
    }

    /// The dictionary, when the column has one; to be called before the first page is read.
    fn dictionary(&mut self, segment: &Segment) -> Result<Option<(Bytes, u32)>, ScanError> {
        let next = guarded(|| self.reader.peek_next_page()).map_err(|error| segment.failed(error))?;
        if !next.is_some_and(|page| page.is_dict) {
            return Ok(None);
        }
        match guarded(|| self.reader.get_next_page()).map_err(|error| segment.failed(error))? {
            Some(Page::DictionaryPage { buf, num_values, .. }) => Ok(Some((buf, num_values))),
            _ => Err(segment.damaged("a dictionary is missing")),
        }
    }

    /// The next page that has rows which are wanted; the others are neither read nor decompressed.
    fn next(
        &mut self,
        segment: &Segment,
        wanted: impl Fn(Range<usize>) -> bool,
    ) -> Result<Option<DataPage>, ScanError> {
        for rows in self.rows.by_ref() {
            if !wanted(rows.clone()) {
                guarded(|| self.reader.skip_next_page()).map_err(|error| segment.failed(error))?;
                continue;
            }
            return match guarded(|| self.reader.get_next_page()).map_err(|error| segment.failed(error))? {
                Some(Page::DataPage { buf, num_values, encoding, .. })
                    if num_values as usize == rows.len() =>
                {
                    Ok(Some(DataPage { rows, encoding, bytes: buf }))
                }
                _ => Err(segment.damaged("a page is not where the index says")),
            };
        }
        Ok(None)
    }
}

/// All numbers of a column of a row group.
pub(super) fn integers(segment: &Segment, group: usize, column: usize) -> Result<Vec<i64>, ScanError> {
    let mut pages = Pages::open(segment, group, column)?;
    let mut values = Vec::new();
    while let Some(page) = pages.next(segment, |_| true)? {
        if page.encoding != Encoding::DELTA_BINARY_PACKED {
            return Err(segment.damaged("a column has another encoding than a segment's"));
        }
        let (decoded, _) =
            delta::decode(&page.bytes, page.rows.len()).map_err(|error| segment.damaged(error))?;
        if values.is_empty() {
            values = decoded;
        } else {
            values.extend(decoded);
        }
    }
    Ok(values)
}

/// The strings of a column of a row group.
pub(super) struct Strings {
    pub(super) dictionary: Vec<Arc<str>>,
    /// For each row an index into `dictionary`.
    pub(super) ids: Vec<u32>,
}

impl Strings {
    pub(super) fn get(&self, row: usize) -> Option<&Arc<str>> {
        self.dictionary.get(*self.ids.get(row)? as usize)
    }
}

/// All strings of a column of a row group.
pub(super) fn strings(segment: &Segment, group: usize, column: usize) -> Result<Strings, ScanError> {
    let invalid = |error: Malformed| segment.damaged(error);
    let mut pages = Pages::open(segment, group, column)?;
    let mut strings = Strings { dictionary: Vec::new(), ids: Vec::new() };
    if let Some((bytes, count)) = pages.dictionary(segment)? {
        plain(&bytes, count as usize, &mut strings.dictionary).map_err(invalid)?;
    }
    let distinct = strings.dictionary.len() as u32;
    while let Some(page) = pages.next(segment, |_| true)? {
        match page.encoding {
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                delta::decode_ids(&page.bytes, page.rows.len(), distinct, &mut strings.ids)
                    .map_err(invalid)?;
            }
            // The writer's way out when the dictionary became too large.
            Encoding::PLAIN => {
                let first = strings.dictionary.len() as u32;
                plain(&page.bytes, page.rows.len(), &mut strings.dictionary).map_err(invalid)?;
                strings.ids.extend(first..first + page.rows.len() as u32);
            }
            _ => return Err(segment.damaged("a column has another encoding than a segment's")),
        }
    }
    Ok(strings)
}

/// Decodes `count` strings, each after its length, and appends them to `strings`.
fn plain(mut bytes: &[u8], count: usize, strings: &mut Vec<Arc<str>>) -> Result<(), Malformed> {
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
        let (string, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Malformed)?;
        strings.push(Arc::from(std::str::from_utf8(string).map_err(|_| Malformed)?));
        bytes = rest;
    }
    Ok(())
}

/// The messages of one page: of consecutive rows, without anything between them.
pub(super) struct MessagePage {
    /// The row group's rows that are in here.
    pub(super) rows: Range<usize>,
    /// Where each message starts in `bytes`, and where the last one ends.
    pub(super) offsets: Vec<u32>,
    pub(super) bytes: Bytes,
}

impl MessagePage {
    /// Where in `bytes` the message of the `index`th row of this page is.
    pub(super) fn range(&self, index: usize) -> Option<Range<usize>> {
        Some(*self.offsets.get(index)? as usize..*self.offsets.get(index + 1)? as usize)
    }
}

/// The pages of messages of a row group.
pub(super) struct MessagePages(Pages);

impl MessagePages {
    pub(super) fn open(segment: &Segment, group: usize) -> Result<MessagePages, ScanError> {
        Pages::open(segment, group, MESSAGE).map(MessagePages)
    }

    pub(super) fn next(
        &mut self,
        segment: &Segment,
        wanted: impl Fn(Range<usize>) -> bool,
    ) -> Result<Option<MessagePage>, ScanError> {
        let Some(page) = self.0.next(segment, wanted)? else { return Ok(None) };
        if page.encoding != Encoding::DELTA_LENGTH_BYTE_ARRAY {
            return Err(segment.damaged("a column has another encoding than a segment's"));
        }
        let (offsets, data) =
            delta::decode_offsets(&page.bytes, page.rows.len()).map_err(|error| segment.damaged(error))?;
        Ok(Some(MessagePage { rows: page.rows, offsets, bytes: page.bytes.slice(data) }))
    }
}
