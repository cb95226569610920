//! From what is known of tasks and runs to what the CLI is told. Pure.

use super::super::wire::instant;
use crate::run::{Run, TaskState, Trigger};
use jiff::Timestamp;
use skpr_proto::manifest::{self, Overlap};
use skpr_proto::{Label, v1};

/// What of it only agents know is left out.
pub(super) fn run(run: &Run) -> v1::Run {
    let (trigger, by) = match &run.trigger {
        Trigger::Schedule => ("schedule", ""),
        Trigger::User(name) => ("user", name.as_str()),
    };
    v1::Run {
        id: run.id.to_string(),
        task: run.task.to_string(),
        trigger: trigger.to_owned(),
        by: by.to_owned(),
        version: run.version.clone(),
        due: run.due.map(instant),
        began: run.began.map(instant),
        ended: run.ended.map(instant),
        outcome: run.stage().to_owned(),
        exit_code: run.exit_code,
        instance: run.instance.clone(),
        reason: run.reason.clone(),
        output_coming: false,
    }
}

/// A task of an environment that is not being deleted.
pub(super) fn task(name: &Label, task: &manifest::Task, state: &TaskState, now: Timestamp) -> v1::Task {
    let is_due = state.suspended.is_none() && state.trouble.is_none();
    let next = is_due.then(|| task.next_after(now)).flatten();
    let timeout = task.timeout.as_ref().map_or(0, |timeout| timeout.duration().as_secs());
    v1::Task {
        name: name.to_string(),
        schedule: task.schedule.as_str().to_owned(),
        timezone: task.zone().to_string(),
        command: task.command.as_str().to_owned(),
        timeout_seconds: u32::try_from(timeout).unwrap_or(u32::MAX),
        overlap: overlap(task.overlap).to_owned(),
        next: next.map(instant),
        suspended: state.suspended.as_ref().map(|suspended| v1::Suspension {
            by: suspended.by.clone(),
            since: Some(instant(suspended.since)),
        }),
        running: state.running.iter().map(run).collect(),
        last: state.last.as_ref().map(run),
        last_success: state.last_success.map(instant),
        trouble: state.trouble.clone(),
    }
}

fn overlap(overlap: Overlap) -> &'static str {
    match overlap {
        Overlap::Forbid => "forbid",
        Overlap::Allow => "allow",
        Overlap::Replace => "replace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{RunId, RunNow, Suspension};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_task_that_is_suspended_is_due_at_no_time() {
        let settings = serde_json::json!({
            "schedule": "30 2 * * *", "command": "drush cron", "timezone": "Australia/Sydney", "timeout": "10m",
        });
        let settings: manifest::Task = serde_json::from_value(settings).unwrap();
        let name = Label::parse("task", "drush").unwrap();
        let mut state = TaskState { last_success: Some(at(7)), ..TaskState::default() };
        // 2026-01-01 in the morning, in Sydney eleven hours later.
        let shown = task(&name, &settings, &state, at(1_767_225_600));
        assert_eq!(shown.next, Some(instant(at(1_767_225_600 + (15 * 60 + 30) * 60))));
        assert_eq!((shown.timezone.as_str(), shown.timeout_seconds), ("Australia/Sydney", 600));
        assert_eq!((shown.overlap.as_str(), shown.last_success), ("forbid", Some(instant(at(7)))));
        state.suspended = Some(Suspension { by: "dana".into(), since: at(9) });
        let shown = task(&name, &settings, &state, at(1_767_225_600));
        assert_eq!((shown.next, shown.suspended.unwrap().by.as_str()), (None, "dana"));
    }

    #[test]
    fn a_task_that_is_in_trouble_is_not_shown_as_due() {
        let settings = serde_json::json!({"schedule": "* * * * *", "command": "x"});
        let settings: manifest::Task = serde_json::from_value(settings).unwrap();
        let state = TaskState { trouble: Some("the disk is full".into()), ..TaskState::default() };
        let shown = task(&Label::parse("task", "drush").unwrap(), &settings, &state, at(7));
        assert_eq!((shown.next, shown.trouble.as_deref()), (None, Some("the disk is full")));
    }

    #[test]
    fn a_run_says_what_made_it_begin() {
        let task = Label::parse("task", "drush").unwrap();
        let due = run(&Run { began: Some(at(62)), ..Run::due(&task, at(60)) });
        assert_eq!((due.id.as_str(), due.trigger.as_str(), due.by.as_str()), ("drush-1", "schedule", ""));
        assert_eq!(
            (due.outcome.as_str(), due.due, due.began),
            ("running", Some(instant(at(60))), Some(instant(at(62))))
        );
        let wanted = RunNow { task: task.clone(), arguments: vec![], by: "ann".into() };
        let asked = run(&Run::asked(RunId::asked(&task, 7), &wanted));
        assert_eq!((asked.trigger.as_str(), asked.by.as_str(), asked.due), ("user", "ann", None));
        assert_eq!(asked.outcome, "waiting");
    }
}
