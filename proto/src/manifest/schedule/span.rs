//! Spans of time, such as a task's timeout.

use crate::manifest::text::{Refusal, text_type};
use std::fmt;
use std::time::Duration;

/// The longest that a task may run.
const MAX_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

/// A span of time from `1s` to `24h`.
#[derive(Clone)]
pub struct TimeSpan {
    text: String,
    duration: Duration,
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

impl PartialEq for TimeSpan {
    fn eq(&self, other: &Self) -> bool {
        self.duration == other.duration
    }
}
impl Eq for TimeSpan {}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_type!(TimeSpan, {
    "type": "string", "maxLength": 20, "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
    "description": "A span of time from `1s` to `24h`.", "examples": ["10m", "1h30m"]
});
