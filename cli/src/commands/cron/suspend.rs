//! `skpr cron suspend` and `resume`: whether tasks are run by their schedules.
//!
//! Invariant: without `-y`, all tasks of a production environment are suspended only by somebody who typed its name.

use crate::args::{CronResume, CronSuspend, Tasks};
use crate::commands::call::Cluster;
use crate::commands::release::text;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal;
use serde::Serialize;
use skpr_proto::{ErrorKind, Failure, v1};

#[derive(Serialize)]
struct Changed {
    project: String,
    environment: String,
    suspended: bool,
    dry_run: bool,
    changed: Vec<String>,
    unchanged: Vec<String>,
}

pub(super) async fn suspend(verb: &CronSuspend, settings: &Settings, output: &Output) -> Result<(), Error> {
    let tasks = &verb.tasks;
    let cluster = Cluster::connect(&tasks.target, settings, output).await?;
    if tasks.task.is_none() && !tasks.dry_run && !verb.yes {
        let plan = call(&cluster, tasks, true, true).await?;
        if plan.production && !plan.changed.is_empty() {
            confirm(&cluster, &names(&plan.changed))?;
        }
    }
    let answer = call(&cluster, tasks, true, tasks.dry_run).await?;
    show(&cluster, tasks, true, answer)
}

pub(super) async fn resume(verb: &CronResume, settings: &Settings, output: &Output) -> Result<(), Error> {
    let cluster = Cluster::connect(&verb.tasks.target, settings, output).await?;
    let answer = call(&cluster, &verb.tasks, false, verb.tasks.dry_run).await?;
    show(&cluster, &verb.tasks, false, answer)
}

async fn call(
    cluster: &Cluster<'_>,
    tasks: &Tasks,
    suspended: bool,
    dry_run: bool,
) -> Result<v1::SuspendResponse, Error> {
    let request = v1::SuspendRequest {
        environment: Some(cluster.wire()),
        task: tasks.task.clone(),
        suspended,
        dry_run,
    };
    cluster.answer(cluster.client.cron().suspend(request).await).await
}

fn confirm(cluster: &Cluster<'_>, tasks: &[String]) -> Result<(), Error> {
    let name = &cluster.environment.environment;
    if !terminal::can_ask() {
        let refusal =
            format!("all tasks of `{name}` are to be suspended, and there is no terminal to ask on");
        let hint = format!("skpr cron suspend {name} --dry-run shows which; -y agrees to it");
        return Err(usage(refusal).with_hint(hint).into());
    }
    cluster.output.evidence(&format!("suspending {} of {}\n", tasks.join(", "), cluster.environment));
    let question = format!("{} is production. Type `{name}` to suspend all its tasks: ", cluster.environment);
    match terminal::ask(&question)?.trim() == name.as_str() {
        true => Ok(()),
        false => Err(Failure::new(ErrorKind::Failed, "nothing was suspended").into()),
    }
}

fn names(tasks: &[String]) -> Vec<String> {
    tasks.iter().map(|task| text(task)).collect()
}

fn show(
    cluster: &Cluster<'_>,
    tasks: &Tasks,
    suspended: bool,
    answer: v1::SuspendResponse,
) -> Result<(), Error> {
    let (changed, unchanged) = (names(&answer.changed), names(&answer.unchanged));
    let environment = &cluster.environment;
    let (done, before) =
        if suspended { ("suspended", "was suspended before") } else { ("resumed", "was not suspended") };
    let would = if tasks.dry_run { "would be " } else { "" };
    let lines = changed.iter().map(|task| format!("{task}: {would}{done}\n"));
    let lines = lines.chain(unchanged.iter().map(|task| format!("{task}: {before}\n")));
    let lines: String = lines.collect();
    if changed.is_empty() && unchanged.is_empty() {
        cluster.output.note(&format!("{environment} has no tasks"));
    } else if suspended && !tasks.dry_run && !changed.is_empty() {
        let task = tasks.task.as_ref().map(|task| format!(" {}", text(task))).unwrap_or_default();
        cluster.output.note(&format!(
            "this lasts over deploys, until: skpr cron resume {environment}{task}; what runs now goes on"
        ));
    }
    let shown = Changed {
        project: environment.project.to_string(),
        environment: environment.environment.to_string(),
        suspended,
        dry_run: tasks.dry_run,
        changed,
        unchanged,
    };
    cluster.output.thing(&shown, &lines, &environment.to_string())
}
