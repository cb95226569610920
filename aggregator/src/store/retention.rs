//! What expires: whole files, by age and by bytes per environment. Pure but for the clock.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Options;
use super::table::{Expired, Sealed};

/// How many expired files are remembered for telling readers what they missed; older ones are added up.
const REMEMBERED: usize = 64;

/// The files that are too old, and the oldest of those that are too many.
pub(super) fn expired(files: &[Arc<Sealed>], options: &Options) -> Vec<Arc<Sealed>> {
    let oldest = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|now| now.checked_sub(options.keep_age))
        .and_then(|oldest| i64::try_from(oldest.as_nanos()).ok())
        .unwrap_or(i64::MIN);
    let mut newest_first: Vec<_> = files.iter().collect();
    newest_first.sort_by_key(|sealed| std::cmp::Reverse((sealed.file.max_time, sealed.file.max_sequence)));
    let mut bytes = 0;
    let mut full = false;
    newest_first
        .into_iter()
        .filter(|sealed| {
            bytes += sealed.file.bytes;
            full |= bytes > options.keep_bytes_per_environment;
            full || sealed.file.max_time.0 < oldest
        })
        .map(Arc::clone)
        .collect()
}

/// Remembers what expired.
pub(super) fn note(known: &mut Vec<Expired>, expired: &[Arc<Sealed>]) {
    known.extend(expired.iter().map(|sealed| Expired {
        max_time: sealed.file.max_time,
        min_sequence: sealed.file.min_sequence,
        rows: sealed.file.rows,
    }));
    known.sort_by_key(|expired| expired.max_time);
    let excess = known.len().saturating_sub(REMEMBERED);
    let oldest: Vec<_> = known.drain(..excess).collect();
    if let (Some(sum), Some(last)) = (known.first_mut(), oldest.last()) {
        sum.rows += oldest.iter().map(|expired| expired.rows).sum::<u64>();
        sum.min_sequence = oldest
            .iter()
            .map(|expired| expired.min_sequence)
            .min()
            .unwrap_or(last.min_sequence)
            .min(sum.min_sequence);
    }
}
