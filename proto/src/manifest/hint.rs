//! Turns the YAML library's errors into one sentence for a developer, and names the key that was probably meant.

use serde_saphyr::{Error, UserMessageFormatter};

/// Keys of the skpr that came before, and what they are called today.
const HISTORIC: [(&str, &str); 6] = [
    ("minInstances", "instances: {min: …, max: …}"),
    ("maxInstances", "instances: {min: …, max: …}"),
    ("minMemory", "memory: {min: …, max: …}"),
    ("maxMemory", "memory: {min: …, max: …}"),
    ("scaleCPU", "instances: {min: …, max: …, cpu: …}"),
    ("crons", "cron: {NAME: {schedule: …, command: …}}"),
];

/// The longest message shown: an error may quote the file, and the file may be anything.
const MAX_MESSAGE: usize = 400;

/// The sentence and the hint for an error.
pub(super) fn explain(error: &Error) -> (String, Option<String>) {
    match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => {
            (format!("unknown key `{}`", shown(field)), key_hint(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            (format!("`{}` is not one of {}", shown(variant), list(expected)), None)
        }
        Error::SerdeMissingField { field, .. } => (format!("the key `{field}` is missing"), None),
        Error::DuplicateMappingKey { key, .. } => {
            let sentence = key.as_ref().map_or_else(
                || "a key appears twice".to_owned(),
                |key| format!("the key `{}` appears twice", shown(key)),
            );
            (sentence, None)
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => {
            ("is nested too deeply, too long or repeats itself too often".to_owned(), None)
        }
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            // The place comes first in our sentence; the library adds it at the end.
            let text = text.lines().next().unwrap_or_default();
            let text = text.split(" at line ").next().unwrap_or(text);
            let mut sentence = shown(text.trim_start_matches("error: "));
            if sentence.contains('\t') || sentence.contains("\\t") || sentence.to_lowercase().contains("tab")
            {
                return (sentence, Some("indent with spaces, not with tabs".to_owned()));
            }
            if sentence.is_empty() {
                sentence.push_str("is not valid YAML");
            }
            (sentence, None)
        }
    }
}

fn key_hint(field: &str, expected: &[&str]) -> Option<String> {
    if let Some((_, today)) = HISTORIC.iter().find(|(historic, _)| *historic == field) {
        return Some(format!("this is now written `{today}`"));
    }
    match nearest(field, expected) {
        Some(key) => Some(format!("did you mean `{key}`?")),
        None if expected.is_empty() => None,
        None => Some(format!("the keys here are {}", list(expected))),
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Text from the file, made safe for a terminal and bounded.
fn shown(text: &str) -> String {
    let mut safe: String = text.chars().take(MAX_MESSAGE).flat_map(escaped).collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        safe.push('…');
    }
    safe
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let (plain, escape) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

/// The key that a typing mistake away or two gives `typed`: a third of its length, at least one.
fn nearest<'a>(typed: &str, keys: &[&'a str]) -> Option<&'a str> {
    if typed.len() > 64 {
        return None;
    }
    let lower = typed.to_lowercase();
    let most = (typed.chars().count() / 3).clamp(1, 3);
    keys.iter()
        .map(|key| (distance(&lower, &key.to_lowercase()), *key))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, key)| key)
}

/// How many letters to insert, remove or replace (Levenshtein), row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut left = i + 1;
        next.push(left);
        for (to, pair) in b.iter().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { break };
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("cpu", "cpus", 1)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_far_word_is_no_guess() {
        assert_eq!(nearest("enviroments", &["project", "environments"]), Some("environments"));
        assert_eq!(nearest("zzz", &["project", "environments"]), None);
    }
}
