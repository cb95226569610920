//! From a Job as Kubernetes describes it to the facts that are kept of it. Pure.
//!
//! * A Job is a run when the CronJob of the task that it names owns it; whatever else carries our labels is nobody's.
//! * Others may write Jobs, too: what is kept of one is bounded, and only what skpr holds back is ever taken for abandoned.

use super::{BY, ENDED, TASK_LABEL, VERSION, made};
use crate::environment::EnvironmentKey;
use crate::platform::kubernetes::facts::short;
use crate::platform::kubernetes::objects::key_of_labels;
use crate::run::{Run, RunId, Trigger};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::ApiResource;
use kube::core::{DeserializeGuard, Object};
use serde::{Deserialize, Serialize};
use skpr_proto::Label;

/// Kubernetes' own: when a Job of a CronJob was due, and that somebody made it by hand.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const INSTANTIATED: &str = "cronjob.kubernetes.io/instantiate";

/// No run that skpr tells is longer in bytes: its texts are some 1,500 characters together.
const LONGEST_TOLD: usize = 16 * 1024;

/// A Job as it arrives: what is not read here is dropped while it is parsed.
pub(in crate::platform::kubernetes) type WatchedJob = DeserializeGuard<JobObject>;
pub(super) type JobObject = Object<JobSpec, JobStatus>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::platform::kubernetes) struct JobSpec {
    #[serde(default)]
    suspend: Option<bool>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::platform::kubernetes) struct JobStatus {
    start_time: Option<Time>,
    completion_time: Option<Time>,
    conditions: Vec<JobCondition>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobCondition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<Time>,
}

/// One Job, as far as its run needs it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::platform::kubernetes) struct Job {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) task: Label,
    pub(super) id: RunId,
    pub(super) trigger: Trigger,
    pub(super) due: Option<Timestamp>,
    pub(super) version: String,
    /// The CronJob that it belongs to.
    pub(super) cron_job: String,
    pub(super) created: Timestamp,
    /// When Kubernetes took it up.
    pub(super) started: Option<Timestamp>,
    /// Nothing of it begins before whoever made it says so.
    pub(super) is_held: bool,
    pub(super) end: Option<JobEnd>,
    /// Its run as it was told when it had ended.
    pub(super) told: Option<Run>,
}

/// That Kubernetes says that a Job has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobEnd {
    pub(super) at: Timestamp,
    /// None: it succeeded.
    pub(super) failure: Option<Failed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// `DeadlineExceeded`, `BackoffLimitExceeded`.
    pub(super) reason: String,
    pub(super) message: String,
}

pub(in crate::platform::kubernetes) fn job_resource() -> ApiResource {
    ApiResource {
        group: "batch".into(),
        version: "v1".into(),
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        plural: "jobs".into(),
    }
}

/// The facts of a Job, if it is a run of an environment.
pub(super) fn facts_of(object: &JobObject) -> Option<(EnvironmentKey, Job)> {
    let metadata = &object.metadata;
    let key = key_of_labels(metadata)?;
    let task = Label::parse("task", metadata.labels.as_ref()?.get(TASK_LABEL)?).ok()?;
    let cron_job = made::name(&key.name, &task);
    let mut owners = metadata.owner_references.iter().flatten();
    owners
        .find(|owner| owner.api_version == "batch/v1" && owner.kind == "CronJob" && owner.name == cron_job)?;
    let name = metadata.name.clone()?;
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let by = annotation(BY).map(|by| short(by).to_string());
    let suffix = name.strip_prefix(&format!("{cron_job}-")).unwrap_or(&name);
    let is_ours = by.is_some();
    let asked = is_ours || annotation(INSTANTIATED).is_some();
    let due = if asked { None } else { due_of(annotation(DUE), suffix) };
    let id = match due {
        Some(due) => RunId::due(&task, due),
        None => RunId::parse(&format!("{task}-{suffix}")).ok()?,
    };
    let trigger = match (by, due) {
        (Some(by), _) => Trigger::User(by),
        (None, Some(_)) => Trigger::Schedule,
        // `kubectl create job --from=cronjob/NAME`: by whom, nobody says.
        (None, None) => Trigger::User("kubectl".to_owned()),
    };
    let status = object.status.clone().unwrap_or_default();
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0)?;
    let job = Job {
        uid: metadata.uid.clone().unwrap_or_default(),
        version: annotation(VERSION).map(|version| short(version).to_string()).unwrap_or_default(),
        cron_job,
        created,
        started: status.start_time.as_ref().map(|time| time.0),
        // What queues Jobs, as Kueue does, suspends them by itself.
        is_held: is_ours && object.spec.suspend == Some(true),
        end: end_of(&status, created),
        told: annotation(ENDED).and_then(|run| told(run, &id, &task)),
        task,
        id,
        trigger,
        due,
        name,
    };
    Some((key, job))
}

