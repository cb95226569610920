//! From what is wished to how it ended: begins it, shows what it changes, waits for it. Deploys and rollbacks alike.

use super::change::Change;
use super::follow::{Follow, Limits, Shown, Watched};
use super::outcome::{self, Outcome};
use super::plan::Plan;
use crate::commands::call::Cluster;
use crate::commands::release::{is_open, text, under_way};
use crate::error::Error;
use crate::interrupt::Parting;
use serde::Serialize;
use skpr_proto::v1::DeployResponse;
use skpr_proto::{ErrorKind, Failure};
use std::time::Duration;
use tokio::time::Instant;

/// What the cluster gives a deploy that says no time of its own.
const TIMEOUT: Duration = Duration::from_secs(600);
/// For what the aggregator does around the time that a release is given, and for its restart.
const MARGIN: Duration = Duration::from_secs(120);
/// Somebody who deployed a broken version wants to know that at once; the rollback ends without them.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// How it is done.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Wish {
    pub dry_run: bool,
    pub wait: bool,
    pub timeout: Option<Duration>,
    pub lock_wait: Option<Duration>,
}

impl Wish {
    pub(in crate::commands) fn timeout_seconds(&self) -> u32 {
        let seconds = self.timeout.map_or(0, |timeout| timeout.as_secs());
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Time for the release, and as much again for putting back the one before.
    fn whole(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT) * 2 + MARGIN
    }
}

/// What was begun and is not waited for, in JSON and YAML.
#[derive(Serialize)]
struct Begun {
    id: String,
    number: u64,
    version: String,
    state: &'static str,
}

pub(in crate::commands) async fn carry_out(
    change: Change,
    wish: &Wish,
    mut cluster: Cluster<'_>,
) -> Result<(), Error> {
    let output = cluster.output;
    let name = cluster.environment.clone();
    let planned = ask(&change, wish, &cluster, true).await?;
    if let Some(namespace) = planned.environment.as_ref().and_then(|known| known.namespace.clone()) {
        cluster.namespace = Some(namespace);
    }
    if wish.dry_run {
        let plan = Plan::new(&name, &planned);
        note_lock(&cluster).await;
        return output.thing(&plan, &plan.lines(output), &name.to_string());
    }
    let begun = {
        let _parting = Parting::new(format!("whether it has begun, skpr releases {name} shows"));
        ask(&change, wish, &cluster, false).await?
    };
    // As it was when it began: while a lock was waited for, what there is has changed.
    Plan::new(&name, &begun).note(output);
    let id = format!("{name}/{}", begun.release);
    let version = text(&begun.version);
    output.note(&format!("{id}: {} {version} has begun", change.words()));
    if !wish.wait {
        let begun =
            Begun { id: id.clone(), number: begun.release, version: version.clone(), state: "deploying" };
        let sentence = format!(
            "{name}: release {} ({version}) has begun; watch it: skpr deploy --follow {id}\n",
            begun.number
        );
        return output.thing(&begun, &sentence, &id);
    }
    let limits = Limits { whole: wish.whole(), rollback: Some(ROLLBACK_PATIENCE) };
    let follow = Follow::new(&cluster, begun.release, limits, Shown::on(output)).begun_here();
    let watched = {
        let _parting = Parting::new(detached(&id));
        follow.run().await?
    };
    finish(&cluster, &watched)
}

/// A plan that cannot be carried out yet says so. Whoever may deploy and not look is not told.
async fn note_lock(cluster: &Cluster<'_>) {
    let Ok(known) = cluster.describe().await else { return };
    let newest = known.summary.and_then(|summary| summary.release);
    if let Some(open) = newest.filter(|release| is_open(&release.state)) {
        let name = &cluster.environment;
        cluster.output.note(&format!("{}; until it has ended, no other can begin", under_way(name, &open)));
    }
}

/// Watches a release that is under way already.
pub(super) async fn attach(number: u64, wish: &Wish, cluster: Cluster<'_>) -> Result<(), Error> {
    let name = &cluster.environment;
    let limits = Limits { whole: wish.whole(), rollback: None };
    let id = if number == 0 { name.to_string() } else { format!("{name}/{number}") };
    let follow = Follow::new(&cluster, number, limits, Shown::on(cluster.output));
    let watched = {
        let _parting = Parting::new(detached(&id));
        follow.run().await?
    };
    finish(&cluster, &watched)
}

fn detached(id: &str) -> String {
    format!("{id} goes on without this command; watch it again: skpr deploy --follow {id}")
}

fn finish(cluster: &Cluster<'_>, watched: &Watched) -> Result<(), Error> {
    let output = cluster.output;
    let name = &cluster.environment;
    let outcome = Outcome::new(name, watched);
    let number = watched.last.release.as_ref().map_or(0, |release| release.number);
    let id = format!("{name}/{number}");
    match outcome::judge(name, watched) {
        Ok(()) => output.thing(&outcome, &outcome::sentence(name, watched), &id),
        Err(failure) => {
            // A program gets all of it as data; a person reads why, above the error.
            match output.format {
                crate::args::Format::Table => output.evidence(&outcome::last_lines(&watched.last_lines)),
                // Whether anybody reads it or not, the deploy failed.
                _ => drop(output.thing(&outcome, "", &id)),
            }
            Err(failure.into())
        }
    }
}

/// Asks for it; waits for somebody else's to end, if that is wished.
async fn ask(
    change: &Change,
    wish: &Wish,
    cluster: &Cluster<'_>,
    dry_run: bool,
) -> Result<DeployResponse, Error> {
    let until = wish.lock_wait.map(|patience| Instant::now() + patience);
    let mut told = false;
    loop {
        let answer = change.ask(&cluster.client, cluster.wire(), dry_run).await;
        let error = match cluster.answer(answer).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Error::Failed { failure, .. } = &error else { return Err(error) };
        match failure.kind {
            ErrorKind::Locked => {}
            ErrorKind::Unavailable if !dry_run => return Err(perhaps_begun(error, cluster)),
            _ => return Err(error),
        }
        let Some(until) = until.filter(|until| Instant::now() < *until) else {
            return Err(locked(failure.clone(), wish, cluster).into());
        };
        if !std::mem::replace(&mut told, true) {
            cluster.output.note(&format!("{}; waiting for its end", failure.message));
        }
        let whole = until.saturating_duration_since(Instant::now());
        let limits = Limits { whole, rollback: None };
        // What it is worth, the next attempt says.
        drop(Follow::new(cluster, 0, limits, Shown::Nothing).run().await);
        tokio::time::sleep_until(until.min(Instant::now() + LOCK_PAUSE)).await;
    }
}

/// The connection was lost over the question: nobody here knows whether it was heard.
fn perhaps_begun(error: Error, cluster: &Cluster<'_>) -> Error {
    let Error::Failed { failure, causes } = error else { return error };
    let hint = format!("skpr releases {} shows whether it has begun", cluster.environment);
    Error::Failed { failure: failure.with_hint(hint), causes }
}

fn locked(failure: Failure, wish: &Wish, cluster: &Cluster<'_>) -> Failure {
    if wish.lock_wait.is_some() {
        return Failure { message: format!("{}, still", failure.message), ..failure }
            .with_hint(format!("skpr deploy --follow {} shows how it goes", cluster.environment));
    }
    let follow =
        failure.hint.clone().unwrap_or_else(|| format!("skpr deploy --follow {}", cluster.environment));
    failure.with_hint(format!("{follow}, or --lock-wait to wait for its end"))
}
