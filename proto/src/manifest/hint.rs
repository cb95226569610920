//! What to write instead: the key that was probably meant, today's name of a historic one, the right shape of a value;
//! and sentences for a developer in place of the YAML library's.

use super::read::Fault;
use super::text::quoted;
use super::tree::{Node, Place, Value};
use crate::ids::Label;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, UserMessageFormatter};

/// Keys of the skpr that came before, and of other tools, and what they are called today.
const HISTORIC: [(&str, &str); 20] = [
    ("minInstances", "instances: {min: …, max: …}"),
    ("maxInstances", "instances: {min: …, max: …}"),
    ("replicas", "instances: {min: …, max: …}"),
    ("scale", "instances: {min: …, max: …, cpu: …}"),
    ("scaleCPU", "instances: {min: …, max: …, cpu: …}"),
    ("targetCPU", "instances: {min: …, max: …, cpu: …}"),
    ("minMemory", "memory: {min: …, max: …}"),
    ("maxMemory", "memory: {min: …, max: …}"),
    ("crons", "cron: {NAME: {schedule: …, command: …}}"),
    ("mounts", "volumes: {NAME: {path: …, size: …}}"),
    ("disks", "volumes: {NAME: {path: …, size: …}}"),
    ("domain", "domains: […]"),
    ("hosts", "domains: […]"),
    ("routes", "domains: […]"),
    ("healthCheck", "health: /PATH"),
    ("healthPath", "health: /PATH"),
    ("probe", "health: /PATH"),
    ("variables", "env: {NAME: VALUE}"),
    ("environment", "env: {NAME: VALUE}"),
    ("args", "command: [PROGRAM, ARGUMENT]"),
];

/// What others have as a key of a task.
const SUSPENDING: [&str; 8] =
    ["suspend", "suspended", "enabled", "enable", "disabled", "disable", "paused", "active"];

/// The keys of an environment.
const OF_ENVIRONMENT: [&str; 11] = [
    "production",
    "cpu",
    "memory",
    "instances",
    "env",
    "volumes",
    "domains",
    "cron",
    "command",
    "port",
    "health",
];

/// The longest message shown: an error may quote the file, and the file may be anything.
const MAX_MESSAGE: usize = 300;

/// What the library says of text that is no YAML, what we say, and the hint.
const SYNTAX: [(&str, &str, &str); 13] = [
    (
        "block sequence entries are not allowed",
        "a list cannot begin here",
        "begin it on a line of its own, or write it as `[…]`",
    ),
    ("tab", "a tab stands where only spaces may", "indent with spaces, not with tabs"),
    ("multiple YAML documents", "a second document begins here", "keep one file per project, without `---`"),
    ("expected string scalar", "a key is a text", "write `KEY: VALUE`"),
    ("cannot deserialize null into string", "a key is a text", "write `KEY: VALUE`"),
    (
        "mapping values are not allowed",
        "a `:` stands where none may",
        "check the indentation, or put the value into quotes",
    ),
    ("unexpected character", "a value cannot begin like this", "put the value into quotes"),
    ("did not find expected key", "this is indented like nothing above", "indent it as its neighbours"),
    (
        "merge value must be",
        "`<<` takes over a mapping",
        "write `<<: *NAME`, where `NAME: &NAME {…}` is above",
    ),
    (
        "unclosed bracket",
        "the bracket that opens here is not closed",
        "close it, or indent what belongs together on lines of its own",
    ),
    (
        "unclosed quote",
        "the quote that opens here is not closed",
        "close it; a quote inside of quotes is `\\\"`",
    ),
    (
        "while scanning an anchor",
        "a `*` or `&` stands where a value begins",
        "put the value into quotes, such as `\"* * * * *\"`",
    ),
    ("ecursive reference", "an alias stands inside of what it repeats", "repeat the values instead"),
];

