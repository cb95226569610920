//! `skpr cron logs`: what a run has printed, and what it prints until it has ended.

use super::execution::{Run, Stage};
use super::printed::{self, Wanted};
use super::watch::{self, Watch};
use crate::args::{CronLogs, CronStream, Format};
use crate::commands::call::Cluster;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal::clean;
use crate::time;
use skpr_proto::{ErrorKind, Failure, v1};

pub(super) async fn run(verb: &CronLogs, settings: &Settings, output: &Output) -> Result<(), Error> {
    refuse_names(output)?;
    let wanted = Wanted {
        lines: verb.lines,
        stream: verb.stream.map(|stream| match stream {
            CronStream::Stdout => "stdout",
            CronStream::Stderr => "stderr",
        }),
        zone: time::zone(verb.timezone.as_deref())?,
        raw: verb.raw,
        endless: true,
    };
    let mut cluster = Cluster::connect(&verb.target, settings, output).await?;
    let mut run = find(&mut cluster, &verb.run).await?;
    let id = Run::new(&run).id;
    if verb.follow && run.instance.is_none() && !printed::has_ended(&run) {
        let mut watch = Watch::new(&cluster, &run.id, true, output);
        run = watch.until(|run| run.instance.is_some() || printed::has_ended(run)).await?;
    }
    let seen = Run::new(&run);
    if seen.times.began.is_none() {
        return Err(not_begun(&seen, &cluster).into());
    }
    if run.instance.is_none() {
        output.note(&format!("run `{id}` has printed nothing"));
        return Ok(());
    }
    let shown = match verb.follow && !printed::has_ended(&run) {
        true => printed::follow(&cluster, &run, &wanted).await?,
        false => printed::show(&cluster, &run, &wanted).await?,
    };
    let last = Run::new(&shown.run);
    if !shown.anything {
        let so_far = if last.is_open() { "so far" } else { "that is kept" };
        let what = wanted.stream.map(|stream| format!(" on {stream}")).unwrap_or_default();
        output.note(&format!("run `{id}` has printed nothing{what} {so_far}"));
    }
    if last.is_open() {
        output.note(&format!("run `{id}` still runs; -f shows what it prints from now on, too"));
    } else if verb.follow {
        output.note(&last.sentence());
    }
    if shown.unfinished {
        printed::warn_unfinished(&last, output);
    }
    Ok(())
}

/// There is nothing that `-o name` could print of lines.
pub(super) fn refuse_names(output: &Output) -> Result<(), Failure> {
    match output.format {
        Format::Name => Err(usage("`-o name` means nothing for what a run prints")
            .with_hint("use -o json, -o csv or -o yaml")),
        Format::Table | Format::Json | Format::Yaml | Format::Csv => Ok(()),
    }
}

fn not_begun(run: &Run, cluster: &Cluster<'_>) -> Failure {
    let environment = &cluster.environment;
    let hint = match run.stage() {
        Stage::Waiting => format!("skpr cron logs {environment} {} -f waits for it", run.id),
        _ => format!("skpr cron run {environment} {} runs it now", run.task),
    };
    Failure::new(ErrorKind::Failed, format!("{}, so it has printed nothing", run.sentence())).with_hint(hint)
}

/// The run of this name, or the newest of the task of this name that has begun.
async fn find(cluster: &mut Cluster<'_>, named: &str) -> Result<v1::Run, Error> {
    let no_run = match watch::call(&cluster.client, cluster, named).await {
        Ok(answer) => {
            belongs_to(cluster, &answer);
            match answer.runs.into_iter().next() {
                Some(run) => return Ok(run),
                None => String::new(),
            }
        }
        Err(status) if is_unknown(&status) => status.message().to_owned(),
        Err(status) => return cluster.answer(Err(status)).await,
    };
    let request = v1::RunsRequest {
        environment: Some(cluster.wire()),
        task: Some(named.to_owned()),
        ..v1::RunsRequest::default()
    };
    let missing = |what: &str| {
        let message = format!("{what} `{}` in `{}`", clean(named), cluster.environment);
        let hint = format!("skpr cron history {}", cluster.environment);
        Failure::new(ErrorKind::NotFound, message).with_hint(hint)
    };
    let answer = match cluster.client.cron().runs(request).await {
        // What is said of both alike is about the environment.
        Err(status) if is_unknown(&status) && status.message() != no_run => {
            return Err(missing("there is no run and no task").into());
        }
        answer => cluster.answer(answer).await?,
    };
    if answer.runs.is_empty() {
        return Err(missing("there is no run and no run of a task").into());
    }
    let Some(run) = answer.runs.iter().find(|run| run.began.is_some()).cloned() else {
        return Err(missing("none has begun of the runs that are kept of task").into());
    };
    belongs_to(cluster, &answer);
    cluster.output.note(&format!("the newest run of `{}` is `{}`", clean(named), clean(&run.id)));
    Ok(run)
}

fn is_unknown(status: &tonic::Status) -> bool {
    matches!(ErrorKind::from_code(status.code()), ErrorKind::NotFound | ErrorKind::Usage)
}

/// All that follows is about the same environment, also where another of its name appears.
fn belongs_to(cluster: &mut Cluster<'_>, answer: &v1::RunsResponse) {
    if !answer.namespace.is_empty() {
        cluster.namespace = Some(answer.namespace.clone());
    }
}
