//! Whether a release that is under way has succeeded, has failed, or has to be waited for. Pure: takes what is known of
//! its instances and the time, and remembers nothing.
//!
//! * It fails fast: what will not mend by itself is a failure at once and not when the time is over.
//! * Only instances of the release itself make it fail. Those that belong to no release are somebody else's.

use super::{READY_WITHIN, Release, TIMEOUT};
use crate::inventory::InstanceState;
use jiff::Timestamp;
use skpr_proto::NOT_DONE_AFTER;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an instance without a health check has to run before it counts: one that ends at once was ready, too.
pub const STEADY_FOR: Duration = Duration::from_secs(5);
/// So many starts again show that the next one will not help.
const RESTARTS: u32 = 2;

/// How a release that is under way goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What is waited for, in one sentence.
    Waiting(String),
    Succeeded {
        /// What its instances run, where they say so.
        digest: Option<String>,
    },
    Failed {
        reason: String,
        instance: Option<String>,
        exit_code: Option<i32>,
    },
}

/// Judges a release by its instances. `target` instances are to run; `trouble` is why the platform cannot start them;
/// `is_over` says that its time is.
pub fn judge(
    release: &Release,
    instances: &BTreeMap<Arc<str>, InstanceState>,
    target: u32,
    trouble: Option<&str>,
    is_over: bool,
    now: Timestamp,
) -> Verdict {
    let own = instances.iter().filter(|(_, instance)| is_of(release, instance));
    for (name, instance) in own.filter(|(_, instance)| !instance.detail.leaving) {
        if let Some(reason) = broken(release, name, instance, now) {
            let exit_code = instance.detail.end.as_ref().map(|end| end.exit_code);
            return Verdict::Failed { reason, instance: Some(name.to_string()), exit_code };
        }
    }
    if let Some(trouble) = trouble {
        return Verdict::Failed { reason: trouble.to_owned(), instance: None, exit_code: None };
    }
    match progress(release, instances, target, now) {
        Verdict::Waiting(sentence) if is_over => {
            let reason = format!("{NOT_DONE_AFTER} {} s: {sentence}", release.timeout_seconds);
            let slowest = instances.iter().find(|(_, instance)| is_awaited(release, instance, now));
            Verdict::Failed { reason, instance: slowest.map(|(name, _)| name.to_string()), exit_code: None }
        }
        verdict => verdict,
    }
}

/// Whether every instance runs `release`, looking at nothing that could be wrong with it: for putting one back.
pub(super) fn progress(
    release: &Release,
    instances: &BTreeMap<Arc<str>, InstanceState>,
    target: u32,
    now: Timestamp,
) -> Verdict {
    let present = || instances.values().filter(|instance| !instance.detail.leaving);
    let own = || present().filter(|instance| is_of(release, instance));
    let ready = own().filter(|instance| counts(release, instance, now)).count();
    let wanted = usize::try_from(target).unwrap_or(usize::MAX);
    if ready < wanted {
        let mut sentence = format!("{ready} of {target} instances are ready");
        if let Some((name, why)) = instances
            .iter()
            .filter(|(_, instance)| is_awaited(release, instance, now))
            .find_map(|(name, instance)| Some((name, slow(instance)?)))
        {
            sentence = format!("{sentence}; `{name}` {why}");
        }
        return Verdict::Waiting(sentence);
    }
    let old =
        present().filter(|instance| instance.detail.release.is_some() && !is_of(release, instance)).count();
    match old {
        0 => {
            let digest = own().find_map(|instance| instance.detail.digest.as_deref());
            Verdict::Succeeded { digest: digest.map(str::to_owned) }
        }
        1 => Verdict::Waiting("1 old instance is still to end".to_owned()),
        old => Verdict::Waiting(format!("{old} old instances are still to end")),
    }
}

pub(super) fn timeout(release: &Release) -> Duration {
    Duration::from_secs(release.timeout_seconds.into())
}

/// Whether `within` has passed since `since`.
pub(super) fn over(since: Timestamp, within: Duration, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() >= within && now > since
}

/// Whether an instance is ready and has been for long enough to believe it.
fn counts(release: &Release, instance: &InstanceState, now: Timestamp) -> bool {
    let believed = release.settings.health.is_some()
        || instance.detail.started.is_none_or(|started| over(started, STEADY_FOR, now));
    instance.ready && believed
}

/// Whether an instance belongs to a release. The number alone does not say it: an environment that was deleted and made
/// again counts from 1 again, and what is left of the former one may go on for a while.
fn is_of(release: &Release, instance: &InstanceState) -> bool {
    let (runs, version) = (&*instance.version, release.version.as_str());
    let same = match (runs.contains(':'), version.contains(':')) {
        (false, false) => runs == version,
        // No more of a digest is told than tells images apart.
        (true, true) => version.starts_with(runs),
        // A tag may have been turned into the digest that it stands for, or the other way round.
        (true, false) | (false, true) => true,
    };
    instance.detail.release == Some(release.number) && same
}