/// The fault of a text that is no YAML, or more of it than is taken.
pub(super) fn syntax(error: &Error, text: &str) -> Fault {
    let place = error.location().map_or(Place { line: 1, column: 1 }, Place::from);
    let fault = match error.without_snippet() {
        Error::DuplicateMappingKey { key, .. } => {
            let name =
                key.as_ref().map_or_else(|| "a key".to_owned(), |key| format!("the key `{}`", quoted(key)));
            Fault::new(format!("{name} is there twice")).with_hint("remove one of the two".to_owned())
        }
        Error::UnknownAnchor { .. } => anchor(place, text),
        // It may be a secret that begins with `!`.
        Error::UnsupportedTag { .. } => Fault::new("a tag, which begins with `!`, means nothing here")
            .with_hint("remove it, or put a text that begins with `!` into quotes".to_owned()),
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            Fault::new("a second document begins here")
                .with_hint("keep one file per project, without `---`".to_owned())
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => too_much(),
        other => {
            let rendered = other.render_with_formatter(&UserMessageFormatter);
            // The place comes first in our sentence; the library adds it at the end.
            let line = rendered.lines().next().unwrap_or_default();
            let line = line.split(" at line ").next().unwrap_or(line).trim_start_matches("error: ");
            if line.contains("too large or too complex") {
                return too_much().at(place);
            }
            if line.contains("recursion limit") {
                return Fault::new("this is nested too deeply")
                    .with_hint("a manifest is five levels deep: close brackets, or take some away".to_owned())
                    .at(place);
            }
            match SYNTAX.iter().find(|(theirs, ..)| line.contains(theirs)) {
                Some((_, sentence, hint)) => Fault::new(*sentence).with_hint((*hint).to_owned()),
                None if line.is_empty() => Fault::new("is not valid YAML"),
                None => Fault::new(format!("is not valid YAML: {}", shown(line))),
            }
        }
    };
    fault.at(place)
}

fn too_much() -> Fault {
    let hint =
        "a manifest is a few hundred lines: write out what repeats, and remove what does not belong here";
    Fault::new("the file is nested too deeply, too long or repeats itself too often")
        .with_hint(hint.to_owned())
}

/// An alias of which the anchor is not known, or not yet.
fn anchor(place: Place, text: &str) -> Fault {
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let line = text.lines().nth(index(place.line)).unwrap_or_default();
    let rest: String = line.chars().skip(index(place.column)).collect();
    // `*/15 * * * *`, up to what ends a value.
    let ends = [" #", ",", "}", "]"].iter().filter_map(|end| rest.find(end)).min();
    let value = rest.get(..ends.unwrap_or(rest.len())).unwrap_or_default().trim();
    if value.split_whitespace().count() == 5 && value.bytes().all(|byte| b"0123456789*/-, ".contains(&byte)) {
        return Fault::new("a `*` begins an alias, not a text").with_hint(format!("quote it: `\"{value}\"`"));
    }
    let name: String = rest
        .chars()
        .skip_while(|c| *c == '*')
        .take_while(|c| !c.is_whitespace() && !",[]{}".contains(*c))
        .take(64)
        .collect();
    let defined = format!("&{name}");
    let ends = |rest: &str| rest.chars().next().is_none_or(|c| c.is_whitespace() || ",[]{}".contains(c));
    let line = text.lines().position(|line| {
        line.match_indices(&defined).any(|(at, found)| line.get(at + found.len()..).is_some_and(ends))
    });
    let name = quoted(&name);
    match line {
        Some(line) => Fault::new(format!("`*{name}` is used before `&{name}` is defined"))
            .with_hint(format!("move the block with `&{name}` up from line {} to above this one", line + 1)),
        // It may be a secret that begins with `*`.
        None => Fault::new("an alias, which begins with `*`, repeats what is nowhere defined")
            .with_hint("define it above by `&NAME`, or put a text into quotes".to_owned()),
    }
}

/// The same for an error of JSON, which has no place that helps anybody.
pub(super) fn json(error: &serde_json::Error) -> (String, Option<String>) {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    match text.split_once(super::text::HINT) {
        Some((sentence, hint)) => (shown(sentence), Some(shown(hint))),
        // What serde says of a wrong type quotes the value, which may be a secret.
        None if text.starts_with("invalid ") => {
            let expected = text.rsplit_once(", expected ").map(|(_, expected)| expected);
            (
                expected.map_or("a value of another type is wanted".to_owned(), |wanted| {
                    format!("{} is wanted", shown(wanted))
                }),
                None,
            )
        }
        None => (shown(text), None),
    }
}

