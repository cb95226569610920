//! What the fake says of tasks and runs.

use super::{Service, authorise};
use skpr_proto::v1::cron_server::Cron;
use skpr_proto::v1::{
    Run, RunRequest, RunResponse, RunsRequest, RunsResponse, SuspendRequest, SuspendResponse, TasksRequest,
    TasksResponse,
};
use skpr_proto::{ErrorKind, Failure};
use std::collections::VecDeque;
use tonic::{Request, Response, Status};

/// What it answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Tasks {
    pub(crate) tasks: TasksResponse,
    /// For each look at one run in turn, the last for all that follow; of what is in it, only what was asked for is answered.
    pub(crate) runs: VecDeque<RunsResponse>,
    /// So many runs an answer has at most; 0: all.
    pub(crate) page: usize,
    /// None cuts the link.
    pub(crate) begun: Option<RunResponse>,
    /// Who asks for a run gets no answer.
    pub(crate) silent: bool,
    /// Which tasks there are, and whether they are suspended.
    pub(crate) suspended: Vec<(String, bool)>,
    pub(crate) production: bool,
    pub(crate) runs_requests: Vec<RunsRequest>,
    pub(crate) run_requests: Vec<RunRequest>,
    pub(crate) suspend_requests: Vec<SuspendRequest>,
}

#[tonic::async_trait]
impl Cron for Service {
    async fn tasks(&self, request: Request<TasksRequest>) -> Result<Response<TasksResponse>, Status> {
        authorise(&request)?;
        self.refuse("tasks")?;
        self.called("tasks", &request.into_inner().environment);
        Ok(Response::new(self.script().cron.tasks.clone()))
    }

    async fn runs(&self, request: Request<RunsRequest>) -> Result<Response<RunsResponse>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        self.script().cron.runs_requests.push(request.clone());
        self.refuse(if request.run.is_some() { "one run" } else { "runs" })?;
        let mut answer = {
            let runs = &mut self.script().cron.runs;
            if runs.len() < 2 || request.run.is_none() { runs.front().cloned() } else { runs.pop_front() }
                .unwrap_or_default()
        };
        answer.runs.retain(|run| request.task.as_ref().is_none_or(|task| *task == run.task));
        answer.runs.retain(|run| request.run.as_ref().is_none_or(|id| *id == run.id));
        if let (None, Some(until)) = (&request.run, request.until) {
            let time = |run: &Run| run.began.or(run.due).map(|time| time.unix_nanos);
            answer.runs.retain(|run| time(run) < Some(until.unix_nanos));
        }
        let page = Some(self.script().cron.page).filter(|page| *page > 0).unwrap_or(usize::MAX);
        answer.more |= answer.runs.len() > page;
        answer.runs.truncate(page);
        match request.run {
            Some(id) if answer.runs.is_empty() => {
                Err(Failure::new(ErrorKind::NotFound, format!("there is no run `{id}`")).into())
            }
            _ => Ok(Response::new(answer)),
        }
    }

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        authorise(&request)?;
        self.script().cron.run_requests.push(request.into_inner());
        self.refuse("run")?;
        let silent = self.script().cron.silent;
        if silent {
            std::future::pending::<()>().await;
        }
        let begun = self.script().cron.begun.clone();
        begun.map(Response::new).ok_or_else(|| {
            self.links.lock().unwrap().abort_all();
            Status::cancelled("the link was cut")
        })
    }

    async fn suspend(&self, request: Request<SuspendRequest>) -> Result<Response<SuspendResponse>, Status> {
        authorise(&request)?;
        self.refuse("suspend")?;
        let request = request.into_inner();
        let mut script = self.script();
        script.cron.suspend_requests.push(request.clone());
        let mut answer = SuspendResponse { production: script.cron.production, ..SuspendResponse::default() };
        for (name, suspended) in &mut script.cron.suspended {
            if request.task.as_ref().is_some_and(|task| task != name) {
                continue;
            }
            let same = *suspended == request.suspended;
            if same { &mut answer.unchanged } else { &mut answer.changed }.push(name.clone());
            if !request.dry_run {
                *suspended = request.suspended;
            }
        }
        Ok(Response::new(answer))
    }
}
