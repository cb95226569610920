//! A run as users see it, in every verb that shows one.

use crate::commands::release::text;
use crate::output::Cell;
use crate::time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use skpr_proto::{UnixNanos, v1};

/// In JSON and YAML; what came from the cluster is harmless to print.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub id: String,
    pub task: String,
    /// `schedule` or `user`.
    pub trigger: String,
    pub by: Option<String>,
    pub version: Option<String>,
    pub due: Option<String>,
    pub began: Option<String>,
    pub ended: Option<String>,
    /// From its beginning to its end.
    pub seconds: Option<f64>,
    pub outcome: String,
    pub exit_code: Option<i32>,
    pub instance: Option<String>,
    pub reason: Option<String>,
    #[serde(skip)]
    pub times: Times,
}

/// The same times, to reckon with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub due: Option<UnixNanos>,
    pub began: Option<UnixNanos>,
    pub ended: Option<UnixNanos>,
    /// Milliseconds from its beginning to its end. Of one that nobody saw end it is known only when that was found.
    took: Option<i64>,
}

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Running,
    Succeeded,
    Failed,
    TimedOut,
    OutOfMemory,
    Replaced,
    /// It did not begin.
    NotBegun,
    /// Nobody knows how it ended, or this program does not know the word for it.
    Unknown,
}

/// What a shell adds to the number of the signal that ended a program, and the last such number.
const SIGNALS: std::ops::RangeInclusive<i32> = 129..=192;

impl Run {
    pub(crate) fn new(run: &v1::Run) -> Run {
        let filled = |value: &str| Some(text(value)).filter(|value| !value.is_empty());
        let optional = |value: &Option<String>| value.as_deref().map(text);
        let nanos = |time: Option<v1::Instant>| time.map(UnixNanos::from);
        let (began, ended) = (nanos(run.began), nanos(run.ended));
        let took = took(began, ended).filter(|_| run.outcome != "unknown");
        let times = Times { due: nanos(run.due), began, ended, took };
        Run {
            id: text(&run.id),
            task: text(&run.task),
            trigger: text(&run.trigger),
            by: filled(&run.by),
            version: filled(&run.version),
            due: times.due.map(time::rfc3339),
            began: times.began.map(time::rfc3339),
            ended: times.ended.map(time::rfc3339),
            seconds: times.took.map(|milliseconds| milliseconds as f64 / 1000.0),
            outcome: text(&run.outcome),
            exit_code: run.exit_code,
            instance: optional(&run.instance),
            reason: optional(&run.reason),
            times,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.outcome.as_str() {
            "waiting" => Stage::Waiting,
            "running" => Stage::Running,
            "succeeded" => Stage::Succeeded,
            "failed" => Stage::Failed,
            "timed-out" => Stage::TimedOut,
            "out-of-memory" => Stage::OutOfMemory,
            "replaced" => Stage::Replaced,
            "missed" | "suspended" | "skipped" => Stage::NotBegun,
            _ => Stage::Unknown,
        }
    }

    /// Whether more is to come.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage(), Stage::Waiting | Stage::Running)
    }

    /// How it ended, without the reason: `failed with exit code 3`.
    pub(crate) fn outcome_in_words(&self) -> String {
        match (self.stage(), self.exit_code) {
            (Stage::Waiting, _) => "waits to begin".to_owned(),
            (Stage::Failed, Some(code)) if SIGNALS.contains(&code) => {
                format!("was ended by signal {}", code - 128)
            }
            (Stage::Failed, Some(code)) => format!("failed with exit code {code}"),
            (Stage::TimedOut, _) => "timed out".to_owned(),
            (Stage::OutOfMemory, _) => "was killed for memory".to_owned(),
            (Stage::Replaced, _) => "was replaced by the next".to_owned(),
            // That it was suspended is the reason.
            (Stage::NotBegun, _) if self.outcome == "suspended" => "missed".to_owned(),
            (Stage::Unknown, _) if self.outcome == "unknown" => "ended in a way that is not known".to_owned(),
            _ => self.outcome.replace('-', " "),
        }
    }

