//! When tasks run, and for how long: cron expressions, time zones, spans of time.
//!
//! * An expression is five fields as Vixie cron reads them, or a word such as `@daily`. It is checked field by field
//!   here, so that an error can say which one is wrong; when it is next due is for `croner` to find.
//! * An expression that never comes due is refused. Time zones are those compiled in, the same on every machine.

use super::text::{Refusal, quoted, text_type};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::fmt;
use std::time::Duration;

/// The longest expression; `0-59` written out is 170.
const MAX_EXPRESSION: usize = 256;
/// The longest that a task may run.
const MAX_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

/// When a task runs: five fields as cron reads them, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

/// A time zone's name, such as `Australia/Sydney`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Zone(String);

/// A span of time from `1s` to `24h`.
#[derive(Clone)]
pub struct TimeSpan {
    text: String,
    duration: Duration,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// Words for numbers, the first for `least`.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of the month", least: 1, most: 31, words: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        words: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    // Sunday is 0 and 7.
    Field {
        name: "day of the week",
        least: 0,
        most: 7,
        words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];

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

impl Schedule {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The five fields, also for `@daily`.
    pub fn fields(&self) -> &str {
        expanded(&self.text)
    }

    /// The first time after `time` at which it is due, by the clock of `zone`.
    pub fn next_after(&self, time: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let start = time.to_zoned(zone.time_zone());
        self.cron.find_next_occurrence(&start, false).ok().map(|due| due.timestamp())
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
        if text.starts_with("@reboot") {
            return Err(wrong(
                "never comes due: nothing boots here".into(),
                "a task needs a time, such as `@daily`",
            ));
        }
        if text.starts_with("@every") {
            return Err(wrong(
                "counts from an unknown start".into(),
                "write the minutes, such as `*/15 * * * *`",
            ));
        }
        let line = expanded(text);
        if line.starts_with('@') {
            let hint = "the words are `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`";
            return Err(wrong("is a word that cron does not know".into(), hint));
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
            return Err(wrong(format!("has {} {fields}, not five", parts.len()), &quoted_hint(&hint)));
        };
        let mut sets = [0u64; 5];
        for ((set, field), part) in sets.iter_mut().zip(&FIELDS).zip([minute, hour, day, month, weekday]) {
            *set = field.parse(part).map_err(|refusal| Refusal {
                sentence: format!("`{}`: {}", quoted(text), refusal.sentence),
                ..refusal
            })?;
        }
        let [_, _, days, months, _] = sets;
        // With both days given either is enough, so that a day of the week always comes.
        let comes = |month: &u8| {
            months & (1 << month) != 0
                && DAYS
                    .get(usize::from(*month) - 1)
                    .is_some_and(|most| days.trailing_zeros() <= u32::from(*most))
        };
        if weekday == "*" && !(1..=12).any(|month: u8| comes(&month)) {
            return Err(wrong(
                "never comes due: no such month has that day".into(),
                "February has at most 29 days; April, June, September and November have 30",
            ));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(line).map_err(|_| wrong("is no cron expression".into(), usual))?;
        Ok(Schedule { text: text.to_owned(), cron })
    }
}

fn quoted_hint(hint: &str) -> String {
    hint.chars().filter(|c| !c.is_control()).collect()
}

fn expanded(text: &str) -> &str {
    NICKNAMES.iter().find(|(word, _)| *word == text).map_or(text, |(_, line)| line)
}

impl Field {
    /// The values that a field allows, as bits.
    fn parse(&self, text: &str) -> Result<u64, Refusal> {
        if text.split(',').any(str::is_empty) {
            return Err(self.wrong(text, "has an empty part").with_hint("such as `0,30`"));
        }
        text.split(',').try_fold(0, |set, item| Ok(set | self.item(item)?))
    }

