//! When tasks run, and for how long: cron expressions, time zones, spans of time.
//!
//! * An expression is five fields as Vixie cron reads them, or a word such as `@daily`. It is checked field by field
//!   here, so that an error can say which one is wrong.
//! * Kubernetes reads the same expression with github.com/robfig/cron: what the two would read differently is refused, and what is
//!   due when is found as that one finds it ([`next`]).
//! * An expression that never comes due is refused.

mod field;
mod next;
mod slip;
mod span;
mod words;
mod zone;

pub use span::TimeSpan;
pub use zone::Zone;

use super::text::{Refusal, quoted, text_type};
use field::{DAY, HOUR, MINUTE, MONTH, Values, WEEKDAY, printable};
use jiff::Timestamp;
use next::Times;
use std::fmt;
use std::time::Duration;

/// The longest expression; `0-59` written out is 170.
const MAX_EXPRESSION: usize = 256;

/// When a task runs: five fields as cron reads them, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    /// As Kubernetes is told it.
    fields: String,
    times: Times,
}

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// The days that each month has at most.
const DAYS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
const EVERY_DAY: u64 = 0xffff_fffe;
const EVERY_WEEKDAY: u64 = 0x7f;

impl Schedule {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The five fields, also for `@daily`, as Kubernetes takes them: Sunday is 0.
    pub fn fields(&self) -> &str {
        &self.fields
    }

    /// In words: `at 03:30 from Monday to Friday`.
    pub fn words(&self) -> String {
        words::words(&self.times)
    }

    /// The first time after `time` at which it is due, by the clock of `zone`.
    pub fn next_after(&self, time: Timestamp, zone: &Zone) -> Option<Timestamp> {
        // Whoever goes from one time to the next comes to an end, whatever a clock does.
        next::next(&self.times, time, &zone.time_zone()).filter(|next| *next > time)
    }

    /// Two times at which it is due are not closer together than this, a minute or more: but for the one day on which a clock is
    /// changed by half an hour, as on Lord Howe Island.
    pub fn shortest_gap(&self) -> Duration {
        let due: Vec<u64> = (0..60).filter(|minute| self.times.minutes & (1 << minute) != 0).collect();
        // Also from the last of an hour to the first of the next.
        let next = due.iter().skip(1).copied().chain(due.first().map(|first| first + 60));
        let gaps = due.iter().zip(next).map(|(minute, next)| next - minute);
        Duration::from_secs(60 * gaps.min().unwrap_or(60))
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |sentence: String, hint: &str| Refusal::new(sentence).with_hint(hint).about(text);
        let usual =
            "five fields: minute, hour, day of the month, month, day of the week; such as `*/15 * * * *`";
        if text.len() > MAX_EXPRESSION || !text.is_ascii() {
            return Err(wrong("is no cron expression".into(), usual));
        }
        if text.trim().is_empty() {
            return Err(Refusal::new("the schedule is empty").with_hint(usual));
        }
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            return Err(wrong("holds a time zone".into(), "write it under `timezone`"));
        }
        let word = text.to_ascii_lowercase();
        if word.starts_with("@reboot") {
            return Err(wrong(
                "never comes due: nothing boots here".into(),
                "a task needs a time, such as `@daily`",
            ));
        }
        if word.starts_with("@every") {
            let meant = slip::every(text).map(|meant| format!("did you mean `{meant}`?"));
            let hint = meant.unwrap_or_else(|| "write the minutes, such as `*/15 * * * *`".to_owned());
            return Err(wrong("counts from an unknown start".into(), &hint));
        }
        let line = expanded(text);
        if line.starts_with('@') {
            return Err(wrong("is a word that cron does not know".into(), &slip::nickname(text)));
        }
        let parts: Vec<&str> = line.split([' ', '\t']).filter(|part| !part.is_empty()).collect();
        let &[minute, hour, day, month, weekday] = parts.as_slice() else {
            let hint = match parts.len() {
                6 => format!(
                    "there are no seconds: did you mean `{}`?",
                    parts.get(1..).unwrap_or_default().join(" ")
                ),
                _ => usual.to_owned(),
            };
            let fields = if parts.len() == 1 { "field" } else { "fields" };
            return Err(wrong(format!("has {} {fields}, not five", parts.len()), &printable(&hint)));
        };
        let read = |field: &field::Field, part: &str| {
            field.parse(part).map_err(|refusal| Refusal {
                sentence: format!("`{}`: {}", quoted(text), refusal.sentence),
                ..refusal
            })
        };
        let (minutes, hours) = (read(&MINUTE, minute)?, read(&HOUR, hour)?);
        let (days, months, mut weekdays) = (read(&DAY, day)?, read(&MONTH, month)?, read(&WEEKDAY, weekday)?);
        weekdays.bits = (weekdays.bits | (weekdays.bits >> 7)) & EVERY_WEEKDAY;
        if read_in_two_ways(&days, &weekdays) {
            let sentence = match days.any || weekdays.any {
                true => "is read in two ways: Kubernetes wants both days, and for cron either is enough",
                false => "is read in two ways: cron wants both days, and for Kubernetes either is enough",
            };
            let (day, weekday) = (DAY.without_stars(day), WEEKDAY.without_stars(weekday));
            let hint =
                format!("did you mean `{minute} {hour} {day} {month} {weekday}`, where either is enough?");
            return Err(wrong(sentence.into(), &printable(&hint)));
        }
        let times = Times {
            minutes: minutes.bits,
            hours: hours.bits,
            days: days.bits,
            months: months.bits,
            weekdays: weekdays.bits,
            both_days: days.any || weekdays.any,
        };
        if !times.ever_come() {
            return Err(wrong(
                "never comes due: no such month has that day".into(),
                "February has at most 29 days; April, June, September and November have 30",
            ));
        }
        let fields = format!("{minute} {hour} {day} {month} {}", WEEKDAY.without_seven(weekday));
        Ok(Schedule { text: text.to_owned(), fields, times })
    }
}

impl Times {
    /// Whether some month has one of the days. Where either field of days is enough, a day of the week always comes.
    fn ever_come(&self) -> bool {
        let has_one = |(month, most): (u8, u8)| {
            self.months & (1 << month) != 0 && self.days.trailing_zeros() <= u32::from(most)
        };
        !self.both_days || (1..).zip(DAYS).any(has_one)
    }
}

/// Whether a day has to be of both fields for one reader, and of either for the other, and that makes a difference.
fn read_in_two_ways(days: &Values, weekdays: &Values) -> bool {
    let kubernetes_wants_both = days.any || weekdays.any;
    let cron_wants_both = days.begins_with_any || weekdays.begins_with_any;
    let all = days.bits == EVERY_DAY && weekdays.bits == EVERY_WEEKDAY;
    kubernetes_wants_both != cron_wants_both && !all
}

fn expanded(text: &str) -> &str {
    NICKNAMES.iter().find(|(word, _)| *word == text).map_or(text, |(_, line)| line)
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Schedule {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_type!(Schedule, {
    "type": "string", "maxLength": 256,
    "pattern": "^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|[ \\t]*[0-9A-Za-z*,/-]+([ \\t]+[0-9A-Za-z*,/-]+){4}[ \\t]*)$",
    "description": "Five fields as cron reads them, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.",
    "examples": ["*/15 * * * *", "30 3 * * MON-FRI", "@daily"]
});
