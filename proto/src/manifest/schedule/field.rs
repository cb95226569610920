//! One field of a schedule: which values it allows, and how it is written so that Kubernetes reads it alike.

use super::slip;
use super::words::MONTHS;
use crate::manifest::text::{Refusal, quoted};

/// One of the five fields.
pub(super) struct Field {
    pub name: &'static str,
    pub least: u8,
    pub most: u8,
    /// Words for numbers, the first for `least`.
    pub words: &'static [&'static str],
    /// The whole words, which cron does not take.
    pub names: &'static [&'static str],
}

pub(super) const MINUTE: Field = Field { name: "minute", least: 0, most: 59, words: &[], names: &[] };
pub(super) const HOUR: Field = Field { name: "hour", least: 0, most: 23, words: &[], names: &[] };
pub(super) const DAY: Field = Field { name: "day of the month", least: 1, most: 31, words: &[], names: &[] };
pub(super) const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    words: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    names: &MONTHS,
};
/// Sunday is 0 and 7.
pub(super) const WEEKDAY: Field = Field {
    name: "day of the week",
    least: 0,
    most: 7,
    words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    names: &["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"],
};
const SUNDAY: u8 = 7;

/// The values that a field allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    pub bits: u64,
    /// One of its items is `*`, which for Kubernetes makes a field of days one that restricts nothing.
    pub any: bool,
    /// It begins with `*`, which does so for cron.
    pub begins_with_any: bool,
}

/// One item of a list.
struct Item {
    first: u8,
    last: u8,
    step: u8,
    star: bool,
}

impl Item {
    fn values(&self) -> impl Iterator<Item = u8> {
        (self.first..=self.last).step_by(usize::from(self.step))
    }
}

impl Field {
    /// The values that a field allows.
    pub(super) fn parse(&self, text: &str) -> Result<Values, Refusal> {
        if text.split(',').any(str::is_empty) {
            return Err(self.wrong(text, "has an empty part").with_hint("such as `0,30`"));
        }
        let mut values = Values { bits: 0, any: false, begins_with_any: text.starts_with('*') };
        for item in text.split(',') {
            let item = self.item(item)?;
            values.bits |= item.values().fold(0, |bits, value| bits | (1 << value));
            values.any |= item.star && item.step == 1;
        }
        Ok(values)
    }

    /// A field of days of the week that was parsed, with Sunday as 0, which is all that Kubernetes takes.
    pub(super) fn without_seven(&self, text: &str) -> String {
        let items = text.split(',').flat_map(|written| match self.item(written) {
            Ok(item) if !item.star && item.last == SUNDAY => {
                let mut days: Vec<u8> = item.values().map(|day| day % SUNDAY).collect();
                days.sort_unstable();
                days.dedup();
                days.iter().map(u8::to_string).collect()
            }
            _ => vec![written.to_owned()],
        });
        items.collect::<Vec<String>>().join(",")
    }

    /// The same with its stars as ranges, such as `1-31/2` for `*/2`.
    pub(super) fn without_stars(&self, text: &str) -> String {
        // `0-7` would have Sunday twice.
        let most = if self.most == SUNDAY { SUNDAY - 1 } else { self.most };
        text.replace('*', &format!("{}-{most}", self.least))
    }

    fn item(&self, text: &str) -> Result<Item, Refusal> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let star = range == "*";
        let (first, last) = match range.split_once('-') {
            _ if star => (self.least, self.most),
            Some((first, last)) => (self.value(first, text)?, self.value(last, text)?),
            None => {
                let value = self.value(range, text)?;
                if step.is_some() {
                    let hint =
                        format!("did you mean `{}-{}/{}`?", value, self.most, step.unwrap_or_default());
                    return Err(self.wrong(text, "has a step without a range").with_hint(printable(&hint)));
                }
                (value, value)
            }
        };
        if first > last {
            let hint = match (self.most, last) {
                (SUNDAY, 0) => format!("did you mean `{first}-7`?"),
                _ => format!("did you mean `{first}-{},{}-{last}`?", self.most, self.least),
            };
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
        Ok(Item { first, last, step, star })
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
            None => match (slip::sign(text, self), slip::short_names(item, self)) {
                (Some((sentence, hint)), _) => Err(self.wrong(item, &sentence).with_hint(hint)),
                (None, Some(meant)) => {
                    Err(refused("cannot be read".into()).with_hint(format!("did you mean `{meant}`?")))
                }
                (None, None) => Err(refused("cannot be read".into())),
            },
        }
    }

    fn wrong(&self, item: &str, sentence: &str) -> Refusal {
        Refusal::new(format!("the {} `{}` {sentence}", self.name, quoted(item)))
    }
}

/// A hint that repeats what was typed.
pub(super) fn printable(hint: &str) -> String {
    hint.chars().filter(|c| !c.is_control()).collect()
}
