//! What is to stand in the status about one task, and what that asks for. Pure.

use super::super::job::JobEnd;
use super::super::jobs::Seen;
use super::super::made::KEPT;
use super::super::status::{Stopped, TaskStatus};
use super::super::story::PATIENCE;
use super::super::unbegun::{self, Past, Spell};
use super::{Ended, Look, Plan, Telling};
use crate::run::{self, Outcome, Run, Suspension, due, start_within, words};
use jiff::{SignedDuration, Timestamp};
use skpr_proto::Label;
use skpr_proto::manifest::{Overlap, Task};
use std::time::Duration;

/// How far our clock and that of Kubernetes' controller may be apart when a task is let go.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
/// How long after a task was let go something may be said of what was due before.
const LET_GO_FOR: SignedDuration = SignedDuration::from_secs(20);
/// A run that has waited for so long is written down before it begins.
pub(super) const WAITS: SignedDuration = SignedDuration::from_secs(30);
/// A task that is new is due from then on: its CronJob is only being made.
const NEW: SignedDuration = SignedDuration::from_secs(5);
/// So many runs of a task that go on are remembered, the newest: with 100 tasks some 900 KiB of the 1.5 MiB that an object may have.
pub(super) const RUNNING: usize = 30;
/// What was decided so long ago has been told by whoever decided it.
const NEWS_FOR: SignedDuration = SignedDuration::from_hours(1);

/// One run that a Job stands for.
pub(super) struct JobRun<'a> {
    pub(super) seen: &'a Seen,
    pub(super) run: Run,
}

/// A task that there is or was.
pub(super) struct OneTask<'a> {
    pub(super) look: &'a Look<'a>,
    pub(super) task: &'a Label,
    /// Oldest first.
    pub(super) runs: &'a [JobRun<'a>],
    pub(super) before: Option<&'a TaskStatus>,
}

impl JobRun<'_> {
    /// Whether its end can be told, whatever happens to its Job: it has begun, or waits for long. Whoever asked for a run
    /// was told its id.
    fn is_certain(&self, now: Timestamp) -> bool {
        let (run, job) = (&self.run, &self.seen.job);
        let is_asked = job.due.is_none();
        is_asked || run.began.is_some() || run.outcome.is_some() || now.duration_since(job.created) >= WAITS
    }

    fn spell(&self, now: Timestamp) -> Spell {
        let job = &self.seen.job;
        let until = job.end.as_ref().map(|end| end.at);
        let from = job.due.unwrap_or(job.created);
        Spell { id: job.id.clone(), from, until, is_certain: self.is_certain(now) }
    }
}

