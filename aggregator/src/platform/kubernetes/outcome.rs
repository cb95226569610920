//! What is to stand in an environment's status, by what is known of it. Pure.

use super::resource::EnvironmentStatus;
use crate::inventory::InstanceState;
use crate::release::{self, Release, Request, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use skpr_proto::NOT_DONE_AFTER;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far the clocks of the API server and of whoever asks for a release may be apart.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(60);
/// What a release waits for when its instances are all there and their deployment has not said so.
const ROLLING_OUT: &str = "the deployment is still being rolled out";

/// The condition that says whether skpr acts on an object at all.
const ACCEPTED: &str = "Accepted";

/// Whether skpr does not act on the object, as its status says.
pub(super) fn is_refused(status: &EnvironmentStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == ACCEPTED && condition.status == "False")
}

/// What is known of an environment.
pub(super) struct Known<'a> {
    pub(super) generation: i64,
    /// Fewest and most instances, where they can be read.
    pub(super) bounds: Option<(u32, u32)>,
    pub(super) releases: Vec<Release>,
    pub(super) instances: &'a BTreeMap<Arc<str>, InstanceState>,
    /// Instances that are to run.
    pub(super) target: u32,
    /// Whether whoever starts them says that it is done.
    pub(super) rolled_out: bool,
    /// Why they cannot be started: a release that is under way fails by it.
    pub(super) hindrance: Option<&'a str>,
    /// What else is wrong.
    pub(super) trouble: Option<&'a str>,
    /// Why nothing can be done for the environment at all, for now: a release that is under way waits for it.
    pub(super) stuck: Option<&'a str>,
    /// Why the object is not acted on at all.
    pub(super) refusal: Option<&'a str>,
    /// Since when the environment is looked after by whoever asks.
    pub(super) watching_since: Timestamp,
    pub(super) now: Timestamp,
}

/// The status as it is to be, given what it was; the time alone changes nothing in it.
pub(super) fn outcome(known: Known<'_>, before: &EnvironmentStatus) -> EnvironmentStatus {
    let Known {
        generation,
        bounds,
        mut releases,
        instances,
        target,
        rolled_out,
        hindrance,
        trouble,
        stuck,
        refusal,
        watching_since,
        now,
    } = known;
    let mut waiting_for = None;
    if refusal.is_none() {
        let earlier = |instance: &InstanceState| !rolled_out && is_of_another(instance, &releases);
        let instances = if instances.values().any(earlier) {
            let own = instances.iter().filter(|(_, instance)| !earlier(instance));
            Cow::Owned(own.map(|(name, instance)| (Arc::clone(name), instance.clone())).collect())
        } else {
            Cow::Borrowed(instances)
        };
        let request = Request { instances: &instances, target, trouble: hindrance, watching_since, now };
        if let Some(verdict) = release::verdict(&releases, request) {
            let verdict = match stuck {
                Some(reason) => held_up(verdict, reason, &releases, request),
                None if rolled_out => verdict,
                None => unconfirmed(verdict, ROLLING_OUT, &releases, request),
            };
            release::advance(&mut releases, &verdict, now);
            if let Verdict::Waiting(sentence) = verdict {
                waiting_for = Some(sentence);
            }
        }
    }
    let current = release::current(&releases).map(|release| release.number);
    let present = || instances.values().filter(|instance| !instance.detail.leaving);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let newest = releases.last();
    let trouble = refusal.or(stuck).or(hindrance).or(trouble);
    let (min, max) = bounds.unwrap_or((before.min, before.max));
    let mut status = EnvironmentStatus {
        observed_generation: generation,
        instances: count(present().count()),
        min,
        max,
        target,
        ready: count(present().filter(|instance| instance.ready).count()),
        updated: count(present().filter(|instance| instance.detail.release == current).count()),
        release: newest.map(|release| release.number),
        state: newest.map(|release| release.state.name().to_owned()),
        by: newest.map(|release| release.by.clone()),
        waiting_for,
        trouble: trouble.map(str::to_owned),
        releases,
        domains: before.domains.clone(),
        deletion_policy: before.deletion_policy,
        tasks: before.tasks.clone(),
        conditions: vec![],
    };
    let ready = refusal.is_none() && status.ready >= target && status.waiting_for.is_none();
    let progress = format!("{} of {target} instances are ready", status.ready);
    let told = [
        (
            ACCEPTED,
            refusal.is_none(),
            if refusal.is_some() { "Invalid" } else { "Valid" },
            refusal.unwrap_or(""),
        ),
        ("Ready", ready, if ready { "Ready" } else { "NotReady" }, progress.as_str()),
    ];
    status.conditions = told
        .into_iter()
        .map(|(kind, holds, reason, message)| {
            let holds = if holds { "True" } else { "False" };
            let earlier = before.conditions.iter().find(|condition| condition.type_ == kind);
            let since = earlier.filter(|earlier| earlier.status == holds);
            Condition {
                type_: kind.to_owned(),
                status: holds.to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                observed_generation: Some(generation),
                last_transition_time: since.map_or(Time(now), |since| since.last_transition_time.clone()),
            }
        })
        .collect();
    status
}

