//! What is to stand in an environment's status about its tasks, by what is known of them, and what is to be done and told.
//! Pure.
//!
//! * While the Jobs have not been listed nothing is said of any run: one that is missing may exist.
//! * The time alone, and that Kubernetes has begun what was due, change nothing that is worth a write.
//! * A task that was suspended is not let go before nothing is due any more that Kubernetes would make up for.

mod task;

use super::jobs::Seen;
use super::made::name;
use super::status::{TaskStatus, TaskStatuses};
use super::told::Told;
use crate::environment::EnvironmentKey;
use crate::run::{Run, Suspension};
use jiff::{SignedDuration, Timestamp};
use skpr_proto::Label;
use skpr_proto::manifest::Task;
use std::collections::{BTreeMap, BTreeSet};
use task::{JobRun, OneTask};

/// A Job that is held back for so long was left by somebody who has ended.
pub(super) const ABANDONED: SignedDuration = SignedDuration::from_secs(60);
/// What can be said now or never is looked at again after this: something else has to happen first.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// So many tasks that are not wanted any more are looked after: the status has a place for no more.
const LEFT: usize = 100;

/// What is known of an environment's tasks when it is decided what happens next.
pub(in crate::platform::kubernetes) struct Look<'a> {
    /// The tasks as they are to be.
    pub(in crate::platform::kubernetes) settings: Option<&'a BTreeMap<Label, Task>>,
    /// Those that a user has suspended.
    pub(in crate::platform::kubernetes) suspended: &'a BTreeMap<Label, Suspension>,
    pub(in crate::platform::kubernetes) before: &'a TaskStatuses,
    /// None: the Jobs have not been listed.
    pub(in crate::platform::kubernetes) seen: Option<&'a [Seen]>,
    pub(in crate::platform::kubernetes) now: Timestamp,
}

/// What is to be written, done and told.
#[derive(Debug, Default, PartialEq)]
pub(in crate::platform::kubernetes) struct Plan {
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

impl Plan {
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

/// What happens next.
pub(in crate::platform::kubernetes) fn plan(look: &Look<'_>) -> Plan {
    let mut plan = Plan { busy: look.seen.map(|_| BTreeSet::new()), ..Plan::default() };
    let mut of_tasks: BTreeMap<&Label, Vec<JobRun<'_>>> = BTreeMap::new();
    for seen in look.seen.unwrap_or_default() {
        let job = &seen.job;
        let run = seen.run(look.now);
        if run.outcome.is_none() || job.told.is_none() {
            plan.busy.get_or_insert_default().insert(job.cron_job.clone());
        }
        if !job.is_held {
            of_tasks.entry(&job.task).or_default().push(JobRun { seen, run });
        } else if look.now.duration_since(job.created) >= ABANDONED {
            plan.abandoned.push((job.name.clone(), job.uid.clone()));
        } else {
            plan.look_at(job.created + ABANDONED, look.now);
        }
    }
    let tasks = look.settings.into_iter().flat_map(BTreeMap::keys).chain(look.before.keys());
    let all: BTreeSet<_> = tasks.chain(of_tasks.keys().copied()).collect();
    let is_wanted = |task: &&Label| look.settings.is_some_and(|settings| settings.contains_key(*task));
    let (wanted, mut left): (Vec<_>, Vec<_>) = all.into_iter().partition(is_wanted);
    left.sort_by_key(|task| !look.before.contains_key(*task));
    for task in wanted.into_iter().chain(left.into_iter().take(LEFT)) {
        let runs = of_tasks.get(task).map(Vec::as_slice).unwrap_or_default();
        let one = OneTask { look, task, runs, before: look.before.get(task) };
        if let Some(status) = one.status(&mut plan) {
            plan.tasks.insert(task.clone(), status);
        }
    }
    plan
}

#[cfg(test)]
mod tests;
