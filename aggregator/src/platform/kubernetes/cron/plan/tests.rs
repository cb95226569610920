//! What is made of Jobs over time: what is written, told and stopped.

use super::super::job::tests::object;
use super::super::job::{Failed, Job, JobEnd, facts_of};
use super::super::story::tests::pod_of;
use super::super::told::told_runs;
use super::task::{RUNNING, WAITS};
use super::*;
use crate::inventory::tests::key;
use crate::inventory::{End, Presence};
use crate::run::{RunId, Trigger};
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

fn label(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

/// Seconds after a minute has begun in which nothing else happens.
fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

/// An environment with a task `drush`, as it goes on.
struct World {
    settings: BTreeMap<Label, Task>,
    suspended: BTreeMap<Label, Suspension>,
    status: TaskStatuses,
    jobs: Vec<Seen>,
    told: Told,
    ids: Vec<String>,
}

fn world(overlap: &str) -> World {
    let mut world = World {
        settings: BTreeMap::new(),
        suspended: BTreeMap::new(),
        status: TaskStatuses::new(),
        jobs: vec![],
        told: Told::new(),
        ids: vec![],
    };
    world.schedule("* * * * *", overlap);
    world.look(-4);
    world
}

impl World {
    fn schedule(&mut self, schedule: &str, overlap: &str) {
        let task = json!({"schedule": schedule, "command": "x", "overlap": overlap});
        self.settings = [(label("drush"), serde_json::from_value(task).unwrap())].into();
    }

    fn suspend(&mut self, second: Option<i64>) {
        let suspension = second.map(|second| Suspension { by: "ann".into(), since: at(second) });
        self.suspended = suspension.into_iter().map(|suspension| (label("drush"), suspension)).collect();
    }

    fn plan(&self, second: i64, seen: Option<&[Seen]>) -> Plan {
        plan(&Look {
            settings: Some(&self.settings),
            suspended: &self.suspended,
            before: &self.status,
            seen,
            now: at(second),
        })
    }

    /// A round, after which what is written is written and what is told is told.
    fn look(&mut self, second: i64) -> Plan {
        let plan = self.plan(second, Some(&self.jobs));
        for ended in &plan.ended {
            for seen in self.jobs.iter_mut().filter(|seen| seen.job.name == ended.job) {
                Arc::make_mut(&mut seen.job).told = Some(ended.run.clone());
            }
        }
        self.status = plan.tasks.clone();
        let (events, told) = told_runs(&key("sites", "shop", "dev"), &self.told, &plan.telling, at(second));
        self.told = told;
        self.ids.extend(events.into_iter().map(|(event, _)| event.body.id));
        plan
    }

    /// What was told since this was asked last, each with the minute that its id says.
    fn told(&mut self) -> Vec<String> {
        let zero = at(0).as_second() / 60;
        let short = |id: String| {
            let (run, stage) = id.strip_prefix("run/drush-").unwrap().split_once('/').unwrap();
            run.parse::<i64>().map_or(id.clone(), |minute| format!("{} {stage}", minute - zero))
        };
        std::mem::take(&mut self.ids).into_iter().map(short).collect()
    }

    fn job(&mut self, minute: i64) -> &mut Seen {
        let due = at(60 * minute);
        let name = format!("shop-dev--drush-{}", due.as_second() / 60);
        let (_, job) = facts_of(&object(&name, |_| ())).unwrap();
        let job = Job { created: due, started: Some(due), ..job };
        self.jobs.push(Seen { job: Arc::new(job), pod: None });
        self.jobs.last_mut().unwrap()
    }

    /// Kubernetes begins the run of a minute, five seconds late.
    fn begins(&mut self, minute: i64) {
        let started = at(60 * minute + 5);
        let seen = self.job(minute);
        let mut pod = pod_of(&seen.job.name, &format!("{}-x", seen.job.name));
        pod.detail.started = Some(started);
        seen.pod = Some(Arc::new(pod));
    }

    fn find(&mut self, minute: i64) -> &mut Seen {
        let due = at(60 * minute);
        self.jobs.iter_mut().find(|seen| seen.job.due == Some(due)).unwrap()
    }

    fn ends(&mut self, minute: i64, second: i64, code: i32) {
        let seen = self.find(minute);
        let mut pod = seen.pod.as_deref().unwrap().clone();
        pod.detail.end = Some(End { at: Some(at(second)), exit_code: code, reason: None });
        pod.presence = Presence::Finished;
        seen.pod = Some(Arc::new(pod));
        let failure = (code != 0)
            .then(|| Failed { reason: "BackoffLimitExceeded".into(), message: "it failed".into() });
        Arc::make_mut(&mut seen.job).end = Some(JobEnd { at: at(second + 1), failure });
    }

    fn vanish(&mut self, minute: i64) {
        let due = at(60 * minute);
        self.jobs.retain(|seen| seen.job.due != Some(due));
    }

    fn drush(&self) -> &TaskStatus {
        &self.status[&label("drush")]
    }
}

#[test]
fn a_run_is_told_when_it_begins_and_when_it_has_ended_and_its_job_says_how() {
    let mut world = world("forbid");
    world.begins(1);
    let plan = world.look(66);
    assert_eq!((world.told(), plan.ended.len()), (vec!["1 running".to_owned()], 0));
    assert_eq!(world.drush().running.len(), 1);
    assert_eq!(plan.busy.unwrap().len(), 1);
    world.ends(1, 70, 3);
    let plan = world.look(71);
    assert_eq!((world.told(), plan.ended.len()), (vec!["1 failed".to_owned()], 1));
    assert_eq!((world.drush().running.len(), world.drush().last.as_ref().unwrap().exit_code), (0, Some(3)));
    let before = world.status.clone();
    let plan = world.look(72);
    assert!(plan.is_settled(&before) && plan.busy.unwrap().is_empty() && world.told().is_empty());
    // The next that can be said is that of the next minute.
    assert_eq!(plan.look, Some(at(120 + 40)));
}

#[test]
fn that_a_run_was_begun_in_time_is_no_reason_to_write() {
    let mut world = world("forbid");
    world.job(1);
    let before = world.status.clone();
    assert!(world.look(62).is_settled(&before));
    assert_eq!(world.plan(62, Some(&world.jobs)).look, Some(at(60) + WAITS));
    // One that waits for long is written down, should it vanish.
    let plan = world.look(91);
    assert!(!plan.is_settled(&before));
    world.vanish(1);
    world.look(95);
    assert_eq!(world.told(), ["1 missed"]);
    assert_eq!(
        world.drush().last.as_ref().unwrap().reason.as_deref(),
        Some("its Job was deleted before it began")
    );
}

#[test]
fn what_was_due_and_did_not_begin_is_told_once_also_after_a_crash() {
    let mut world = world("forbid");
    world.look(99);
    assert_eq!(world.told(), [""; 0]);
    // What is decided is written before it is told: another tells the same, with the same identity.
    world.status = world.plan(101, Some(&world.jobs)).tasks;
    world.look(102);
    assert_eq!(world.told(), ["1 missed"]);
    world.look(103);
    assert_eq!(world.told(), [""; 0]);
    world.told.clear();
    world.look(104);
    assert_eq!(world.told(), ["1 missed"]);
    assert!(world.plan(104, Some(&world.jobs)).telling[0].is_news);
}

#[test]
fn while_jobs_are_not_known_nothing_is_said_and_what_was_said_stands() {
    let mut world = world("forbid");
    world.begins(1);
    world.look(66);
    let plan = world.plan(999, None);
    assert!(plan.is_settled(&world.status) && plan.telling.is_empty() && plan.busy.is_none());
    world.suspend(Some(1000));
    assert!(world.plan(1000, None).stopped.contains(&label("drush")), "it can be stopped all the same");
}

#[test]
fn a_run_whose_job_is_deleted_is_told_to_have_ended_nobody_knows_how() {
    let mut world = world("forbid");
    world.begins(1);
    world.look(66);
    world.vanish(1);
    world.look(80);
    assert_eq!(world.told(), ["1 running", "1 unknown"]);
    world.look(85);
    assert_eq!((world.told().len(), world.drush().running.len()), (0, 0));
    // Whoever takes over tells it again.
    world.told.clear();
    world.look(86);
    assert_eq!(world.told(), ["1 running", "1 unknown"]);
}

#[test]
fn where_the_next_takes_its_place_it_is_replaced() {
    let mut world = world("replace");
    world.begins(1);
    world.look(66);
    world.vanish(1);
    world.begins(2);
    world.look(126);
    assert_eq!(world.told(), ["1 running", "2 running", "1 replaced"]);
    let reason = world.drush().last.as_ref().unwrap().reason.clone().unwrap();
    assert!(reason.ends_with("took its place"), "{reason}");
}

#[test]
fn one_that_was_asked_for_and_replaced_before_it_began_is_told() {
    let mut world = world("replace");
    let ask = |world: &mut World, chance| {
        let id = RunId::asked(&label("drush"), chance);
        let job = Arc::make_mut(&mut world.job(1).job);
        (job.id, job.due, job.trigger) = (id.clone(), None, Trigger::User("ann".into()));
        id
    };
    let first = ask(&mut world, 28);
    world.look(62);
    assert_eq!(world.drush().running.len(), 1);
    world.jobs.clear();
    ask(&mut world, 29);
    world.look(65);
    assert_eq!(world.told(), [format!("run/{first}/replaced")]);
    assert_eq!(world.drush().last.as_ref().unwrap().ended, Some(at(65)));
}

#[test]
fn what_is_due_while_another_runs_is_skipped() {
    let mut world = world("forbid");
    world.begins(1);
    world.look(66);
    world.look(161);
    assert_eq!(world.told(), ["1 running", "2 skipped"]);
    world.ends(1, 190, 0);
    world.look(192);
    world.look(221);
    assert_eq!(world.told(), ["1 succeeded", "3 skipped"]);
    assert_eq!(world.drush().last_success, Some(at(190)));
}

#[test]
fn a_suspension_stops_at_once_and_is_over_when_nothing_would_be_made_up_for() {
    let mut world = world("forbid");
    world.look(1);
    world.suspend(Some(50));
    assert!(world.look(51).stopped.contains(&label("drush")));
    let plan = world.look(101);
    assert_eq!((world.told(), plan.stopped.len()), (vec!["1 suspended".to_owned()], 1));
    // It is resumed while Kubernetes would still begin what was due at 120.
    world.suspend(None);
    let plan = world.look(130);
    assert_eq!((plan.stopped.len(), plan.look), (1, Some(at(155))));
    assert_eq!(world.look(154).stopped.len(), 1);
    let plan = world.look(156);
    assert!(plan.stopped.is_empty());
    world.look(161);
    assert_eq!(world.told(), ["2 suspended"]);
    // And again as ever.
    world.begins(3);
    world.look(186);
    assert_eq!(world.told(), ["3 running"]);
    world.look(285);
    assert_eq!(world.told(), ["4 skipped"]);
}

#[test]
fn a_task_that_is_suspended_again_before_it_was_let_go_stays_stopped() {
    let mut world = world("forbid");
    world.suspend(Some(50));
    world.look(51);
    world.suspend(None);
    world.look(62);
    world.suspend(Some(63));
    world.look(64);
    let before = world.status.clone();
    assert!(world.look(65).is_settled(&before), "it comes to rest");
    world.look(101);
    assert_eq!(world.told(), ["1 suspended"]);
}

#[test]
fn what_was_due_in_a_suspension_is_so_also_when_another_follows_at_once() {
    let mut world = world("forbid");
    world.suspend(Some(50));
    world.look(51);
    world.suspend(None);
    assert!(world.look(62).stopped.contains(&label("drush")));
    assert!(world.look(96).stopped.is_empty());
    world.suspend(Some(97));
    world.look(98);
    world.look(101);
    assert_eq!(world.told(), ["1 suspended"]);
}

#[test]
fn what_stands_on_a_job_and_was_not_told_is_news_until_the_status_knows_it() {
    let mut world = world("forbid");
    world.begins(1);
    world.look(66);
    world.ends(1, 70, 0);
    // Killed between the two writes.
    let ended = world.plan(71, Some(&world.jobs)).ended.remove(0).run;
    Arc::make_mut(&mut world.find(1).job).told = Some(ended);
    let news = |world: &World| world.plan(9000, Some(&world.jobs)).telling[0].is_news;
    assert!(news(&world));
    world.look(72);
    assert!(!news(&world));
}

#[test]
fn however_many_go_on_and_whatever_they_are_called_the_status_stays_small() {
    let mut world = world("allow");
    for minute in 1..=60 {
        world.begins(minute);
    }
    for number in 0..300 {
        let mut seen = world.jobs[0].clone();
        Arc::make_mut(&mut seen.job).task = label(&format!("foreign-{number}"));
        world.jobs.push(seen);
    }
    world.look(3700);
    assert_eq!((world.status.len(), world.drush().running.len()), (1 + LEFT, RUNNING));
    assert_eq!(world.drush().running.last().unwrap().due, Some(at(3600)));
}

#[test]
fn another_schedule_has_no_past() {
    let mut world = world("forbid");
    world.schedule("0,30 * * * *", "forbid");
    world.look(600);
    world.look(700);
    assert_eq!(world.told(), [""; 0]);
    world.look(1800 + 209);
    assert_eq!(world.told(), [""; 0]);
    world.look(1800 + 211);
    assert_eq!(world.told(), ["30 missed"]);
}

#[test]
fn of_a_task_that_is_not_wanted_any_more_what_runs_comes_to_its_end() {
    let mut world = world("forbid");
    world.begins(1);
    world.look(66);
    world.settings.clear();
    let plan = world.look(90);
    assert!(plan.busy.unwrap().contains("shop-dev--drush") && world.status.len() == 1);
    world.ends(1, 100, 0);
    let plan = world.look(101);
    assert!(world.status.is_empty());
    assert_eq!(plan.busy.unwrap().len(), 1, "that it has ended is only being written");
    assert!(world.look(102).busy.unwrap().is_empty());
    assert_eq!(world.told(), ["1 running", "1 succeeded"]);
}

#[test]
fn a_task_that_comes_back_while_it_still_runs_was_not_due_meanwhile() {
    let mut world = world("allow");
    world.begins(1);
    world.look(66);
    let settings = std::mem::take(&mut world.settings);
    world.look(90);
    world.settings = settings;
    world.look(400);
    world.look(459);
    assert_eq!(world.told(), ["1 running"]);
    world.look(461);
    assert_eq!(world.told(), ["7 missed"]);
}

#[test]
fn what_was_left_half_begun_is_taken_away_and_is_no_run() {
    let mut world = world("forbid");
    let seen = world.job(1);
    let job = Arc::make_mut(&mut seen.job);
    job.is_held = true;
    (job.due, job.trigger, job.id) = (None, Trigger::User("ann".into()), RunId::asked(&label("drush"), 7));
    let plan = world.look(70);
    assert!(plan.abandoned.is_empty() && plan.telling.is_empty());
    assert_eq!(plan.look, Some(at(60 + 40)));
    let plan = world.look(121);
    assert_eq!(plan.abandoned.len(), 1);
}

#[test]
fn what_happened_while_skpr_was_away_is_told_as_far_as_kubernetes_remembers() {
    let mut world = world("forbid");
    for minute in 1..=12 {
        world.begins(minute);
        world.ends(minute, 60 * minute + 10, 0);
    }
    // Two of twelve it has deleted.
    world.vanish(1);
    world.vanish(2);
    world.look(60 * 14 + 41);
    let told = world.told();
    let (ended, others): (Vec<_>, Vec<_>) =
        told.iter().partition(|it| it.contains("succ") | it.contains("run"));
    assert_eq!(ended.len(), 20, "{told:?}");
    assert_eq!(others, ["1 unknown", "2 unknown", "13 missed", "14 missed"]);
}

proptest! {
    /// Kubernetes begins, ends and deletes what it likes; whoever looks crashes and is followed by another. Of each run one
    /// end is told, never two that differ, and of each minute that has passed something.
    #[test]
    fn each_run_has_one_end_whoever_tells_it(
        steps in proptest::collection::vec((0u8..10, 1i64..50), 1..120),
    ) {
        let mut world = world("allow");
        let mut second = -4;
        let mut begun = BTreeSet::new();
        for (what, pause) in steps {
            second += pause;
            let minute = second.div_euclid(60);
            match what {
                // In time, and of a minute that has none.
                0..=2 if minute >= 1 && second % 60 < 29 && begun.insert(minute) => world.begins(minute),
                3..=4 => {
                    let open = world.jobs.iter().find(|seen| seen.job.end.is_none());
                    if let Some(due) = open.and_then(|seen| seen.job.due) {
                        let minute = due.duration_since(at(0)).as_secs() / 60;
                        world.ends(minute, second.max(60 * minute + 6), i32::from(what == 4));
                    }
                }
                5 if !world.jobs.is_empty() => {
                    // Only what has been looked at: what nobody saw, nobody can tell of.
                    world.look(second);
                    world.jobs.remove(0);
                }
                // Killed after the writes, before it told; another begins.
                6 => {
                    let plan = world.plan(second, Some(&world.jobs));
                    for ended in &plan.ended {
                        let seen = world.jobs.iter_mut().find(|seen| seen.job.name == ended.job).unwrap();
                        Arc::make_mut(&mut seen.job).told = Some(ended.run.clone());
                    }
                    world.status = plan.tasks;
                    world.told.clear();
                }
                _ => {}
            }
            world.look(second);
        }
        second += 60;
        world.look(second);
        let told: BTreeSet<String> = world.told().into_iter().filter(|it| !it.ends_with("running")).collect();
        let ends = |minute: i64| told.iter().filter(|it| it.starts_with(&format!("{minute} "))).count();
        for minute in 1..=second.div_euclid(60) {
            let goes_on = world.jobs.iter().any(|seen| seen.job.due == Some(at(60 * minute)) && seen.job.end.is_none());
            let is_open = second - 60 * minute < 40 && !begun.contains(&minute);
            let expected = usize::from(!goes_on && !is_open);
            prop_assert_eq!(ends(minute), expected, "minute {}: {:?}", minute, told);
        }
    }
}