/// Whether an instance is of an environment of the same name that was deleted: made before the release was asked for whose
/// number it carries. It says nothing about this one.
fn is_of_another(instance: &InstanceState, releases: &[Release]) -> bool {
    let number = instance.detail.release;
    let release = releases.iter().find(|release| Some(release.number) == number);
    let (Some(release), Some(created)) = (release, instance.detail.created) else { return false };
    release.began.duration_since(created) > CLOCKS_DIFFER
}

/// The verdict while the deployment has not said that it is done. Its instances are heard of apart from it: those that look
/// like the release's may be what was there before it, of an environment of the same name that was deleted.
fn unconfirmed(verdict: Verdict, waits: &str, releases: &[Release], request: Request<'_>) -> Verdict {
    if !matches!(verdict, Verdict::Succeeded { .. }) {
        return verdict;
    }
    // The release's time goes on as if instances were missing.
    match release::verdict(releases, Request { target: u32::MAX, ..request }) {
        Some(Verdict::Failed { .. }) => not_done(waits, releases),
        _ => Verdict::Waiting(waits.to_owned()),
    }
}

/// The verdict while nothing can be done: why that is says more than what is missing.
fn held_up(verdict: Verdict, reason: &str, releases: &[Release], request: Request<'_>) -> Verdict {
    match unconfirmed(verdict, reason, releases, request) {
        Verdict::Waiting(_) => Verdict::Waiting(reason.to_owned()),
        Verdict::Failed { reason: late, .. } if late.starts_with(NOT_DONE_AFTER) => {
            not_done(reason, releases)
        }
        verdict => verdict,
    }
}

