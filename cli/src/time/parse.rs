//! Reads one time, in each of the forms that are promised.

use super::show;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Which end of a range a time is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Since,
    Until,
}

/// Reads one time; the second value says what was odd about it.
pub(super) fn parse(
    text: &str,
    bound: Bound,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<(Timestamp, Option<String>)> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Some((now, None));
    }
    if let Some(ago) = duration(text) {
        return Some((now.checked_sub(ago).ok()?, None));
    }
    match local(text, zone.to_datetime(now).date()) {
        Some(local) => instant(local, bound, zone),
        None => Some((offset_time(text)?, None)),
    }
}

/// `1h30m`: numbers with units, exact lengths (a day is 24 hours, also when a clock change makes it 23 or 25).
pub(crate) fn duration(text: &str) -> Option<SignedDuration> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = match tail.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return None,
        };
        let seconds = number.parse::<i64>().ok()?.checked_mul(unit)?;
        total = total.checked_add(SignedDuration::from_secs(seconds))?;
        rest = tail.get(1..)?;
    }
    (!text.is_empty()).then_some(total)
}

/// A date, a time of day or both; `today` is what a time without a date belongs to.
fn local(text: &str, today: Date) -> Option<DateTime> {
    if let Some(time) = clock(text) {
        return Some(today.to_datetime(time));
    }
    let (day, time) = match text.split_once([' ', 'T', 't']) {
        // `today` and `yesterday` hold a t.
        Some(_) if is_word(text) => text.split_once(' ').unwrap_or((text, "")),
        Some(parts) => parts,
        None => (text, ""),
    };
    let date = match day.to_ascii_lowercase().as_str() {
        "today" => today,
        "yesterday" => today.yesterday().ok()?,
        _ => date(day)?,
    };
    let time = if time.is_empty() { Time::midnight() } else { clock(time.trim_start())? };
    Some(date.to_datetime(time))
}

fn is_word(text: &str) -> bool {
    text.starts_with(|character: char| character.is_ascii_alphabetic())
}

/// `2026-11-22`.
fn date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let shaped = parts.next().is_none() && (year.len(), month.len(), day.len()) == (4, 2, 2);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    (shaped && digits)
        .then(|| Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok())
        .flatten()
}

/// `15:40`, `15:40:05`, `15:40:05.123`.
pub(super) fn clock(text: &str) -> Option<Time> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let digits = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let shaped = parts.next().is_none() && digits(hour, 2) && minute.len() == 2 && digits(minute, 2);
    if !(shaped && digits(second, 2) && digits(fraction, 9)) {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?, nanoseconds).ok()
}

/// A time with its offset, as other programs print it.
fn offset_time(text: &str) -> Option<Timestamp> {
    // jiff reads more forms than are promised here, durations and week dates among them.
    let dated = text.get(..10).is_some_and(|day| date(day).is_some());
    (dated && !text.contains('[')).then(|| text.parse().ok()).flatten()
}

/// The instant of a local time. An hour may exist twice or not at all when clocks change.
fn instant(local: DateTime, bound: Bound, zone: &TimeZone) -> Option<(Timestamp, Option<String>)> {
    let found = zone.to_ambiguous_timestamp(local);
    match found.offset() {
        AmbiguousOffset::Unambiguous { .. } => Some((found.compatible().ok()?, None)),
        AmbiguousOffset::Fold { .. } => {
            let (instant, which) = match bound {
                Bound::Since => (found.earlier().ok()?, "first"),
                Bound::Until => (found.later().ok()?, "second"),
            };
            let note = format!("{} happens twice (clocks go back): taking the {which}", plain(local));
            Some((instant, Some(note)))
        }
        AmbiguousOffset::Gap { .. } => {
            let (earlier, later) = (found.earlier().ok()?, found.later().ok()?);
            let change = zone.following(earlier).next().map(|transition| transition.timestamp());
            let instant = change.filter(|change| *change <= later).unwrap_or(later);
            let note = format!(
                "{} does not exist (clocks go forward): taking {}",
                plain(local),
                show(instant, zone)
            );
            Some((instant, Some(note)))
        }
    }
}

