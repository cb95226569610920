//! When a task was due and did not begin, and why. Pure.
//!
//! * Kubernetes begins a run no later than [`start_within`] after it was due; before that is over nothing is said of it.
//! * A time is looked at once: what is said of it is said for good. Those before one that is still open wait for it.

use super::status::{Stopped, TaskStatus};
use crate::run::{Outcome, Run, RunId, Suspension, due, start_within, words};
use jiff::{SignedDuration, Timestamp};
use skpr_proto::Label;
use skpr_proto::manifest::{Overlap, Task};
use std::time::Duration;

/// How late the news of a Job may come that Kubernetes made at the last moment.
pub(super) const NEWS: Duration = Duration::from_secs(10);

/// What is known of when a task was due, and of what ran.
pub(super) struct Past<'a> {
    pub(super) task: &'a Label,
    pub(super) settings: &'a Task,
    pub(super) before: &'a TaskStatus,
    /// As it is asked for.
    pub(super) suspended: Option<&'a Suspension>,
    pub(super) spells: &'a [Spell],
    /// Runs before these may have had Jobs that Kubernetes has deleted since: it keeps so many.
    pub(super) forgotten_before: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// A run and the time that it took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spell {
    pub(super) id: RunId,
    pub(super) from: Timestamp,
    /// None: it goes on.
    pub(super) until: Option<Timestamp>,
    /// What has become of it can be told, whatever happens to its Job.
    pub(super) is_certain: bool,
}

/// What has come of looking.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Looked {
    /// Of each time until then it is known what became of it.
    pub(super) until: Timestamp,
    /// Oldest first.
    pub(super) unbegun: Vec<Run>,
    /// When the next can be said; none: it never comes.
    pub(super) again: Option<Timestamp>,
}

/// Looks at every time since it was looked last.
pub(super) fn look(past: &Past<'_>) -> Looked {
    let Past { task, settings, before, spells, now, .. } = past;
    let within = start_within(settings) + NEWS;
    let due = due(settings, before.looked, *now);
    let mut looked = Looked { until: before.looked, ..Looked::default() };
    if let Some(older) = due.older {
        let (outcome, reason) = why(past, older.newest);
        looked.unbegun.push(older.not_begun(task, outcome, reason));
    }
    for time in due.times {
        let id = RunId::due(task, time);
        match spells.iter().find(|spell| spell.id == id) {
            Some(spell) if !spell.is_certain => break,
            Some(_) => {}
            None if now.duration_since(time) < SignedDuration::try_from(within).unwrap_or_default() => break,
            None => {
                let (outcome, reason) = why(past, time);
                looked.unbegun.push(Run::not_begun(task, time, outcome, reason));
            }
        }
        looked.until = time;
    }
    looked.again = settings.next_after(looked.until).and_then(|next| next.checked_add(within).ok());
    looked
}

