//! What a deploy changes, before it is begun.

use crate::commands::release::text;
use crate::output::{Cell, Output};
use serde::Serialize;
use skpr_proto::EnvironmentName;
use skpr_proto::v1::DeployResponse;

/// In JSON and YAML.
#[derive(Serialize)]
pub(super) struct Plan {
    project: String,
    environment: String,
    namespace: Option<String>,
    version_before: Option<String>,
    version: String,
    /// The environment is new.
    created: bool,
    production: bool,
    changes: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    setting: String,
    before: Option<String>,
    after: Option<String>,
}

const HEADERS: [&str; 4] = ["SETTING", "BEFORE", "", "AFTER"];

impl Plan {
    pub(super) fn new(name: &EnvironmentName, answer: &DeployResponse) -> Self {
        Plan {
            project: name.project.to_string(),
            environment: name.environment.to_string(),
            namespace: answer.environment.as_ref().and_then(|known| known.namespace.as_deref()).map(text),
            version_before: answer.version_before.as_deref().map(text),
            version: text(&answer.version),
            created: answer.created,
            production: answer.production,
            changes: answer
                .changes
                .iter()
                .map(|change| Setting {
                    setting: text(&change.setting),
                    before: change.before.as_deref().map(text),
                    after: change.after.as_deref().map(text),
                })
                .collect(),
        }
    }

    /// `shop/dev: v1 → v2`.
    fn headline(&self) -> String {
        let Plan { project, environment, version, .. } = self;
        let version = match &self.version_before {
            Some(before) if before == version => format!("{version} again"),
            Some(before) => format!("{before} → {version}"),
            None => version.clone(),
        };
        let production = if self.production { ", production" } else { "" };
        let created = if self.created { " (a new environment)" } else { "" };
        let settings = if self.changes.is_empty() && !self.created { ", settings as they are" } else { "" };
        format!("{project}/{environment}{production}: {version}{settings}{created}")
    }

    fn rows(&self) -> Vec<Vec<Cell>> {
        let side = |value: &Option<String>| Cell::new(value.as_deref().unwrap_or("-"));
        self.changes
            .iter()
            .map(|change| {
                vec![Cell::new(&*change.setting), side(&change.before), Cell::new("→"), side(&change.after)]
            })
            .collect()
    }

    /// Before it is begun, beside the data.
    pub(super) fn note(&self, output: &Output) {
        output.note(&self.headline());
        if !self.changes.is_empty() {
            output.note_table(&HEADERS, &self.rows());
        }
    }

    /// As the data, when nothing else is asked for.
    pub(super) fn lines(&self, output: &Output) -> String {
        let table =
            if self.changes.is_empty() { String::new() } else { output.table(&HEADERS, &self.rows()) };
        format!("{}\n{table}nothing was changed\n", self.headline())
    }
}
