//! What a task is made into: a CronJob, and the Jobs that it or a user makes. Pure.
//!
//! * What a run runs is what instances run: the same image, version, variables, resources and volumes. Only its schedule and
//!   its command are the task's.

use super::pod::COMPONENT;
use super::{BY, TASK_LABEL, VERSION};
use crate::environment::EnvironmentKey;
use crate::platform::kubernetes::desired::{Part, Site, beside_instances, has_volumes, literal, pod};
use crate::platform::kubernetes::resource::{labels, name as name_of};
use crate::release::Release;
use crate::run::{self, RunId, RunNow, command, start_within};
use serde_json::{Map, Value, json};
use skpr_proto::manifest::{Overlap, Task};
use skpr_proto::{EnvironmentName, Label};

/// How many Jobs of each kind, those that succeeded and those that failed, Kubernetes keeps of a CronJob.
pub(super) const KEPT: usize = 10;
/// How long the Job of a run stays that a user asked for, in seconds.
const STAYS: u32 = 3600;

/// What a task's CronJob is called. Where two environments of a namespace share `PROJECT-ENVIRONMENT`, as `shop/dev-x` and
/// `shop-dev/x` do, each has an object of its own; what is there of one is then no Deployment and no CronJob of the other:
/// it is left alone, and that other says so as its trouble.
pub(in crate::platform::kubernetes) fn name(environment: &EnvironmentName, task: &Label) -> String {
    run::name(environment, task)
}

/// A task's CronJob: when, and what its Jobs are.
pub(in crate::platform::kubernetes) fn cron_job(site: &Site<'_>, task: &Label, settings: &Task) -> Value {
    let policy = match settings.overlap {
        Overlap::Forbid => "Forbid",
        Overlap::Allow => "Allow",
        Overlap::Replace => "Replace",
    };
    let run = Made {
        key: site.key,
        release: site.release,
        task,
        settings,
        access_mode: &site.options.volume_access_mode,
    };
    json!({
        "schedule": settings.schedule.fields(),
        // Without one the clock of Kubernetes' own machine counts.
        "timeZone": settings.zone().as_str(),
        "concurrencyPolicy": policy,
        "suspend": site.stopped.contains(task),
        "startingDeadlineSeconds": start_within(settings).as_secs(),
        "successfulJobsHistoryLimit": KEPT,
        "failedJobsHistoryLimit": KEPT,
        "jobTemplate": {
            "metadata": {"labels": run.labels(), "annotations": {VERSION: site.release.version}},
            "spec": run.spec(None)
        }
    })
}

/// A run of a task, as it is made from a release.
pub(super) struct Made<'a> {
    pub(super) key: &'a EnvironmentKey,
    pub(super) release: &'a Release,
    pub(super) task: &'a Label,
    pub(super) settings: &'a Task,
    /// Of volumes.
    pub(super) access_mode: &'a str,
}

impl Made<'_> {
    /// The Job of a run that a user asks for, held back until it may begin. Its CronJob has this UID.
    pub(super) fn job(&self, wanted: &RunNow, id: &RunId, uid: &str) -> Value {
        let cron_job = name(&self.key.name, self.task);
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": cron_job, "uid": uid, "controller": true});
        let mut spec = self.spec(Some((wanted, id)));
        if let Some(spec) = spec.as_object_mut() {
            spec.insert("suspend".into(), json!(true));
            spec.insert("ttlSecondsAfterFinished".into(), json!(STAYS));
        }
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": format!("{cron_job}-{}", id.suffix()),
                "namespace": self.key.namespace,
                "labels": self.labels(),
                "annotations": {VERSION: self.release.version, BY: name_of(&wanted.by)},
                "ownerReferences": [owner]
            },
            "spec": spec
        })
    }

    fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let mut labels = labels(&self.key.name);
        labels.insert(TASK_LABEL.into(), self.task.to_string());
        labels
    }

    /// What its Job does; `asked` where a user asks for it.
    fn spec(&self, asked: Option<(&RunNow, &RunId)>) -> Value {
        let mut spec = json!({"backoffLimit": 0, "template": self.template(asked)});
        if let (Some(timeout), Some(spec)) = (&self.settings.timeout, spec.as_object_mut()) {
            spec.insert("activeDeadlineSeconds".into(), json!(timeout.duration().as_secs()));
        }
        spec
    }

    fn template(&self, asked: Option<(&RunNow, &RunId)>) -> Value {
        let arguments = asked.map(|(wanted, _)| wanted.arguments.as_slice()).unwrap_or_default();
        let (mut container, mut spec) = (Map::new(), Map::new());
        let command = command::command(self.settings.command.as_str(), arguments);
        container.insert("command".into(), command.iter().map(|word| literal(word)).collect());
        spec.insert("restartPolicy".into(), json!("Never"));
        if has_volumes(&self.release.settings) && self.access_mode != "ReadWriteMany" {
            // A volume that one node mounts is where an instance is.
            spec.insert("affinity".into(), beside_instances(self.key));
        }
        let mut variables = vec![(command::TASK, self.task.to_string())];
        // Of what is due, only Kubernetes knows which it is.
        variables.extend(asked.map(|(_, id)| (command::RUN, id.to_string())));
        let labels = vec![(TASK_LABEL, self.task.to_string())];
        pod(self.key, self.release, Part { component: COMPONENT, labels, variables, container, spec })
    }
}

#[cfg(test)]
mod tests;
