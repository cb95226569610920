//! Turns a spool into the two files of an hour, and the cells of a day's hours into one file. Pure: bytes in, bytes out.
//!
//! Memory: the spool, the files made of it, and the rows of some instances at a time, however many there are.

use super::cell::{Cell, ROLLUP_MILLIS, cells};
use super::files::HOUR_MILLIS;
use super::row::{Record, Row};
use super::spool;
use super::table::Encoder;
use crate::environment::EnvironmentKey;
use crate::store::segment::{Checksums, HashingWriter};
use parquet::errors::ParquetError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that are sorted at once: of 128 bytes each, 32 MiB. All of an hour of 350 instances.
const ROWS_AT_ONCE: usize = 256 << 10;

/// A file and its checksums.
pub(super) type Encoded = (Vec<u8>, Checksums);

/// An hour, sealed.
pub(super) struct Sealed {
    pub(super) rows: Encoded,
    pub(super) cells: Encoded,
    pub(super) count: u64,
    /// Bytes of the spool that could not be read.
    pub(super) damaged: u64,
}

/// Seals a spool; none when it has no rows.
pub(super) fn hour(
    bytes: &[u8],
    environment: &EnvironmentKey,
    hour: i64,
) -> Result<Option<Sealed>, ParquetError> {
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let replayed = spool::replay(bytes, |row| *counts.entry(row.instance).or_default() += 1);
    if counts.is_empty() {
        return Ok(None);
    }
    let mut rows_file = new_file::<Row>(environment, &[hour])?;
    let mut cells_file = new_file::<Cell>(environment, &[hour])?;
    let mut count = 0;
    for (first, last) in parts(&counts) {
        let mut rows = Vec::new();
        spool::replay(bytes, |row| {
            let here = (first..=last).contains(&&row.instance);
            if here && row.time.div_euclid(HOUR_MILLIS) == hour {
                rows.push(row);
            }
        });
        in_order(&mut rows);
        count += rows.len() as u64;
        rows.iter().try_for_each(|row| rows_file.add(row))?;
        let mut added = Ok(());
        cells(&rows, ROLLUP_MILLIS, |cell| {
            if added.is_ok() {
                added = cells_file.add(&cell);
            }
        });
        added?;
    }
    let (rows, cells) = (finish(rows_file)?, finish(cells_file)?);
    Ok(Some(Sealed { rows, cells, count, damaged: replayed.damaged }))
}

/// Sorts rows as files have them, each once.
pub(super) fn in_order(rows: &mut Vec<Row>) {
    rows.sort_by(|a, b| (&a.instance, a.time).cmp(&(&b.instance, b.time)));
    rows.dedup_by(|a, b| (&a.instance, a.time) == (&b.instance, b.time));
}

/// The first and the last instance of each part that is sorted at once.
fn parts(counts: &BTreeMap<Arc<str>, usize>) -> Vec<(&Arc<str>, &Arc<str>)> {
    let mut parts: Vec<(&Arc<str>, &Arc<str>)> = Vec::new();
    let mut rows = usize::MAX;
    for (instance, count) in counts {
        rows = rows.saturating_add(*count);
        match parts.last_mut() {
            Some((_, last)) if rows <= ROWS_AT_ONCE => *last = instance,
            _ => {
                parts.push((instance, instance));
                rows = *count;
            }
        }
    }
    parts
}

/// Puts cells of several hours into one file.
pub(super) fn day(
    mut cells: Vec<Cell>,
    environment: &EnvironmentKey,
    hours: &[i64],
) -> Result<Encoded, ParquetError> {
    cells.sort_by(|a, b| (&a.instance, a.start).cmp(&(&b.instance, b.start)));
    let mut file = new_file::<Cell>(environment, hours)?;
    cells.iter().try_for_each(|cell| file.add(cell))?;
    finish(file)
}

type File = Encoder<HashingWriter<Vec<u8>>>;

fn new_file<R: Record>(environment: &EnvironmentKey, hours: &[i64]) -> Result<File, ParquetError> {
    Encoder::new::<R>(HashingWriter::new(Vec::new()), environment, hours)
}

fn finish(file: File) -> Result<Encoded, ParquetError> {
    Ok(file.finish()?.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_complete() {
        let counts: BTreeMap<Arc<str>, usize> =
            [("a", ROWS_AT_ONCE - 1), ("b", 1), ("c", 2 * ROWS_AT_ONCE), ("d", 5)]
                .map(|(name, count)| (name.into(), count))
                .into();
        let found: Vec<_> = parts(&counts).into_iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, [("a", "b"), ("c", "c"), ("d", "d")]);
    }
}
