//! `skpr cron run`: begins a run of a task now, and with `--wait` shows what it prints and ends as it does.

use super::execution::{Run, Stage};
use super::logs::refuse_names;
use super::printed::{self, Wanted};
use super::watch::Watch;
use crate::args::CronRun;
use crate::client::was_cut;
use crate::commands::call::Cluster;
use crate::commands::session::broken;
use crate::error::Error;
use crate::interrupt::Parting;
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal::clean;
use crate::time;
use skpr_proto::{ErrorKind, v1};

/// How this program ends where the task's own code does not say it.
const UNKNOWN: u8 = 255;
const KILLED_FOR_MEMORY: u8 = 137;
const NOT_STARTED: u8 = 1;

pub(super) async fn run(verb: CronRun, settings: &Settings, output: &Output) -> Result<(), Error> {
    if verb.wait {
        refuse_names(output)?;
    }
    let zone = time::zone(verb.timezone.as_deref())?;
    let mut cluster = Cluster::connect(&verb.target, settings, output).await?;
    if verb.wait {
        may_wait(&mut cluster).await?;
    }
    let begun = begin(&mut cluster, &verb).await?;
    let run = Run::new(&begun);
    let (id, environment) = (&run.id, &cluster.environment);
    let follow = format!("skpr cron logs {environment} {id} -f follows it");
    if !verb.wait {
        output.thing(&run, &format!("{id}\n"), id)?;
        output.note(&format!("run `{id}` has begun; {follow}"));
        return Ok(());
    }
    output.note(&format!("run `{id}` has begun; Ctrl-C leaves it alone, and {follow}"));
    let parting = Parting::new(format!("run `{id}` goes on; {follow}"));
    let wanted = Wanted { lines: None, stream: None, zone, raw: verb.raw, endless: false };
    let waited = match wait(&cluster, &begun.id, &wanted).await {
        // Nobody reads what it prints any more; how it ends is still asked for.
        Err(Error::ClosedPipe) => watch(&cluster, &begun.id, output).until(printed::has_ended).await,
        waited => waited,
    };
    let ended = match waited {
        Ok(ended) => Run::new(&ended),
        Err(error @ Error::Failed { .. }) => {
            let ended = broken(&error, output);
            output.note(&format!("run `{id}` goes on, as far as is known; {follow}"));
            return Err(ended);
        }
        Err(other) => return Err(other),
    };
    drop(parting);
    output.note(&ended.sentence());
    match code(&ended) {
        0 => Ok(()),
        code => Err(Error::Exit(code)),
    }
}

/// Who may not see how runs go is told so before one begins.
async fn may_wait(cluster: &mut Cluster<'_>) -> Result<(), Error> {
    let request =
        v1::RunsRequest { environment: Some(cluster.wire()), last: 1, ..v1::RunsRequest::default() };
    let answer = cluster.client.cron().runs(request).await;
    cluster.answer(answer).await.map(drop)
}

async fn begin(cluster: &mut Cluster<'_>, verb: &CronRun) -> Result<v1::Run, Error> {
    let request = v1::RunRequest {
        environment: Some(cluster.wire()),
        task: verb.task.clone(),
        arguments: verb.arguments.clone(),
    };
    let history = format!("skpr cron history {} {}", cluster.environment, clean(&verb.task));
    let parting = Parting::new(format!("whether a run has begun, {history} shows"));
    let answer = cluster.client.cron().run(request).await;
    drop(parting);
    let cut = answer.as_ref().is_err_and(was_cut);
    match cluster.answer(answer).await {
        Ok(answer) => {
            cluster.namespace = Some(answer.namespace).filter(|namespace| !namespace.is_empty());
            Ok(answer.run.unwrap_or_default())
        }
        // It may have begun, or not.
        Err(Error::Failed { failure, causes }) if cut => {
            let hint = format!("{history} shows whether it has begun");
            let error = Error::Failed { failure: failure.with_hint(hint), causes };
            Err(if verb.wait { broken(&error, cluster.output) } else { error })
        }
        Err(error) => Err(error),
    }
}

fn watch<'a>(cluster: &'a Cluster<'a>, id: &str, output: &'a Output) -> Watch<'a> {
    Watch::new(cluster, id, false, output).begun_here()
}

/// Shows what it prints until it has ended.
async fn wait(cluster: &Cluster<'_>, id: &str, wanted: &Wanted) -> Result<v1::Run, Error> {
    let run = watch(cluster, id, cluster.output)
        .until(|run| run.instance.is_some() || printed::has_ended(run))
        .await?;
    if run.instance.is_none() {
        return Ok(run);
    }
    let shown = printed::follow(cluster, &run, wanted).await?;
    if shown.unfinished {
        printed::warn_unfinished(&Run::new(&shown.run), cluster.output);
    }
    Ok(shown.run)
}

/// What this program ends with, which is what the task ended with where that is known.
fn code(run: &Run) -> u8 {
    match (run.stage(), run.exit_code) {
        (Stage::Succeeded, _) => 0,
        // A failure is none of 0, whatever of its code fits.
        (Stage::Failed, Some(code)) => u8::try_from(code & 0xff).ok().filter(|code| *code != 0).unwrap_or(1),
        (Stage::Failed, None) | (Stage::NotBegun, _) => NOT_STARTED,
        (Stage::TimedOut, _) => ErrorKind::TimedOut.exit_code(),
        (Stage::OutOfMemory, _) => KILLED_FOR_MEMORY,
        (Stage::Waiting | Stage::Running | Stage::Replaced | Stage::Unknown, _) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_as_the_task_does() {
        for (outcome, exit_code, expected) in [
            ("succeeded", Some(0), 0),
            ("failed", Some(3), 3),
            ("failed", Some(137), 137),
            ("failed", Some(256), 1),
            ("failed", None, 1),
            ("timed-out", Some(143), 7),
            ("out-of-memory", Some(137), 137),
            ("replaced", Some(143), 255),
            ("unknown", None, 255),
            ("missed", None, 1),
        ] {
            let run = v1::Run { outcome: outcome.into(), exit_code, ..v1::Run::default() };
            assert_eq!(code(&Run::new(&run)), expected, "{outcome} {exit_code:?}");
        }
    }
}