fn is_awaited(release: &Release, instance: &InstanceState, now: Timestamp) -> bool {
    is_of(release, instance) && !instance.detail.leaving && !counts(release, instance, now)
}

/// Why an instance will not become ready by itself.
fn broken(release: &Release, name: &str, instance: &InstanceState, now: Timestamp) -> Option<String> {
    let detail = &instance.detail;
    let message = || detail.message.as_deref().map_or(String::new(), |message| format!(": {message}"));
    let end = detail.end.as_ref();
    if end.and_then(|end| end.reason.as_deref()) == Some("OOMKilled") {
        let most = release.settings.memory.as_ref().and_then(|memory| memory.max.as_ref());
        // Without one, how much it may use is the platform's to know.
        let much = most.map_or_else(
            || "more memory than it may".to_owned(),
            |most| format!("more than its {most} of memory"),
        );
        return Some(format!("instance `{name}` was killed because it used {much}"));
    }
    let waiting = detail.waiting.as_deref();
    match waiting {
        Some("ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            let image = release.image.as_deref().unwrap_or_default();
            let version = &release.version;
            return Some(format!("instance `{name}` cannot get its image `{image}:{version}`{}", message()));
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            return Some(format!("instance `{name}` cannot be started{}", message()));
        }
        _ => {}
    }
    if waiting == Some("CrashLoopBackOff") || detail.restarts >= RESTARTS {
        let how = end.map_or_else(
            || "ended".to_owned(),
            |end| match end.exit_code {
                code @ 129..=192 => format!("ended by signal {}", code - 128),
                code => format!("ended with exit code {code}"),
            },
        );
        return Some(format!("instance `{name}` {how} and is started again and again"));
    }
    let unready_since = detail.started.filter(|_| !instance.ready && waiting.is_none())?;
    let within = ready_within(release);
    over(unready_since, within, now)
        .then(|| format!("instance `{name}` runs and is not ready after {} s{}", within.as_secs(), message()))
}

/// Whoever gives a release more time than usual knows that its instances need it.
fn ready_within(release: &Release) -> Duration {
    let whole = timeout(release);
    if whole > TIMEOUT { whole } else { READY_WITHIN }
}

