//! What a Job and its pod say of a run. Pure.
//!
//! * Every time in it is one that Kubernetes wrote down: whoever tells it tells the same.
//! * What has been told of its end stands on the Job, and nothing else is said of it any more.
//!
//! | the Job            | the pod                               | the run                                    |
//! |--------------------|---------------------------------------|--------------------------------------------|
//! | goes on            | none, or its container has not begun  | waits; why, where Kubernetes says          |
//! | goes on            | its container has begun               | runs                                       |
//! | complete           | any                                   | succeeded                                  |
//! | took too long      | its container has begun               | timed out                                  |
//! | failed             | was killed for memory                 | killed for memory                          |
//! | failed             | its container ended                   | failed, with its code                      |
//! | failed             | its container has not begun           | failed: it could not be started, and why   |
//! | failed             | nobody saw it, or its end             | not known                                  |

use super::job::{Failed, Job};
use crate::inventory::{Detail, End, Pod, Presence};
use crate::run::{Outcome, Run};
use jiff::{SignedDuration, Timestamp};

/// How long the news of how a pod ended may come after that of its Job: a watch that was cut in silence is noticed after 65 s.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_secs(75);

/// The run of a Job.
pub(super) fn story(job: &Job, pod: Option<&Pod>, now: Timestamp) -> Run {
    if let Some(told) = &job.told {
        return told.clone();
    }
    let begun = begun(job, pod);
    let Some(end) = &job.end else { return begun };
    let is_seen = pod.is_some_and(|pod| pod.presence != Presence::Present || pod.detail.end.is_some());
    if !is_seen && now.duration_since(end.at) < PATIENCE {
        return begun;
    }
    let last = pod.and_then(|pod| pod.detail.end.as_ref());
    let begun = match (pod, begun.began) {
        // Its pod is gone, and it had one.
        (None, None) => Run { began: job.started, ..begun },
        _ => begun,
    };
    let ended = last.and_then(|last| last.at).filter(|_| begun.began.is_some()).unwrap_or(end.at);
    let ended = Some(begun.began.map_or(ended, |began| ended.max(began)));
    let run = Run { ended, reason: pod.and_then(stopped), ..begun };
    let code = last.map(|last| last.exit_code);
    match &end.failure {
        None => Run { outcome: Some(Outcome::Succeeded), exit_code: Some(0), reason: None, ..run },
        Some(failure) => failed(run, failure, pod.map(|pod| &pod.detail), last, code),
    }
}

fn failed(run: Run, failure: &Failed, detail: Option<&Detail>, last: Option<&End>, code: Option<i32>) -> Run {
    let is_late = failure.reason == "DeadlineExceeded";
    let Some(detail) = detail else {
        let outcome = if is_late { Outcome::TimedOut } else { Outcome::Unknown };
        let reason =
            (!is_late).then(|| format!("its pod was not seen, and its Job failed: {}", failure.message));
        return Run { outcome: Some(outcome), reason, ..run };
    };
    if run.began.is_none() {
        let late = if is_late { " in the time that it may take" } else { "" };
        let why = because(detail).unwrap_or_else(|| failure.message.clone());
        let reason = Some(format!("it could not be started{late}: {why}"));
        return Run { outcome: Some(Outcome::Failed), reason, ..run };
    }
    if is_late {
        return Run { outcome: Some(Outcome::TimedOut), exit_code: code, ..run };
    }
    match last {
        Some(last) if last.reason.as_deref() == Some("OOMKilled") => {
            Run { outcome: Some(Outcome::OutOfMemory), exit_code: code, ..run }
        }
        Some(_) => Run { outcome: Some(Outcome::Failed), exit_code: code, ..run },
        None => {
            let reason = run.reason.clone().unwrap_or_else(|| failure.message.clone());
            Run { outcome: Some(Outcome::Unknown), reason: Some(reason), ..run }
        }
    }
}

/// A run that has not ended.
fn begun(job: &Job, pod: Option<&Pod>) -> Run {
    let began = pod.and_then(|pod| pod.detail.started);
    let waits = pod.filter(|_| began.is_none()).and_then(|pod| because(&pod.detail));
    Run {
        id: job.id.clone(),
        task: job.task.clone(),
        trigger: job.trigger.clone(),
        version: job.version.clone(),
        due: job.due,
        began,
        ended: None,
        outcome: None,
        exit_code: None,
        instance: pod.map(|pod| pod.instance.to_string()),
        reason: waits.or_else(|| pod.and_then(stopped)),
    }
}

