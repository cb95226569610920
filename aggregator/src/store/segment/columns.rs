//! The columns of one row group beside the messages, each read when it is first needed, and which rows they select.

use super::file::{INSTANCE, KIND, LAG, SEQUENCE, STREAM, Segment, TIME};
use super::pages::{self, Strings};
use super::range::{Overlap, Range};
use super::{ScanError, ScannedRecord};
use crate::record::{Filter, Record, RecordKind};
use bytes::Bytes;
use skpr_proto::UnixNanos;

/// The rows of a row group that a range and the names of instances and streams select.
pub(super) enum Selection {
    None,
    All,
    /// One flag per row.
    Rows(Vec<bool>),
}

impl Selection {
    pub(super) fn contains(&self, row: usize) -> bool {
        match self {
            Selection::None => false,
            Selection::All => true,
            Selection::Rows(rows) => rows.get(row).copied().unwrap_or(false),
        }
    }

    pub(super) fn intersects(&self, range: std::ops::Range<usize>) -> bool {
        match self {
            Selection::None => false,
            Selection::All => true,
            Selection::Rows(rows) => rows.get(range).unwrap_or_default().contains(&true),
        }
    }
}

struct Times {
    order_time: Vec<i64>,
    lag: Vec<i64>,
    sequence: Vec<i64>,
}

/// The columns of row group `group`.
pub(super) struct Columns {
    group: usize,
    times: Option<Times>,
    kind: Option<Vec<i64>>,
    instance: Option<Strings>,
    stream: Option<Strings>,
}

/// The value in `slot`, read into it when it is not there yet.
fn loaded<T>(slot: &mut Option<T>, load: impl FnOnce() -> Result<T, ScanError>) -> Result<&T, ScanError> {
    let value = match slot.take() {
        Some(value) => value,
        None => load()?,
    };
    Ok(slot.insert(value))
}

impl Columns {
    pub(super) fn new(group: usize) -> Columns {
        Columns { group, times: None, kind: None, instance: None, stream: None }
    }

    fn times(&mut self, segment: &Segment) -> Result<&Times, ScanError> {
        let group = self.group;
        loaded(&mut self.times, || {
            Ok(Times {
                order_time: pages::integers(segment, group, TIME)?,
                lag: pages::integers(segment, group, LAG)?,
                sequence: pages::integers(segment, group, SEQUENCE)?,
            })
        })
    }

    /// The rows that are in `range` and whose instance and stream pass `filter`; reads only what that depends on.
    pub(super) fn select(
        &mut self,
        segment: &Segment,
        range: &Range,
        filter: &Filter,
    ) -> Result<Selection, ScanError> {
        let Some(info) = segment.groups.get(self.group) else { return Ok(Selection::None) };
        let mut selection = match range.overlap(&info.statistics) {
            Overlap::None => return Ok(Selection::None),
            Overlap::All => Selection::All,
            Overlap::Some => {
                let times = self.times(segment)?;
                let rows = times.order_time.iter().zip(&times.lag).zip(&times.sequence);
                let inside = |((order_time, lag), sequence): ((&i64, &i64), &i64)| {
                    let time = order_time.wrapping_sub(*lag);
                    range.contains(UnixNanos(*order_time), UnixNanos(time), *sequence as u64)
                };
                Selection::Rows(rows.map(inside).collect())
            }
        };
        let group = self.group;
        for (column, slot, names, except) in [
            (INSTANCE, &mut self.instance, &filter.instances, &[][..]),
            (STREAM, &mut self.stream, &filter.streams, filter.except_streams),
        ] {
            if names.is_empty() && except.is_empty() {
                continue;
            }
            let strings = loaded(slot, || pages::strings(segment, group, column))?;
            let allows = |value: &str| {
                (names.is_empty() || names.iter().any(|name| name == value)) && !except.contains(&value)
            };
            let allowed: Vec<bool> = strings.dictionary.iter().map(|value| allows(value)).collect();
            if !allowed.contains(&true) {
                return Ok(Selection::None);
            }
            if !allowed.contains(&false) {
                continue;
            }
            let passes = strings.ids.iter().map(|id| allowed.get(*id as usize).copied().unwrap_or(false));
            selection = match selection {
                Selection::Rows(rows) => {
                    Selection::Rows(rows.iter().zip(passes).map(|(a, b)| *a && b).collect())
                }
                _ => Selection::Rows(passes.collect()),
            };
        }
        match selection {
            Selection::Rows(rows) if !rows.contains(&true) => Ok(Selection::None),
            selection => Ok(selection),
        }
    }

    /// Row `row` with its message.
    pub(super) fn record(
        &mut self,
        segment: &Segment,
        row: usize,
        message: Bytes,
    ) -> Result<ScannedRecord, ScanError> {
        let absent = || segment.damaged("a column is shorter than its row group");
        let group = self.group;
        let times = self.times(segment)?;
        let at = |column: &Vec<i64>| column.get(row).copied().ok_or_else(absent);
        let (order_time, lag, sequence) = (at(&times.order_time)?, at(&times.lag)?, at(&times.sequence)?);
        let kind = at(loaded(&mut self.kind, || pages::integers(segment, group, KIND))?)?;
        let kind = i32::try_from(kind).ok().and_then(|kind| RecordKind::try_from(kind).ok());
        let kind = kind.ok_or_else(|| segment.damaged("a record is of an unknown kind"))?;
        let instance = loaded(&mut self.instance, || pages::strings(segment, group, INSTANCE))?;
        let instance = instance.get(row).cloned().ok_or_else(absent)?;
        let stream = loaded(&mut self.stream, || pages::strings(segment, group, STREAM))?;
        let stream = stream.get(row).cloned().ok_or_else(absent)?;
        let time = UnixNanos(order_time.wrapping_sub(lag));
        let record = Record { time, sequence: sequence as u64, instance, stream, kind, message };
        Ok(ScannedRecord { order_time: UnixNanos(order_time), record })
    }
}