/// How it was told to have ended. What somebody else wrote there is not that.
fn told(text: &str, id: &RunId, task: &Label) -> Option<Run> {
    let text = Some(text).filter(|text| text.len() <= LONGEST_TOLD)?;
    let run: Run = serde_json::from_str(text).ok()?;
    (run.id == *id && run.task == *task && run.outcome.is_some()).then_some(run)
}

/// A Job's name ends with the minute at which it was due, which an older Kubernetes says nowhere else.
fn due_of(annotation: Option<&str>, suffix: &str) -> Option<Timestamp> {
    if let Some(due) = annotation.and_then(|due| due.parse().ok()) {
        return Some(due);
    }
    let minutes: i64 = suffix.parse().ok().filter(|_| suffix.bytes().all(|byte| byte.is_ascii_digit()))?;
    Timestamp::from_second(minutes.checked_mul(60)?).ok()
}

fn end_of(status: &JobStatus, created: Timestamp) -> Option<JobEnd> {
    let holds = |kind: &str| {
        status.conditions.iter().find(|condition| condition.r#type == kind && condition.status == "True")
    };
    let at = |condition: &JobCondition| condition.last_transition_time.as_ref().map(|time| time.0);
    if let Some(complete) = holds("Complete") {
        let at = status.completion_time.as_ref().map(|time| time.0).or(at(complete)).unwrap_or(created);
        return Some(JobEnd { at, failure: None });
    }
    let failed = holds("Failed")?;
    let failure = Failed { reason: failed.reason.clone(), message: short(&failed.message).to_string() };
    Some(JobEnd { at: at(failed).unwrap_or(created), failure: Some(failure) })
}

/// The environment and the name of a Job, also of one that cannot be read.
pub(super) fn named(metadata: &ObjectMeta) -> Option<(EnvironmentKey, String)> {
    Some((key_of_labels(metadata)?, metadata.name.clone()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A Job of task `drush` as Kubernetes makes it, with what a test changes.
    pub(in super::super) fn object(name: &str, change: impl FnOnce(&mut Value)) -> JobObject {
        let mut object = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": name, "namespace": "sites", "uid": format!("uid-{name}"),
                "creationTimestamp": "2026-11-24T00:10:01Z",
                "labels": {"skpr.io/project": "shop", "skpr.io/environment": "dev", "skpr.io/task": "drush"},
                "annotations": {"skpr.io/version": "v1"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "shop-dev--drush", "uid": "c",
                    "controller": true}]
            },
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "shop:v1"}]}}},
            "status": {"startTime": "2026-11-24T00:10:02Z"}
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn facts(name: &str, change: impl FnOnce(&mut Value)) -> Option<Job> {
        facts_of(&object(name, change)).map(|(_, job)| job)
    }

    #[test]
    fn a_job_of_a_cron_job_is_the_run_that_was_due_at_its_minute() {
        let due: Timestamp = "2026-11-24T00:10:00Z".parse().unwrap();
        let minutes = due.as_second() / 60;
        for annotation in [json!("2026-11-24T11:10:00+11:00"), Value::Null] {
            let job = facts(&format!("shop-dev--drush-{minutes}"), |job| {
                job["metadata"]["annotations"][DUE] = annotation.clone();
                job["metadata"]["annotations"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
            })
            .unwrap();
            assert_eq!(job.id, RunId::due(&job.task, due), "{annotation}");
            assert_eq!((job.due, &job.trigger), (Some(due), &Trigger::Schedule));
            assert_eq!(
                (job.version.as_str(), job.cron_job.as_str(), job.end),
                ("v1", "shop-dev--drush", None)
            );
        }
    }

    #[test]
    fn one_that_was_asked_for_says_by_whom() {
        let by = |name: &str, annotation: &str, value: &str| {
            let job = facts(name, |job| job["metadata"]["annotations"][annotation] = json!(value)).unwrap();
            (job.id.to_string(), job.trigger, job.due)
        };
        let ann = Trigger::User("ann".into());
        assert_eq!(by("shop-dev--drush-bcdfgh", BY, "ann"), ("drush-bcdfgh".into(), ann, None));
        let kubectl = Trigger::User("kubectl".into());
        assert_eq!(by("mine", INSTANTIATED, "manual"), ("drush-mine".into(), kubectl.clone(), None));
        // A number that somebody chose says nothing about when it was due.
        assert_eq!(by("shop-dev--drush-7", INSTANTIATED, "manual"), ("drush-7".into(), kubectl, None));
    }

    #[test]
    fn what_no_cron_job_owns_or_names_no_task_is_no_run() {
        for path in ["/metadata/ownerReferences", "/metadata/labels"] {
            assert_eq!(facts("shop-dev--drush-1", |job| *job.pointer_mut(path).unwrap() = Value::Null), None);
        }
        for (field, value) in [("kind", "Workflow"), ("name", "shop-dev--other"), ("apiVersion", "batch/v2")]
        {
            let wrong = |job: &mut Value| job["metadata"]["ownerReferences"][0][field] = json!(value);
            assert_eq!(facts("shop-dev--drush-1", wrong), None, "{field}");
        }
    }

    #[test]
    fn only_what_skpr_holds_back_is_held() {
        let held = |annotations: Value| {
            let job = facts("shop-dev--drush-1", |job| {
                job["spec"]["suspend"] = json!(true);
                job["metadata"]["annotations"] = annotations;
            });
            job.unwrap().is_held
        };
        assert!(held(json!({ BY: "ann" })));
        // A queue of Jobs lets it begin, however late.
        assert!(!held(json!({})));
    }

    #[test]
    fn its_end_is_what_its_conditions_say() {
        let end = |conditions: Value| {
            facts("shop-dev--drush-1", |job| job["status"]["conditions"] = conditions).unwrap().end
        };
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "DeadlineExceeded", "message": "too\nlong",
                "lastTransitionTime": "2026-11-24T00:12:00Z"})
        };
        assert_eq!(end(json!([condition("FailureTarget", "True"), condition("Failed", "False")])), None);
        let failed = end(json!([condition("FailureTarget", "True"), condition("Failed", "True")])).unwrap();
        let failure = Failed { reason: "DeadlineExceeded".into(), message: "too long".into() };
        assert_eq!((failed.failure, failed.at.to_string()), (Some(failure), "2026-11-24T00:12:00Z".into()));
        assert_eq!(end(json!([condition("Complete", "True")])).unwrap().failure, None);
    }

    #[test]
    fn how_it_was_told_to_have_ended_is_read_back_if_it_is_about_this_run() {
        let run = |id: &str, task: &str, reason: &str| {
            let run = json!({"id": id, "task": task, "trigger": "schedule", "outcome": "failed", "exitCode": 3,
                "reason": reason});
            facts("shop-dev--drush-1", |job| job["metadata"]["annotations"][ENDED] = json!(run.to_string()))
                .unwrap()
                .told
        };
        assert_eq!(run("drush-1", "drush", "").unwrap().exit_code, Some(3));
        assert_eq!(run("drush-2", "drush", ""), None);
        assert_eq!(run("drush-1", "other", ""), None);
        assert_eq!(run("drush-1", "drush", &"x".repeat(LONGEST_TOLD)), None, "nobody keeps as much");
    }
}