    /// With the reason: `missed: it was suspended by dana`.
    pub(crate) fn outcome_and_reason(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}: {reason}", self.outcome_in_words()),
            None => self.outcome_in_words(),
        }
    }

    /// ``run `drush-cron-k2x9vq` failed with exit code 3 after 12s``.
    pub(crate) fn sentence(&self) -> String {
        let outcome = match self.stage() {
            Stage::NotBegun => format!("was {}", self.outcome_in_words()),
            _ => self.outcome_in_words(),
        };
        let after = self.times.took.map(|took| format!(" after {}", length(took)));
        let because = self.reason.as_deref().map(|reason| format!(": {reason}"));
        format!("run `{}` {outcome}{}{}", self.id, after.unwrap_or_default(), because.unwrap_or_default())
    }

    /// Who or what had it run.
    pub(crate) fn cause(&self) -> &str {
        self.by.as_deref().unwrap_or(&self.trigger)
    }

    /// When it began, or was due.
    pub(crate) fn time(&self, zone: &TimeZone) -> String {
        self.times.either().map_or_else(String::new, |time| time::show(to_the_second(instant(time)), zone))
    }

    /// How long it took, or has taken so far.
    pub(crate) fn took(&self, now: Timestamp) -> String {
        match (self.times.began, self.times.took) {
            (_, Some(took)) => length(took),
            (Some(began), None) if self.is_open() => {
                let so_far = UnixNanos::from(now).0.saturating_sub(began.0) / 1_000_000;
                format!("{} so far", length(so_far.max(0)))
            }
            _ => String::new(),
        }
    }

    pub(crate) fn cell(&self, text: String) -> Cell {
        let colour = match self.stage() {
            Stage::Succeeded => "32",
            Stage::Failed | Stage::TimedOut | Stage::OutOfMemory | Stage::Unknown => "31",
            Stage::NotBegun if self.outcome == "missed" => "31",
            Stage::Waiting | Stage::Running => "33",
            Stage::NotBegun | Stage::Replaced => "2",
        };
        Cell::coloured(text, colour)
    }
}

impl Times {
    /// When it began, or was due.
    pub(crate) fn either(&self) -> Option<UnixNanos> {
        self.began.or(self.due)
    }
}

fn took(began: Option<UnixNanos>, ended: Option<UnixNanos>) -> Option<i64> {
    Some((ended?.0.saturating_sub(began?.0) / 1_000_000).max(0))
}

/// A time is worth a second's precision.
pub(super) fn to_the_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

pub(crate) fn instant(time: UnixNanos) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default()
}

/// A length of time: tasks may be short.
fn length(milliseconds: i64) -> String {
    match milliseconds {
        ..1_000 => format!("{milliseconds}ms"),
        1_000..10_000 => format!("{}.{}s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        _ => time::span(milliseconds / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outcome: &str, exit_code: Option<i32>, reason: Option<&str>) -> Run {
        let at = |second: i64| Some(v1::Instant { unix_nanos: second * 1_000_000_000 });
        Run::new(&v1::Run {
            id: "tidy-1".into(),
            outcome: outcome.into(),
            exit_code,
            reason: reason.map(str::to_owned),
            began: at(0),
            ended: at(12),
            ..v1::Run::default()
        })
    }

    #[test]
    fn each_outcome_has_its_words() {
        for (outcome, code, reason, expected) in [
            ("succeeded", Some(0), None, "run `tidy-1` succeeded after 12s"),
            ("failed", Some(3), None, "run `tidy-1` failed with exit code 3 after 12s"),
            ("failed", Some(137), None, "run `tidy-1` was ended by signal 9 after 12s"),
            ("failed", None, Some("no such image"), "run `tidy-1` failed after 12s: no such image"),
            ("timed-out", Some(143), None, "run `tidy-1` timed out after 12s"),
            ("out-of-memory", None, None, "run `tidy-1` was killed for memory after 12s"),
            ("replaced", None, None, "run `tidy-1` was replaced by the next after 12s"),
            ("unknown", None, None, "run `tidy-1` ended in a way that is not known"),
            ("melted-down\u{1b}", None, None, "run `tidy-1` melted down^[ after 12s"),
        ] {
            assert_eq!(run(outcome, code, reason).sentence(), expected);
        }
        let missed = run("suspended", None, Some("it was suspended by dana"));
        assert_eq!(missed.outcome_and_reason(), "missed: it was suspended by dana");
        assert_eq!(run("skipped", None, Some("x")).outcome_and_reason(), "skipped: x");
    }

    #[test]
    fn one_that_nobody_saw_end_took_nobody_knows_how_long() {
        let unknown = run("unknown", None, None);
        assert_eq!((unknown.seconds, unknown.took(Timestamp::UNIX_EPOCH)), (None, String::new()));
        assert!(unknown.ended.is_some(), "when that was found");
        assert_eq!(run("failed", None, None).seconds, Some(12.0));
    }

    #[test]
    fn short_runs_are_told_apart() {
        for (milliseconds, expected) in
            [(0, "0ms"), (50, "50ms"), (1_250, "1.2s"), (12_000, "12s"), (185_000, "3m"), (7_200_000, "2h")]
        {
            assert_eq!(length(milliseconds), expected);
        }
    }
}
