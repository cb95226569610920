//! `Runs`: what has run, newest first. A disconnect cancels it.
//!
//! History is the store's: it is there when the environment, its pods and its Jobs are long gone, and it is the same after a
//! start of the aggregator. The platform says what runs now, and so which run nobody has seen the end of.

use super::super::caller;
use super::super::target::Target;
use super::history::{Asked, Found, LIMIT, Now};
use super::{no_task, stored, wire};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Grant, ReadLogs};
use crate::environment::EnvironmentKey;
use crate::inventory::{Managed, Pod};
use crate::run::{Run, RunId};
use jiff::Timestamp;
use skpr_proto::error::usage;
use skpr_proto::v1::{self, Instant, RunsRequest, RunsResponse};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, PodUid, UnixNanos};
use std::sync::Arc;
use tonic::Request;

pub(super) async fn runs(
    shared: &Shared,
    request: &Request<RunsRequest>,
    access: &mut Access,
) -> Result<RunsResponse, Failure> {
    let user = caller(shared, request.metadata(), access).await?;
    let request = request.get_ref();
    let target = Target::parse(request.environment.as_ref())?;
    access.asked(target.name.to_string());
    let grant: Grant<ReadLogs> = shared.auth.grant(&user, &target.name, &target.recorded(shared)).await?;
    let key = grant.environment();
    access.allowed(Some(key));
    let _seat = shared.seats.take(&user.name)?;
    let asked = asked(request)?;
    let says = Says::of(shared, key);
    let found = match &request.run {
        Some(id) => one(shared, &grant, id, &says).await?,
        None => {
            let task = asked.task.clone();
            let found = stored::newest(&shared.store, &grant, asked, says.now(), says.runs()).await?;
            says.has_task(&key.name, task.as_ref().filter(|_| found.runs.is_empty()))?;
            found
        }
    };
    access.sent(found.runs.len(), 0);
    let is_one = request.run.is_some();
    let shown =
        |run: &Run| v1::Run { output_coming: is_one && is_coming(shared, key, run), ..wire::run(run) };
    Ok(RunsResponse {
        runs: found.runs.iter().map(shown).collect(),
        oldest_kept: shared.store.oldest(key).map(Instant::from),
        more: found.more,
        namespace: key.namespace.to_string(),
        stale: says.is_stale,
    })
}

fn asked(request: &RunsRequest) -> Result<Asked, Failure> {
    let task = request.task.as_ref().map(|task| Label::parse("task", task)).transpose();
    let (since, until) = (request.since.map(UnixNanos::from), request.until.map(UnixNanos::from));
    if since.zip(until).is_some_and(|(since, until)| until < since) {
        return Err(usage("the range ends before it begins"));
    }
    let last = match usize::try_from(request.last).unwrap_or(LIMIT) {
        0 => LIMIT,
        last => last.min(LIMIT),
    };
    let task = task.map_err(|invalid| usage(invalid.to_string()))?;
    Ok(Asked { task, since, until, failed: request.failed, last })
}

async fn one(shared: &Shared, grant: &Grant<ReadLogs>, id: &str, says: &Says) -> Result<Found, Failure> {
    let id = RunId::parse(id).map_err(|invalid| usage(invalid.to_string()))?;
    let found = stored::one(&shared.store, grant, &id, says.now(), says.runs()).await?;
    match found {
        Some(run) => Ok(Found { runs: vec![run], more: false }),
        None => {
            let name = &grant.environment().name;
            Err(Failure::new(ErrorKind::NotFound, format!("`{name}` has no run `{id}`"))
                .with_hint(format!("skpr cron history {name}")))
        }
    }
}

/// Whether its node may still send something of what a run that has ended has printed. Of one whose pod is forgotten it does not.
fn is_coming(shared: &Shared, key: &EnvironmentKey, run: &Run) -> bool {
    let (Some(instance), Some(_), Some(_)) = (&run.instance, run.began, run.outcome) else { return false };
    let inventory = shared.inventory.borrow();
    let is_known = |(uid, pod): (&PodUid, &Arc<Pod>)| {
        *pod.instance == **instance && pod.environment == *key && !shared.ends.has(uid)
    };
    !inventory.heard || inventory.pods.iter().any(is_known)
}

/// What the platform says of an environment's tasks, from before the store is read: what was under way then and has no end in
/// there has not ended.
struct Says {
    managed: Option<Arc<Managed>>,
    time: Timestamp,
    /// It does not say it now.
    is_stale: bool,
}

impl Says {
    fn of(shared: &Shared, key: &EnvironmentKey) -> Says {
        let inventory = Arc::clone(&shared.inventory.borrow());
        let is_known = shared.platform.is_known(key).is_ok();
        Says {
            managed: inventory.environments.get(key).and_then(|state| state.managed.clone()),
            time: Timestamp::now(),
            is_stale: !inventory.heard || inventory.stale || !is_known,
        }
    }

    fn now(&self) -> Now {
        let tasks = self.managed.iter().flat_map(|managed| managed.tasks.values());
        let running = tasks.flat_map(|task| &task.running).map(|run| run.id.clone()).collect();
        Now { time: self.time, running: (!self.is_stale).then_some(running) }
    }

    /// The runs that it knows.
    fn runs(&self) -> Vec<Run> {
        let tasks = self.managed.iter().flat_map(|managed| managed.tasks.values());
        tasks.flat_map(|task| task.running.iter().chain(&task.last).chain(&task.lately)).cloned().collect()
    }

    /// A task that has no runs and is none of the environment's is a slip.
    fn has_task(&self, environment: &EnvironmentName, task: Option<&Label>) -> Result<(), Failure> {
        match (&self.managed, task) {
            (Some(managed), Some(task))
                if !self.is_stale
                    && !managed.settings.cron.iter().flatten().any(|(name, _)| name == task) =>
            {
                Err(no_task(managed, environment, task))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }
}
