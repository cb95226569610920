//! Reads a whole segment: to compare it with what the manifest says about it, or to say that for a lost manifest.

use super::file::{INSTANCE, KIND, LAG, SEQUENCE, STREAM, Segment, TIME};
use super::pages::{self, MessagePages};
use super::range::Bounds;
use super::{ScanError, SegmentFile};
use crate::environment::EnvironmentKey;
use crate::record::RecordKind;
use skpr_proto::{EnvironmentName, Label, UnixNanos};
use std::path::Path;

pub(super) fn verify(root: &Path, file: &SegmentFile) -> Result<(), ScanError> {
    let segment = Segment::open(root, file)?; // compares rows, times, sequences and length as the footer has them
    if read(&segment)? == file.raw_bytes {
        Ok(())
    } else {
        Err(segment.damaged("its messages have another size"))
    }
}

pub(super) fn describe(root: &Path, path: &Path) -> Result<(EnvironmentKey, SegmentFile), ScanError> {
    let segment = Segment::open_unlisted(root.join(path))?;
    let raw_bytes = read(&segment)?;
    let described = || {
        let times = segment.bounds(|statistics| statistics.order_time)?;
        let sequences = segment.bounds(|statistics| statistics.sequence)?;
        let file = SegmentFile {
            path: path.to_owned(),
            rows: segment.rows(),
            bytes: segment.length(),
            raw_bytes,
            min_time: UnixNanos(times.min),
            max_time: UnixNanos(times.max),
            min_sequence: u64::try_from(sequences.min).ok()?,
            max_sequence: u64::try_from(sequences.max).ok()?,
        };
        let pairs = segment.metadata.file_metadata().key_value_metadata()?;
        let text = |key: &str| pairs.iter().find(|pair| pair.key == key)?.value.as_deref();
        let environment = EnvironmentKey {
            namespace: Label::parse("namespace", text("skpr.namespace")?).ok()?,
            name: EnvironmentName::parse(text("skpr.project")?, text("skpr.environment")?).ok()?,
        };
        Some((environment, file))
    };
    described().ok_or_else(|| segment.damaged("it does not say whose it is"))
}

/// Reads everything; returns the messages' bytes.
fn read(segment: &Segment) -> Result<u64, ScanError> {
    segment.source.0.verify().map_err(|error| segment.failed(error))?;
    let mut last = None;
    let mut raw_bytes = 0;
    for group in 0..segment.groups.len() {
        last = verify_rows(segment, group, last)?;
        for column in [INSTANCE, STREAM] {
            let strings = pages::strings(segment, group, column)?;
            if strings.ids.len() != segment.groups.get(group).map_or(0, |group| group.rows) {
                return Err(segment.damaged("a column is shorter than its row group"));
            }
        }
        let mut messages = MessagePages::open(segment, group)?;
        while let Some(page) = messages.next(segment, |_| true)? {
            raw_bytes += page.bytes.len() as u64;
        }
    }
    Ok(raw_bytes)
}

/// Verifies the numbers of a row group; `last` is (`order_time`, `sequence`) of the row before it.
fn verify_rows(
    segment: &Segment,
    group: usize,
    mut last: Option<(i64, i64)>,
) -> Result<Option<(i64, i64)>, ScanError> {
    let [times, lags, sequences, kinds] =
        [TIME, LAG, SEQUENCE, KIND].map(|column| pages::integers(segment, group, column));
    let (times, lags, sequences, kinds) = (times?, lags?, sequences?, kinds?);
    for key in times.iter().copied().zip(sequences.iter().copied()) {
        if last.is_some_and(|last| last >= key) {
            return Err(segment.damaged("its rows are out of order"));
        }
        last = Some(key);
    }
    let known = |kind: &i64| i32::try_from(*kind).is_ok_and(|kind| RecordKind::try_from(kind).is_ok());
    if lags.iter().any(|lag| *lag < 0) || !kinds.iter().all(known) {
        return Err(segment.damaged("a row has impossible values"));
    }
    let bounds = |values: &[i64]| Some(Bounds { min: *values.iter().min()?, max: *values.iter().max()? });
    let agrees = segment.groups.get(group).is_some_and(|group| {
        let statistics = &group.statistics;
        bounds(&times) == Some(statistics.order_time)
            && bounds(&lags) == Some(statistics.lag)
            && bounds(&sequences) == Some(statistics.sequence)
    });
    if agrees { Ok(last) } else { Err(segment.damaged("its statistics contradict its rows")) }
}
