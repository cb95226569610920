//! What is to stand in an environment's status about its tasks, by what is known of them, and what is to be done and told.
//! Pure.
//!
//! * While the Jobs have not been listed nothing is said of any run: one that is missing may exist.
//! * The time alone, and that Kubernetes has begun what was due, change nothing that is worth a write.
//! * A task that was suspended is not let go before nothing is due any more that Kubernetes would make up for.

use super::jobs::Seen;
use super::made::name;
use super::plan::{self, Spell, plan};
use super::status::{Stopped, TaskStatus, TaskStatuses};
use super::story::PATIENCE;
use super::told::Told;
use crate::environment::EnvironmentKey;
use crate::run::{Outcome, Run, Suspension, due, start_within};
use jiff::{SignedDuration, Timestamp};
use skpr_proto::Label;
use skpr_proto::manifest::{Overlap, Task, Zone};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many Jobs of each kind Kubernetes keeps of a CronJob.
pub(super) const KEPT: usize = 10;
/// How far our clock and that of Kubernetes' controller may be apart when a task is let go.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
/// How long after a task was let go something may be said of what was due before.
const LET_GO_FOR: SignedDuration = SignedDuration::from_secs(20);
/// A run that has waited for so long is written down before it begins.
const WAITS: SignedDuration = SignedDuration::from_secs(30);
/// A Job that is held back for so long was left by somebody who has ended.
pub(super) const ABANDONED: SignedDuration = SignedDuration::from_secs(60);
/// What can be said now or never is looked at again after this: something else has to happen first.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// A task that is new is due from then on: its CronJob is only being made.
const NEW: SignedDuration = SignedDuration::from_secs(5);
/// So many runs of a task that go on are remembered, the newest: with 100 tasks some 900 KiB of the 1.5 MiB that an object may have.
const RUNNING: usize = 30;
/// So many tasks that are not wanted any more are looked after: the status has a place for no more.
const LEFT: usize = 100;
/// What was decided so long ago has been told by whoever decided it.
const NEWS_FOR: SignedDuration = SignedDuration::from_hours(1);

pub(in crate::platform::kubernetes) struct Known<'a> {
    /// The tasks as they are to be.
    pub(in crate::platform::kubernetes) settings: Option<&'a BTreeMap<Label, Task>>,
    /// Those that a user has suspended.
    pub(in crate::platform::kubernetes) suspended: &'a BTreeMap<Label, Suspension>,
    pub(in crate::platform::kubernetes) before: &'a TaskStatuses,
    /// None: the Jobs have not been listed.
    pub(in crate::platform::kubernetes) seen: Option<&'a [Seen]>,
    pub(in crate::platform::kubernetes) now: Timestamp,
}

/// What comes of it.
#[derive(Debug, Default, PartialEq)]
pub(in crate::platform::kubernetes) struct Tally {
    pub(in crate::platform::kubernetes) tasks: TaskStatuses,
    /// Tasks of which nothing is to begin by itself.
    pub(in crate::platform::kubernetes) stopped: BTreeSet<Label>,
    /// Runs whose Jobs are to say how they ended.
    pub(super) ended: Vec<Ended>,
    /// Jobs that nobody will ever let begin, with their UIDs.
    pub(super) abandoned: Vec<(String, String)>,
    /// CronJobs of which something runs or has not been told; none while the Jobs are not known.
    pub(in crate::platform::kubernetes) busy: Option<BTreeSet<String>>,
    pub(in crate::platform::kubernetes) telling: Vec<Telling>,
    /// Whether a run that no Job stands for is said to have vanished, or not to have begun.
    pub(super) gives_up: bool,
    /// When time alone may change something.
    pub(in crate::platform::kubernetes) look: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) job: String,
    pub(super) uid: String,
    pub(super) run: Run,
}

/// A run as it is to be told, if it has not been.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::platform::kubernetes) struct Telling {
    pub(super) run: Run,
    /// Nobody has told it before, however long ago it was.
    pub(super) is_news: bool,
}

