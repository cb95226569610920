//! `skpr list`: the environments that the caller may see, and how they are.
//!
//! `--watch` redraws on a terminal; elsewhere each round is a block after an empty line, and in JSON one object a line.

use super::release::Release;
use super::summary::Environment;
use super::usage::{self, Usage};
use crate::args::{Format, List};
use crate::client::{Access, Client, call_error};
use crate::completion;
use crate::error::Error;
use crate::output::{Cell, Column, Listing, Output, escape_json};
use crate::settings::Settings;
use jiff::Timestamp;
use skpr_proto::v1::ListRequest;
use std::collections::BTreeSet;
use std::time::Duration;

const WATCH_INTERVAL: Duration = Duration::from_secs(2);
const COLUMNS: [Column; 8] = [
    Column::fixed("NAMESPACE"),
    Column::fixed("ENVIRONMENT"),
    Column::fixed("VERSION"),
    Column::fixed("INSTANCES"),
    Column::ranked("CPU", 1),
    Column::ranked("MEMORY", 2),
    Column::ranked("LAST DEPLOY", 3),
    Column::fixed("HEALTH"),
];

impl Environment {
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::new(self.name()),
            Cell::new(self.versions.join(", ")),
            Cell::new(self.count()),
            usage::cpu_cell(self.usage.as_ref()),
            usage::memory_cell(self.usage.as_ref()),
            Cell::new(self.last_deploy(Timestamp::now())),
            self.health_cell(),
        ]
    }

    fn cells_with_namespace(&self) -> Vec<Cell> {
        let mut cells = vec![Cell::new(self.namespace.as_deref().unwrap_or_default())];
        cells.extend(self.cells());
        cells
    }

    fn csv(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let usage = self.usage.as_ref();
        let amount = |field: fn(&Usage) -> Option<u64>| {
            usage.and_then(field).map(|amount| amount.to_string()).unwrap_or_default()
        };
        let release = |field: fn(&Release) -> String| self.release.as_ref().map(field).unwrap_or_default();
        vec![
            self.project.clone(),
            self.environment.clone(),
            self.versions.join(" "),
            self.ready.to_string(),
            self.instances.to_string(),
            number(self.minimum),
            number(self.maximum),
            release(|release| release.began.clone()),
            release(|release| release.by.clone()),
            release(|release| release.state.clone()),
            release(|release| release.number.to_string()),
            self.health.name().to_owned(),
            self.stale.to_string(),
            self.trouble.clone().unwrap_or_default(),
            self.production.to_string(),
            self.namespace.clone().unwrap_or_default(),
            usage
                .and_then(|usage| usage.cpu_millicores)
                .map(|millicores| millicores.to_string())
                .unwrap_or_default(),
            amount(|usage| usage.cpu_share_millicores),
            amount(|usage| usage.memory_working_set_bytes),
            amount(|usage| usage.memory_limit_bytes),
            usage.map(|usage| usage.stale.to_string()).unwrap_or_default(),
            usage.map(|usage| usage.missing_instances.to_string()).unwrap_or_default(),
        ]
    }
}

pub(super) async fn run(verb: &List, settings: &Settings, output: &Output) -> Result<(), Error> {
    let access = settings.access()?;
    let project = if verb.all { None } else { settings.project()?.map(String::from) };
    let client = Client::connect(&access).await?;
    // Only what programs read whole has instances.
    let brief = matches!(output.format, Format::Table | Format::Csv | Format::Name);
    let environments = fetch(&client, &access, settings, project.clone(), brief).await?;
    if environments.is_empty() {
        let of = project.as_deref().map(|project| format!(" of project `{project}`")).unwrap_or_default();
        output.note(&format!(
            "no environments{of} that you may see; seeing one takes the right `list`, or `get` in Kubernetes: skpr whoami"
        ));
    }
    if !verb.watch {
        return output.write(&render(&environments, output)?);
    }
    let mut environments = environments;
    for round in 0u64.. {
        output.write(&block(&environments, output, round == 0)?)?;
        tokio::time::sleep(WATCH_INTERVAL).await;
        match again(&access, settings, project.clone(), brief).await {
            Ok(fresh) => environments = fresh,
            // What was shown is old now, and says so, until the cluster answers again.
            Err(Error::Failed { failure, .. }) if failure.kind.retryable() => {
                environments.iter_mut().for_each(Environment::grow_old);
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
    brief: bool,
) -> Result<Vec<Environment>, Error> {
    let client = Client::connect(access).await?;
    fetch(&client, access, settings, project, brief).await
}

async fn fetch(
    client: &Client,
    access: &Access,
    settings: &Settings,
    project: Option<String>,
    brief: bool,
) -> Result<Vec<Environment>, Error> {
    let all = project.is_none();
    let request = ListRequest { project, without_instances: brief };
    let answer = client.environments().list(request).await;
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
    match fetch(client, access, settings, None, true).await {
        Ok(environments) => environments.iter().map(Environment::name).collect(),
        Err(_) => completion::known(&settings.directory, &access.endpoint.to_string()),
    }
}

fn listing(environments: &[Environment]) -> Listing<'_, Environment> {
    Listing {
        items: environments,
        name: Environment::name,
        // What is shown to people depends on the width: see `table`.
        headers: &[],
        cells: Environment::cells,
        // In the order of the table, and then what that does not show.
        csv_headers: &[
            "project",
            "environment",
            "versions",
            "ready",
            "instances",
            "minimum",
            "maximum",
            "release_began",
            "release_by",
            "release_state",
            "release",
            "health",
            "stale",
            "trouble",
            "production",
            "namespace",
            "cpu_millicores",
            "cpu_share_millicores",
            "memory_working_set_bytes",
            "memory_limit_bytes",
            "usage_stale",
            "usage_missing_instances",
        ],
        csv: Environment::csv,
    }
}

fn render(environments: &[Environment], output: &Output) -> Result<Vec<u8>, Error> {
    match output.format {
        Format::Table => Ok(table(environments, output).into_bytes()),
        _ => output.render(&listing(environments)),
    }
}

fn table(environments: &[Environment], output: &Output) -> String {
    // Most people have one of each name, and no use for a column of namespaces.
    let names: BTreeSet<String> = environments.iter().map(Environment::name).collect();
    let with_namespace = names.len() < environments.len();
    let cells = if with_namespace { Environment::cells_with_namespace } else { Environment::cells };
    let columns = COLUMNS;
    let [_, short @ ..] = &columns;
    let rows: Vec<Vec<Cell>> = environments.iter().map(cells).collect();
    output.fitting_table(if with_namespace { &columns } else { short }, &rows)
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