impl OneTask<'_> {
    /// What is to stand in the status about it; none: nothing any more.
    pub(super) fn status(&self, plan: &mut Plan) -> Option<TaskStatus> {
        let mut status = self.before.cloned().unwrap_or_default();
        self.settle(&mut status, plan);
        if self.look.seen.is_none() {
            return Some(status);
        }
        let gone = self.gone(&status);
        let unbegun = self.unbegun(&mut status, &gone, plan);
        plan.gives_up |= !gone.is_empty() || !unbegun.is_empty();
        // Before what is new, by which it is told from what was.
        for one in self.runs {
            self.take(one, &status.running, plan);
        }
        status.running = self.going_on();
        let decided = self.runs.iter().map(|one| &one.run).filter(|run| run.outcome.is_some());
        for run in decided.chain(&gone).chain(&unbegun) {
            run::remember(&mut status.last, &mut status.last_success, run);
        }
        status.decided.add(&gone, &unbegun, self.look.now);
        let is_news = status.decided.at.is_some_and(|at| self.look.now.duration_since(at) < NEWS_FOR);
        plan.telling.extend(status.decided.runs(self.task).map(|run| Telling { run, is_news }));
        if self.settings().is_none() && status.running.is_empty() {
            return None;
        }
        // That Kubernetes has begun what was due is written with what comes of it.
        let stands = self.before.filter(|before| {
            unbegun.is_empty() && TaskStatus { looked: before.looked, ..status.clone() } == **before
        });
        Some(stands.cloned().unwrap_or(status))
    }

    /// None: it is not wanted any more.
    fn settings(&self) -> Option<&Task> {
        self.look.settings?.get(self.task)
    }

    fn suspended(&self) -> Option<&Suspension> {
        self.look.suspended.get(self.task)
    }

    /// Takes in by which schedule it is due, and whether anything of it begins by itself.
    fn settle(&self, status: &mut TaskStatus, plan: &mut Plan) {
        let now = self.look.now;
        let Some(settings) = self.settings() else {
            // When it comes back it has no past.
            status.schedule.clear();
            return;
        };
        let schedule = format!("{} {}", settings.schedule, settings.zone());
        if status.schedule != schedule {
            (status.schedule, status.looked) = (schedule, now.checked_add(NEW).unwrap_or(now));
        }
        if let Some(hold) = stop(status, self.suspended(), settings, now) {
            plan.look_at(hold, now);
        }
        if status.stopped.as_ref().is_some_and(|stopped| stopped.until.is_none()) {
            plan.stopped.insert(self.task.clone());
        }
    }

    fn has_job(&self, run: &Run) -> bool {
        self.runs.iter().any(|one| one.run.id == run.id)
    }

    /// Runs whose Jobs are not there any more, though they had not ended.
    fn gone(&self, status: &TaskStatus) -> Vec<Run> {
        let gone = status.running.iter().filter(|run| !self.has_job(run));
        gone.map(|run| self.vanished(run)).collect()
    }

    fn vanished(&self, run: &Run) -> Run {
        let now = self.look.now;
        let replaces = self.settings().is_some_and(|settings| settings.overlap == Overlap::Replace);
        let newer = self.runs.iter().find(|other| match run.time() {
            Some(time) => other.seen.job.created >= time,
            None => other.run.outcome.is_none(),
        });
        let (outcome, reason) = match newer.filter(|_| replaces) {
            Some(newer) => (Outcome::Replaced, words::replaced(&newer.run.id)),
            None if run.began.is_some() => (Outcome::Unknown, "its Job was deleted while it ran".to_owned()),
            None => (Outcome::Missed, "its Job was deleted before it began".to_owned()),
        };
        // One that did not begin stands where it was due, or else where it was over.
        let ended = run.began.map_or(now, |began| now.max(began));
        let ended = (run.began.is_some() || run.due.is_none()).then_some(ended);
        Run { outcome: Some(outcome), ended, reason: Some(reason), ..run.clone() }
    }

    /// What was due and did not begin.
    fn unbegun(&self, status: &mut TaskStatus, gone: &[Run], plan: &mut Plan) -> Vec<Run> {
        let Some(settings) = self.settings() else { return vec![] };
        let now = self.look.now;
        let past = gone.iter().chain(&status.last).chain(&status.decided.ended);
        let past = past.filter(|run| !self.has_job(run)).filter_map(spell_of_past);
        let spells: Vec<Spell> = self.runs.iter().map(|one| one.spell(now)).chain(past).collect();
        let looked = unbegun::look(&Past {
            task: self.task,
            settings,
            before: status,
            suspended: self.suspended(),
            spells: &spells,
            forgotten_before: self.forgotten_before(),
            now,
        });
        if let Some(again) = looked.again {
            plan.look_at(again, now);
        }
        status.looked = looked.until;
        looked.unbegun
    }

    /// Kubernetes has deleted the oldest of those that went alike, if it has kept as many as it keeps.
    fn forgotten_before(&self) -> Option<Timestamp> {
        let oldest = |went_well: bool| {
            let jobs = self.runs.iter().map(|one| &one.seen.job);
            let went_so = |end: &JobEnd| end.failure.is_none() == went_well;
            let ended: Vec<_> = jobs.filter(|job| job.end.as_ref().is_some_and(went_so)).collect();
            (ended.len() >= KEPT).then(|| ended.iter().filter_map(|job| job.due).min()).flatten()
        };
        oldest(true).max(oldest(false))
    }

    /// Has the end of a run written on its Job, and the run told; `running` are those that went on before.
    fn take(&self, one: &JobRun<'_>, running: &[Run], plan: &mut Plan) {
        let (run, job, now) = (&one.run, &one.seen.job, self.look.now);
        let was_running = running.iter().any(|other| other.id == run.id);
        match (&run.outcome, &job.end) {
            (Some(_), _) if job.told.is_none() => {
                plan.ended.push(Ended { job: job.name.clone(), uid: job.uid.clone(), run: run.clone() });
            }
            (None, Some(end)) => plan.look_at(end.at + PATIENCE, now),
            (None, None) if !one.is_certain(now) => plan.look_at(job.created + WAITS, now),
            (Some(_), _) | (None, None) => {}
        }
        // It stands on its Job, and whoever wrote that did not come to tell it.
        let is_untold = was_running || self.before.is_some_and(|before| Some(before.looked) < job.due);
        let is_news = match run.outcome {
            Some(_) => job.told.is_none() || is_untold,
            None => !was_running,
        };
        if run.began.is_some() || run.outcome.is_some() {
            plan.telling.push(Telling { run: run.clone(), is_news });
        }
    }

    /// The newest that have begun, or wait for long, and have not ended; oldest first.
    fn going_on(&self) -> Vec<Run> {
        let open = |one: &&JobRun<'_>| one.run.outcome.is_none() && one.is_certain(self.look.now);
        let mut newest: Vec<Run> =
            self.runs.iter().rev().filter(open).take(RUNNING).map(|one| one.run.clone()).collect();
        newest.reverse();
        newest
    }
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

fn spell_of_past(run: &Run) -> Option<Spell> {
    let until = run.ended.or(run.time());
    Some(Spell { id: run.id.clone(), from: run.due.or(run.began)?, until, is_certain: true })
}
