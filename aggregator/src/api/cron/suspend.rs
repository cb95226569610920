//! `Suspend`: suspends tasks or resumes them. A disconnect does not cancel it.

use super::super::deploy::by;
use super::{task_of, tasks_of};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind};
use crate::run::Suspend;
use jiff::Timestamp;
use skpr_proto::v1::{SuspendRequest, SuspendResponse};
use skpr_proto::{Failure, Label};
use tonic::Request;

pub(super) async fn suspend(
    shared: &Shared,
    request: &Request<SuspendRequest>,
    access: &mut Access,
) -> Result<SuspendResponse, Failure> {
    let (metadata, request) = (request.metadata(), request.get_ref());
    let (grant, managed) = tasks_of(shared, metadata, request.environment.as_ref(), access).await?;
    let (key, by) = (grant.environment(), by(grant.user()));
    let task = match &request.task {
        Some(named) => Some(task_of(&managed, &key.name, named)?),
        None => None,
    };
    if let Some(task) = &task {
        access.task(task);
    }
    let wanted = Suspend { task, suspended: request.suspended, dry_run: request.dry_run, by };
    let suspended = shared.platform.suspend(&grant, wanted.clone()).await?;
    if !wanted.dry_run {
        let now = Timestamp::now();
        for task in &suspended.changed {
            tell(shared, told(key, task, &wanted, now));
        }
    }
    let names = |tasks: &[Label]| tasks.iter().map(ToString::to_string).collect();
    Ok(SuspendResponse {
        changed: names(&suspended.changed),
        unchanged: names(&suspended.unchanged),
        namespace: key.namespace.to_string(),
        production: managed.settings.production == Some(true),
    })
}

fn told(environment: &EnvironmentKey, task: &Label, wanted: &Suspend, now: Timestamp) -> Event {
    let done = if wanted.suspended { "suspended" } else { "resumed" };
    let id = format!("task/{task}/{done}/{}", now.as_nanosecond());
    let text = format!("task `{task}` was {done}");
    let body = Body { by: Some(wanted.by.clone()), ..Body::new(id, Kind::Task, text) };
    Event { environment: environment.clone(), time: now.into(), body }
}

/// Never waits: the change is made, and the audit has it all the same.
fn tell(shared: &Shared, event: Event) {
    if let Err(error) = shared.tell.try_send(event) {
        tracing::warn!(%error, "an event of a task has no place in the queue");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stream;
    use crate::inventory::tests::key;

    #[test]
    fn each_change_is_an_event_of_its_own() {
        let task = Label::parse("task", "drush").unwrap();
        let event = |suspended, second| {
            let wanted = Suspend { task: None, suspended, dry_run: false, by: "dana".into() };
            let now = Timestamp::from_second(second).unwrap();
            told(&key("sites", "shop", "dev"), &task, &wanted, now).body
        };
        let first = event(true, 1);
        assert_eq!((first.text.as_str(), first.by.as_deref()), ("task `drush` was suspended", Some("dana")));
        assert_eq!((first.id.as_str(), first.stream()), ("task/drush/suspended/1000000000", Stream::Events));
        let ids = [first.id, event(false, 1).id, event(true, 2).id];
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
}
