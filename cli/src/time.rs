//! Times as users type and read them.
//!
//! Invariants: parsing never panics; a time in the hour that a clock change repeats widens the range (`--since` takes the
//! first, `--until` the second); a time in the hour that a clock change skips is the moment of the change.

mod parse;
mod show;

use crate::error::usage;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
pub(crate) use parse::duration;
use parse::{Bound, clock, parse};
pub(crate) use show::{Stamp, ago, rfc3339, show, span};
use skpr_proto::Failure;

const ACCEPTED: &str = "accepted are `15m` `2h` `1d` `1w` `1h30m` (ago), `15:40`, `15:40:05`, `today 09:00`, \
    `yesterday 15:40`, `yesterday`, `2026-11-22`, `2026-11-22 15:40`, RFC 3339 as `2026-11-22T15:40:00+11:00`, and `now`";

/// The times of a command as typed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Typed<'a> {
    pub since: Option<&'a str>,
    pub until: Option<&'a str>,
    pub follow: bool,
    pub last: bool,
    /// How much is shown when nothing says since when.
    pub window: SignedDuration,
}

/// A resolved range. An open start is the oldest kept, or now when following; an open end is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// What the user should know about how the times were read.
    pub notes: Vec<String>,
}

/// The zone of `--timezone`, or this machine's.
pub(crate) fn zone(name: Option<&str>) -> Result<TimeZone, Failure> {
    let Some(name) = name else { return Ok(TimeZone::system()) };
    TimeZone::get(name).map_err(|_| {
        usage(format!("`{}` is not a time zone", crate::terminal::clean(name)))
            .with_hint("a zone is a name such as `Australia/Sydney`, `Europe/Berlin` or `UTC`")
    })
}

/// Resolves a range.
pub(crate) fn range(typed: Typed<'_>, now: Timestamp, zone: &TimeZone) -> Result<Range, Failure> {
    let mut notes = Vec::new();
    let mut resolve = |text: Option<&str>, bound| -> Result<Option<Timestamp>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let (instant, note) = parse(text, bound, now, zone).ok_or_else(|| {
            let shown: String = text.chars().take(128).collect();
            usage(format!("`{}` is not a time", crate::terminal::clean(&shown))).with_hint(ACCEPTED)
        })?;
        notes.extend(note);
        Ok(Some(instant))
    };
    let since = resolve(typed.since, Bound::Since)?;
    let until = resolve(typed.until, Bound::Until)?;
    if typed.follow && until.is_some() {
        return Err(
            usage("--until and --follow exclude each other").with_hint("leave out -f for a closed range")
        );
    }
    if let (Some(since), Some(typed)) = (since, typed.since)
        && since > now
    {
        let typed = crate::terminal::clean(typed);
        let hint = match clock(&typed) {
            Some(_) => format!("for the day before: --since 'yesterday {typed}'"),
            None => "say a time that has passed".to_owned(),
        };
        return Err(
            usage(format!("--since `{typed}` is in the future: {}", show(since, zone))).with_hint(hint)
        );
    }
    if let (Some(start), Some(end)) = (since, until)
        && start > end
    {
        return Err(usage(format!(
            "--since `{}` ({}) is after --until `{}` ({})",
            typed.since.unwrap_or_default(),
            show(start, zone),
            typed.until.unwrap_or_default(),
            show(end, zone)
        ))
        .with_hint("swap them, or name the days"));
    }
    let since = match since {
        None if !typed.follow && !typed.last => until.unwrap_or(now).checked_sub(typed.window).ok(),
        given => given,
    };
    Ok(Range { since, until, notes })
}

/// The range in words: `from … to … (Australia/Sydney)`.
pub(crate) fn describe(range: &Range, follow: bool, last: Option<u32>, zone: &TimeZone) -> String {
    let name = zone.iana_name().unwrap_or("local time");
    let since = match (range.since, last) {
        (Some(since), _) => show(since, zone),
        (None, Some(_)) => "the oldest kept".to_owned(),
        (None, None) => "now".to_owned(),
    };
    let until = match range.until {
        Some(until) => show(until, zone),
        None if follow => "whenever you stop it".to_owned(),
        None => "now".to_owned(),
    };
    let newest = last.map(|last| format!(", the newest {last}")).unwrap_or_default();
    format!("from {since} to {until} ({name}){newest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday 2026-11-23 22:11:00 in Sydney (+11:00).
    const NOW: &str = "2026-11-23T11:11:00Z";

    fn sydney() -> TimeZone {
        TimeZone::get("Australia/Sydney").unwrap()
    }

    fn range_of(
        since: Option<&str>,
        until: Option<&str>,
        follow: bool,
        last: bool,
    ) -> Result<Range, Failure> {
        range(
            Typed { since, until, follow, last, window: SignedDuration::from_mins(15) },
            NOW.parse().unwrap(),
            &sydney(),
        )
    }

    fn described(since: Option<&str>, until: Option<&str>, follow: bool, last: Option<u32>) -> String {
        let range = range_of(since, until, follow, last.is_some()).unwrap();
        describe(&range, follow, last, &sydney())
    }

    #[test]
    fn defaults() {
        assert_eq!(
            described(None, None, false, None),
            "from 2026-11-23T21:56:00+11:00 to now (Australia/Sydney)"
        );
        assert_eq!(described(None, None, true, None), "from now to whenever you stop it (Australia/Sydney)");
        assert_eq!(
            described(None, None, true, Some(20)),
            "from the oldest kept to whenever you stop it (Australia/Sydney), the newest 20"
        );
        assert_eq!(
            described(None, Some("15:40"), false, None),
            "from 2026-11-23T15:25:00+11:00 to 2026-11-23T15:40:00+11:00 (Australia/Sydney)"
        );
        assert_eq!(
            described(Some("yesterday 15:40"), Some("yesterday 15:50"), false, None),
            "from 2026-11-22T15:40:00+11:00 to 2026-11-22T15:50:00+11:00 (Australia/Sydney)"
        );
    }

    #[test]
    fn ranges_that_make_no_sense() {
        let message = |result: Result<Range, Failure>| result.unwrap_err().to_string();
        assert_eq!(
            message(range_of(Some("15:50"), Some("15:40"), false, false)),
            "--since `15:50` (2026-11-23T15:50:00+11:00) is after --until `15:40` (2026-11-23T15:40:00+11:00)"
        );
        let future = range_of(Some("23:00"), None, false, false).unwrap_err();
        assert_eq!(future.message, "--since `23:00` is in the future: 2026-11-23T23:00:00+11:00");
        assert_eq!(future.hint.as_deref(), Some("for the day before: --since 'yesterday 23:00'"));
        assert_eq!(
            message(range_of(None, Some("1m"), true, false)),
            "--until and --follow exclude each other"
        );
        assert!(message(range_of(Some("\x1b[2J"), None, false, false)).starts_with("`^[[2J` is not"));
    }
}
