//! What users ask of tasks: a run now, and that they are suspended or resumed. Pure.

use super::plan::{Look, MOST_AT_ONCE, Place, Plan};
use crate::run::{Run, RunId, RunNow, Suspend, Suspended, Suspension, command, words};
use skpr_proto::manifest::Overlap;
use skpr_proto::{ErrorKind, Failure, Label};

/// The run that a user asks for, about to begin, and what else is to be done for it.
pub(super) fn run_now(look: &Look<'_>, wanted: &RunNow, chance: u64) -> Result<(Plan, Run), Failure> {
    let (environment, name) = (&look.written.environment, &wanted.task);
    let task = match look.tasks.get(name) {
        Some(Some(task)) => task,
        Some(None) => {
            let sentence =
                format!("what runs in `{environment}` has no task `{name}` yet: it is being deployed");
            return Err(unavailable(sentence, "try again when the deploy has ended"));
        }
        None => return Err(words::no_task(environment, name)),
    };
    command::takes(name, task.command.as_str(), &wanted.arguments)?;
    if task.overlap == Overlap::Forbid
        && let Some(holder) = look.written.running_of(name).next()
    {
        return Err(words::locked(environment, holder));
    }
    match look.place {
        Place::There(_) if look.written.running.len() >= MOST_AT_ONCE => {
            let sentence =
                format!("`{environment}` has {MOST_AT_ONCE} runs already, the most that it may have");
            return Err(unavailable(sentence, "try again when some have ended"));
        }
        Place::There(_) => {}
        Place::Coming => {
            let sentence = format!("the files of `{environment}` are being put in place");
            return Err(unavailable(sentence, "try again in a moment"));
        }
        Place::Starting => {
            let sentence = format!("the first release of `{environment}` is still being started");
            return Err(unavailable(sentence, "try again in a moment"));
        }
        Place::Nowhere(reason) => {
            let sentence = format!("nothing can run in `{environment}`: {reason}");
            return Err(
                Failure::new(ErrorKind::Failed, sentence).with_hint(format!("skpr info {environment}"))
            );
        }
        Place::Closed => return Err(unavailable(format!("`{environment}` is ending"), "try again later")),
    }
    let id = RunId::asked(name, chance);
    if look.written.has(&id) {
        return Err(unavailable(format!("a run `{id}` is there already"), "try again"));
    }
    let mut plan = Plan::nothing(look.written);
    plan.begin(look, task.overlap, Run::asked(id, wanted));
    let begun = plan.start.first().cloned();
    let begun = begun.ok_or_else(|| Failure::new(ErrorKind::Failed, "the run could not be begun"))?;
    Ok((plan, begun))
}

/// What is to be written when tasks are suspended or resumed, and which are. What was due until now has been dealt with.
pub(super) fn suspend(look: &Look<'_>, how: &Suspend) -> Result<(Plan, Suspended), Failure> {
    let mut plan = Plan::nothing(look.written);
    let names: Vec<&Label> = match &how.task {
        Some(name) if !look.tasks.contains_key(name) => {
            return Err(words::no_task(&look.written.environment, name));
        }
        Some(name) => vec![name],
        None => look.tasks.keys().collect(),
    };
    let mut suspended = Suspended::default();
    for name in names {
        let Some(entry) = plan.written.tasks.get_mut(name) else { continue };
        if entry.suspended.is_some() == how.suspended {
            suspended.unchanged.push(name.clone());
            continue;
        }
        suspended.changed.push(name.clone());
        entry.suspended = how.suspended.then(|| Suspension { by: how.by.clone(), since: look.now });
        if !how.suspended {
            // Whatever the clock does: what was due before is not made up for.
            entry.looked = entry.looked.max(look.now);
        }
    }
    if how.dry_run {
        plan = Plan::nothing(look.written);
    }
    Ok((plan, suspended))
}

