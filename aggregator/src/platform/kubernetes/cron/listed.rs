//! The Jobs that there are now, where the watch may be behind.

use super::TASK_LABEL;
use super::job::{Job, WatchedJob, facts_of, job_resource};
use crate::environment::EnvironmentKey;
use crate::platform::kubernetes::resource;
use kube::Client;
use kube::api::{Api, ListParams};
use skpr_proto::Label;

/// Those of an environment, or of one task of it.
pub(super) async fn listed(
    client: &Client,
    key: &EnvironmentKey,
    task: Option<&Label>,
) -> kube::Result<Vec<Job>> {
    let mut labels = resource::labels(&key.name);
    labels.extend(task.map(|task| (TASK_LABEL.to_owned(), task.to_string())));
    let selector: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let api: Api<WatchedJob> = Api::namespaced_with(client.clone(), key.namespace.as_str(), &job_resource());
    let found = api.list(&ListParams::default().labels(&selector.join(","))).await?;
    let jobs = found.items.iter().filter_map(|job| facts_of(job.0.as_ref().ok()?));
    let of_it = jobs.filter(|(of, job)| of == key && task.is_none_or(|task| job.task == *task));
    Ok(of_it.map(|(_, job)| job).collect())
}
