//! Times and lengths of time as people and programs read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use skpr_proto::UnixNanos;

/// A time to the second (or finer if it is), with offset: what is shown can be typed again.
pub(crate) fn show(instant: Timestamp, zone: &TimeZone) -> String {
    let pattern =
        if instant.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S.%3f%:z" };
    instant.to_zoned(zone.clone()).strftime(pattern).to_string()
}

/// How long ago, to one unit: `now`, `45s`, `12m`, `3h`, `4d`.
pub(crate) fn ago(then: UnixNanos, now: Timestamp) -> String {
    let seconds = UnixNanos::from(now).0.saturating_sub(then.0) / 1_000_000_000;
    // A clock that is a little ahead of this one is no reason to speak of the future.
    if seconds <= 0 { "now".to_owned() } else { format!("{} ago", span(seconds)) }
}

/// A length of time, to one unit.
pub(crate) fn span(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A point in time as programs read it.
pub(crate) fn rfc3339(time: UnixNanos) -> String {
    let instant = Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
    let pattern =
        if instant.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%3fZ" };
    instant.to_zoned(TimeZone::UTC).strftime(pattern).to_string()
}

/// Writes the times of records; what stays the same within a second is made once a second.
pub(crate) struct Stamp {
    zone: TimeZone,
    second: Option<i64>,
    date: String,
    offset: String,
}

impl Stamp {
    pub(crate) fn new(zone: TimeZone) -> Self {
        Stamp { zone, second: None, date: String::new(), offset: String::new() }
    }

    /// Appends RFC 3339 with `digits` (3 or 9) digits of the second's fraction.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, time: UnixNanos, digits: usize) {
        let second = time.0.div_euclid(1_000_000_000);
        if self.second != Some(second) {
            // Every i64 of nanoseconds is within jiff's range.
            let zoned = Timestamp::from_second(second).unwrap_or_default().to_zoned(self.zone.clone());
            self.date = zoned.strftime("%Y-%m-%dT%H:%M:%S.").to_string();
            self.offset =
                if self.zone == TimeZone::UTC { "Z".to_owned() } else { zoned.strftime("%:z").to_string() };
            self.second = Some(second);
        }
        let mut fraction = [b'0'; 9];
        let mut rest = time.0.rem_euclid(1_000_000_000);
        for digit in fraction.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        out.extend_from_slice(self.date.as_bytes());
        out.extend_from_slice(fraction.get(..digits).unwrap_or(&fraction));
        out.extend_from_slice(self.offset.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_jiff() {
        for zone in [TimeZone::UTC, TimeZone::get("Australia/Sydney").unwrap()] {
            let mut stamp = Stamp::new(zone.clone());
            for nanos in [0, -1, 1_796_000_000_123_456_789, 1_796_000_000_123_456_790, i64::MIN, i64::MAX] {
                let mut out = Vec::new();
                stamp.push(&mut out, UnixNanos(nanos), 9);
                let read: Timestamp = String::from_utf8(out).unwrap().parse().unwrap();
                assert_eq!(read.as_nanosecond(), i128::from(nanos));
            }
        }
    }
}