/// The hint for a key that does not exist here.
pub(super) fn unknown_key(field: &str, expected: &[&str]) -> Option<String> {
    if field == "seconds" || field == "second" {
        return Some(
            "cron knows no seconds: the shortest `schedule` is every minute, `* * * * *`".to_owned(),
        );
    }
    if expected.contains(&"overlap") && SUSPENDING.contains(&field.to_ascii_lowercase().as_str()) {
        return Some(
            "this is no setting: `skpr cron suspend` keeps a task from being run, over deploys too, until `skpr cron resume`"
                .to_owned(),
        );
    }
    let top = expected.contains(&"project");
    if let Some((_, today)) = HISTORIC.iter().find(|(historic, _)| historic.eq_ignore_ascii_case(field)) {
        return Some(format!("this is written `{today}` today, in an environment or in `defaults`"));
    }
    if top && OF_ENVIRONMENT.contains(&field) {
        return Some(format!("`{field}` belongs to an environment, or to all in `defaults`"));
    }
    match nearest(field, expected.iter().copied()) {
        Some(key) => Some(format!("did you mean `{key}`?")),
        None if expected.is_empty() => None,
        None => Some(format!("the keys here are {}", list(expected))),
    }
}

/// What the words mean of which one must be chosen.
pub(super) fn variants(expected: &[&str]) -> Option<String> {
    let of_overlap = expected.contains(&"forbid");
    of_overlap.then(|| "`forbid` skips the new run, `allow` runs both, `replace` ends the old one".to_owned())
}

/// The hint for a key that must be there.
pub(super) fn missing_key(field: &str) -> Option<String> {
    let example = match field {
        "project" => "project: my-site",
        "environments" => "environments: {dev: {}}",
        "schedule" => "schedule: \"*/15 * * * *\"",
        "command" => "command: drush cron",
        "min" => "min: 1",
        "max" => "max: 2",
        "path" => "path: /data/files",
        "size" => "size: 5Gi",
        "share" => "share: 500m",
        _ => return None,
    };
    Some(format!("add it, such as `{example}`"))
}

/// The hint for a task that is only a text, such as a line of a crontab.
pub(super) fn task(name: &str, node: &Node) -> String {
    let name = quoted(name);
    let line = node.text().unwrap_or_default();
    let fields = if line.starts_with('@') { 1 } else { 5 };
    let mut words = line.split_whitespace();
    let schedule = words.by_ref().take(fields).collect::<Vec<_>>().join(" ");
    let command = words.collect::<Vec<_>>().join(" ");
    let is_line = super::Schedule::parse(&schedule).is_ok() && !command.is_empty();
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./_-=".contains(c);
    match is_line && command.chars().all(plain) && command.len() <= 64 {
        true => format!("did you mean `{name}: {{schedule: \"{schedule}\", command: {command}}}`?"),
        false => format!("write `{name}: {{schedule: \"*/15 * * * *\", command: …}}`"),
    }
}

