//! What a deploy changes, setting by setting. Pure.
//!
//! The value of an environment variable may be a secret: it is compared, and never told.

use serde_json::Value;
use skpr_proto::manifest;
use skpr_proto::v1::Change;
use std::collections::BTreeMap;

/// What stands for the value of an environment variable.
const HIDDEN: &str = "(hidden)";
/// What the path of an environment variable begins with.
const VARIABLES: &str = "env.";
/// What holds on every platform where a setting is absent: going from one to the other is told with it.
const DEFAULTS: [(&str, &str); 3] = [("instances.max", "1"), ("instances.min", "1"), ("production", "false")];

/// The settings that differ, in order of their paths, without those of the releases themselves. Of an environment that is
/// new everything is a change.
pub(super) fn changes(before: Option<&manifest::Environment>, after: &manifest::Environment) -> Vec<Change> {
    let (mut before, mut after) = (before.map(flat), flat(after));
    if let Some(before) = &mut before {
        for (path, default) in DEFAULTS {
            match (before.contains_key(path), after.contains_key(path)) {
                (true, false) => drop(after.insert(path.to_owned(), default.to_owned())),
                (false, true) => drop(before.insert(path.to_owned(), default.to_owned())),
                (true, true) | (false, false) => {}
            }
        }
    }
    let before = before.unwrap_or_default();
    let settings = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    let mut changes: Vec<Change> = settings
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| Change {
            setting: path.clone(),
            before: before.get(path).map(|value| shown(path, value)),
            after: after.get(path).map(|value| shown(path, value)),
        })
        .collect();
    changes.sort_by(|a, b| a.setting.cmp(&b.setting));
    changes
}

/// Settings as JSON with no value of an environment variable in it.
pub(super) fn hidden(settings: &manifest::Environment) -> Vec<u8> {
    let mut value = serde_json::to_value(settings).unwrap_or_default();
    let variables = value.get_mut("env").and_then(Value::as_object_mut);
    for (_, value) in variables.into_iter().flatten() {
        *value = HIDDEN.into();
    }
    value.to_string().into_bytes()
}

fn shown(path: &str, value: &str) -> String {
    if path.starts_with(VARIABLES) {
        return HIDDEN.to_owned();
    }
    // What is told may be printed as it is.
    value.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Each value under its path: `memory.max`, `env.APP_ENV`. A list is one value.
fn flat(settings: &manifest::Environment) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let whole = serde_json::to_value(settings).unwrap_or_default();
    for (key, value) in whole.as_object().into_iter().flatten() {
        flatten(key.clone(), value, &mut values);
    }
    values
}

fn flatten(path: String, value: &Value, values: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(format!("{path}.{key}"), value, values);
            }
        }
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(text).collect();
            drop(values.insert(path, list.join(" ")));
        }
        value => drop(values.insert(path, text(value))),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(json: &str) -> manifest::Environment {
        manifest::Environment::from_json(json.as_bytes()).unwrap()
    }

    #[track_caller]
    fn check(before: &str, after: &str, expected: &[(&str, Option<&str>, Option<&str>)]) {
        let found = changes(Some(&settings(before)), &settings(after));
        let found: Vec<_> = found
            .iter()
            .map(|change| (change.setting.as_str(), change.before.as_deref(), change.after.as_deref()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_setting_that_differs_is_named_with_both_sides() {
        check("{}", "{}", &[]);
        check(
            r#"{"memory":{"max":"1Gi"},"port":80,"domains":["a.example.com"]}"#,
            r#"{"memory":{"min":"64Mi","max":"2Gi"},"port":80,"command":["./serve","--port"]}"#,
            &[
                ("command", None, Some("./serve --port")),
                ("domains", Some("a.example.com"), None),
                ("memory.max", Some("1Gi"), Some("2Gi")),
                ("memory.min", None, Some("64Mi")),
            ],
        );
    }

    #[test]
    fn an_absent_setting_is_told_by_what_holds_without_it() {
        check(
            r#"{"instances":{"min":1,"max":3},"production":true}"#,
            "{}",
            &[("instances.max", Some("3"), Some("1")), ("production", Some("true"), Some("false"))],
        );
        check("{}", r#"{"instances":{"min":1,"max":1},"production":false}"#, &[]);
        check(
            "{}",
            r#"{"instances":{"min":2,"max":2}}"#,
            &[("instances.max", Some("1"), Some("2")), ("instances.min", Some("1"), Some("2"))],
        );
    }

    #[test]
    fn a_variable_that_changes_is_named_and_its_value_is_not() {
        check(
            r#"{"env":{"A":"secret one","B":"same","C":"secret gone"}}"#,
            r#"{"env":{"A":"secret two","B":"same"}}"#,
            &[("env.A", Some("(hidden)"), Some("(hidden)")), ("env.C", Some("(hidden)"), None)],
        );
        let shown = String::from_utf8(hidden(&settings(r#"{"env":{"A":"secret"},"port":80}"#))).unwrap();
        assert_eq!(shown, r#"{"env":{"A":"(hidden)"},"port":80}"#);
    }

    #[test]
    fn of_a_new_environment_everything_is_a_change() {
        let made = changes(None, &settings(r#"{"port":8080,"instances":{"min":1,"max":2}}"#));
        let paths: Vec<_> = made.iter().map(|change| change.setting.as_str()).collect();
        assert_eq!(paths, ["instances.max", "instances.min", "port"]);
        assert!(made.iter().all(|change| change.before.is_none()));
    }

    proptest! {
        #[test]
        fn what_was_sent_is_refused_or_listed_and_never_tells_a_variable(bytes: Vec<u8>, secret in "[a-z]{12}") {
            drop(manifest::Environment::from_json(&bytes));
            let other = settings("{}");
            let with = settings(&format!(r#"{{"env":{{"A":"{secret}"}}}}"#));
            for changes in [changes(Some(&other), &with), changes(Some(&with), &other), changes(None, &with)] {
                prop_assert_eq!(changes.len(), 1);
                let told = format!("{changes:?}");
                prop_assert!(!told.contains(&secret));
            }
        }
    }
}
