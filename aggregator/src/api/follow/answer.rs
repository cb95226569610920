//! What is told of a release at one moment. Pure.

use super::no_release;
use crate::api::wire;
use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, InstanceState, Inventory, Managed};
use crate::release::{Release, State};
use jiff::Timestamp;
use skpr_proto::v1::FollowResponse;
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;

/// Instances in one answer: more than anybody looks at, and 100 KiB at most. The release's own come first, and of them
/// those that are not ready.
const INSTANCES: usize = 200;

/// The release that is followed.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    environment: EnvironmentKey,
    /// None until the newest was looked up.
    number: Option<u64>,
    /// When it began, once it was seen: one of the same number that began at another time is another environment's.
    began: Option<Timestamp>,
}

/// What a look at the inventory says about it.
#[derive(Debug)]
pub(super) enum Answer {
    Told(Box<FollowResponse>),
    /// The platform has not been heard from.
    Unknown,
    /// There is none, and perhaps there will be.
    NotYet(Failure),
    /// It will not be told of again.
    Over(Failure),
}

impl Asked {
    /// 0 asks for the newest.
    pub(super) fn new(environment: EnvironmentKey, number: u64) -> Asked {
        Asked { environment, number: Some(number).filter(|number| *number > 0), began: None }
    }

    pub(super) fn look(&mut self, inventory: &Inventory) -> Answer {
        if !inventory.heard {
            return Answer::Unknown;
        }
        let (name, short) = (&self.environment.name, self.environment.name.environment.as_str());
        let state = inventory.environments.get(&self.environment);
        let Some((state, managed)) = state.and_then(|state| Some((state, state.managed.as_deref()?))) else {
            return match self.began {
                Some(_) => Answer::Over(gone(format!("`{name}` was deleted"))),
                None => Answer::NotYet(no_release(format!("`{name}` has no release"), short)),
            };
        };
        let Some(newest) = managed.releases.last() else {
            return Answer::NotYet(no_release(format!("`{name}` has no release"), short));
        };
        let number = *self.number.get_or_insert(newest.number);
        let release = managed.releases.iter().find(|release| release.number == number);
        match (release, self.began) {
            (Some(release), Some(began)) if release.began != began => {
                Answer::Over(gone(format!("`{name}` was deleted and made again")))
            }
            (Some(release), _) => {
                self.began = Some(release.began);
                Answer::Told(Box::new(told(state, managed, release, inventory.stale)))
            }
            (None, Some(_)) => {
                Answer::Over(gone(format!("release {number} of `{name}` is not kept any more")))
            }
            (None, None) => {
                let newest = newest.number;
                let message = format!("`{name}` has no release {number}: its newest is {newest}");
                let failure = no_release(message, short);
                if number > newest { Answer::NotYet(failure) } else { Answer::Over(failure) }
            }
        }
    }
}

fn gone(message: String) -> Failure {
    Failure::new(ErrorKind::NotFound, message).with_hint("skpr list")
}

fn told(state: &EnvironmentState, managed: &Managed, release: &Release, stale: bool) -> FollowResponse {
    let runs_it = |instance: &InstanceState| instance.detail.release == Some(release.number);
    let ready = |instance: &&InstanceState| runs_it(instance) && instance.ready && !instance.detail.leaving;
    let waiting_for = match release.state.is_open() {
        true => managed.waiting_for.clone().or_else(|| managed.trouble.clone()).unwrap_or_default(),
        false => String::new(),
    };
    let mut instances: Vec<(&Arc<str>, &InstanceState)> = state.instances.iter().collect();
    instances.sort_by_key(|(_, instance)| (!runs_it(instance), instance.ready));
    instances.truncate(INSTANCES);
    FollowResponse {
        release: Some(wire::release(release)),
        instances: instances.into_iter().map(|(name, instance)| wire::instance(name, instance)).collect(),
        wanted: managed.target,
        ready: wire::count(state.instances.values().filter(ready).count()),
        waiting_for,
        last_lines: Vec::new(),
        stale,
    }
}

fn is_any_of(response: &FollowResponse, states: &[State]) -> bool {
    response.release.as_ref().is_some_and(|release| states.iter().any(|state| state.name() == release.state))
}

pub(super) fn has_failed(response: &FollowResponse) -> bool {
    is_any_of(response, &[State::Failed, State::RollingBack, State::RolledBack])
}

pub(super) fn has_ended(response: &FollowResponse) -> bool {
    !is_any_of(response, &[State::Deploying, State::RollingBack])
}
