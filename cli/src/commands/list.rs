//! `skpr list`: the environments that the caller may see, and how they are.
//!
//! `--watch` redraws on a terminal; elsewhere each round is a block after an empty line, and in JSON one object a line.

use crate::args::{Format, List};
use crate::client::{Access, Client, call_error};
use crate::completion;
use crate::error::Error;
use crate::output::{Cell, Listing, Output, escape_json};
use crate::settings::Settings;
use crate::terminal::clean;
use serde::Serialize;
use skpr_proto::v1::{EnvironmentSummary, ListRequest};
use std::collections::BTreeSet;
use std::time::Duration;

const WATCH_INTERVAL: Duration = Duration::from_secs(2);
const HEADERS: [&str; 5] = ["NAMESPACE", "ENVIRONMENT", "VERSION", "INSTANCES", "HEALTH"];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Degraded,
    Down,
}

impl Health {
    fn of(ready: u32, instances: u32, minimum: u32) -> Self {
        match ready {
            0 => Health::Down,
            _ if ready < instances || ready < minimum => Health::Degraded,
            _ => Health::Ok,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Health::Ok => "32",
            Health::Degraded => "33",
            Health::Down => "31",
        }
    }
}

#[derive(Debug, Serialize)]
struct Environment {
    project: String,
    environment: String,
    /// None from an aggregator that does not tell.
    namespace: Option<String>,
    production: bool,
    versions: Vec<String>,
    ready: u32,
    instances: u32,
    minimum: Option<u32>,
    maximum: Option<u32>,
    health: Health,
    /// The platform has not been heard from for a while.
    stale: bool,
    instance: Vec<Instance>,
}

#[derive(Debug, Serialize)]
struct Instance {
    name: String,
    version: String,
    ready: bool,
    node: String,
}

impl From<EnvironmentSummary> for Environment {
    fn from(summary: EnvironmentSummary) -> Self {
        let text = |text: &str| clean(text).into_owned();
        let name = summary.environment.unwrap_or_default();
        Environment {
            project: text(&name.project),
            environment: text(&name.environment),
            namespace: name.namespace.as_deref().map(text),
            production: summary.production,
            versions: summary.versions.iter().map(|version| text(version)).collect(),
            ready: summary.ready,
            instances: summary.instances,
            minimum: (summary.minimum > 0).then_some(summary.minimum),
            maximum: (summary.maximum > 0).then_some(summary.maximum),
            health: Health::of(summary.ready, summary.instances, summary.minimum),
            stale: summary.stale,
            instance: summary
                .instance
                .iter()
                .map(|instance| Instance {
                    name: text(&instance.name),
                    version: text(&instance.version),
                    ready: instance.ready,
                    node: text(&instance.node),
                })
                .collect(),
        }
    }
}

impl Environment {
    fn name(&self) -> String {
        format!("{}/{}", self.project, self.environment)
    }

    fn cells(&self) -> Vec<Cell> {
        let wanted = match (self.minimum, self.maximum) {
            (Some(minimum), Some(maximum)) if minimum == maximum => format!(" ({minimum})"),
            (Some(minimum), Some(maximum)) => format!(" ({minimum}–{maximum})"),
            (Some(minimum), None) => format!(" ({minimum}–)"),
            (None, Some(maximum)) => format!(" (–{maximum})"),
            (None, None) => String::new(),
        };
        let health = if self.stale {
            Cell::coloured(format!("{} (stale)", self.health.name()), "2")
        } else {
            Cell::coloured(self.health.name(), self.health.colour())
        };
        vec![
            Cell::new(self.name()),
            Cell::new(self.versions.join(", ")),
            Cell::new(format!("{}/{}{wanted}", self.ready, self.instances)),
            health,
        ]
    }

    fn cells_with_namespace(&self) -> Vec<Cell> {
        let mut cells = vec![Cell::new(self.namespace.as_deref().unwrap_or_default())];
        cells.extend(self.cells());
        cells
    }

    fn csv(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        vec![
            self.project.clone(),
            self.environment.clone(),
            self.production.to_string(),
            self.versions.join(" "),
            self.ready.to_string(),
            self.instances.to_string(),
            number(self.minimum),
            number(self.maximum),
            self.health.name().to_owned(),
            self.stale.to_string(),
            self.namespace.clone().unwrap_or_default(),
        ]
    }
}