fn plain(local: DateTime) -> String {
    local.strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Monday 2026-11-23 22:11:00 in Sydney (+11:00).
    const NOW: &str = "2026-11-23T11:11:00Z";

    fn sydney() -> TimeZone {
        TimeZone::get("Australia/Sydney").unwrap()
    }

    fn check(text: &str, bound: Bound, expected: &str) {
        let (instant, _) =
            parse(text, bound, NOW.parse().unwrap(), &sydney()).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(show(instant, &TimeZone::UTC), expected.replace('Z', "+00:00"), "{text}");
    }

    #[test]
    fn every_promised_form() {
        for (text, expected) in [
            ("now", "2026-11-23T11:11:00Z"),
            ("30s", "2026-11-23T11:10:30Z"),
            ("15m", "2026-11-23T10:56:00Z"),
            ("2h", "2026-11-23T09:11:00Z"),
            ("1d", "2026-11-22T11:11:00Z"),
            ("1w", "2026-11-16T11:11:00Z"),
            ("1h30m", "2026-11-23T09:41:00Z"),
            ("15:40", "2026-11-23T04:40:00Z"),
            ("9:05", "2026-11-22T22:05:00Z"),
            ("15:40:05", "2026-11-23T04:40:05Z"),
            ("15:40:05.25", "2026-11-23T04:40:05.250Z"),
            ("today 09:00", "2026-11-22T22:00:00Z"),
            ("today", "2026-11-22T13:00:00Z"),
            ("yesterday", "2026-11-21T13:00:00Z"),
            ("yesterday 15:40", "2026-11-22T04:40:00Z"),
            (" Yesterday  15:40 ", "2026-11-22T04:40:00Z"),
            ("2026-11-22", "2026-11-21T13:00:00Z"),
            ("2026-11-22 15:40", "2026-11-22T04:40:00Z"),
            ("2026-11-22T15:40:05", "2026-11-22T04:40:05Z"),
            ("2026-11-22T04:40:00Z", "2026-11-22T04:40:00Z"),
            ("2026-11-22T15:40:00+11:00", "2026-11-22T04:40:00Z"),
            ("2026-11-22T15:40:00.123456789+11:00", "2026-11-22T04:40:00.123Z"),
            ("2024-02-29", "2024-02-28T13:00:00Z"),
            ("2024-02-29 23:59", "2024-02-29T12:59:00Z"),
            ("2024-03-01 00:00", "2024-02-29T13:00:00Z"),
        ] {
            check(text, Bound::Since, expected);
            check(text, Bound::Until, expected);
        }
    }

    #[test]
    fn clock_changes() {
        use Bound::{Since, Until};
        for (text, bound, expected) in [
            // 02:00 to 03:00 happens twice: first at +11:00, then at +10:00.
            ("2026-04-05 01:59", Since, "2026-04-04T14:59:00Z"),
            ("2026-04-05 02:00", Since, "2026-04-04T15:00:00Z"),
            ("2026-04-05 02:00", Until, "2026-04-04T16:00:00Z"),
            ("2026-04-05 02:30", Since, "2026-04-04T15:30:00Z"),
            ("2026-04-05 02:30", Until, "2026-04-04T16:30:00Z"),
            ("2026-04-05 03:00", Since, "2026-04-04T17:00:00Z"),
            ("2027-04-04 02:30", Since, "2027-04-03T15:30:00Z"),
            ("2027-04-04 02:30", Until, "2027-04-03T16:30:00Z"),
            // 02:00 to 03:00 does not happen: the moment of the change, at either end.
            ("2026-10-04 01:59", Since, "2026-10-03T15:59:00Z"),
            ("2026-10-04 02:00", Since, "2026-10-03T16:00:00Z"),
            ("2026-10-04 02:30", Since, "2026-10-03T16:00:00Z"),
            ("2026-10-04 02:30", Until, "2026-10-03T16:00:00Z"),
            ("2026-10-04 03:00", Since, "2026-10-03T16:00:00Z"),
            ("2026-10-04 03:01", Since, "2026-10-03T16:01:00Z"),
        ] {
            check(text, bound, expected);
        }
        let note = |text| parse(text, Since, NOW.parse().unwrap(), &sydney()).unwrap().1.unwrap();
        assert_eq!(
            note("2026-04-05 02:30"),
            "2026-04-05 02:30 happens twice (clocks go back): taking the first"
        );
        assert_eq!(
            note("2026-10-04 02:30"),
            "2026-10-04 02:30 does not exist (clocks go forward): taking 2026-10-04T03:00:00+11:00"
        );
    }

    #[test]
    fn yesterday_is_the_civil_day_also_across_a_clock_change() {
        let now = "2026-10-04T03:00:00Z".parse().unwrap();
        let (instant, _) = parse("yesterday 12:00", Bound::Since, now, &sydney()).unwrap();
        assert_eq!(show(instant, &sydney()), "2026-10-03T12:00:00+10:00");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            " ",
            "abc",
            "15",
            "15m2",
            "m",
            "-15m",
            "1.5h",
            "15 m",
            "25:00",
            "15:60",
            "15:40:60",
            "1:2:3:4",
            "15:4",
            "tomorrow",
            "yesterday noon",
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "26-01-01",
            "2026-11-22 ",
            "2026-11-22 x",
            "2026-11-22T15:40:00+99:00",
            "99999999999999999999d",
            "9223372036854775807w",
            "P1D",
            "2026-W47-1",
            "１５:４０",
        ] {
            let parsed = parse(bad, Bound::Since, NOW.parse().unwrap(), &sydney());
            // Space around a time is forgiven.
            assert_eq!(parsed.is_some(), bad == "2026-11-22 ", "{bad:?} {parsed:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", like in "[0-9wdhmsTZ:. +-]{0,30}", word in "(today|yesterday|now)?[ T]?[0-9:.]{0,9}") {
            for text in [text, like, word] {
                for bound in [Bound::Since, Bound::Until] {
                    drop(parse(&text, bound, NOW.parse().unwrap(), &sydney()));
                    drop(parse(&text, bound, Timestamp::MIN, &sydney()));
                    drop(parse(&text, bound, Timestamp::MAX, &sydney()));
                }
            }
        }

        #[test]
        fn what_is_shown_can_be_typed(second in -10_000_000_000i64..100_000_000_000) {
            let instant = Timestamp::from_second(second).unwrap();
            let (read, _) = parse(&show(instant, &TimeZone::UTC), Bound::Since, instant, &sydney()).unwrap();
            prop_assert_eq!(read, instant);
        }
    }
}
