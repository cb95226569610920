//! RFC 3339 times with up to nanoseconds, as container runtimes stamp them, into nanoseconds since the epoch.
//!
//! By hand, because it runs once a line: consecutive lines mostly share their second, whose value is remembered.

/// Parses and remembers the last second seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    prefix: [u8; 19],
    seconds: i64,
}

impl Clock {
    /// Nanoseconds since the epoch. None for anything that is not exactly a time, or is outside of what an `i64` holds.
    pub(super) fn parse(&mut self, text: &[u8]) -> Option<i64> {
        let (prefix, rest) = text.split_first_chunk::<19>()?;
        if *prefix != self.prefix {
            self.seconds = civil_seconds(prefix)?;
            self.prefix = *prefix;
        }
        let (nanos, zone) = fraction(rest)?;
        let seconds = self.seconds.checked_sub(offset(zone)?)?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
    }
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

/// `2026-11-22T15:40:00` as if it were UTC.
fn civil_seconds(text: &[u8; 19]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b't', h1, h2, b':', n1, n2, b':', s1, s2] = *text
    else {
        return None;
    };
    let (year, month, day) = (two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    if day < 1 || day > days_in_month(year, month)? || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn days_in_month(year: i64, month: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 if leap => Some(29),
        2 => Some(28),
        _ => None,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: years are counted from March, so that the leap day is
/// the last of a year, and in eras of 400 years.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `.123456789` or nothing, and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else { return Some((0, text)) };
    let mut nanos = 0;
    let mut count = 0_u32;
    let mut rest = digits;
    while let Some((byte, after)) = rest.split_first()
        && let Some(value) = digit(*byte)
    {
        if count == 9 {
            return None;
        }
        nanos = nanos * 10 + value;
        count += 1;
        rest = after;
    }
    (count > 0).then(|| (nanos * 10_i64.pow(9 - count), rest))
}

/// `Z` or `+10:00`, in seconds.
fn offset(text: &[u8]) -> Option<i64> {
    match *text {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<i64> {
        Clock::default().parse(text.as_bytes())
    }

    fn reference(text: &str) -> Option<i64> {
        let time: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(time.as_nanosecond()).ok()
    }

    #[test]
    fn reads_what_runtimes_write() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-11-22T15:40:00.123456789Z",
            "2026-11-22T15:40:00.1Z",
            "2026-11-22T15:40:00.123456789+10:00",
            "2024-02-29T23:59:59.999999999-03:30",
            "2000-02-29T00:00:00Z",
            "1969-12-31T23:59:59.999999999Z",
        ] {
            assert_eq!(parse(text), reference(text), "{text}");
            assert!(parse(text).is_some(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T15:40:00",
            "2026-11-22T15:40:00.Z",
            "2026-11-22T15:40:00.1234567890Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T15:40:00Zx",
            "2026-11-22 15:40:00Z",
            "2026-11-22T15:40:00+1000",
            "9999-11-22T15:40:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(seconds in -9_000_000_000_i64..9_000_000_000, nanos in 0_i32..1_000_000_000, digits in 0_usize..10, minutes in -1439_i32..1440) {
            let time = jiff::Timestamp::new(seconds, nanos).unwrap();
            let zone = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let civil = zone.to_datetime(time);
            let fraction = format!("{:09}", civil.subsec_nanosecond());
            let fraction = if digits == 0 { String::new() } else { format!(".{}", &fraction[..digits]) };
            let sign = if minutes < 0 { '-' } else { '+' };
            let text = format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}", civil.year(), civil.month(), civil.day(), civil.hour(), civil.minute(), civil.second(), minutes.abs() / 60, minutes.abs() % 60);
            prop_assert_eq!(parse(&text), reference(&text), "{}", text);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), twist in 0_usize..40) {
            let mut clock = Clock::default();
            clock.parse(&bytes);
            let mut text = b"2026-11-22T15:40:00.123456789+10:00".to_vec();
            if let (Some(slot), Some(byte)) = (text.get_mut(twist), bytes.first()) {
                *slot = *byte;
            }
            clock.parse(&text);
        }
    }
}
