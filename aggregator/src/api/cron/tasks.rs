//! `Tasks`: an environment's tasks, when each is due and how it goes.

use super::super::list::is_production;
use super::super::target::{Target, heard, managed};
use super::super::{caller, wire as common};
use super::wire;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Grant, See};
use crate::inventory::Managed;
use crate::run::TaskState;
use jiff::Timestamp;
use skpr_proto::Failure;
use skpr_proto::v1::{Task, TasksRequest, TasksResponse};
use tonic::Request;

pub(super) async fn tasks(
    shared: &Shared,
    request: &Request<TasksRequest>,
    access: &mut Access,
) -> Result<TasksResponse, Failure> {
    let user = caller(shared, request.metadata(), access).await?;
    let target = Target::parse(request.get_ref().environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<See> = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    let key = grant.environment();
    access.allowed(Some(key));
    shared.platform.is_known(key)?;
    let managed = managed(&inventory, key)?;
    let now = Timestamp::now();
    let tasks = shown(&managed, now);
    access.sent(tasks.len(), 0);
    Ok(TasksResponse {
        tasks,
        now: Some(common::instant(now)),
        namespace: key.namespace.to_string(),
        stale: inventory.stale,
        production: inventory.environments.get(key).is_some_and(is_production),
    })
}

fn shown(managed: &Managed, now: Timestamp) -> Vec<Task> {
    let unknown = TaskState::default();
    let task = |(name, settings)| {
        let state = managed.tasks.get(name).unwrap_or(&unknown);
        let mut task = wire::task(name, settings, state, now);
        if managed.deleting {
            task.next = None;
        }
        task
    };
    managed.settings.cron.iter().flatten().map(task).collect()
}