/// What keeps an instance that may well become ready.
fn slow(instance: &InstanceState) -> Option<String> {
    let detail = &instance.detail;
    let message = detail.message.as_deref();
    Some(match (detail.waiting.as_deref(), message) {
        (Some(waiting), Some(message)) => format!("waits ({waiting}: {message})"),
        (Some(waiting), None) => format!("waits ({waiting})"),
        (None, Some(message)) => format!("runs and is not ready: {message}"),
        (None, None) if detail.started.is_some() => "runs and is not ready yet".to_owned(),
        (None, None) => "is being started".to_owned(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::inventory::{Detail, End};
    use crate::release::State;
    use skpr_proto::manifest;

    pub(in crate::release) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// A release with a health check, begun at 0, with 600 s of time.
    pub(in crate::release) fn release(number: u64) -> Release {
        let settings =
            serde_json::from_value(serde_json::json!({"health": "/healthz", "memory": {"max": "256Mi"}}));
        Release {
            number,
            version: "y".into(),
            image: Some("x".into()),
            digest: None,
            by: "ann".into(),
            began: at(0),
            started: None,
            put_back_since: None,
            ended: None,
            state: State::Deploying,
            reason: None,
            instance: None,
            exit_code: None,
            restores: None,
            timeout_seconds: 600,
            returns: true,
            settings: settings.unwrap(),
        }
    }

    /// An instance of release `number`: ready, started at 0.
    pub(in crate::release) fn instance(
        number: u64,
        change: impl FnOnce(&mut InstanceState),
    ) -> InstanceState {
        let detail = Detail { release: Some(number), started: Some(at(0)), ..Detail::default() };
        let mut instance = InstanceState { version: "y".into(), ready: true, node: None, detail };
        change(&mut instance);
        instance
    }

    pub(in crate::release) fn named(instances: Vec<InstanceState>) -> BTreeMap<Arc<str>, InstanceState> {
        instances.into_iter().zip(["a", "b", "c"]).map(|(instance, name)| (name.into(), instance)).collect()
    }

    fn waiting(reason: &str, message: Option<&str>) -> impl FnOnce(&mut InstanceState) {
        move |instance| {
            instance.ready = false;
            instance.detail.started = None;
            instance.detail.waiting = Some(reason.into());
            instance.detail.message = message.map(Into::into);
        }
    }

    fn unready(instance: &mut InstanceState) {
        instance.ready = false;
    }

    #[track_caller]
    fn check(instances: Vec<InstanceState>, target: u32, second: i64, expected: Result<&str, &str>) {
        let verdict = judge(&release(2), &named(instances), target, None, second >= 600, at(second));
        match (&verdict, expected) {
            (Verdict::Waiting(sentence), Ok(expected)) => assert_eq!(sentence, expected),
            (Verdict::Succeeded { .. }, Ok(expected)) => assert_eq!("done", expected),
            (Verdict::Failed { reason, .. }, Err(expected)) => assert_eq!(reason, expected),
            _ => panic!("{verdict:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_release_succeeds_when_every_instance_is_its_own_and_ready() {
        check(vec![], 2, 1, Ok("0 of 2 instances are ready"));
        check(vec![instance(2, |_| ())], 2, 1, Ok("1 of 2 instances are ready"));
        check(vec![instance(2, |_| ()), instance(2, |_| ())], 2, 1, Ok("done"));
        check(vec![instance(2, |_| ()), instance(1, |_| ())], 1, 1, Ok("1 old instance is still to end"));
        check(vec![instance(2, |_| ()), instance(1, |i| i.detail.leaving = true)], 1, 1, Ok("done"));
        // Somebody else's instance does not keep it, and an old one does not count for it.
        check(vec![instance(2, |_| ()), instance(1, |i| i.detail.release = None)], 1, 1, Ok("done"));
        check(vec![instance(1, |_| ())], 1, 1, Ok("0 of 1 instances are ready"));
    }

    #[test]
    fn an_instance_of_a_former_release_of_the_same_number_is_not_its_own() {
        let other = |version: &str| instance(2, |i| i.version = version.into());
        check(vec![other("x")], 1, 1, Ok("0 of 1 instances are ready"));
        check(vec![instance(2, |_| ()), other("x")], 1, 1, Ok("1 old instance is still to end"));
        check(
            vec![instance(2, |_| ()), other("x")],
            1,
            600,
            Err("it is not done after 600 s: 1 old instance is still to end"),
        );
        let crashed = instance(2, |i| (i.version, i.detail.restarts) = ("x".into(), 5));
        check(vec![crashed, instance(2, |_| ())], 1, 1, Ok("1 old instance is still to end"));
        check(vec![other("sha256:0123456789ab")], 1, 1, Ok("done"));
        let mut release = release(2);
        release.version = "sha256:0123456789abcdef".into();
        let judged = |version| judge(&release, &named(vec![other(version)]), 1, None, false, at(1));
        assert!(matches!(judged("sha256:0123456789ab"), Verdict::Succeeded { .. }));
        assert!(matches!(judged("sha256:f123456789ab"), Verdict::Waiting(_)));
    }

    #[test]
    fn without_a_health_check_an_instance_counts_once_it_has_run_for_a_while() {
        let mut release = release(2);
        release.settings.health = None;
        let instances = named(vec![instance(2, |_| ())]);
        let verdict = |second| judge(&release, &instances, 1, None, false, at(second));
        assert!(matches!(verdict(4), Verdict::Waiting(_)));
        assert!(matches!(verdict(5), Verdict::Succeeded { .. }));
    }

    #[test]
    fn the_digest_is_what_its_own_instances_run() {
        let digest = |number, digest: &str| instance(number, |i| i.detail.digest = Some(digest.into()));
        let mut old = digest(1, "old");
        old.detail.leaving = true;
        let verdict = judge(&release(2), &named(vec![old, digest(2, "new")]), 1, None, false, at(1));
        assert_eq!(verdict, Verdict::Succeeded { digest: Some("new".into()) });
    }

    #[test]
    fn what_does_not_mend_by_itself_fails_at_once() {
        let end = |code, reason: &str| Some(End { at: None, exit_code: code, reason: Some(reason.into()) });
        for (change, expected) in [
            (
                Box::new(waiting("CrashLoopBackOff", None)) as Box<dyn FnOnce(&mut InstanceState)>,
                "instance `a` ended and is started again and again",
            ),
            (
                Box::new(move |i: &mut InstanceState| {
                    waiting("CrashLoopBackOff", Some("back-off 10s"))(i);
                    i.detail.end = end(3, "Error");
                }),
                "instance `a` ended with exit code 3 and is started again and again",
            ),
            (
                Box::new(move |i: &mut InstanceState| {
                    (i.detail.restarts, i.detail.end) = (2, end(139, "Error"));
                }),
                "instance `a` ended by signal 11 and is started again and again",
            ),
            (
                Box::new(waiting("ImagePullBackOff", Some("not found"))),
                "instance `a` cannot get its image `x:y`: not found",
            ),
            (Box::new(waiting("InvalidImageName", None)), "instance `a` cannot get its image `x:y`"),
            (Box::new(waiting("ErrImageNeverPull", None)), "instance `a` cannot get its image `x:y`"),
            (
                Box::new(waiting("CreateContainerConfigError", Some("no such secret"))),
                "instance `a` cannot be started: no such secret",
            ),
            (Box::new(waiting("RunContainerError", None)), "instance `a` cannot be started"),
            (
                Box::new(move |i: &mut InstanceState| {
                    (i.detail.restarts, i.detail.end) = (1, end(137, "OOMKilled"));
                }),
                "instance `a` was killed because it used more than its 256Mi of memory",
            ),
        ] {
            check(vec![instance(2, change), instance(2, |_| ())], 2, 1, Err(expected));
        }
    }

    #[test]
    fn what_may_mend_is_waited_for() {
        for (change, expected) in [
            (
                Box::new(waiting("ErrImagePull", None)) as Box<dyn FnOnce(&mut InstanceState)>,
                "`a` waits (ErrImagePull)",
            ),
            (Box::new(waiting("ContainerCreating", None)), "`a` waits (ContainerCreating)"),
            (Box::new(waiting("Unschedulable", Some("0/2 nodes"))), "`a` waits (Unschedulable: 0/2 nodes)"),
            (Box::new(unready), "`a` runs and is not ready yet"),
            (
                Box::new(|i: &mut InstanceState| {
                    unready(i);
                    i.detail.restarts = 1;
                    i.detail.message = Some("GET /healthz answered 500".into());
                }),
                "`a` runs and is not ready: GET /healthz answered 500",
            ),
        ] {
            let sentence = format!("0 of 1 instances are ready; {expected}");
            check(vec![instance(2, change)], 1, 119, Ok(&sentence));
        }
    }

    #[test]
    fn an_instance_that_never_gets_ready_fails_the_release() {
        let sick = |i: &mut InstanceState| {
            unready(i);
            i.detail.message = Some("GET /healthz answered 500".into());
        };
        let reason = "instance `a` runs and is not ready after 120 s: GET /healthz answered 500";
        check(vec![instance(2, sick)], 1, 120, Err(reason));
        let mut patient = release(2);
        patient.timeout_seconds = 900;
        let at_second = |second| judge(&patient, &named(vec![instance(2, sick)]), 1, None, false, at(second));
        assert!(matches!(at_second(899), Verdict::Waiting(_)), "more time than usual is for slow starts");
        assert!(matches!(at_second(900), Verdict::Failed { .. }));
        // One of the old release, or one that is asked to end, says nothing about this one.
        check(vec![instance(1, unready), instance(2, |_| ())], 1, 120, Ok("1 old instance is still to end"));
        check(vec![instance(2, |i| (i.ready, i.detail.leaving) = (false, true))], 0, 200, Ok("done"));
    }

    #[test]
    fn time_runs_out_with_what_was_waited_for() {
        let verdict =
            judge(&release(2), &named(vec![instance(2, waiting("Pending", None))]), 1, None, true, at(600));
        let reason = "it is not done after 600 s: 0 of 1 instances are ready; `a` waits (Pending)".to_owned();
        assert_eq!(verdict, Verdict::Failed { reason, instance: Some("a".into()), exit_code: None });
        check(vec![instance(2, |_| ())], 1, 5000, Ok("done"));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_nothing() {
        assert!(!over(at(0), READY_WITHIN, at(-5000)));
        assert!(over(at(0), READY_WITHIN, at(120)));
    }

    #[test]
    fn trouble_of_the_platform_fails_the_release() {
        let verdict = judge(&release(2), &BTreeMap::new(), 1, Some("exceeded quota: pods"), false, at(1));
        let reason = "exceeded quota: pods".to_owned();
        assert_eq!(verdict, Verdict::Failed { reason, instance: None, exit_code: None });
        let release = Release { settings: manifest::Environment::default(), ..release(2) };
        let ended = named(vec![instance(2, |i| {
            i.detail.end = Some(End { at: None, exit_code: 137, reason: Some("OOMKilled".into()) });
        })]);
        let Verdict::Failed { reason, exit_code, .. } =
            judge(&release, &ended, 1, Some("quota"), false, at(1))
        else {
            panic!("it goes on")
        };
        // How much it may use then, the platform knows.
        assert_eq!(reason, "instance `a` was killed because it used more memory than it may");
        assert_eq!(exit_code, Some(137));
    }
}
