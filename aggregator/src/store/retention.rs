//! What expires: whole files, by age, by bytes per environment, and when the disk is nearly full. Pure but for the clock.

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

/// What is to be free: a twentieth of the disk, at least what two parts of memory need to be logged, and no more than
/// what a minute of much logging needs.
const MIN_RESERVE: u64 = 64 << 20;
const MAX_RESERVE: u64 = 1 << 30;

/// How many bytes have to go, of a disk that has so much free and so much in all.
pub(super) fn shortage((free, total): (u64, u64)) -> u64 {
    (total / 20).clamp(MIN_RESERVE, MAX_RESERVE).saturating_sub(free)
}

/// The oldest files of all environments that together have so many bytes.
pub(super) fn oldest(files: impl Iterator<Item = Arc<Sealed>>, bytes: u64) -> Vec<Arc<Sealed>> {
    let mut files: Vec<_> = files.collect();
    files.sort_by_key(|sealed| (sealed.file.max_time, sealed.file.max_sequence));
    let mut found = 0;
    files
        .into_iter()
        .take_while(|sealed| {
            let wanted = found < bytes;
            found += sealed.file.bytes;
            wanted
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_the_disk_is_kept_free_within_bounds() {
        const GIB: u64 = 1 << 30;
        assert_eq!(shortage((2 * GIB, 100 * GIB)), 0);
        assert_eq!(shortage((GIB / 4, 100 * GIB)), GIB - GIB / 4);
        assert_eq!(shortage((0, 10 * GIB)), GIB / 2);
        assert_eq!(shortage((60 << 20, GIB / 2)), 4 << 20);
    }
}