/// The hint for a value of the wrong shape: a list for a mapping, a text for a list.
pub(super) fn shape(key: &str, node: &Node, hidden: bool) -> Option<String> {
    let text = node.text().filter(|text| text.len() <= 64).map(quoted);
    let hint = match (key, &node.value) {
        ("environments", Value::List(_)) => {
            "name them by keys, without `name` and `spec`: `environments: {dev: {…}}`".to_owned()
        }
        ("env", _) => "write `env: {NAME: VALUE}`".to_owned(),
        (_, _) if hidden => "a variable's value is a text: put it into quotes".to_owned(),
        ("cron", _) => "write `cron: {NAME: {schedule: …, command: …}}`".to_owned(),
        ("volumes", _) => "write `volumes: {NAME: {path: …, size: …}}`".to_owned(),
        ("instances", Value::Number(count)) => {
            format!("did you mean `{{min: {0}, max: {0}}}`?", quoted(count))
        }
        ("port", Value::Number(number)) => meant(number, 65535).unwrap_or_else(|| PORT.to_owned()),
        ("port", Value::Text(number)) if number.parse::<u16>().is_err() => PORT.to_owned(),
        (_, Value::Number(number)) if !matches!(key, "memory" | "cpu") => {
            let most = super::MAX_INSTANCES.into();
            let around = number.parse::<f64>().ok().filter(|number| number.fract() != 0.0);
            let around = around.filter(|number| (1.0..f64::from(super::MAX_INSTANCES)).contains(number));
            let around =
                around.map(|number| format!("did you mean `{}` or `{}`?", number.floor(), number.ceil()));
            meant(number, most).or(around).unwrap_or_else(|| format!("write a number from 1 to {most}"))
        }
        ("memory", Value::List(_)) => "write `memory: {min: 256Mi, max: 1Gi}`".to_owned(),
        ("instances", Value::List(_) | Value::Text(_)) => "write `instances: {min: 1, max: 2}`".to_owned(),
        ("memory", Value::Text(_) | Value::Number(_)) => format!("did you mean `{{max: {}}}`?", text?),
        ("domains", Value::Text(_)) => format!("did you mean `[{}]`?", text?),
        ("command", Value::Text(line)) => {
            format!("did you mean `[{}]`?", quoted(&line.split_whitespace().collect::<Vec<_>>().join(", ")))
        }
        ("command", Value::List(_)) => {
            "a task's command is one line for the shell, such as `drush cron`".to_owned()
        }
        ("health", Value::Map(_)) => "write only the path, such as `health: /healthz`".to_owned(),
        ("production", _) => match text?.to_lowercase().as_str() {
            "yes" | "on" | "y" | "1" | "true" => "did you mean `true`, without quotes?".to_owned(),
            "no" | "off" | "n" | "0" | "false" => "did you mean `false`, without quotes?".to_owned(),
            _ => "write `true` or `false`".to_owned(),
        },
        ("", _) => "begin with `project: NAME` and `environments: {dev: {}}`".to_owned(),
        ("domains", Value::Map(_)) => "write `domains: [www.example.com]`".to_owned(),
        (_, Value::Text(number)) if number.parse::<u32>().is_ok() => {
            format!("did you mean `{number}`, without quotes?")
        }
        _ => return None,
    };
    Some(hint)
}

const PORT: &str = "a port is a number from 1 to 65535, such as `8080`";

/// The whole number up to `most` that is written in a way which others read differently: `0x1F90`, `8_080`, `08080`.
fn meant(typed: &str, most: i64) -> Option<String> {
    let plain = typed.replace('_', "").trim_start_matches('+').to_ascii_lowercase();
    let radix = |prefix: &str, radix| {
        plain.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    let decimal = || plain.strip_suffix(".0").unwrap_or(&plain).parse().ok();
    let number = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2)).or_else(decimal)?;
    (1..=most).contains(&number).then(|| format!("did you mean `{number}`?"))
}

/// Adds what a name would have to look like to a fault about one.
pub(super) fn label(fault: Fault, text: &str) -> Fault {
    if fault.hint.is_some() || !fault.sentence.contains("must be 1 to 63 of a-z") {
        return fault;
    }
    let plain: String =
        text.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let meant = Label::parse("name", plain).ok().map(|label| format!("did you mean `{label}`?"));
    fault.with_hint(meant.unwrap_or_else(|| "choose a short name, such as `my-site` or `dev`".to_owned()))
}

pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Text of a library, made safe for a terminal and bounded.
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

/// The word that a typing mistake away or two gives `typed`: a third of its length, at least one; or that it begins with.
pub fn nearest<'a>(typed: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > 64 {
        return None;
    }
    let lower = typed.to_lowercase();
    let most = typed.chars().count().div_ceil(3).clamp(1, 3);
    keys.into_iter()
        .map(|key| (distance(&lower, &key.to_lowercase()), key))
        .filter(|(distance, key)| *distance <= most || (key.len() >= 3 && lower.starts_with(*key)))
        .min()
        .map(|(_, key)| key)
}
/// How many letters to insert, remove, replace or swap with their neighbour, row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        let mut previous = None;
        for (j, (to, pair)) in b.iter().zip(row.windows(2)).enumerate() {
            let &[diagonal, above] = pair else { break };
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            let swapped = last == Some(*to) && previous == Some(from);
            if let Some(two_before) = j.checked_sub(1).and_then(|j| before.get(j)).filter(|_| swapped) {
                left = left.min(two_before + 1);
            }
            next.push(left);
            previous = Some(*to);
        }
        last = Some(from);
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slips_of_the_fingers() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("prot", "port", 1), ("cpu", "cpus", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_far_word_is_no_guess() {
        assert_eq!(nearest("enviroments", ["project", "environments"]), Some("environments"));
        assert_eq!(nearest("zzz", ["project", "environments"]), None);
    }
}
