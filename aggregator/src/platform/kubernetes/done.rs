//! What is known of an environment after a round, and whether that asks for another. Pure.

use super::cron::{self, Look, Plan, Telling, Told};
use super::deployment::Obstacle;
use super::objects::Object;
use super::outcome::{Known, outcome};
use super::resource::{self, EnvironmentStatus, Noted};
use crate::inventory::InstanceState;
use crate::release::State;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// What is known after a round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Done {
    /// The deployment's count, whether it says that it is done, and why it cannot be.
    pub(super) target: u32,
    pub(super) rolled_out: bool,
    pub(super) hindrance: Option<String>,
    /// What counts as one if it does not pass.
    pub(super) obstacle: Option<Obstacle>,
    pub(super) trouble: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) status: EnvironmentStatus,
    /// Where its releases stood when they were told of; they themselves are in the object alone then.
    pub(super) stood: Vec<(u64, State)>,
    /// Who scaled it last.
    pub(super) scaled: Option<Noted>,
    pub(super) uid: String,
    /// The deployment's, whose changes of `target` are told of once each.
    pub(super) deployment: Option<(String, i64)>,
    /// Its runs as they are to be told; none when nobody looked at them.
    pub(super) telling: Option<Vec<Telling>>,
    /// Which of them were told of.
    pub(super) told_runs: Told,
    /// When time alone may change something about its runs.
    pub(super) look: Option<Timestamp>,
    /// Whether its Jobs were known.
    pub(super) saw_jobs: bool,
    /// When everything was looked at last.
    pub(super) whole: Instant,
}

/// How much a round has to do.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    Whole,
    /// Only its runs have changed since this.
    Runs(Box<Done>),
}

impl Done {
    /// What is known of an environment for which nothing was done but to write this.
    pub(super) fn of(status: EnvironmentStatus) -> Done {
        Done {
            target: status.target,
            rolled_out: true,
            hindrance: None,
            obstacle: None,
            trouble: None,
            refusal: None,
            status,
            stood: vec![],
            scaled: None,
            uid: String::new(),
            deployment: None,
            telling: None,
            told_runs: Told::new(),
            look: None,
            saw_jobs: false,
            whole: Instant::now(),
        }
    }

    pub(super) fn take_plan(&mut self, plan: Plan) {
        self.saw_jobs = plan.busy.is_some();
        (self.look, self.telling) = (plan.look, self.saw_jobs.then_some(plan.telling));
    }

    /// What is remembered of it, for the next one to be compared with.
    pub(super) fn told(mut self) -> Done {
        let releases = std::mem::take(&mut self.status.releases);
        self.stood = releases.iter().map(|release| (release.number, release.state)).collect();
        self.telling = None;
        self
    }

    /// Whether a release was under way, so that time alone may change something.
    pub(super) fn is_open(&self) -> bool {
        self.stood.last().is_some_and(|(_, state)| state.is_open())
    }

    pub(super) fn hindrance(&self, now: Timestamp) -> Option<&str> {
        let lasting = self.obstacle.as_ref().and_then(|obstacle| obstacle.reason(now));
        self.hindrance.as_deref().or(lasting)
    }
}

/// What is to be done about runs, by what is known without asking; none for an environment that is not acted on.
pub(super) fn plan_runs(object: &Object, done: &Done, now: Timestamp) -> Option<Plan> {
    if object.invalid.is_some() || done.refusal.is_some() {
        return None;
    }
    let plan = cron::plan(&Look {
        settings: object.managed.settings.cron.as_ref(),
        suspended: &object.suspended,
        before: &object.status.tasks,
        seen: object.seen.as_ref().map(|seen| seen.as_slice()),
        now,
    });
    Some(plan)
}

/// Whether that is nothing.
pub(super) fn are_runs_settled(plan: &Plan, object: &Object, done: &Done) -> bool {
    let is_told = plan.telling.iter().all(|telling| telling.is_in(&done.told_runs));
    let is_known = done.saw_jobs == object.seen.is_some();
    is_known && is_told && plan.is_settled(&object.status.tasks)
}

/// Whether anything else is to be done, by what is known without asking.
pub(super) fn is_settled(
    object: &Object,
    done: &Done,
    instances: &BTreeMap<Arc<str>, InstanceState>,
    watching_since: Timestamp,
    now: Timestamp,
) -> bool {
    let mut before = object.status.clone();
    before.releases.clone_from(&object.managed.releases);
    let known = Known {
        generation: object.generation,
        bounds: object.invalid.is_none().then(|| resource::bounds(&object.managed.settings)),
        releases: before.releases.clone(),
        instances,
        target: done.target,
        rolled_out: done.rolled_out,
        hindrance: done.hindrance(now),
        trouble: done.trouble.as_deref(),
        stuck: None,
        refusal: done.refusal.as_deref(),
        watching_since,
        now,
    };
    outcome(known, &before) == before
}