fn unavailable(sentence: String, hint: &str) -> Failure {
    Failure::new(ErrorKind::Unavailable, sentence).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::super::written::{Entry, Written};
    use super::*;
    use crate::run::Trigger;
    use jiff::Timestamp;
    use skpr_proto::EnvironmentName;
    use skpr_proto::manifest::Task;
    use std::collections::{BTreeMap, BTreeSet};

    fn label(name: &str) -> Label {
        Label::parse("task", name).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    struct Given {
        written: Written,
        tasks: BTreeMap<Label, Option<Task>>,
    }

    impl Given {
        fn new(overlap: &str) -> Given {
            let settings = serde_json::json!({"schedule": "@daily", "command": "x", "overlap": overlap});
            let task: Task = serde_json::from_value(settings).unwrap();
            let mut written = Written::new(&EnvironmentName::parse("shop", "dev").unwrap());
            let tasks: BTreeMap<Label, Option<Task>> =
                [(label("drush"), Some(task)), (label("new"), None)].into_iter().collect();
            written.tasks.extend(tasks.keys().map(|name| (name.clone(), Entry::new(at(0)))));
            Given { written, tasks }
        }

        fn look<T>(&self, place: Place<'_>, with: impl FnOnce(&Look<'_>) -> T) -> T {
            let (held, ended) = (BTreeSet::new(), BTreeMap::new());
            let (written, tasks) = (&self.written, &self.tasks);
            with(&Look { written, tasks, place, held: &held, ended: &ended, now: at(100) })
        }

        fn run(&self, task: &str, place: Place<'_>) -> Result<(Plan, Run), Failure> {
            let wanted = RunNow { task: label(task), arguments: vec![], by: "ann".into() };
            self.look(place, |look| run_now(look, &wanted, 7))
        }

        fn suspend(&mut self, task: Option<&str>, suspended: bool) -> Result<Suspended, Failure> {
            let how = Suspend { task: task.map(label), suspended, dry_run: false, by: "bob".into() };
            let (plan, changed) = self.look(Place::There("v1"), |look| suspend(look, &how))?;
            self.written = plan.written;
            Ok(changed)
        }
    }

    #[test]
    fn a_run_begins_with_a_name_of_its_own() {
        let given = Given::new("forbid");
        let (plan, run) = given.run("drush", Place::There("v1")).unwrap();
        assert_eq!((run.began, run.due, &*run.version), (Some(at(100)), None, "v1"));
        assert_eq!(run.instance, Some(format!("shop-dev--{}", run.id)));
        assert_eq!((&plan.written.running, &plan.start), (&vec![run.clone()], &vec![run]));
    }

    #[test]
    fn one_that_runs_is_named_to_whoever_wants_another() {
        let mut given = Given::new("forbid");
        given.written = given.run("drush", Place::There("v1")).unwrap().0.written;
        let failure = given.run("drush", Place::There("v1")).unwrap_err();
        let id = given.written.running[0].id.clone();
        assert_eq!(failure.kind, ErrorKind::Locked);
        let sentence = "task `drush` of `shop/dev` is locked: ann has been running";
        assert_eq!(failure.message, format!("{sentence} `{id}` since 1970-01-01 00:01:40 UTC"));
        given.written.running[0].trigger = Trigger::Schedule;
        let failure = given.run("drush", Place::There("v1")).unwrap_err();
        assert!(failure.message.contains("by its schedule since 1970"), "{failure}");
        for (overlap, ends) in [("allow", 0), ("replace", 1)] {
            let given = Given { written: given.written.clone(), ..Given::new(overlap) };
            let plan = given.look(Place::There("v1"), |look| {
                let wanted = RunNow { task: label("drush"), arguments: vec![], by: "ann".into() };
                run_now(look, &wanted, 8).unwrap().0
            });
            assert_eq!((plan.start.len(), plan.end.len()), (1, ends), "{overlap}");
        }
    }

    #[test]
    fn what_cannot_run_is_said() {
        let given = Given::new("allow");
        for (task, place, kind) in [
            ("none", Place::There("v1"), ErrorKind::NotFound),
            ("new", Place::There("v1"), ErrorKind::Unavailable),
            ("drush", Place::Coming, ErrorKind::Unavailable),
            ("drush", Place::Starting, ErrorKind::Unavailable),
            ("drush", Place::Nowhere("nothing is deployed"), ErrorKind::Failed),
            ("drush", Place::Closed, ErrorKind::Unavailable),
        ] {
            assert_eq!(given.run(task, place).unwrap_err().kind, kind, "{task} {place:?}");
        }
        let mut full = Given::new("allow");
        let other = Run::due(&label("other"), at(0));
        full.written.running = vec![other; MOST_AT_ONCE];
        assert_eq!(full.run("drush", Place::There("v1")).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn what_is_so_already_is_not_changed() {
        let mut given = Given::new("forbid");
        assert_eq!(given.suspend(Some("x"), true).unwrap_err().kind, ErrorKind::NotFound);
        let one = given.suspend(Some("drush"), true).unwrap();
        assert_eq!((one.changed, one.unchanged), (vec![label("drush")], vec![]));
        let all = given.suspend(None, true).unwrap();
        assert_eq!((all.changed, all.unchanged), (vec![label("new")], vec![label("drush")]));
        let entry = given.written.tasks[&label("drush")].clone();
        assert_eq!(entry.suspended, Some(Suspension { by: "bob".into(), since: at(100) }));
        given.suspend(None, false).unwrap();
        let entry = &given.written.tasks[&label("drush")];
        assert_eq!((entry.looked, &entry.suspended), (at(100), &None));
        let how = Suspend { task: None, suspended: true, dry_run: true, by: "bob".into() };
        let (plan, said) = given.look(Place::There("v1"), |look| suspend(look, &how)).unwrap();
        assert_eq!((plan.written == given.written, said.changed.len()), (true, 2));
    }
}