impl Telling {
    /// Whether it was told of.
    pub(in crate::platform::kubernetes) fn is_in(&self, told: &Told) -> bool {
        told.contains(&(self.run.id.clone(), self.run.stage()))
    }
}

impl Tally {
    /// Whether nothing is to be written.
    pub(in crate::platform::kubernetes) fn is_settled(&self, before: &TaskStatuses) -> bool {
        self.tasks == *before && self.ended.is_empty() && self.abandoned.is_empty()
    }

    /// Whether it touches runs alone: what is made of the environment stays as it is.
    pub(in crate::platform::kubernetes) fn is_about_runs(
        &self,
        before: &TaskStatuses,
        settings: Option<&BTreeMap<Label, Task>>,
    ) -> bool {
        let stopped = |status: Option<&TaskStatus>| status.and_then(|status| status.stopped.clone());
        let same = |(task, status): (&Label, &TaskStatus)| {
            settings.is_some_and(|settings| settings.contains_key(task))
                && stopped(before.get(task)) == stopped(Some(status))
        };
        self.tasks.iter().all(same)
    }

    /// Whether a CronJob is of no task any more, and nothing runs of it.
    pub(in crate::platform::kubernetes) fn can_go(
        &self,
        key: &EnvironmentKey,
        settings: Option<&BTreeMap<Label, Task>>,
        cron_job: &str,
    ) -> bool {
        let mut tasks = settings.into_iter().flat_map(BTreeMap::keys);
        let is_wanted = tasks.any(|task| name(&key.name, task) == cron_job);
        !is_wanted && self.busy.as_ref().is_some_and(|busy| !busy.contains(cron_job))
    }

    pub(super) fn look_at(&mut self, time: Timestamp, now: Timestamp) {
        let time = time.max(now.checked_add(AGAIN).unwrap_or(time));
        self.look = Some(self.look.map_or(time, |look| look.min(time)));
    }
}

/// One run that a Job stands for.
struct Of<'a> {
    seen: &'a Seen,
    run: Run,
}

pub(in crate::platform::kubernetes) fn tally(known: &Known<'_>) -> Tally {
    let mut tally = Tally { busy: known.seen.map(|_| BTreeSet::new()), ..Tally::default() };
    let mut of_tasks: BTreeMap<&Label, Vec<Of<'_>>> = BTreeMap::new();
    for seen in known.seen.unwrap_or_default() {
        let job = &seen.job;
        let run = seen.run(known.now);
        if run.outcome.is_none() || job.told.is_none() {
            tally.busy.get_or_insert_default().insert(job.cron_job.clone());
        }
        if !job.is_held {
            of_tasks.entry(&job.task).or_default().push(Of { seen, run });
        } else if known.now.duration_since(job.created) >= ABANDONED {
            tally.abandoned.push((job.name.clone(), job.uid.clone()));
        } else {
            tally.look_at(job.created + ABANDONED, known.now);
        }
    }
    let tasks = known.settings.into_iter().flat_map(BTreeMap::keys).chain(known.before.keys());
    let all: BTreeSet<_> = tasks.chain(of_tasks.keys().copied()).collect();
    let is_wanted = |task: &&Label| known.settings.is_some_and(|settings| settings.contains_key(*task));
    let (wanted, mut left): (Vec<_>, Vec<_>) = all.into_iter().partition(is_wanted);
    left.sort_by_key(|task| !known.before.contains_key(*task));
    for task in wanted.into_iter().chain(left.into_iter().take(LEFT)) {
        let runs = of_tasks.get(task).map(Vec::as_slice).unwrap_or_default();
        if let Some(status) = one(known, task, runs, &mut tally) {
            tally.tasks.insert(task.clone(), status);
        }
    }
    tally
}

