//! What everybody sees of an environment's tasks: what stands in its status, and what Jobs say since. Pure.

use super::jobs::Seen;
use super::status::TaskStatuses;
use crate::run::{Suspension, TaskState};
use jiff::Timestamp;
use skpr_proto::Label;
use skpr_proto::manifest::Task;
use std::collections::BTreeMap;

/// Each task of the settings.
pub(in crate::platform::kubernetes) fn states(
    settings: Option<&BTreeMap<Label, Task>>,
    suspended: &BTreeMap<Label, Suspension>,
    remembered: &TaskStatuses,
    seen: Option<&[Seen]>,
    now: Timestamp,
) -> BTreeMap<Label, TaskState> {
    let fresh = |task: &Label| {
        let status = remembered.get(task);
        let mut state = TaskState {
            suspended: suspended.get(task).cloned(),
            running: vec![],
            last: status.and_then(|status| status.last.clone()),
            last_success: status.and_then(|status| status.last_success),
            lately: vec![],
            // Kubernetes begins them whatever skpr does.
            trouble: None,
        };
        // What is not known any better runs as it did.
        if seen.is_none() {
            state.running = status.map(|status| status.running.clone()).unwrap_or_default();
        }
        (task.clone(), state)
    };
    let tasks = settings.into_iter().flat_map(BTreeMap::keys);
    let mut states: BTreeMap<Label, TaskState> = tasks.map(fresh).collect();
    for seen in seen.unwrap_or_default().iter().filter(|seen| !seen.job.is_held) {
        let Some(state) = states.get_mut(&seen.job.task) else { continue };
        let run = seen.run(now);
        match run.outcome {
            None => state.running.push(run),
            Some(_) => state.ended(run),
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::super::job::tests::object;
    use super::super::job::{JobEnd, facts_of};
    use super::*;
    use crate::run::{Outcome, Run};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn what_stands_in_the_status_is_brought_up_to_date_by_jobs() {
        let task = Label::parse("task", "drush").unwrap();
        let settings: BTreeMap<Label, Task> =
            serde_json::from_value(json!({"drush": {"schedule": "* * * * *", "command": "x"}, "other":
                {"schedule": "@daily", "command": "y"}}))
            .unwrap();
        let suspension = Suspension { by: "ann".into(), since: Timestamp::UNIX_EPOCH };
        let suspended = [(task.clone(), suspension.clone())].into();
        let old = Run::not_begun(&task, Timestamp::UNIX_EPOCH, Outcome::Missed, "why".into());
        let running = Run { began: Some(Timestamp::UNIX_EPOCH), ..Run::due(&task, Timestamp::UNIX_EPOCH) };
        let status = super::super::status::TaskStatus {
            last: Some(old.clone()),
            running: vec![running.clone()],
            ..Default::default()
        };
        let remembered: TaskStatuses = [(task.clone(), status)].into();
        let states =
            |seen: Option<&[Seen]>| states(Some(&settings), &suspended, &remembered, seen, Timestamp::now());
        // What nobody can see now runs as it did.
        let first = states(None);
        assert_eq!(first.len(), 2);
        assert_eq!((first[&task].running.len(), first[&task].last.as_ref()), (1, Some(&old)));
        assert_eq!(first[&task].suspended.as_ref(), Some(&suspension));
        let (_, mut job) = facts_of(&object("shop-dev--drush-1", |_| ())).unwrap();
        let begun = Seen { job: Arc::new(job.clone()), pod: None };
        job.end = Some(JobEnd { at: job.created, failure: None });
        let ended = Seen { job: Arc::new(job), pod: None };
        let one = states(Some(&[begun]));
        assert_eq!((one[&task].running[0].stage(), one[&task].last.as_ref()), ("waiting", Some(&old)));
        let one = states(Some(&[ended]));
        assert_eq!((one[&task].running.len(), one[&task].last.as_ref().unwrap().stage()), (0, "succeeded"));
        assert_eq!(states(Some(&[]))[&task].running, []);
    }
}
