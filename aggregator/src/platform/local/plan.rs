//! From an environment's releases and instances to what is started, ended and sent connections. Pure.
//!
//! * The instances of one release replace those of another all at once: the new ones run beside the old ones until each
//!   of them is ready, then new connections go to them alone, then the old ones are asked to end.
//! * What runs follows from what is written and what is there; nothing else is remembered. After a crash a release that
//!   was under way goes on, with the good one before it serving meanwhile.

use crate::inventory::InstanceState;
use crate::release::{Release, STEADY_FOR, State, current, good_before};
use jiff::Timestamp;
use skpr_proto::PodUid;
use skpr_proto::manifest::Environment;
use std::collections::BTreeSet;

/// What is known of an environment when its next step is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) releases: &'a [Release],
    /// As wanted now, and as it was before the open release began.
    pub(super) settings: &'a Environment,
    pub(super) before: Option<&'a Environment>,
    pub(super) instances: &'a [Seen],
    /// All instances are to end.
    pub(super) deleting: bool,
    pub(super) now: Timestamp,
}

/// One instance that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) uid: PodUid,
    pub(super) release: u64,
    pub(super) index: u32,
    pub(super) ready: bool,
    pub(super) started: Option<Timestamp>,
    pub(super) leaving: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Instances to start: number of the release, and index in it.
    pub(super) start: Vec<(u64, u32)>,
    /// Instances to ask to end.
    pub(super) end: Vec<PodUid>,
    /// Instances that take connections from now on.
    pub(super) route: Vec<PodUid>,
}

/// How many instances settings ask for; standalone starts no more by itself.
pub(super) fn target(settings: &Environment) -> u32 {
    settings.instances.as_ref().map_or(1, |instances| instances.min)
}

/// The numbers of the releases that may have instances to start now: the wanted one and, while that is not yet good,
/// the good one before it.
pub(super) fn wanted(releases: &[Release]) -> Vec<&Release> {
    let Some(wanted) = current(releases) else { return vec![] };
    let newest = releases.last().filter(|newest| newest.number == wanted.number);
    let fallback = match newest.map(|newest| newest.state) {
        Some(State::Deploying | State::Failed | State::Superseded) => good_before(releases, wanted.number),
        Some(State::Succeeded | State::RollingBack | State::RolledBack) | None => None,
    };
    std::iter::once(wanted).chain(fallback).collect()
}

/// What is to be done now.
pub(super) fn step(look: Look<'_>) -> Step {
    let present = || look.instances.iter().filter(|seen| !seen.leaving);
    let releases = wanted(look.releases);
    let Some(wanted) = releases.first().filter(|_| !look.deleting) else {
        return Step { end: present().map(|seen| seen.uid.clone()).collect(), ..Step::default() };
    };
    let own = || present().filter(|seen| seen.release == wanted.number);
    let settled = |seen: &&Seen| {
        let steady = seen.started.is_none_or(|started| {
            wanted.settings.health.is_some() || look.now.duration_since(started).unsigned_abs() >= STEADY_FOR
        });
        seen.ready && steady
    };
    let count = usize::try_from(target(look.settings)).unwrap_or(usize::MAX);
    let complete = own().filter(settled).count() >= count;

    let mut end: BTreeSet<PodUid> = surplus(own().collect(), count);
    for other in present().filter(|seen| seen.release != wanted.number) {
        let serves = if releases.iter().any(|release| release.number == other.release) {
            // It is what a failure goes back to.
            !complete
        } else {
            other.ready && !own().any(|seen| settled(&seen))
        };
        if !serves {
            end.insert(other.uid.clone());
        }
    }

    let mut start = missing(look, wanted.number, count);
    if let Some(fallback) = releases.get(1).filter(|_| !complete) {
        let settings = look.before.unwrap_or(&fallback.settings);
        let count = usize::try_from(target(settings)).unwrap_or(usize::MAX);
        start.extend(missing(look, fallback.number, count));
    }

    let ready = || present().filter(|seen| seen.ready && !end.contains(&seen.uid));
    let mut route: Vec<&Seen> = ready().filter(|seen| seen.release != wanted.number).collect();
    if route.is_empty() {
        route = ready().collect();
    }
    let route = route.into_iter().map(|seen| seen.uid.clone()).collect();
    Step { start, end: end.into_iter().collect(), route }
}

/// Those that are too many: first what is not ready, then what came last.
fn surplus(mut own: Vec<&Seen>, count: usize) -> BTreeSet<PodUid> {
    own.sort_by_key(|seen| (!seen.ready, seen.index));
    own.into_iter().skip(count).map(|seen| seen.uid.clone()).collect()
}

/// The instances that a release lacks. One that is still ending keeps its index, and thereby its name.
fn missing(look: Look<'_>, release: u64, count: usize) -> Vec<(u64, u32)> {
    let of_release = || look.instances.iter().filter(|seen| seen.release == release);
    let taken: BTreeSet<u32> = of_release().map(|seen| seen.index).collect();
    let lacking = count.saturating_sub(of_release().filter(|seen| !seen.leaving).count());
    (0..).filter(|index| !taken.contains(index)).take(lacking).map(|index| (release, index)).collect()
}

/// As the inventory shows an instance, for the judge.
pub(super) fn seen(uid: &PodUid, index: u32, state: &InstanceState) -> Option<Seen> {
    Some(Seen {
        uid: uid.clone(),
        release: state.detail.release?,
        index,
        ready: state.ready,
        started: state.detail.started,
        leaving: state.detail.leaving,
    })
}

#[cfg(test)]
pub(super) mod tests;
