//! Turns what is in memory into sealed files, one for each environment and hour.

use std::sync::Arc;

use skpr_proto::UnixNanos;

use super::memory::Stretch;
use super::segment::{self, Hour, SegmentFile};
use super::table::{Files, Table};

/// Where a record in memory is, in the order of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) order_time: i64,
    pub(super) sequence: u64,
    pub(super) stretch: u32,
    pub(super) index: u32,
}

/// The records of `stretches` that `wanted` accepts, in order of (order time, sequence).
pub(super) fn in_order(stretches: &[Arc<Stretch>], wanted: impl Fn(&Stretch, usize) -> bool) -> Vec<Place> {
    let mut places = Vec::new();
    for (number, stretch) in (0u32..).zip(stretches) {
        for (index, position) in (0u32..).zip(0..stretch.records()) {
            if wanted(stretch, position) {
                let sequence = stretch.first_sequence + u64::from(index);
                places.push(Place {
                    order_time: stretch.order_time(position),
                    sequence,
                    stretch: number,
                    index,
                });
            }
        }
    }
    places.sort();
    places
}

/// Writes the files of all tables' sealing parts. After a failure none of them is there.
pub(super) fn write_all(
    files: &Files,
    tables: &[(Arc<Table>, u64)],
) -> anyhow::Result<Vec<(Arc<Table>, Vec<SegmentFile>)>> {
    let mut all = Vec::new();
    for (table, _) in tables {
        let stretches = table.lock().sealing.clone();
        if stretches.is_empty() {
            continue;
        }
        let mut written = Vec::new();
        let result = write_table(files, table, &stretches, &mut written);
        all.push((Arc::clone(table), written));
        if let Err(error) = result {
            for file in all.iter().flat_map(|(_, written)| written) {
                discard(files, file);
            }
            return Err(error);
        }
    }
    Ok(all)
}

fn write_table(
    files: &Files,
    table: &Table,
    stretches: &[Arc<Stretch>],
    written: &mut Vec<SegmentFile>,
) -> anyhow::Result<()> {
    let places = in_order(stretches, |_, _| true);
    let hour = |place: &Place| Hour::of(UnixNanos(place.order_time));
    for places in places.chunk_by(|a, b| hour(a) == hour(b)) {
        let Some(first) = places.first() else { continue };
        let row = |place: &Place| {
            stretches.get(place.stretch as usize).map(|stretch| stretch.row(place.index as usize))
        };
        files.disk.before_segment()?;
        written.push(segment::write(&files.root, &table.key, hour(first), places.iter().filter_map(row))?);
    }
    Ok(())
}

/// Removes a file that no manifest lists.
pub(super) fn discard(files: &Files, file: &SegmentFile) {
    let removed = files.disk.before_removal().and_then(|()| segment::remove(&files.root, file));
    if let Err(error) = removed {
        tracing::warn!(path = %file.path.display(), %error, "cannot remove an unfinished segment; the next start will");
    }
}
