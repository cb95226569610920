//! What ends a command early, and what the user is told about it.
//!
//! A closed pipe is not a failure: whoever read our output has seen enough.

use serde::Serialize;
pub(crate) use skpr_proto::error::usage;
use skpr_proto::{ErrorKind, Failure};
use std::io;
use tonic::Status;

/// Why a command ended before its end.
#[derive(Debug)]
pub(crate) enum Error {
    /// The reader of our output went away.
    ClosedPipe,
    /// What was run has ended, and we end as it did; all is said.
    Exit(u8),
    /// It failed: one sentence, and what caused it, outermost first.
    Failed { failure: Failure, causes: Vec<String> },
}

impl Error {
    pub(crate) fn new(failure: Failure, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes: Vec<String> = Vec::new();
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            // Many libraries repeat the source in their own text.
            if !text.is_empty() && !causes.iter().any(|known| known.contains(&text)) {
                causes.push(text);
            }
            next = error.source();
        }
        Error::Failed { failure, causes }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::ClosedPipe => 0,
            Error::Exit(code) => *code,
            Error::Failed { failure, .. } => failure.kind.exit_code(),
        }
    }

    /// The error in words: one sentence, its causes, and the next command to try.
    pub(crate) fn text(&self) -> String {
        let Error::Failed { failure, causes } = self else { return String::new() };
        let mut text = format!("error: {}\n", failure.message);
        for cause in causes {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        if let Some(hint) = &failure.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }

    /// The same as an object, for `-o json`.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Outer<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            kind: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            causes: &'a [String],
            hint: Option<&'a str>,
        }
        let Error::Failed { failure, causes } = self else { return String::new() };
        let error = Inner {
            kind: failure.kind.name(),
            message: &failure.message,
            causes,
            hint: failure.hint.as_deref(),
        };
        serde_json::to_string(&Outer { error }).unwrap_or_default()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Failed { failure, causes: Vec::new() }
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        let mut chain = error.chain().map(ToString::to_string);
        let message = chain.next().unwrap_or_default();
        Error::Failed { failure: Failure::new(ErrorKind::Failed, message), causes: chain.collect() }
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        Error::from(Failure::from(status))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::from(Failure::new(ErrorKind::Failed, error.to_string()))
    }
}

/// The name among `known` that was most likely meant by `typed`.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips in a long name, one in a short one.
    let limit = if typed.chars().count() <= 3 { 1 } else { 2 };
    known
        .into_iter()
        .map(|name| (distance(typed, name), name))
        .filter(|(distance, name)| *distance <= limit || (typed.len() >= 2 && name.starts_with(typed)))
        .min()
        .map(|(_, name)| name)
}

/// The number of letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (left + 1).min(*cell + 1).min(diagonal + usize::from(x != y));
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_no_far_one() {
        let known = ["dev", "staging", "prod"];
        assert_eq!(did_you_mean("prd", known), Some("prod"));
        assert_eq!(did_you_mean("stagign", known), Some("staging"));
        assert_eq!(did_you_mean("stag", known), Some("staging"));
        assert_eq!(did_you_mean("qa", known), None);
        assert_eq!(did_you_mean("", known), None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("é", "e", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_cause_that_repeats_its_source_is_said_once() {
        let inner = io::Error::other("connection refused");
        let outer = io::Error::other(format!("connect: {inner}"));
        let error = Error::new(Failure::new(ErrorKind::Unavailable, "cannot reach `a:1`"), &outer);
        assert_eq!(error.text(), "error: cannot reach `a:1`\n  caused by: connect: connection refused\n");
    }
}
