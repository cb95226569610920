//! `Run`: starts a run of a task now. A disconnect does not cancel it.

use super::super::deploy::by;
use super::{task_of, tasks_of, wire};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::environment::EnvironmentKey;
use crate::inventory::Inventory;
use crate::run::{Run, RunNow};
use skpr_proto::Failure;
use skpr_proto::error::usage;
use skpr_proto::v1::{RunRequest, RunResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Request;

/// What a command is given besides its own words: a line of a terminal, and not a file's contents. Kubernetes keeps it in the
/// object of the run, of which it takes a megabyte.
const ARGUMENTS: usize = 100;
const ARGUMENT_BYTES: usize = 32 << 10;
/// How long a run that was begun may take to show in the inventory. Nothing depends on it but a client that asks for it at once.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn run(
    shared: &Shared,
    request: &Request<RunRequest>,
    access: &mut Access,
) -> Result<RunResponse, Failure> {
    let (metadata, request) = (request.metadata(), request.get_ref());
    let (grant, managed) = tasks_of(shared, metadata, request.environment.as_ref(), access).await?;
    let (key, by) = (grant.environment(), by(grant.user()));
    let task = task_of(&managed, &key.name, &request.task)?;
    access.task(&task);
    let wanted = RunNow { task, arguments: arguments(&request.arguments)?, by };
    let run = shared.platform.run_task(&grant, wanted).await?;
    access.run(&run.id);
    seen(shared, key, &run).await;
    Ok(RunResponse { run: Some(wire::run(&run)), namespace: key.namespace.to_string() })
}

fn arguments(given: &[String]) -> Result<Vec<String>, Failure> {
    if given.len() > ARGUMENTS {
        return Err(usage(format!("`{}` arguments are given, at most {ARGUMENTS} are taken", given.len())));
    }
    let bytes: usize = given.iter().map(String::len).sum();
    if bytes > ARGUMENT_BYTES {
        let message = format!("the arguments have `{bytes}` bytes, at most {ARGUMENT_BYTES} are taken");
        return Err(usage(message).with_hint("put what is long into a file of the environment: skpr rsync"));
    }
    if given.iter().any(|argument| argument.contains('\0')) {
        return Err(usage("an argument cannot hold a NUL"));
    }
    Ok(given.to_vec())
}

/// Waits a moment for the run to show, so that a client that looks for it finds it.
async fn seen(shared: &Shared, key: &EnvironmentKey, run: &Run) {
    let mut inventory = shared.inventory.clone();
    let shows = |inventory: &Arc<Inventory>| {
        let managed = inventory.environments.get(key).and_then(|state| state.managed.as_ref());
        let task = managed.and_then(|managed| managed.tasks.get(&run.task));
        task.is_some_and(|task| task.running.iter().chain(&task.last).any(|one| one.id == run.id))
    };
    // It goes on either way.
    drop(timeout(SEEN_WITHIN, inventory.wait_for(shows)).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use skpr_proto::ErrorKind;

    #[test]
    fn arguments_are_words_of_bounded_length() {
        let check = |given: &[String], part: &str| {
            let failure = arguments(given).unwrap_err();
            assert!(failure.kind == ErrorKind::Usage && failure.message.contains(part), "{failure}");
        };
        let most = vec!["x".repeat(ARGUMENT_BYTES / ARGUMENTS); ARGUMENTS];
        assert_eq!(arguments(&most).unwrap(), most);
        assert_eq!(arguments(&["".into(), "a b".into(), "$(c)".into()]).unwrap().len(), 3);
        check(&vec![String::new(); ARGUMENTS + 1], "`101` arguments");
        check(&["x".repeat(ARGUMENT_BYTES), "x".into()], "`32769` bytes");
        check(&["a\0b".into()], "NUL");
    }
}
