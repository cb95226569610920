//! What users ask of tasks: to be suspended or resumed, and to run now.
//!
//! * A run that is asked for is one that Kubernetes counts: its Job is made held back, entered into what the CronJob says is
//!   active, and only then let begin. Of two that must not both run, the later finds the other there, whoever began it; of two
//!   that are asked for at once, the later is the one that was entered later.
//! * What is left of one that was begun half is taken away by the controller, and has run nothing.

use super::job::{Job, job_resource};
use super::listed::listed;
use super::made::{Made, name};
use super::plan::ABANDONED;
use super::story::story;
use crate::environment::EnvironmentKey;
use crate::platform::kubernetes::access::{self, DEPLOY, api_resource};
use crate::platform::kubernetes::changes::{
    ATTEMPTS, Kubernetes, WITHIN, away, contended, not_deleting, params, within,
};
use crate::platform::kubernetes::desired::Kind;
use crate::platform::kubernetes::failures::failure;
use crate::platform::kubernetes::resource::{self, Environment, object_name};
use crate::platform::unmanaged;
use crate::release;
use crate::run::{Run, RunId, RunNow, Suspend, Suspended, Suspension, command, words};
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use skpr_proto::manifest::{Overlap, Task};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use tokio::time::timeout;

impl Kubernetes {
    /// Begins a run now.
    pub(in crate::platform::kubernetes) async fn begin_run(
        &self,
        key: &EnvironmentKey,
        wanted: &RunNow,
    ) -> Result<Run, Failure> {
        let Some(object) = self.find(key).await? else { return Err(unmanaged(&key.name)) };
        not_deleting(&key.name, &object)?;
        let Some(settings) =
            object.spec.settings.cron.iter().flatten().find(|(task, _)| **task == wanted.task)
        else {
            return Err(words::no_task(&key.name, &wanted.task));
        };
        let (task, settings) = settings;
        command::takes(task, settings.command.as_str(), &wanted.arguments)?;
        let status = object.status.clone().unwrap_or_default();
        let release = release::current(&status.releases).ok_or_else(|| not_made(key, task))?;
        let access_mode = &self.options.cluster.volume_access_mode;
        let made = Made { key, release, task, settings, access_mode };
        let cron_job = self.cron_job(key, task).await?;
        let uid = cron_job.metadata.uid.clone().unwrap_or_default();
        let mut others = self.running(key, task).await?;
        others.retain(|other| !other.is_held);
        free(&key.name, settings, &others)?;

        let id = RunId::asked(task, chance());
        let job = made.job(wanted, &id, &uid);
        let job: DynamicObject = serde_json::from_value(job)
            .map_err(|error| Failure::new(ErrorKind::Failed, error.to_string()))?;
        let held = within(self.jobs(key).create(&params(), &job)).await?;
        let begun = match self.enter(key, task, &held).await {
            Ok(before) => self.let_begin(&made, &held, &before).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = begun {
            self.withdraw(key, &held).await;
            return Err(failure);
        }
        let version = release.version.clone();
        Ok(Run { version, ..Run::asked(id, wanted) })
    }

    /// Lets a Job begin that is held back, if no other is in its way; of those held back, only what was entered `before` it is.
    async fn let_begin(
        &self,
        made: &Made<'_>,
        held: &DynamicObject,
        before: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let Made { key, task, settings, .. } = made;
        let name = held.metadata.name.as_deref().unwrap_or_default();
        let mut others = self.running(key, task).await?;
        others.retain(|other| other.name != name && (!other.is_held || before.contains(&other.uid)));
        free(&key.name, settings, &others)?;
        if settings.overlap == Overlap::Replace {
            for other in &others {
                self.remove_job(key, &other.name, &other.uid).await?;
            }
        }
        let change = json!({"metadata": {"uid": held.metadata.uid}, "spec": {"suspend": false}});
        within(self.jobs(key).patch(name, &patched(), &Patch::Merge(&change))).await.map(drop)
    }

    /// Enters a Job into what its CronJob says is active: Kubernetes then minds it as its own. The UIDs of those that are there.
    async fn enter(
        &self,
        key: &EnvironmentKey,
        task: &Label,
        held: &DynamicObject,
    ) -> Result<BTreeSet<String>, Failure> {
        let metadata = &held.metadata;
        let entry = json!({"apiVersion": "batch/v1", "kind": "Job", "name": metadata.name,
            "namespace": metadata.namespace, "uid": metadata.uid, "resourceVersion": metadata.resource_version});
        for _ in 0..ATTEMPTS {
            let found = self.cron_job(key, task).await?;
            let active = found.data.pointer("/status/active").and_then(Value::as_array);
            let mut active = active.cloned().unwrap_or_default();
            let uids = active.iter().filter_map(|job| Some(job.get("uid")?.as_str()?.to_owned()));
            let before: BTreeSet<String> = uids.collect();
            active.push(entry.clone());
            let change = json!({"metadata": {"resourceVersion": found.metadata.resource_version},
                "status": {"active": active}});
            let name = name(&key.name, task);
            let api = self.cron_jobs(key);
            match timeout(WITHIN, api.patch_status(&name, &patched(), &Patch::Merge(&change))).await {
                Ok(Ok(_)) => return Ok(before),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    /// Takes back a Job that has not begun. Where that fails the controller does it later.
    async fn withdraw(&self, key: &EnvironmentKey, held: &DynamicObject) {
        let metadata = &held.metadata;
        let (name, uid) = (metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref());
        if let Err(error) = self.remove_job(key, name, uid.unwrap_or_default()).await {
            tracing::debug!(environment = %key, job = name, %error, "a job that was not begun is left");
        }
    }

    async fn remove_job(&self, key: &EnvironmentKey, name: &str, uid: &str) -> Result<(), Failure> {
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        match self.jobs(key).delete(name, &params).await {
            Ok(_) => Ok(()),
            // It has gone by itself.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// The task's CronJob, which the controller has made.
    async fn cron_job(&self, key: &EnvironmentKey, task: &Label) -> Result<DynamicObject, Failure> {
        let found = within(self.cron_jobs(key).get_opt(&name(&key.name, task))).await?;
        found.filter(|found| access::is_ours(&found.metadata, key)).ok_or_else(|| not_made(key, task))
    }

    /// The Jobs of a task that have not ended.
    async fn running(&self, key: &EnvironmentKey, task: &Label) -> Result<Vec<Job>, Failure> {
        let found = within(listed(&self.client, key, Some(task))).await?;
        let now = Timestamp::now();
        let goes_on = |job: &Job| {
            let is_abandoned = job.is_held && now.duration_since(job.created) >= ABANDONED;
            job.end.is_none() && !is_abandoned
        };
        Ok(found.into_iter().filter(goes_on).collect())
    }

    fn jobs(&self, key: &EnvironmentKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), key.namespace.as_str(), &job_resource())
    }

    fn cron_jobs(&self, key: &EnvironmentKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), key.namespace.as_str(), &api_resource(Kind::CronJob))
    }

    /// Suspends tasks or resumes them.
    pub(in crate::platform::kubernetes) async fn suspend_tasks(
        &self,
        key: &EnvironmentKey,
        wanted: &Suspend,
    ) -> Result<Suspended, Failure> {
        for _ in 0..ATTEMPTS {
            let Some(mut object) = self.find(key).await? else { return Err(unmanaged(&key.name)) };
            not_deleting(&key.name, &object)?;
            let suspended = change(&mut object, &key.name, wanted)?;
            if wanted.dry_run || suspended.changed.is_empty() {
                return Ok(suspended);
            }
            match timeout(WITHIN, self.api(key).replace(&object_name(&key.name), &params(), &object)).await {
                Ok(Ok(_)) => {
                    if wanted.suspended {
                        self.stop_at_once(key, &suspended.changed).await;
                    }
                    return Ok(suspended);
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    /// The controller does the same in a moment; what is due within that moment need not begin.
    async fn stop_at_once(&self, key: &EnvironmentKey, tasks: &[Label]) {
        let change = json!({"spec": {"suspend": true}});
        for task in tasks {
            let name = name(&key.name, task);
            let stopped = access::merge(&self.client, key, Kind::CronJob, &name, &change).await;
            if let Err(error) = stopped {
                tracing::debug!(environment = %key, task = %task, %error, "a task is left to the controller");
            }
        }
    }
}

/// Suspends tasks of an object or resumes them.
fn change(object: &mut Environment, name: &EnvironmentName, wanted: &Suspend) -> Result<Suspended, Failure> {
    let settings = object.spec.settings.cron.iter().flatten().map(|(task, _)| task.clone());
    let all: BTreeSet<Label> = settings.chain(object.spec.suspended.keys().cloned()).collect();
    let tasks: Vec<Label> = match &wanted.task {
        None => all.into_iter().collect(),
        Some(task) if all.contains(task) => vec![task.clone()],
        Some(task) => return Err(words::no_task(name, task)),
    };
    let suspension = Suspension { by: resource::name(&wanted.by), since: Timestamp::now() };
    let mut suspended = Suspended::default();
    for task in tasks {
        let is_suspended = object.spec.suspended.contains_key(&task);
        if is_suspended == wanted.suspended {
            suspended.unchanged.push(task);
            continue;
        }
        if wanted.suspended {
            object.spec.suspended.insert(task.clone(), suspension.clone());
        } else {
            object.spec.suspended.remove(&task);
        }
        suspended.changed.push(task);
    }
    Ok(suspended)
}

/// Whether a run may begin beside these.
fn free(name: &EnvironmentName, settings: &Task, running: &[Job]) -> Result<(), Failure> {
    let Some(other) = running.first().filter(|_| settings.overlap == Overlap::Forbid) else { return Ok(()) };
    let since = Some(other.started.unwrap_or(other.created));
    Err(words::locked(name, &Run { began: since, ..story(other, None, Timestamp::now()) }))
}

fn not_made(key: &EnvironmentKey, task: &Label) -> Failure {
    let sentence = format!("the task `{task}` of `{}` is not made yet", key.name);
    Failure::new(ErrorKind::Unavailable, sentence)
        .with_hint(format!("try again in a moment; skpr info {} says what keeps it", key.name))
}

/// What nobody can guess, nor has to: two of a minute have to differ.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn patched() -> PatchParams {
    PatchParams { field_manager: Some(DEPLOY.into()), ..PatchParams::default() }
}

#[cfg(test)]
mod tests;