fn not_done(why: &str, releases: &[Release]) -> Verdict {
    let seconds = release::open(releases).map_or(0, |open| open.timeout_seconds);
    let reason = format!("{NOT_DONE_AFTER} {seconds} s: {why}");
    Verdict::Failed { reason, instance: None, exit_code: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Detail;
    use crate::release::{Deploy, State, TIMEOUT};

    fn releases() -> Vec<Release> {
        let deploy = Deploy {
            version: "v1".into(),
            image: None,
            settings: serde_json::from_str(r#"{"port": 80, "health": "/"}"#).unwrap(),
            by: "ann".into(),
            timeout: TIMEOUT,
            returns: true,
            restores: None,
        };
        let mut releases = vec![];
        release::begin(&mut releases, 1, deploy, Timestamp::UNIX_EPOCH);
        releases
    }

    fn known(instances: &BTreeMap<Arc<str>, InstanceState>) -> Known<'_> {
        let now = Timestamp::UNIX_EPOCH + TIMEOUT / 2;
        Known {
            generation: 3,
            bounds: Some((1, 1)),
            releases: releases(),
            instances,
            target: 1,
            rolled_out: true,
            hindrance: None,
            trouble: None,
            stuck: None,
            refusal: None,
            watching_since: Timestamp::UNIX_EPOCH,
            now,
        }
    }

    fn condition<'a>(status: &'a EnvironmentStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn a_release_ends_when_its_instances_are_ready_and_the_status_is_stable_then() {
        let none = BTreeMap::new();
        let waiting = outcome(known(&none), &EnvironmentStatus::default());
        assert_eq!(waiting.waiting_for.as_deref(), Some("0 of 1 instances are ready"));
        assert_eq!((waiting.state.as_deref(), waiting.release), (Some("deploying"), Some(1)));
        assert_eq!(condition(&waiting, "Ready").status, "False");
        let instance = InstanceState {
            version: "v1".into(),
            ready: true,
            node: None,
            detail: Detail { release: Some(1), ..Detail::default() },
        };
        let one = BTreeMap::from([("a".into(), instance)]);
        let done = outcome(known(&one), &waiting);
        assert_eq!((done.ready, done.updated, done.instances, done.target), (1, 1, 1, 1));
        assert_eq!((done.state.as_deref(), done.waiting_for.as_deref()), (Some("succeeded"), None));
        assert_eq!(condition(&done, "Ready").status, "True");
        let later = Known { releases: done.releases.clone(), now: Timestamp::now(), ..known(&one) };
        assert_eq!(outcome(later, &done), done);
    }

    #[test]
    fn instances_alone_do_not_make_a_release_succeed() {
        let detail = Detail { release: Some(1), ..Detail::default() };
        let instance = InstanceState { version: "v1".into(), ready: true, node: None, detail };
        let one = BTreeMap::from([("a".into(), instance)]);
        let said = |now: Timestamp| {
            let status =
                outcome(Known { rolled_out: false, now, ..known(&one) }, &EnvironmentStatus::default());
            (status.state.unwrap(), status.waiting_for, status.releases[0].reason.clone())
        };
        let waits = "the deployment is still being rolled out".to_owned();
        let early = Timestamp::UNIX_EPOCH + TIMEOUT / 2;
        assert_eq!(said(early), ("deploying".to_owned(), Some(waits.clone()), None));
        let reason = format!("it is not done after 600 s: {waits}");
        assert_eq!(said(Timestamp::UNIX_EPOCH + TIMEOUT), ("failed".to_owned(), None, Some(reason)));
    }

    #[test]
    fn a_release_that_nothing_can_be_done_for_waits_for_that_until_its_time_is_over() {
        let detail = Detail { release: Some(1), ..Detail::default() };
        let instance = InstanceState { version: "v1".into(), ready: true, node: None, detail };
        let (none, one) = (BTreeMap::new(), BTreeMap::from([("a".into(), instance)]));
        let reason = "failed calling webhook \"w\"";
        for instances in [&none, &one] {
            let said = |now: Timestamp| {
                let known = Known { stuck: Some(reason), now, ..known(instances) };
                outcome(known, &EnvironmentStatus::default())
            };
            let early = said(Timestamp::UNIX_EPOCH + TIMEOUT / 2);
            assert_eq!(
                (early.trouble.as_deref(), early.waiting_for.as_deref()),
                (Some(reason), Some(reason))
            );
            let late = said(Timestamp::UNIX_EPOCH + TIMEOUT);
            let why = format!("it is not done after 600 s: {reason}");
            assert_eq!(
                (late.state.as_deref(), late.releases[0].reason.as_ref()),
                (Some("failed"), Some(&why))
            );
        }
    }

    #[test]
    fn what_a_deleted_environment_of_the_same_name_left_says_nothing_about_a_release() {
        let state = |created: i64, rolled_out: bool| {
            let created = Timestamp::from_second(created).ok();
            let detail = Detail { release: Some(1), created, restarts: 9, ..Detail::default() };
            let instance = InstanceState { version: "v1".into(), ready: false, node: None, detail };
            let one = BTreeMap::from([("a".into(), instance)]);
            outcome(Known { rolled_out, ..known(&one) }, &EnvironmentStatus::default()).state.unwrap()
        };
        assert_eq!(state(-61, false), "deploying");
        assert_eq!(state(-60, false), "failed", "clocks differ");
        // What the deployment counts as its own was taken over.
        assert_eq!(state(-61, true), "failed");
    }

    #[test]
    fn a_controller_that_has_only_now_begun_to_look_gives_a_late_release_a_while() {
        let none = BTreeMap::new();
        let now = Timestamp::UNIX_EPOCH + TIMEOUT * 10;
        let state = |watching_since| {
            let known = Known { watching_since, now, ..known(&none) };
            outcome(known, &EnvironmentStatus::default()).state
        };
        assert_eq!(state(now).as_deref(), Some("deploying"));
        assert_eq!(state(Timestamp::UNIX_EPOCH).as_deref(), Some("failed"));
    }

    #[test]
    fn what_is_refused_changes_no_release() {
        let none = BTreeMap::new();
        let refused = outcome(
            Known { refusal: Some("no"), hindrance: Some("quota"), ..known(&none) },
            &EnvironmentStatus::default(),
        );
        assert_eq!((refused.trouble.as_deref(), refused.releases[0].state), (Some("no"), State::Deploying));
        assert_eq!(condition(&refused, "Accepted").message, "no");
        let hindered = outcome(Known { hindrance: Some("quota"), ..known(&none) }, &refused);
        assert_eq!(hindered.releases[0].reason.as_deref(), Some("quota"));
        assert_eq!(hindered.releases[0].state, State::Failed);
        assert_eq!(condition(&hindered, "Accepted").status, "True");
    }
}