/// What is to stand in the status about one task; none: nothing any more.
fn one(known: &Known<'_>, task: &Label, runs: &[Of<'_>], tally: &mut Tally) -> Option<TaskStatus> {
    let now = known.now;
    let settings = known.settings.and_then(|settings| settings.get(task));
    let before = known.before.get(task);
    let mut status = before.cloned().unwrap_or_default();
    if let Some(settings) = settings {
        let schedule = schedule_of(settings);
        if status.schedule != schedule {
            (status.schedule, status.looked) = (schedule, now.checked_add(NEW).unwrap_or(now));
        }
        if let Some(hold) = stop(&mut status, known.suspended.get(task), settings, now) {
            tally.look_at(hold, now);
        }
        if status.stopped.as_ref().is_some_and(|stopped| stopped.until.is_none()) {
            tally.stopped.insert(task.clone());
        }
    } else {
        // When it comes back it has no past.
        status.schedule.clear();
    }
    if known.seen.is_none() {
        return Some(status);
    }
    // Whoever asked for a run was told its id.
    let is_certain = |of: &Of<'_>| {
        let (run, job) = (&of.run, &of.seen.job);
        let is_asked = job.due.is_none();
        is_asked || run.began.is_some() || run.outcome.is_some() || now.duration_since(job.created) >= WAITS
    };
    let known_ids: BTreeSet<_> = runs.iter().map(|of| &of.run.id).collect();
    let gone: Vec<Run> = status
        .running
        .iter()
        .filter(|run| !known_ids.contains(&run.id))
        .map(|run| vanished(run, runs, settings, now))
        .collect();
    let mut spells: Vec<Spell> = runs.iter().map(|of| spell(of, is_certain(of))).collect();
    let past = gone.iter().chain(&status.last).chain(&status.decided.ended);
    spells.extend(past.filter(|run| !known_ids.contains(&run.id)).filter_map(spell_of_past));
    let unbegun = match settings {
        None => vec![],
        Some(settings) => {
            let plan = plan(&plan::Known {
                task,
                settings,
                before: &status,
                suspended: known.suspended.get(task),
                spells: &spells,
                forgotten_before: forgotten_before(runs),
                now,
            });
            if let Some(look) = plan.look {
                tally.look_at(look, now);
            }
            status.looked = plan.looked;
            plan.unbegun
        }
    };
    tally.gives_up |= !gone.is_empty() || !unbegun.is_empty();
    // Before what is new, by which it is told from what was.
    let was_running = |run: &Run| status.running.iter().any(|other| other.id == run.id);
    for of in runs {
        let job = &of.seen.job;
        match (&of.run.outcome, &job.end) {
            (Some(_), _) if job.told.is_none() => {
                let (job, uid) = (job.name.clone(), job.uid.clone());
                tally.ended.push(Ended { job, uid, run: of.run.clone() });
            }
            (None, Some(end)) => tally.look_at(end.at + PATIENCE, now),
            (None, None) if !is_certain(of) => tally.look_at(job.created + WAITS, now),
            (Some(_), _) | (None, None) => {}
        }
        // It stands on its Job, and whoever wrote that did not come to tell it.
        let is_untold = || was_running(&of.run) || before.is_some_and(|before| Some(before.looked) < job.due);
        let is_news = match of.run.outcome {
            Some(_) => job.told.is_none() || is_untold(),
            None => !was_running(&of.run),
        };
        if of.run.began.is_some() || of.run.outcome.is_some() {
            tally.telling.push(Telling { run: of.run.clone(), is_news });
        }
    }
    let going_on = runs.iter().rev().filter(|of| of.run.outcome.is_none() && is_certain(of));
    status.running = going_on.take(RUNNING).map(|of| of.run.clone()).collect();
    status.running.reverse();
    let decided = runs.iter().map(|of| &of.run).filter(|run| run.outcome.is_some());
    for run in decided.chain(&gone).chain(&unbegun) {
        remember(&mut status, run);
    }
    status.decided.add(&gone, &unbegun, now);
    let is_news = status.decided.at.is_some_and(|at| now.duration_since(at) < NEWS_FOR);
    tally.telling.extend(status.decided.runs(task).map(|run| Telling { run, is_news }));
    if settings.is_none() && status.running.is_empty() {
        return None;
    }
    // That Kubernetes has begun what was due is written with what comes of it.
    let stands = before.filter(|before| {
        unbegun.is_empty() && TaskStatus { looked: before.looked, ..status.clone() } == **before
    });
    Some(stands.cloned().unwrap_or(status))
}

