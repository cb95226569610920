//! Sealed files and memory of one snapshot as one sequence in order of (order time, sequence).
//!
//! A file is opened when its first record's turn comes. One that is damaged is read around, and says so once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use skpr_proto::UnixNanos;

use super::memory::Stretch;
use super::seal::Place;
use super::segment::{self, Range, Scan, ScanError, ScannedRecord};
use super::table::{Sealed, Shared, add};
use crate::record::Filter;

type Key = (UnixNanos, u64);

/// How far to step over a damaged place at first.
const STEP: i64 = 1_000_000_000;

/// Records in memory, in order.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) stretches: &'a [Arc<Stretch>],
    pub(super) places: &'a [Place],
}

pub(super) enum Item {
    Record(ScannedRecord),
    /// Some of a file's records cannot be read.
    Damage(Arc<Sealed>),
    /// Nothing was found for a while.
    Nothing,
}

pub(super) struct Merge<'a> {
    shared: &'a Shared,
    range: Range,
    filter: &'a Filter,
    memory: Memory<'a>,
    files: Vec<FileReader>,
    /// Damage that was not told yet.
    damaged: Vec<Arc<Sealed>>,
    /// The next key of each source: a file by its index, or memory.
    heads: BinaryHeap<Reverse<(Key, Option<usize>)>>,
}

struct FileReader {
    sealed: Arc<Sealed>,
    scan: Option<Scan>,
    batch: std::vec::IntoIter<ScannedRecord>,
    next: Option<ScannedRecord>,
    /// The last record given, or what was stepped over.
    last: Option<Key>,
    step: i64,
    damaged: bool,
}

impl<'a> Merge<'a> {
    /// `memory` holds only records in `range`.
    pub(super) fn new(
        shared: &'a Shared,
        files: impl Iterator<Item = Arc<Sealed>>,
        memory: Memory<'a>,
        range: Range,
        filter: &'a Filter,
    ) -> Merge<'a> {
        let files: Vec<_> = files.map(FileReader::new).collect();
        let file_heads = files
            .iter()
            .enumerate()
            .map(|(index, file)| Reverse(((file.sealed.file.min_time, 0), Some(index))));
        let mut heads: BinaryHeap<_> = file_heads.collect();
        if let Some(place) = memory.places.first() {
            heads.push(Reverse((key(place), None)));
        }
        Merge { shared, range, filter, memory, files, damaged: Vec::new(), heads }
    }

    pub(super) fn next(&mut self) -> Option<Item> {
        if let Some(sealed) = self.damaged.pop() {
            return Some(Item::Damage(sealed));
        }
        let Reverse((_, source)) = self.heads.pop()?;
        Some(match source {
            None => self.next_in_memory(),
            Some(index) => self.next_in_file(index)?,
        })
    }

    fn next_in_memory(&mut self) -> Item {
        let Some((place, rest)) = self.memory.places.split_first() else { return Item::Nothing };
        self.memory.places = rest;
        if let Some(next) = rest.first() {
            self.heads.push(Reverse((key(next), None)));
        }
        let stretch = self.memory.stretches.get(place.stretch as usize);
        let wanted =
            stretch.filter(|stretch| self.filter.accepts_message(stretch.message(place.index as usize)));
        wanted.map_or(Item::Nothing, |stretch| Item::Record(stretch.record(place.index as usize)))
    }

    fn next_in_file(&mut self, index: usize) -> Option<Item> {
        let file = self.files.get_mut(index)?;
        let ready = file.next.take();
        let damaged_before = file.damaged;
        file.advance(self.shared, &self.range, self.filter);
        if file.damaged && !damaged_before {
            self.damaged.push(Arc::clone(&file.sealed));
        }
        if let Some(next) = &file.next {
            self.heads.push(Reverse(((next.order_time, next.record.sequence), Some(index))));
        }
        Some(ready.map_or(Item::Nothing, Item::Record))
    }
}

fn key(place: &Place) -> Key {
    (UnixNanos(place.order_time), place.sequence)
}

impl FileReader {
    fn new(sealed: Arc<Sealed>) -> FileReader {
        FileReader {
            sealed,
            scan: None,
            batch: Vec::new().into_iter(),
            next: None,
            last: None,
            step: STEP,
            damaged: false,
        }
    }

    /// Finds the next record, or that there is none.
    fn advance(&mut self, shared: &Shared, range: &Range, filter: &Filter) {
        loop {
            self.next = self.batch.next();
            if let Some(next) = &self.next {
                self.last = Some((next.order_time, next.record.sequence));
                return;
            }
            let scanned = match &mut self.scan {
                Some(scan) => scan.next().transpose(),
                None => {
                    let range = Range { after: range.after.max(self.last), ..*range };
                    segment::scan(&shared.files.root, &self.sealed.file, &range, filter).and_then(
                        |mut scan| {
                            let first = scan.next().transpose();
                            self.scan = Some(scan);
                            first
                        },
                    )
                }
            };
            match scanned {
                Ok(Some(batch)) => self.batch = batch.into_iter(),
                Ok(None) => return,
                Err(error) => {
                    self.note_damage(shared, &error);
                    if !self.step_over() {
                        return;
                    }
                }
            }
        }
    }

    fn note_damage(&mut self, shared: &Shared, error: &ScanError) {
        if !self.damaged {
            self.damaged = true;
            add(&shared.counters.damage, 1);
            tracing::error!(path = %self.sealed.file.path.display(), %error, "a sealed file cannot be read");
        }
    }

    /// Goes on further and further behind a damaged place; says whether anything is left.
    fn step_over(&mut self) -> bool {
        let from = self.last.map_or(self.sealed.file.min_time, |(time, _)| time);
        let to = UnixNanos(from.0.saturating_add(self.step));
        self.step = self.step.saturating_mul(2);
        self.last = Some((to, u64::MAX));
        self.scan = None;
        to < self.sealed.file.max_time
    }
}
