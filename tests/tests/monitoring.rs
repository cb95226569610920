//! What is written about monitoring speaks of what there is: the page, the alerts and the dashboard.
//!
//! `UPDATE=1 cargo test -p skpr-tests --test monitoring` writes the page's tables anew.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use regex::Regex;
use serde_json::Value;
use skpr_aggregator::aggregator::{Described, Kind, families};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- families: written by the test of this page -->\n";
const END: &str = "<!-- end of families -->\n";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read("charts/skpr/files/rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The families of one path, a table for each set of labels.
fn tables(path: &str) -> String {
    let described: Vec<Described> = families().into_iter().filter(|it| it.path == path).collect();
    let mut text = String::new();
    let mut labels = None;
    for Described { family, labels: now, .. } in described {
        if labels != Some(now) {
            labels = Some(now);
            let said = match now {
                [] => "Without labels of its own".to_owned(),
                names => format!(
                    "By {}",
                    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                ),
            };
            text += &format!("\n{said}:\n\n| series | kind | meaning |\n|---|---|---|\n");
        }
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        text += &format!("| `{}` | {kind} | {} |\n", family.series(), family.help);
    }
    text
}

#[test]
fn the_page_lists_every_family_and_every_alert() {
    let mut expected = String::new();
    for path in ["/metrics", "/metrics/containers"] {
        expected += &format!("\n### `{path}`\n{}", tables(path));
    }
    expected += "\n## Alerts\n\n| alert | severity | for | fires when |\n|---|---|---|---|\n";
    for alert in alerts() {
        let (name, expression) = (alert["alert"].as_str().unwrap(), alert["expr"].as_str().unwrap());
        let (severity, lasts) =
            (alert["labels"]["severity"].as_str().unwrap(), alert["for"].as_str().unwrap_or("-"));
        // A bar would end the cell, within code as well.
        let expression = expression.trim().replace('|', "\\|");
        expected += &format!("| {name} | {severity} | {lasts} | `{expression}` |\n");
    }
    expected += "\n";
    let page = read("docs/monitoring.md");
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path("docs/monitoring.md"), format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, expected, "UPDATE=1 cargo test -p skpr-tests --test monitoring writes it anew");
}

/// Every name of a series of ours in a text.
fn named(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(skpr|process)_[a-z_]+").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_speak_of_series_that_there_are() {
    let series: BTreeSet<String> = families().iter().map(|described| described.family.series()).collect();
    let labels: BTreeSet<&str> = families().iter().flat_map(|described| described.labels).copied().collect();
    let mut expressions: Vec<String> =
        alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()).collect();
    let dashboard: Value = serde_json::from_str(&read("charts/skpr/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    expressions.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    expressions.extend(variables.filter_map(|it| it["query"]["query"].as_str().map(str::to_owned)));
    assert!(expressions.len() > 30);
    for expression in &expressions {
        let unknown: Vec<_> = named(expression).difference(&series).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    // What an alert tells of is among the labels of what it looks at.
    let label = Regex::new(r"\$labels\.([a-z_]+)").unwrap();
    for alert in alerts() {
        let text = alert["annotations"].to_string();
        for found in label.captures_iter(&text) {
            assert!(labels.contains(&found[1]), "{}: {}", alert["alert"], &found[1]);
        }
    }
}

#[test]
fn names_are_as_openmetrics_wants_them() {
    let mut seen = BTreeSet::new();
    for Described { family, labels, .. } in families() {
        assert!(seen.insert(family.name), "{} is there twice", family.name);
        assert!(family.name.starts_with("skpr_") || family.name.starts_with("process_"), "{}", family.name);
        assert!(!family.name.ends_with("_total") && !family.help.contains(['\n', '\\']), "{}", family.name);
        assert!(labels.len() <= 6, "{}", family.name);
    }
}