/// Why a run that was due then did not begin.
fn why(past: &Past<'_>, due: Timestamp) -> (Outcome, String) {
    let asked = past.suspended.map(Stopped::of);
    let mut stopped = past.before.stopped.iter().chain(&asked);
    if let Some(stopped) = stopped.find(|stopped| stopped.covers(due)) {
        return (Outcome::Suspended, words::suspended(&stopped.by));
    }
    let ran = |spell: &&Spell| spell.from <= due && spell.until.is_none_or(|until| until >= due);
    if let (Overlap::Forbid, Some(other)) = (past.settings.overlap, past.spells.iter().find(ran)) {
        return (Outcome::Skipped, words::skipped(&other.id));
    }
    if past.forgotten_before.is_some_and(|oldest| due < oldest) {
        let reason = "nobody looked when it was due, and Kubernetes keeps only the last Jobs";
        return (Outcome::Unknown, reason.to_owned());
    }
    let seconds = start_within(past.settings).as_secs();
    (Outcome::Missed, format!("Kubernetes did not begin it within {seconds} s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn label() -> Label {
        Label::parse("task", "drush").unwrap()
    }

    fn task(schedule: &str, overlap: &str) -> Task {
        serde_json::from_value(json!({"schedule": schedule, "command": "x", "overlap": overlap})).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn spell(due: i64, until: Option<i64>) -> Spell {
        Spell { id: RunId::due(&label(), at(due)), from: at(due), until: until.map(at), is_certain: true }
    }

    struct World {
        task: Task,
        before: TaskStatus,
        suspended: Option<Suspension>,
        spells: Vec<Spell>,
        forgotten_before: Option<Timestamp>,
    }

    /// A task of every minute that was looked at when it was due at 60.
    fn world(overlap: &str) -> World {
        let before = TaskStatus { looked: at(60), ..TaskStatus::default() };
        let task = task("* * * * *", overlap);
        World { task, before, suspended: None, spells: vec![], forgotten_before: None }
    }

    impl World {
        fn look(&self, now: i64) -> Looked {
            look(&Past {
                task: &label(),
                settings: &self.task,
                before: &self.before,
                suspended: self.suspended.as_ref(),
                spells: &self.spells,
                forgotten_before: self.forgotten_before,
                now: at(now),
            })
        }

        /// Minutes with what is said of each, and up to where it was looked.
        #[track_caller]
        fn check(&self, now: i64, until: i64, expected: &[(i64, Outcome, &str)]) {
            let looked = self.look(now);
            let said: Vec<(i64, Outcome, String)> = looked
                .unbegun
                .into_iter()
                .map(|run| (run.due.unwrap().as_second(), run.outcome.unwrap(), run.reason.unwrap()))
                .collect();
            let expected: Vec<(i64, Outcome, String)> =
                expected.iter().map(|(due, outcome, why)| (*due, *outcome, (*why).to_owned())).collect();
            assert_eq!((said, looked.until), (expected, at(until)));
            assert_eq!(looked.again, Some(at(until + 60 + 40)));
        }
    }

    const MISSED: &str = "Kubernetes did not begin it within 30 s";

    #[test]
    fn nothing_is_said_while_it_may_still_begin() {
        world("forbid").check(120 + 39, 60, &[]);
        world("forbid").check(120 + 40, 120, &[(120, Outcome::Missed, MISSED)]);
    }

    #[test]
    fn what_has_begun_is_not_missed_and_one_that_waits_is_waited_for() {
        let mut world = world("allow");
        world.spells = vec![spell(120, Some(130)), spell(180, None)];
        world.check(185, 180, &[]);
        world.spells[0].is_certain = false;
        world.check(360, 60, &[]);
        world.spells[0].is_certain = true;
        world.check(300, 240, &[(240, Outcome::Missed, MISSED)]);
    }

    #[test]
    fn what_was_due_while_another_ran_is_skipped_if_both_must_not_run() {
        let mut world = world("forbid");
        world.spells = vec![spell(120, Some(250))];
        let why = format!("run `{}` still ran", world.spells[0].id);
        world.check(
            350,
            300,
            &[(180, Outcome::Skipped, &why), (240, Outcome::Skipped, &why), (300, Outcome::Missed, MISSED)],
        );
        // One that a user asked for counts alike.
        world.spells =
            vec![Spell { id: RunId::asked(&label(), 7), from: at(110), until: None, is_certain: true }];
        let why = format!("run `{}` still ran", world.spells[0].id);
        world.check(165, 120, &[(120, Outcome::Skipped, &why)]);
        world.task = task("* * * * *", "allow");
        world.check(165, 120, &[(120, Outcome::Missed, MISSED)]);
    }

    #[test]
    fn what_was_due_while_it_was_suspended_says_by_whom_also_when_it_was_resumed_since() {
        let mut world = world("forbid");
        world.suspended = Some(Suspension { by: "ann".into(), since: at(170) });
        let by = "it was suspended by ann";
        world.check(
            300,
            240,
            &[(120, Outcome::Missed, MISSED), (180, Outcome::Suspended, by), (240, Outcome::Suspended, by)],
        );
        world.suspended = None;
        world.before.stopped = Some(Stopped { by: "ann".into(), since: at(170), until: Some(at(240)) });
        world.check(
            300,
            240,
            &[(120, Outcome::Missed, MISSED), (180, Outcome::Suspended, by), (240, Outcome::Missed, MISSED)],
        );
    }

    #[test]
    fn what_kubernetes_may_have_forgotten_is_not_said_to_be_missed() {
        let mut world = world("forbid");
        (world.spells, world.forgotten_before) = (vec![spell(180, Some(181))], Some(at(180)));
        let why = "nobody looked when it was due, and Kubernetes keeps only the last Jobs";
        world.check(290, 240, &[(120, Outcome::Unknown, why), (240, Outcome::Missed, MISSED)]);
    }

    #[test]
    fn of_very_many_the_oldest_are_one_whose_reason_says_how_many() {
        let looked = world("forbid").look(60 + 1000 * 60 + 45);
        assert_eq!((looked.unbegun.len(), looked.until), (101, at(60 + 1000 * 60)));
        let first = &looked.unbegun[0];
        assert_eq!(first.due, Some(at(60 + 900 * 60)));
        let reason = format!("{MISSED}; it stands for 900 that were due until then");
        assert_eq!(first.reason.as_ref(), Some(&reason));
        assert_eq!(looked.unbegun[1].due, Some(at(60 + 901 * 60)));
    }

    #[test]
    fn very_many_that_were_due_in_a_suspension_are_no_failure() {
        let mut world = world("forbid");
        world.suspended = Some(Suspension { by: "ann".into(), since: at(60) });
        let looked = world.look(60 + 1000 * 60 + 45);
        assert!(looked.unbegun.iter().all(|run| run.outcome == Some(Outcome::Suspended)));
        let reason = "it was suspended by ann; it stands for 900 that were due until then";
        assert_eq!(looked.unbegun[0].reason.as_deref(), Some(reason));
    }

    #[test]
    fn a_task_that_never_comes_is_never_looked_at_again() {
        let mut world = world("forbid");
        world.task = task("0 0 29 2 *", "forbid");
        let looked = world.look(999);
        assert_eq!((looked.until, looked.unbegun), (at(60), vec![]));
        assert!(looked.again.is_some_and(|look| look > at(60)));
    }

    proptest! {
        /// However often and whenever it is looked at, of each time that has passed exactly one thing is said: that a run
        /// began, which its Job says, or that none did.
        #[test]
        fn each_time_is_told_once(
            began in proptest::collection::vec(any::<bool>(), 60),
            steps in proptest::collection::vec(1i64..200, 1..40),
        ) {
            let (mut world, mut now) = (world("allow"), 60);
            let mut told = vec![0; 62];
            for step in steps {
                now = (now + step).min(60 * 60);
                // Kubernetes begins some of them, up to 30 s late.
                let late = |minute: i64| minute * 60 + minute % 30;
                world.spells = (2..62)
                    .filter(|minute| began[*minute as usize - 2] && late(*minute) <= now)
                    .map(|minute| spell(minute * 60, None))
                    .collect();
                let looked = world.look(now);
                for run in looked.unbegun {
                    told[run.due.unwrap().as_second() as usize / 60] += 1;
                }
                prop_assert!(looked.until >= world.before.looked);
                world.before.looked = looked.until;
            }
            let until = world.before.looked.as_second() / 60;
            for minute in 2..62 {
                let expected = i32::from(minute <= until && !began[minute as usize - 2]);
                prop_assert_eq!(told[minute as usize], expected, "minute {}", minute);
            }
            prop_assert!(now - until * 60 < 60 + 40);
        }
    }
}
