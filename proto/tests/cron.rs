//! When schedules are due: as Kubernetes' own cron library says, and as a clock that is read minute by minute says.
//!
//! `cron/table.csv` is made by `cron/table.go`, with the zones of Go: an expression, a zone, a start, and the next five times. Empty
//! where there are none within five years.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::{Span, Timestamp};
use proptest::prelude::*;
use skpr_proto::manifest::{Schedule, Zone};
use std::time::{Duration, Instant};

const TABLE: &str = include_str!("cron/table.csv");
/// Zones whose clocks are changed by whole hours, and not at midnight, and a night of each change.
const NIGHTS: [(&str, &str); 8] = [
    ("Australia/Sydney", "2025-10-04T12:00:00Z"),
    ("Australia/Sydney", "2026-04-04T12:00:00Z"),
    ("Europe/Berlin", "2025-03-29T20:00:00Z"),
    ("Europe/Berlin", "2026-10-24T20:00:00Z"),
    ("Europe/London", "2026-10-24T20:00:00Z"),
    ("America/New_York", "2024-03-10T01:00:00Z"),
    ("America/New_York", "2026-11-01T01:00:00Z"),
    ("UTC", "2024-02-28T12:00:00Z"),
];

/// The fields of a line; those with commas in them are quoted.
fn fields(line: &str) -> Vec<&str> {
    let mut rest = line;
    let mut found = Vec::new();
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (field, after) = quoted.split_once('"').unwrap();
                (field, after.strip_prefix(','))
            }
            None => match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            },
        };
        found.push(field);
        match after {
            Some(after) => rest = after,
            None => return found,
        }
    }
}

fn next_times(schedule: &Schedule, start: Timestamp, zone: &Zone) -> Vec<Timestamp> {
    let next = std::iter::successors(schedule.next_after(start, zone), |at| schedule.next_after(*at, zone));
    next.take(5).collect()
}