fn schedule_of(settings: &Task) -> String {
    let zone = settings.timezone.clone().unwrap_or_else(Zone::utc);
    format!("{} {}", settings.schedule, zone.as_str())
}

/// Says since when and until when nothing begins by itself. When to look again, if it is held though it was resumed.
fn stop(
    status: &mut TaskStatus,
    suspended: Option<&Suspension>,
    settings: &Task,
    now: Timestamp,
) -> Option<Timestamp> {
    if let Some(suspension) = suspended {
        // What was due before it was let go, and is not said yet, was of the same suspension.
        let just_now = |until| now.duration_since(until) < LET_GO_FOR;
        let still = status.stopped.take().filter(|stopped| stopped.until.is_none_or(just_now));
        let since = still.as_ref().map_or(suspension.since, |stopped| stopped.since.min(suspension.since));
        status.stopped = Some(Stopped { since, ..Stopped::of(suspension) });
        return None;
    }
    let stopped = status.stopped.as_mut().filter(|stopped| stopped.until.is_none())?;
    let made_up_for = start_within(settings) + CLOCKS_DIFFER;
    let since = now.checked_sub(made_up_for).unwrap_or(now);
    match due(settings, since, now).times.last() {
        Some(due) => due.checked_add(made_up_for).ok(),
        None => {
            stopped.until = Some(now);
            None
        }
    }
}

/// A run whose Job is not there any more, though it had not ended.
fn vanished(run: &Run, others: &[Of<'_>], settings: Option<&Task>, now: Timestamp) -> Run {
    let replaces = settings.is_some_and(|settings| settings.overlap == Overlap::Replace);
    let newer = others.iter().find(|other| match run.time() {
        Some(time) => other.seen.job.created >= time,
        None => other.run.outcome.is_none(),
    });
    let (outcome, reason) = match newer.filter(|_| replaces) {
        Some(newer) => (Outcome::Replaced, format!("run `{}` took its place", newer.run.id)),
        None if run.began.is_some() => (Outcome::Unknown, "its Job was deleted while it ran".to_owned()),
        None => (Outcome::Missed, "its Job was deleted before it began".to_owned()),
    };
    // One that did not begin stands where it was due, or else where it was over.
    let ended = run.began.map_or(now, |began| now.max(began));
    let ended = (run.began.is_some() || run.due.is_none()).then_some(ended);
    Run { outcome: Some(outcome), ended, reason: Some(reason), ..run.clone() }
}

fn spell(of: &Of<'_>, is_certain: bool) -> Spell {
    let job = &of.seen.job;
    let until = job.end.as_ref().map(|end| end.at);
    Spell { id: job.id.clone(), from: job.due.unwrap_or(job.created), until, is_certain }
}

fn spell_of_past(run: &Run) -> Option<Spell> {
    let until = run.ended.or(run.time());
    Some(Spell { id: run.id.clone(), from: run.due.or(run.began)?, until, is_certain: true })
}

/// Kubernetes has deleted the oldest of those that went alike, if it has kept as many as it keeps.
fn forgotten_before(runs: &[Of<'_>]) -> Option<Timestamp> {
    let oldest = |went_well: bool| {
        let jobs = runs.iter().map(|of| &of.seen.job);
        let ended = jobs.filter(|job| job.end.as_ref().is_some_and(|end| end.failure.is_none() == went_well));
        let ended: Vec<_> = ended.collect();
        (ended.len() >= KEPT).then(|| ended.iter().filter_map(|job| job.due).min()).flatten()
    };
    oldest(true).max(oldest(false))
}

fn remember(status: &mut TaskStatus, run: &Run) {
    if run.outcome == Some(Outcome::Succeeded) {
        status.last_success = status.last_success.max(run.ended);
    }
    if status.last.as_ref().is_none_or(|last| last.time() <= run.time()) {
        status.last = Some(run.clone());
    }
}

#[cfg(test)]
mod tests;