    fn item(&self, text: &str) -> Result<u64, Refusal> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first, text)?, self.value(last, text)?),
            None => {
                let value = self.value(range, text)?;
                if step.is_some() {
                    let hint =
                        format!("did you mean `{}-{}/{}`?", value, self.most, step.unwrap_or_default());
                    return Err(self.wrong(text, "has a step without a range").with_hint(quoted_hint(&hint)));
                }
                (value, value)
            }
        };
        if first > last {
            let hint = format!("did you mean `{first}-{},{}-{last}`?", self.most, self.least);
            return Err(self.wrong(text, "goes backwards").with_hint(hint));
        }
        let step = match step.map(str::parse::<u8>) {
            None => 1,
            Some(Ok(step)) if step > 0 && step <= last - first => step,
            Some(Ok(step)) if step > 0 => {
                let hint = format!("only `{first}` would be left of it: write that, or a smaller step");
                return Err(self.wrong(text, "has a step as long as its range").with_hint(hint));
            }
            Some(_) => {
                return Err(self.wrong(text, "has no step behind `/`").with_hint("such as `*/5`"));
            }
        };
        Ok((first..=last).step_by(usize::from(step)).fold(0, |set, value| set | (1 << value)))
    }

    fn value(&self, text: &str, item: &str) -> Result<u8, Refusal> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        if let Some(at) = word.and_then(|at| u8::try_from(at).ok()) {
            return Ok(self.least + at);
        }
        let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let refused = |sentence: String| {
            let known = match self.words {
                [first, .., last] => format!("{} to {}, or `{first}` to `{last}`", self.least, self.most),
                _ => format!("{} to {}", self.least, self.most),
            };
            self.wrong(item, &sentence).with_hint(format!("the {} is {known}; `*` is every one", self.name))
        };
        match text.parse::<u16>().ok().filter(|_| digits) {
            Some(value) => u8::try_from(value)
                .ok()
                .filter(|value| (self.least..=self.most).contains(value))
                .ok_or_else(|| refused("is out of range".into())),
            None => Err(refused("cannot be read".into())),
        }
    }

    fn wrong(&self, item: &str, sentence: &str) -> Refusal {
        Refusal::new(format!("the {} `{}` {sentence}", self.name, quoted(item)))
    }
}

impl Zone {
    /// The zone of tasks that name none.
    pub fn utc() -> Zone {
        Zone("UTC".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its clock.
    pub fn time_zone(&self) -> TimeZone {
        // Parsing has found it once.
        TimeZoneDatabase::bundled().get(&self.0).unwrap_or(TimeZone::UTC)
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unknown = Refusal::new("is no time zone").about(text);
        let database = TimeZoneDatabase::bundled();
        let found = (text.len() <= 64).then(|| database.get(text).ok()).flatten();
        let name = found.as_ref().and_then(TimeZone::iana_name).filter(|name| *name != "Etc/Unknown");
        match name {
            Some(name) if name == text => Ok(Zone(text.to_owned())),
            Some(name) => Err(unknown.with_hint(format!("did you mean `{name}`?"))),
            None => {
                let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
                let near = super::hint::nearest(text, names.iter().map(String::as_str))
                    // `Sydney` for `Australia/Sydney`.
                    .or_else(|| {
                        names.iter().find(|name| name.ends_with(&format!("/{text}"))).map(String::as_str)
                    });
                let near = near.map(|name| format!("did you mean `{name}`?"));
                Err(unknown.or_hint(near, "write a name such as `Australia/Sydney` or `UTC`"))
            }
        }
    }
}

impl TimeSpan {
    pub fn duration(&self) -> Duration {
        self.duration
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let example = "write a time such as `90s`, `10m` or `1h30m`";
        let wrong = |sentence: &str| Refusal::new(sentence).with_hint(example).about(text);
        if !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let hint = format!("did you mean `{text}s` or `{text}m`?");
            return Err(Refusal::new("has no unit").with_hint(hint).about(text));
        }
        if text.starts_with('-') {
            return Err(wrong("is less than nothing"));
        }
        let mut rest = text;
        let mut seconds = 0u64;
        for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((number, behind)) = rest.split_once(unit) else { continue };
            let digits =
                !number.is_empty() && number.len() <= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
            let number =
                number.parse::<u64>().ok().filter(|_| digits).ok_or_else(|| wrong("is no span of time"))?;
            seconds += number * factor;
            rest = behind;
        }
        if !rest.is_empty() || text.is_empty() {
            return Err(wrong("is no span of time"));
        }
        let duration = Duration::from_secs(seconds);
        if duration.is_zero() {
            return Err(wrong("is no time at all"));
        }
        if duration > MAX_SPAN {
            return Err(Refusal::new("is longer than `24h`").with_hint("the longest is `24h`").about(text));
        }
        Ok(TimeSpan { text: text.to_owned(), duration })
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Schedule {}

impl PartialEq for TimeSpan {
    fn eq(&self, other: &Self) -> bool {
        self.duration == other.duration
    }
}
impl Eq for TimeSpan {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TimeSpan {
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
text_type!(Zone, {
    "type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
    "description": "The name of a time zone.", "examples": ["Australia/Sydney", "UTC"]
});
text_type!(TimeSpan, {
    "type": "string", "maxLength": 20, "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
    "description": "A span of time from `1s` to `24h`.", "examples": ["10m", "1h30m"]
});
