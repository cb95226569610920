//! When a schedule is next due: Kubernetes' own search, step by step, so that a task is due at the same times everywhere.
//!
//! Kubernetes asks `Next` of github.com/robfig/cron v3. What its search does where a clock is changed follows from how it steps:
//! what lies in a gap is left out, and an hour that comes twice counts twice. Where a day begins at 01:00, or a clock is changed by half
//! an hour, it also passes over times that there are; so does this, and `proto/tests/cron/table.csv` holds it to that. Pure, and
//! bounded: it gives up after five years.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// What has not come within so many years never does.
const YEARS: i16 = 5;

/// What a schedule allows, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
    pub months: u64,
    /// Sunday is 0.
    pub weekdays: u64,
    /// A day has to be of both fields, since one of them is `*`; else either is enough.
    pub both_days: bool,
}

impl Times {
    fn month(&self, at: &Moment) -> bool {
        has(self.months, at.local.month())
    }

    fn day(&self, at: &Moment) -> bool {
        let day = has(self.days, at.local.day());
        let weekday = has(self.weekdays, at.local.weekday().to_sunday_zero_offset());
        if self.both_days { day && weekday } else { day || weekday }
    }

    fn hour(&self, at: &Moment) -> bool {
        has(self.hours, at.local.hour())
    }

    fn minute(&self, at: &Moment) -> bool {
        has(self.minutes, at.local.minute())
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

/// The first time after `after` at which it is due, by this clock; none in the next five years.
pub(super) fn next(times: &Times, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let clock = Clock(zone);
    let after = after.as_nanosecond().div_euclid(1_000_000_000);
    let mut at = clock.at(i64::try_from(after).ok()?.checked_add(1)?)?;
    let last_year = at.local.year() + YEARS;
    // Once a field was stepped on, what is smaller stands at its least.
    let mut stepped = false;
    'again: loop {
        if at.local.year() > last_year {
            return None;
        }
        while !times.month(&at) {
            if !stepped {
                stepped = true;
                at = clock.showing(at.local.date().first_of_month().at(0, 0, 0, 0))?;
            }
            at = clock.a_month_after(&at)?;
            if at.local.month() == 1 {
                continue 'again;
            }
        }
        while !times.day(&at) {
            if !stepped {
                stepped = true;
                at = clock.showing(at.local.date().at(0, 0, 0, 0))?;
            }
            at = clock.a_day_after(&at)?;
            // There is no midnight where the clock is changed then.
            let hour = i64::from(at.local.hour());
            match hour {
                0 => {}
                13.. => at = clock.at(at.second + (24 - hour) * HOUR)?,
                _ => at = clock.at(at.second - hour * HOUR)?,
            }
            if at.local.day() == 1 {
                continue 'again;
            }
        }
        while !times.hour(&at) {
            if !stepped {
                stepped = true;
                at = clock.showing(at.local.date().at(at.local.hour(), 0, 0, 0))?;
            }
            at = clock.at(at.second + HOUR)?;
            if at.local.hour() == 0 {
                continue 'again;
            }
        }
        while !times.minute(&at) {
            if !stepped {
                stepped = true;
                at = clock.at(at.second - at.second.rem_euclid(MINUTE))?;
            }
            at = clock.at(at.second + MINUTE)?;
            if at.local.minute() == 0 {
                continue 'again;
            }
        }
        // It is due when a minute begins, and no clock is changed within one.
        if at.local.second() != 0 {
            stepped = true;
            at = clock.at(at.second + MINUTE - i64::from(at.local.second()))?;
            continue 'again;
        }
        return Timestamp::from_second(at.second).ok();
    }
}

/// The clock of a zone, read and set as Go's `time` does it.
struct Clock<'a>(&'a TimeZone);

/// A second, and what the clock shows then.
struct Moment {
    second: i64,
    local: DateTime,
}

impl Clock<'_> {
    fn at(&self, second: i64) -> Option<Moment> {
        let time = Timestamp::from_second(second).ok()?;
        Some(Moment { second, local: self.0.to_offset(time).to_datetime(time) })
    }

    fn offset(&self, second: i64) -> Option<i64> {
        Some(self.0.to_offset(Timestamp::from_second(second).ok()?).seconds().into())
    }

    /// When the clock shows this. Of what it shows twice it is one, and of what it never shows the clock's before or after the
    /// change: which, depends on the side of Greenwich, as it does in Go.
    fn showing(&self, local: DateTime) -> Option<Moment> {
        let local = Offset::UTC.to_timestamp(local).ok()?.as_second();
        let near = local.checked_sub(self.offset(local)?)?;
        self.at(local.checked_sub(self.offset(near)?)?)
    }

    fn a_day_after(&self, at: &Moment) -> Option<Moment> {
        self.showing(at.local.checked_add(jiff::SignedDuration::from_secs(DAY)).ok()?)
    }

    /// The same day of the next month; where that has no such day, so many days later.
    fn a_month_after(&self, at: &Moment) -> Option<Moment> {
        let date = at.local.date();
        let first = match date.month() {
            12 => Date::new(date.year().checked_add(1)?, 1, 1),
            month => Date::new(date.year(), month + 1, 1),
        };
        let days = jiff::SignedDuration::from_secs(i64::from(date.day() - 1) * DAY);
        self.showing(first.ok()?.to_datetime(at.local.time()).checked_add(days).ok()?)
    }
}
