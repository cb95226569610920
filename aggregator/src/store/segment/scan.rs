//! Reads or counts the records of a segment that are asked for, touching as little of the file as possible.
//!
//! For each row group: statistics and dictionaries decide whether it can hold any; then only pages of messages with
//! selected rows are decompressed and searched; and only when something was found are the other columns read.

use super::columns::{Columns, Selection};
use super::file::Segment;
use super::matching::Matcher;
use super::pages::{MessagePage, MessagePages};
use super::{Range, ScanError, ScannedRecord, SegmentFile};
use crate::record::Filter;
use bytes::Bytes;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The most records in one batch.
const BATCH_ROWS: usize = 1024;
/// A batch ends with the message that brings it to this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The most segments open at once while counting, for the sake of the limit on open files.
const OPEN_FILES: usize = 64;

/// The records of one segment that are asked for, in order, in batches that are never empty. Ends after an error.
pub struct Scan {
    segment: Segment,
    range: Range,
    matcher: Matcher,
    /// The row groups to come.
    groups: std::ops::Range<usize>,
    current: Option<GroupScan>,
}

/// Where a scan is within a row group.
struct GroupScan {
    columns: Columns,
    selection: Selection,
    pages: MessagePages,
    page: Option<PageHits>,
}

/// What was found in a page, and how much of it has been given.
struct PageHits {
    page: MessagePage,
    hits: std::vec::IntoIter<usize>,
}

impl Scan {
    pub(super) fn open(
        root: &Path,
        file: &SegmentFile,
        range: &Range,
        filter: &Filter,
    ) -> Result<Scan, ScanError> {
        let segment = Segment::open(root, file)?;
        let groups = 0..segment.groups.len();
        Ok(Scan { segment, range: *range, matcher: Matcher::new(filter), groups, current: None })
    }

    fn advance(&mut self) -> Result<Option<Vec<ScannedRecord>>, ScanError> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(group) = self.groups.next() else { return Ok(None) };
                self.current = GroupScan::open(&self.segment, group, &self.range, self.matcher.filter())?;
                continue;
            };
            let Some(page) = &mut current.page else {
                current.page = current.search(&self.segment, &self.matcher)?;
                if current.page.is_none() {
                    self.current = None;
                }
                continue;
            };
            let batch = page.batch(&self.segment, &mut current.columns)?;
            if page.hits.as_slice().is_empty() {
                current.page = None;
            }
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<ScannedRecord>, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.groups = 0..0;
            self.current = None;
        }
        next.transpose()
    }
}

impl GroupScan {
    fn open(
        segment: &Segment,
        group: usize,
        range: &Range,
        filter: &Filter,
    ) -> Result<Option<GroupScan>, ScanError> {
        let mut columns = Columns::new(group);
        let selection = columns.select(segment, range, filter)?;
        if matches!(selection, Selection::None) {
            return Ok(None);
        }
        let pages = MessagePages::open(segment, group)?;
        Ok(Some(GroupScan { columns, selection, pages, page: None }))
    }

    /// The next page with hits.
    fn search(&mut self, segment: &Segment, matcher: &Matcher) -> Result<Option<PageHits>, ScanError> {
        while let Some(page) = self.pages.next(segment, |rows| self.selection.intersects(rows))? {
            let mut hits = Vec::new();
            let first = page.rows.start;
            matcher.hits(&page, |index| self.selection.contains(first + index), |index| hits.push(index));
            if !hits.is_empty() {
                return Ok(Some(PageHits { page, hits: hits.into_iter() }));
            }
        }
        Ok(None)
    }
}

impl PageHits {
    /// Takes the next hits. Their messages are copied together, so that a record that is kept does not keep its page.
    fn batch(&mut self, segment: &Segment, columns: &mut Columns) -> Result<Vec<ScannedRecord>, ScanError> {
        let mut messages = Vec::new();
        let mut rows = Vec::new();
        while rows.len() < BATCH_ROWS && messages.len() < BATCH_BYTES {
            let Some(index) = self.hits.next() else { break };
            let message = self.page.range(index).and_then(|range| self.page.bytes.get(range));
            let message = message.ok_or_else(|| segment.damaged("a message lies outside of its page"))?;
            let start = messages.len();
            messages.extend_from_slice(message);
            rows.push((self.page.rows.start + index, start..messages.len()));
        }
        let messages = Bytes::from(messages);
        rows.into_iter().map(|(row, range)| columns.record(segment, row, messages.slice(range))).collect()
    }
}

/// How many records of `files` are in `range` and pass `filter`. Row groups are shared out among `threads` threads.
pub fn count_files(
    root: &Path,
    files: &[SegmentFile],
    range: &Range,
    filter: &Filter,
    threads: usize,
) -> Result<u64, ScanError> {
    let matcher = Matcher::new(filter);
    let mut total = 0;
    for files in files.chunks(OPEN_FILES) {
        let segments: Vec<Segment> =
            files.iter().map(|file| Segment::open(root, file)).collect::<Result<_, ScanError>>()?;
        total += count_segments(&segments, range, &matcher, threads)?;
    }
    Ok(total)
}

fn count_segments(
    segments: &[Segment],
    range: &Range,
    matcher: &Matcher,
    threads: usize,
) -> Result<u64, ScanError> {
    let tasks: Vec<(&Segment, usize)> = segments
        .iter()
        .flat_map(|segment| (0..segment.groups.len()).map(move |group| (segment, group)))
        .collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut count = 0;
        while let Some((segment, group)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) {
                break; // another thread's error is the answer
            }
            count += count_group(segment, *group, range, matcher)
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(count)
    };
    if threads <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(tasks.len())).map(|_| scope.spawn(work)).collect();
        let mut total = work()?;
        for helper in helpers {
            total += helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(total)
    })
}

fn count_group(segment: &Segment, group: usize, range: &Range, matcher: &Matcher) -> Result<u64, ScanError> {
    let selection = Columns::new(group).select(segment, range, matcher.filter())?;
    match (&selection, segment.groups.get(group)) {
        (Selection::None, _) | (_, None) => return Ok(0),
        (Selection::All, Some(info)) if matcher.is_trivial() => return Ok(info.rows as u64),
        (Selection::Rows(rows), _) if matcher.is_trivial() => {
            return Ok(rows.iter().filter(|row| **row).count() as u64);
        }
        _ => {}
    }
    let mut pages = MessagePages::open(segment, group)?;
    let mut count = 0;
    while let Some(page) = pages.next(segment, |rows| selection.intersects(rows))? {
        let first = page.rows.start;
        matcher.hits(&page, |index| selection.contains(first + index), |_| count += 1);
    }
    Ok(count)
}