/// Why somebody ended its pod.
fn stopped(pod: &Pod) -> Option<String> {
    pod.detail.started?;
    because(&pod.detail).map(|why| format!("its pod was ended: {why}"))
}

fn because(detail: &Detail) -> Option<String> {
    let reason = detail.waiting.as_deref()?;
    Some(
        detail.message.as_deref().map_or_else(|| reason.to_owned(), |message| format!("{reason}: {message}")),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::job::tests::object;
    use super::super::job::{JobEnd, facts_of};
    use super::*;
    use crate::inventory::tests::key;
    use crate::inventory::{Containers, Labels};
    use crate::run::Trigger;
    use skpr_proto::Label;
    use std::sync::Arc;

    pub(in super::super) fn job_of(name: &str) -> Job {
        facts_of(&object(name, |_| ())).unwrap().1
    }

    pub(in super::super) fn pod_of(job: &str, name: &str) -> Pod {
        let labels: Labels = [("batch.kubernetes.io/job-name".to_owned(), job.to_owned())].into();
        Pod {
            environment: key("sites", "shop", "dev"),
            node: None,
            instance: name.into(),
            main_container: Label::parse("container", "app").unwrap(),
            task: Some(Label::parse("task", "drush").unwrap()),
            labels: Arc::new(labels),
            containers: Containers::default(),
            version: "v1".into(),
            ready: false,
            production: false,
            presence: Presence::Present,
            detail: Detail::default(),
        }
    }

    fn at(second: i64) -> Timestamp {
        let start: Timestamp = "2026-11-24T00:10:00Z".parse().unwrap();
        start + SignedDuration::from_secs(second)
    }

    /// The Job ends at 60 with this; the pod is as `change` makes it.
    fn told(failure: Option<&str>, change: impl FnOnce(&mut Pod), now: i64) -> Run {
        let failure =
            failure.map(|reason| Failed { reason: reason.into(), message: "the job has failed".into() });
        let end = Some(JobEnd { at: at(60), failure });
        let job = Job { end, ..job_of("shop-dev--drush-1") };
        let mut pod = pod_of("shop-dev--drush-1", "x-1");
        change(&mut pod);
        story(&job, Some(&pod), at(now))
    }

    fn ended(code: i32, reason: &str) -> impl FnOnce(&mut Pod) {
        let end = End { at: Some(at(50)), exit_code: code, reason: Some(reason.into()) };
        move |pod| {
            pod.detail.started = Some(at(5));
            pod.detail.end = Some(end);
            pod.presence = Presence::Finished;
        }
    }

    #[test]
    fn one_that_goes_on_waits_and_then_runs() {
        let job = job_of("shop-dev--drush-1");
        let mut pod = pod_of("shop-dev--drush-1", "x-1");
        let run = story(&job, None, at(1));
        assert_eq!((run.stage(), run.instance, run.version.as_str()), ("waiting", None, "v1"));
        pod.detail.waiting = Some("ImagePullBackOff".into());
        pod.detail.message = Some("not found".into());
        let run = story(&job, Some(&pod), at(1));
        assert_eq!((run.stage(), run.reason.as_deref()), ("waiting", Some("ImagePullBackOff: not found")));
        pod.detail = Detail { started: Some(at(5)), ..Detail::default() };
        let run = story(&job, Some(&pod), at(9));
        assert_eq!((run.stage(), run.began, run.instance.as_deref()), ("running", Some(at(5)), Some("x-1")));
        assert_eq!((run.reason, run.trigger), (None, Trigger::Schedule));
    }

    #[track_caller]
    fn check(run: &Run, outcome: Outcome, code: Option<i32>, reason: Option<&str>) {
        assert_eq!((run.outcome, run.exit_code, run.reason.as_deref()), (Some(outcome), code, reason));
    }

    #[test]
    fn an_end_is_told_with_its_code_and_the_time_of_the_container() {
        let run = told(None, ended(0, "Completed"), 61);
        check(&run, Outcome::Succeeded, Some(0), None);
        assert_eq!((run.began, run.ended), (Some(at(5)), Some(at(50))));
        let failed = Some("BackoffLimitExceeded");
        check(&told(failed, ended(3, "Error"), 61), Outcome::Failed, Some(3), None);
        check(&told(failed, ended(137, "OOMKilled"), 61), Outcome::OutOfMemory, Some(137), None);
        // The shell has survived what was killed for memory, and its code is what it made of that.
        check(&told(failed, ended(1, "OOMKilled"), 61), Outcome::OutOfMemory, Some(1), None);
        check(&told(None, ended(0, "OOMKilled"), 61), Outcome::Succeeded, Some(0), None);
    }

    #[test]
    fn one_that_took_too_long_is_told_so_whatever_its_code() {
        for code in [0, 143] {
            check(
                &told(Some("DeadlineExceeded"), ended(code, "Error"), 61),
                Outcome::TimedOut,
                Some(code),
                None,
            );
        }
        let unseen = Job {
            end: Some(JobEnd {
                at: at(60),
                failure: Some(Failed { reason: "DeadlineExceeded".into(), message: String::new() }),
            }),
            ..job_of("shop-dev--drush-1")
        };
        let run = story(&unseen, None, at(150));
        check(&run, Outcome::TimedOut, None, None);
        assert!(run.began.is_some());
    }

    #[test]
    fn one_that_never_began_says_what_kept_it() {
        let waiting = |pod: &mut Pod| {
            pod.detail.waiting = Some("Unschedulable".into());
            pod.detail.message = Some("0/2 nodes are available".into());
            pod.presence = Presence::Gone;
        };
        let reason =
            "it could not be started in the time that it may take: Unschedulable: 0/2 nodes are available";
        let run = told(Some("DeadlineExceeded"), waiting, 61);
        check(&run, Outcome::Failed, None, Some(reason));
        assert_eq!((run.began, run.ended), (None, Some(at(60))));
        let refused = |pod: &mut Pod| {
            pod.detail.waiting = Some("StartError".into());
            pod.detail.message = Some("no such file".into());
            pod.detail.end = Some(End { at: Some(at(7)), exit_code: 128, reason: Some("StartError".into()) });
            pod.presence = Presence::Finished;
        };
        let run = told(Some("BackoffLimitExceeded"), refused, 61);
        check(&run, Outcome::Failed, None, Some("it could not be started: StartError: no such file"));
    }

    #[test]
    fn one_whose_pod_was_ended_says_by_what() {
        let evicted = |pod: &mut Pod| {
            ended(137, "Error")(pod);
            pod.detail.waiting = Some("Evicted".into());
            pod.detail.message = Some("the node was low on memory".into());
        };
        let reason = "its pod was ended: Evicted: the node was low on memory";
        check(&told(Some("BackoffLimitExceeded"), evicted, 61), Outcome::Failed, Some(137), Some(reason));
        let lost = |pod: &mut Pod| {
            pod.detail.started = Some(at(5));
            pod.detail.waiting = Some("DeletionByTaintManager".into());
            pod.presence = Presence::Gone;
        };
        let reason = "its pod was ended: DeletionByTaintManager";
        check(&told(Some("BackoffLimitExceeded"), lost, 61), Outcome::Unknown, None, Some(reason));
    }

    #[test]
    fn the_news_of_the_pod_is_waited_for_but_not_for_ever() {
        let running = |pod: &mut Pod| pod.detail.started = Some(at(5));
        assert_eq!(told(Some("BackoffLimitExceeded"), running, 61).outcome, None);
        assert_eq!(told(None, running, 61).outcome, None);
        check(
            &told(Some("BackoffLimitExceeded"), running, 135),
            Outcome::Unknown,
            None,
            Some("the job has failed"),
        );
        let run = told(None, running, 135);
        check(&run, Outcome::Succeeded, Some(0), None);
        assert_eq!(run.ended, Some(at(60)));
    }

    #[test]
    fn what_was_told_of_its_end_is_all_that_is_said_of_it() {
        let first = told(Some("BackoffLimitExceeded"), ended(137, "OOMKilled"), 61);
        let job = Job { told: Some(first.clone()), ..job_of("shop-dev--drush-1") };
        // Its pod is gone meanwhile.
        assert_eq!(story(&job, None, at(9999)), first);
    }
}