pub(super) async fn run(verb: &List, settings: &Settings, output: &Output) -> Result<(), Error> {
    let access = settings.access()?;
    let project = if verb.all { None } else { settings.project()?.map(String::from) };
    let client = Client::connect(&access).await?;
    let environments = fetch(&client, &access, settings, project.clone()).await?;
    if environments.is_empty() {
        let of = project.as_deref().map(|project| format!(" of project `{project}`")).unwrap_or_default();
        output.note(&format!("no environments{of} that you may see"));
    }
    if !verb.watch {
        return output.write(&render(&environments, output)?);
    }
    let mut environments = environments;
    for round in 0u64.. {
        output.write(&block(&environments, output, round == 0)?)?;
        tokio::time::sleep(WATCH_INTERVAL).await;
        match again(&access, settings, project.clone()).await {
            Ok(fresh) => environments = fresh,
            // What was shown is old now, and says so, until the cluster answers again.
            Err(Error::Failed { failure, .. }) if failure.kind.retryable() => {
                environments.iter_mut().for_each(|environment| environment.stale = true);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn again(
    access: &Access,
    settings: &Settings,
    project: Option<String>,
) -> Result<Vec<Environment>, Error> {
    let client = Client::connect(access).await?;
    fetch(&client, access, settings, project).await
}

async fn fetch(
    client: &Client,
    access: &Access,
    settings: &Settings,
    project: Option<String>,
) -> Result<Vec<Environment>, Error> {
    let all = project.is_none();
    let answer = client.environments().list(ListRequest { project }).await;
    let answer = answer.map_err(|status| call_error(&status, &access.endpoint))?.into_inner();
    let mut environments: Vec<Environment> = answer.environments.into_iter().map(Environment::from).collect();
    environments.sort_by(|a, b| {
        (&a.project, a.production, &a.environment, &a.namespace).cmp(&(
            &b.project,
            b.production,
            &b.environment,
            &b.namespace,
        ))
    });
    if all {
        let mut names: Vec<String> = environments.iter().map(Environment::name).collect();
        names.dedup();
        completion::remember(&settings.directory, &access.endpoint.to_string(), names);
    }
    Ok(environments)
}

/// The names of all environments that the caller may see, for suggestions.
pub(super) async fn names(client: &Client, access: &Access, settings: &Settings) -> Vec<String> {
    match fetch(client, access, settings, None).await {
        Ok(environments) => environments.iter().map(Environment::name).collect(),
        Err(_) => completion::known(&settings.directory, &access.endpoint.to_string()),
    }
}

fn listing(environments: &[Environment]) -> Listing<'_, Environment> {
    // Most people have one of each name, and no use for a column of namespaces.
    let names: BTreeSet<String> = environments.iter().map(Environment::name).collect();
    let cells: fn(&Environment) -> Vec<Cell> =
        if names.len() < environments.len() { Environment::cells_with_namespace } else { Environment::cells };
    let [_, short @ ..] = &HEADERS;
    Listing {
        items: environments,
        name: Environment::name,
        headers: if names.len() < environments.len() { &HEADERS } else { short },
        cells,
        csv_headers: &[
            "project",
            "environment",
            "production",
            "versions",
            "ready",
            "instances",
            "minimum",
            "maximum",
            "health",
            "stale",
            "namespace",
        ],
        csv: Environment::csv,
    }
}

fn render(environments: &[Environment], output: &Output) -> Result<Vec<u8>, Error> {
    output.render(&listing(environments))
}

/// One round of `--watch`.
fn block(environments: &[Environment], output: &Output, first: bool) -> Result<Vec<u8>, Error> {
    if output.format == Format::Json {
        let mut out = String::new();
        for environment in environments {
            let line = serde_json::to_string(environment).map_err(anyhow::Error::new)?;
            out.push_str(&escape_json(line));
            out.push('\n');
        }
        return Ok(out.into_bytes());
    }
    let mut out = match (output.terminal, first) {
        // Home and clear to the end: nothing of the scrollback is lost and nothing flickers.
        (true, true) => b"\x1b[2J\x1b[H".to_vec(),
        (true, false) => b"\x1b[H\x1b[J".to_vec(),
        (false, true) => Vec::new(),
        (false, false) => b"\n".to_vec(),
    };
    out.extend(render(environments, output)?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_what_is_ready_of_what_should_be() {
        for (ready, instances, minimum, expected) in [
            (2, 2, 2, Health::Ok),
            (2, 2, 0, Health::Ok),
            (1, 2, 2, Health::Degraded),
            (2, 2, 3, Health::Degraded),
            (0, 2, 2, Health::Down),
            (0, 0, 0, Health::Down),
        ] {
            assert_eq!(Health::of(ready, instances, minimum), expected, "{ready}/{instances} of {minimum}");
        }
    }
}
