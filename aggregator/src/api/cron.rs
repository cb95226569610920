//! Tasks and their runs, as the CLI asks for them. Thin: what is known is the inventory's and the store's, what is to happen is
//! the platform's.

mod history;
mod run;
mod runs;
mod stored;
mod suspend;
mod tasks;
mod wire;

use super::target::{Target, heard, managed};
use super::{answer, caller, recognised};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{self, Grant};
use crate::inventory::Managed;
use crate::platform;
use crate::tls::peer;
use skpr_proto::error::usage;
use skpr_proto::manifest::nearest;
use skpr_proto::v1::{
    self, RunRequest, RunResponse, RunsRequest, RunsResponse, SuspendRequest, SuspendResponse, TasksRequest,
    TasksResponse,
};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// Tasks that a message names: more tell nobody anything.
const NAMED: usize = 20;

pub(crate) struct Cron(Arc<Shared>);

impl Cron {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Cron(Arc::clone(shared))
    }
}

#[tonic::async_trait]
impl v1::cron_server::Cron for Cron {
    async fn tasks(&self, request: Request<TasksRequest>) -> Result<Response<TasksResponse>, Status> {
        let mut access = Access::begin(&self.0, "Cron.Tasks", peer(&request));
        let result = tasks::tasks(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    async fn runs(&self, request: Request<RunsRequest>) -> Result<Response<RunsResponse>, Status> {
        let mut access = Access::begin(&self.0, "Cron.Runs", peer(&request));
        let result = runs::runs(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    /// A disconnect does not cancel it, nor what it has begun.
    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let access = Access::begin(&self.0, "Cron.Run", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = run::run(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }

    /// A disconnect does not cancel it.
    async fn suspend(&self, request: Request<SuspendRequest>) -> Result<Response<SuspendResponse>, Status> {
        let access = Access::begin(&self.0, "Cron.Suspend", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = suspend::suspend(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }
}

/// The right to an environment's tasks, which the caller has, and what is known of the environment.
async fn tasks_of(
    shared: &Shared,
    metadata: &MetadataMap,
    environment: Option<&v1::Environment>,
    access: &mut Access,
) -> Result<(Grant<auth::Cron>, Arc<Managed>), Failure> {
    let user = caller(shared, metadata, access).await?;
    let target = Target::parse(environment)?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    let managed = managed(&inventory, grant.environment())?;
    if managed.deleting {
        return Err(platform::being_deleted(&grant.environment().name));
    }
    Ok((grant, managed))
}

/// The task that a caller names, which the environment has.
fn task_of(managed: &Managed, environment: &EnvironmentName, named: &str) -> Result<Label, Failure> {
    let task = Label::parse("task", named).map_err(|invalid| usage(invalid.to_string()))?;
    match &managed.settings.cron {
        Some(tasks) if tasks.contains_key(&task) => Ok(task),
        Some(_) | None => Err(no_task(managed, environment, &task)),
    }
}

/// Names the tasks that there are, the one first that may have been meant.
fn no_task(managed: &Managed, environment: &EnvironmentName, task: &Label) -> Failure {
    let mut names: Vec<&str> =
        managed.settings.cron.iter().flatten().map(|(name, _)| name.as_str()).collect();
    let meant = nearest(task.as_str(), names.iter().copied());
    names.sort_by_key(|name| Some(*name) != meant);
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let hint = match (names.len(), names.len().saturating_sub(NAMED)) {
        (0, _) => "it has none: they are written in .skpr.yml, under `cron`".to_owned(),
        (_, 0) => format!("it has {}", shown.join(", ")),
        (_, more) => format!("it has {} and {more} more", shown.join(", ")),
    };
    Failure::new(ErrorKind::NotFound, format!("`{environment}` has no task `{task}`")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tasks(names: &[&str]) -> Managed {
        let task = serde_json::json!({"schedule": "@hourly", "command": "true"});
        let cron: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), task.clone())).collect();
        let settings = serde_json::from_value(serde_json::json!({ "cron": cron })).unwrap();
        Managed { settings, ..Managed::default() }
    }

    #[test]
    fn who_names_no_task_is_told_of_those_that_there_are() {
        let name = EnvironmentName::parse("web", "dev").unwrap();
        let managed = with_tasks(&["backup", "drush", "index"]);
        assert_eq!(task_of(&managed, &name, "drush").unwrap().as_str(), "drush");
        let failure = task_of(&managed, &name, "drsuh").unwrap_err();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (ErrorKind::NotFound, "`web/dev` has no task `drsuh`")
        );
        assert_eq!(failure.hint.as_deref(), Some("it has `drush`, `backup`, `index`"));
        let failure = task_of(&with_tasks(&[]), &name, "drush").unwrap_err();
        assert!(failure.hint.unwrap().contains("has none"));
        let many: Vec<String> = (10..40).map(|number| format!("task-{number}")).collect();
        let many = with_tasks(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let hint = task_of(&many, &name, "other").unwrap_err().hint.unwrap();
        assert!(hint.starts_with("it has `task-10`, ") && hint.ends_with("`task-29` and 10 more"), "{hint}");
        assert_eq!(task_of(&managed, &name, "no task").unwrap_err().kind, ErrorKind::Usage);
    }
}
