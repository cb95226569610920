//! A round's part about tasks: says on Jobs how they ended, and looks at runs alone where nothing else is to be done.

use super::ENDED;
use super::job::job_resource;
use super::listed::listed;
use super::plan::{Look, Plan, plan};
use crate::platform::kubernetes::access::{self, Hindrance};
use crate::platform::kubernetes::desired::Kind;
use crate::platform::kubernetes::done::Done;
use crate::platform::kubernetes::next::Step;
use crate::platform::kubernetes::reconcile::Round;
use crate::platform::kubernetes::resource::{Environment, EnvironmentStatus};
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::DeserializeGuard;
use serde_json::json;

impl Round {
    /// What comes of the runs as they were seen. Kubernetes is asked before any is said to be lost: a watch that was cut says
    /// nothing for a while, and what is said of a run stands for good.
    pub(in crate::platform::kubernetes) async fn plan_runs(
        &self,
        object: &Environment,
        status: &EnvironmentStatus,
    ) -> Result<Plan, Hindrance> {
        let look = Look {
            settings: object.spec.settings.cron.as_ref(),
            suspended: &object.spec.suspended,
            before: &status.tasks,
            seen: self.seen.as_ref().map(|seen| seen.as_slice()),
            now: Timestamp::now(),
        };
        let found = plan(&look);
        if !found.gives_up || self.has_seen_all().await? {
            return Ok(found);
        }
        let mut without = plan(&Look { seen: None, ..look });
        without.look_at(look.now, look.now);
        Ok(without)
    }

    /// Whether each Job that there is was seen as it is.
    async fn has_seen_all(&self) -> Result<bool, Hindrance> {
        let jobs = listed(&self.client, &self.key, None).await?;
        let seen = self.seen.as_ref().map(|seen| seen.as_slice()).unwrap_or_default();
        Ok(jobs.iter().all(|job| seen.iter().any(|seen| *seen.job == *job)))
    }

    /// Says on each Job that has ended how its run is told, and takes away what nobody will let begin. What was refused, in
    /// words.
    pub(in crate::platform::kubernetes) async fn write_ends(
        &self,
        plan: &Plan,
    ) -> Result<Option<String>, Hindrance> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.key.namespace.as_str(), &job_resource());
        let mut refused = None;
        for ended in &plan.ended {
            let run = serde_json::to_string(&ended.run).unwrap_or_default();
            // With the UID, it is another of the same name that is refused.
            let change = json!({"metadata": {"uid": ended.uid, "annotations": {ENDED: run}}});
            let params =
                PatchParams { field_manager: Some(access::CONTROLLER.into()), ..PatchParams::default() };
            let written = api.patch(&ended.job, &params, &Patch::Merge(&change)).await;
            taken(written.map(drop), &mut refused)?;
        }
        for (name, uid) in &plan.abandoned {
            let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::background() };
            taken(api.delete(name, &params).await.map(drop), &mut refused)?;
        }
        Ok(refused)
    }

    /// Looks at the runs alone and writes what is new of them, after a round that has done the rest; none when there is more
    /// to do than that.
    pub(in crate::platform::kubernetes) async fn look_at_runs(
        &self,
        before: &Done,
    ) -> Result<Option<Done>, Hindrance> {
        let Some(DeserializeGuard(Ok(object))) = self.object().await? else { return Ok(None) };
        let status = object.status.clone().unwrap_or_default();
        let is_known = object.metadata.uid.as_ref() == Some(&before.uid)
            && object.metadata.deletion_timestamp.is_none()
            && object.metadata.generation == Some(status.observed_generation)
            && self.refusal(&object).is_none()
            && matches!(self.next_step(&object, &status), Step::Rest);
        let plan = self.plan_runs(&object, &status).await?;
        if !is_known || !plan.is_about_runs(&status.tasks, object.spec.settings.cron.as_ref()) {
            return Ok(None);
        }
        if self.write_ends(&plan).await?.is_some() {
            return Ok(None);
        }
        let after = EnvironmentStatus { tasks: plan.tasks.clone(), ..status.clone() };
        if after != status {
            self.write_status(&object.metadata, &after).await?;
        }
        let mut done = Done { status: after, ..before.clone() };
        done.take_plan(plan);
        Ok(Some(done))
    }

    /// A task that is not wanted any more begins nothing, until what runs of it has ended and it can go.
    pub(in crate::platform::kubernetes) async fn keep_busy(&self, name: &str) -> Result<(), Hindrance> {
        let change = json!({"spec": {"suspend": true}});
        access::merge(&self.client, &self.key, Kind::CronJob, name, &change).await
    }
}

/// That a Job is gone, or is another now, is as good; what is refused is said.
fn taken(written: kube::Result<()>, refused: &mut Option<String>) -> Result<(), Hindrance> {
    match written {
        Ok(()) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => match error.into() {
            Hindrance::Refused(reason) => {
                refused.get_or_insert(reason);
                Ok(())
            }
            later => Err(later),
        },
    }
}
