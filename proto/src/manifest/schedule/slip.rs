//! What is often written that is no cron expression, and what was meant. Pure.

use super::NICKNAMES;
use super::field::Field;
use super::span::TimeSpan;
use crate::manifest::hint::{list, nearest};

/// Signs of other programs, what they mean there, and what to write for it.
const SIGNS: [(&str, &str, &str); 5] = [
    ("?", "any value", "write `*`"),
    (
        "L",
        "the last day",
        "name a day, such as `28`, which every month has; or let the command look at the date",
    ),
    ("W", "the nearest working day", "name the days of the week in the fifth field, such as `MON-FRI`"),
    ("#", "one week of a month", "name the day alone, and let the command look at the date"),
    ("H", "a value of their own choice", "choose one, such as `7`"),
];
/// Words are recognised by so many letters.
const TOLD_BY: usize = 3;

/// A word that begins with `@` and is none of cron's.
pub(super) fn nickname(text: &str) -> String {
    let words: Vec<&str> = NICKNAMES.iter().map(|(word, _)| *word).collect();
    match nearest(text, words.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("the words are {}", list(&words)),
    }
}

/// `@every 5m`, where the clock shows such times.
pub(super) fn every(text: &str) -> Option<String> {
    let (_, span) = text.split_once(char::is_whitespace)?;
    let seconds = TimeSpan::parse(span.trim()).ok()?.duration().as_secs();
    let minutes = seconds.is_multiple_of(60).then_some(seconds / 60)?;
    match minutes {
        1 => Some("* * * * *".to_owned()),
        _ if minutes < 60 && 60 % minutes == 0 => Some(format!("*/{minutes} * * * *")),
        60 => Some("0 * * * *".to_owned()),
        1440 => Some("0 0 * * *".to_owned()),
        _ if 1440 % minutes == 0 && minutes.is_multiple_of(60) => Some(format!("0 */{} * * *", minutes / 60)),
        _ => None,
    }
}

/// The sign of another program in the part of a field that cannot be read: what is wrong, and the hint.
pub(super) fn sign(part: &str, field: &Field) -> Option<(String, &'static str)> {
    let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
    let day = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit())
            || field.words.iter().any(|word| word.eq_ignore_ascii_case(text))
    };
    let has = |sign: &str| match sign {
        "L" | "W" => {
            part.eq_ignore_ascii_case("LW")
                || part
                    .len()
                    .checked_sub(1)
                    .and_then(|at| part.split_at_checked(at))
                    .is_some_and(|(rest, last)| last.eq_ignore_ascii_case(sign) && day(rest))
        }
        "H" => letters.eq_ignore_ascii_case(sign) || part.starts_with("H("),
        _ => part.contains(sign),
    };
    let (sign, means, hint) = SIGNS.iter().find(|(sign, ..)| has(sign))?;
    Some((format!("has `{sign}`, in other programs {means}, and nothing to cron"), hint))
}

/// The same with the names of months and days as cron has them: `MON-FRI` for `MONDAY-FRIDAY`.
pub(super) fn short_names(item: &str, field: &Field) -> Option<String> {
    let short = |written: &str| {
        let beginning = written.get(..TOLD_BY)?;
        let at = field.words.iter().position(|word| word.eq_ignore_ascii_case(beginning))?;
        let (word, whole) = (field.words.get(at)?, field.names.get(at)?);
        let is_begun = whole.get(..written.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(written));
        is_begun.then(|| (*word).to_owned())
    };
    let (range, step) = item.split_at(item.find('/').unwrap_or(item.len()));
    let parts: Vec<String> =
        range.split('-').map(|part| short(part).unwrap_or_else(|| part.to_owned())).collect();
    let meant = parts.join("-") + step;
    (meant != item && field.parse(&meant).is_ok()).then_some(meant)
}