#[test]
fn tasks_are_due_when_kubernetes_has_them_due() {
    let mut wrong = Vec::new();
    let rows: Vec<Vec<&str>> = TABLE.lines().map(fields).collect();
    for row in &rows {
        let [expression, zone, start, expected @ ..] = row.as_slice() else { panic!("{row:?}") };
        let schedule =
            Schedule::parse(expression).unwrap_or_else(|refusal| panic!("{expression}: {refusal}"));
        let expected: Vec<Timestamp> =
            expected.iter().filter(|time| !time.is_empty()).map(|time| time.parse().unwrap()).collect();
        let (start, zone) = (start.parse().unwrap(), Zone::parse(zone).unwrap());
        let found = next_times(&schedule, start, &zone);
        // What Kubernetes is told is the same schedule.
        let told = next_times(&Schedule::parse(schedule.fields()).unwrap(), start, &zone);
        if found != expected || told != expected {
            wrong.push(format!("{expression} {zone} {start}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    let zones: std::collections::BTreeSet<&str> = rows.iter().map(|row| row[1]).collect();
    assert!(rows.len() >= 250 && zones.len() >= 5, "{} rows, {zones:?}", rows.len());
}

#[test]
fn a_month_of_every_minute_is_counted_at_once() {
    let (schedule, zone) = (Schedule::parse("* * * * *").unwrap(), Zone::parse("Europe/Berlin").unwrap());
    let start: Timestamp = "2026-03-10T00:00:00Z".parse().unwrap();
    let until = start + Span::new().hours(30 * 24);
    let began = Instant::now();
    let all = std::iter::successors(schedule.next_after(start, &zone), |at| schedule.next_after(*at, &zone));
    assert_eq!(all.take_while(|at| *at <= until).count(), 30 * 24 * 60);
    // Tens of milliseconds where it is optimised; a machine that is busy and does not optimise takes longer.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_search_ends_at_the_ends_of_time() {
    for expression in ["* * * * *", "0 0 29 2 *", "59 23 31 12 *"] {
        let schedule = Schedule::parse(expression).unwrap();
        for zone in ["UTC", "Asia/Tokyo", "America/New_York"].map(|zone| Zone::parse(zone).unwrap()) {
            assert_eq!(schedule.next_after(Timestamp::MAX, &zone), None);
            assert!(schedule.next_after(Timestamp::MIN, &zone).is_none_or(|at| at > Timestamp::MIN));
        }
    }
    // No year between these two is a leap year, and nobody looks further than five years.
    let leap = Schedule::parse("0 0 29 2 *").unwrap();
    assert_eq!(leap.next_after("2096-03-01T00:00:00Z".parse().unwrap(), &Zone::utc()), None);
}

/// Whether the clock shows, when this minute begins, what an expression of plain lists allows.
fn matches(expression: &[Vec<i8>; 5], stars: [bool; 2], at: Timestamp, zone: &Zone) -> bool {
    let shown = at.to_zoned(zone.time_zone()).datetime();
    let [minutes, hours, days, months, weekdays] = expression;
    let day = days.contains(&shown.day());
    let weekday = weekdays.contains(&shown.weekday().to_sunday_zero_offset());
    let on_day = if stars.contains(&true) { day && weekday } else { day || weekday };
    minutes.contains(&shown.minute())
        && hours.contains(&shown.hour())
        && months.contains(&shown.month())
        && on_day
}

/// Values of a field from `least` to `most`: all, written as `*`, or some that are not above `below`.
fn some(least: i8, below: i8, most: i8) -> impl Strategy<Value = (String, Vec<i8>)> {
    let list = move |mut values: Vec<i8>| {
        values.sort_unstable();
        values.dedup();
        (values.iter().map(i8::to_string).collect::<Vec<_>>().join(","), values)
    };
    prop_oneof![
        Just(("*".to_owned(), (least..=most).collect())),
        proptest::collection::vec(least..=below, 1..5).prop_map(list),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_due_is_passed_over_and_nothing_else_is_due(
        night in 0..NIGHTS.len(),
        // Clocks are changed early in the morning.
        fields in (some(0, 59, 59), some(0, 5, 23), some(1, 31, 31), some(1, 12, 12), some(0, 6, 6)),
        seconds in 0i64..3600,
    ) {
        let ((minute, minutes), (hour, hours), (day, days), (month, months), (weekday, weekdays)) = fields;
        let Ok(schedule) = Schedule::parse(&format!("{minute} {hour} {day} {month} {weekday}")) else { return Ok(()) };
        let stars = [day == "*", weekday == "*"];
        let expression = [minutes, hours, days, months, weekdays];
        let (zone, start) = NIGHTS[night];
        let zone = Zone::parse(zone).unwrap();
        let start = start.parse::<Timestamp>().unwrap() + Span::new().seconds(seconds);
        let end = start + Span::new().hours(30);
        let first = start.as_second() - start.as_second().rem_euclid(60) + 60;
        let clock = (first..=end.as_second()).step_by(60).map(|second| Timestamp::from_second(second).unwrap());
        let expected: Vec<Timestamp> = clock.filter(|at| matches(&expression, stars, *at, &zone)).collect();
        let found = std::iter::successors(schedule.next_after(start, &zone), |at| schedule.next_after(*at, &zone));
        let found: Vec<Timestamp> = found.take_while(|at| *at <= end).collect();
        prop_assert_eq!(found, expected, "{} in {}", schedule, zone);
        // And from wherever one begins to look.
        let middle = start + Span::new().minutes(seconds / 4);
        let next = schedule.next_after(middle, &zone);
        prop_assert!(next.is_none_or(|at| at > middle));
    }

    #[test]
    fn the_shortest_gap_is_one(night in 0..NIGHTS.len(), minutes in some(0, 59, 59), hours in some(0, 23, 23)) {
        let schedule = Schedule::parse(&format!("{} {} * * *", minutes.0, hours.0)).unwrap();
        let (zone, start) = NIGHTS[night];
        let (zone, start) = (Zone::parse(zone).unwrap(), start.parse::<Timestamp>().unwrap());
        let times = std::iter::successors(schedule.next_after(start, &zone), |at| schedule.next_after(*at, &zone));
        let times: Vec<Timestamp> = times.take(200).take_while(|at| *at < start + Span::new().hours(48)).collect();
        for pair in times.windows(2) {
            let gap = pair[1].as_second() - pair[0].as_second();
            prop_assert!(gap >= i64::try_from(schedule.shortest_gap().as_secs()).unwrap(), "{} in {}", schedule, zone);
        }
    }
}
