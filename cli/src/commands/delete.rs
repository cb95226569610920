//! `skpr delete`: takes an environment away, after saying what goes and what stays.
//!
//! Invariants: without `-y`, nothing is deleted that somebody at a terminal did not agree to, a production environment
//! only by its name; a deploy that is under way is ended only by somebody who was told of it, or by `-y`.

use super::call::Cluster;
use super::release::{Release, text, under_way};
use crate::args::Delete;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal;
use serde::Serialize;
use skpr_proto::v1::{DeleteRequest, DeleteResponse};
use skpr_proto::{ErrorKind, Failure};

#[derive(Serialize)]
struct Deleted {
    project: String,
    environment: String,
    dry_run: bool,
    removed: Vec<String>,
    kept: Vec<String>,
    /// The deploy that ends with it.
    under_way: Option<Release>,
}

pub(super) async fn run(verb: &Delete, settings: &Settings, output: &Output) -> Result<(), Error> {
    if !verb.dry_run && !verb.yes && !terminal::can_ask() {
        let name = &verb.target.environment;
        return Err(usage(format!("`{name}` is to be deleted, and there is no terminal to ask on"))
            .with_hint(format!("skpr delete {name} --dry-run shows what would go; -y agrees to it"))
            .into());
    }
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    let mut force = verb.yes;
    if verb.dry_run || !verb.yes {
        let plan = delete(&cluster, verb, true, false).await?;
        if verb.dry_run {
            return show(&cluster, verb, plan, output);
        }
        output.evidence(&format!("deleting {}:\n{}", cluster.environment, lines(&cluster, &plan)));
        let production = cluster.describe().await?.summary.is_some_and(|summary| summary.production);
        confirm(&cluster, production)?;
        // One that begins while the question is read was not agreed to.
        force = plan.under_way.is_some();
    }
    let done = delete(&cluster, verb, false, force).await.map_err(|error| locked(error, &cluster))?;
    show(&cluster, verb, done, output)
}

async fn delete(
    cluster: &Cluster<'_>,
    verb: &Delete,
    dry_run: bool,
    force: bool,
) -> Result<DeleteResponse, Error> {
    let request = DeleteRequest { environment: Some(cluster.wire()), dry_run, volumes: verb.volumes, force };
    cluster.answer(cluster.client.environments().delete(request).await).await
}

fn confirm(cluster: &Cluster<'_>, production: bool) -> Result<(), Error> {
    let name = &cluster.environment.environment;
    let agreed = if production {
        let answer =
            terminal::ask(&format!("{} is production. Type `{name}` to delete it: ", cluster.environment))?;
        answer.trim() == name.as_str()
    } else {
        let answer = terminal::ask(&format!("Delete {}? [y/N] ", cluster.environment))?;
        matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    };
    if agreed { Ok(()) } else { Err(Failure::new(ErrorKind::Failed, "nothing was deleted").into()) }
}

/// Waiting for the lock, which others may do, is not for this verb.
fn locked(error: Error, cluster: &Cluster<'_>) -> Error {
    match error {
        Error::Failed { failure, causes }
            if failure.kind == ErrorKind::Locked
                && failure.hint.as_deref().is_none_or(|hint| hint.contains("--lock-wait")) =>
        {
            let name = &cluster.environment;
            let hint = format!(
                "skpr deploy --follow {name} waits for its end; skpr delete {name} -y ends it with the environment"
            );
            Error::Failed { failure: failure.with_hint(hint), causes }
        }
        error => error,
    }
}

/// What goes, then what stays.
fn lines(cluster: &Cluster<'_>, answer: &DeleteResponse) -> String {
    let deploy = answer.under_way.iter();
    let deploy = deploy.map(|open| format!("ends   {}\n", under_way(&cluster.environment, open)));
    let removed = answer.removed.iter().map(|item| format!("goes   {}\n", text(item)));
    let kept = answer.kept.iter().map(|item| format!("stays  {}\n", text(item)));
    deploy.chain(removed).chain(kept).collect()
}

fn show(cluster: &Cluster<'_>, verb: &Delete, answer: DeleteResponse, output: &Output) -> Result<(), Error> {
    let what = if verb.dry_run { "nothing was deleted, this would happen" } else { "deleted" };
    let text_lines = format!("{}: {what}\n{}", cluster.environment, lines(cluster, &answer));
    let deleted = Deleted {
        project: cluster.environment.project.to_string(),
        environment: cluster.environment.environment.to_string(),
        dry_run: verb.dry_run,
        removed: answer.removed.iter().map(|item| text(item)).collect(),
        kept: answer.kept.iter().map(|item| text(item)).collect(),
        under_way: answer.under_way.as_ref().map(|open| Release::new(&cluster.environment, open)),
    };
    output.thing(&deleted, &text_lines, &cluster.environment.to_string())
}
