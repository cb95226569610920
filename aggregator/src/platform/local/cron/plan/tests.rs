//! Single decisions, one after the other, in a world with a disk, processes and a clock.

mod histories;

use super::super::asked;
use super::*;
use crate::run::{RunNow, Suspend};
use skpr_proto::EnvironmentName;

const MINUTE: i64 = 60;
/// A full hour, far from the epoch.
const BEGIN: i64 = 500_000 * 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn label(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

fn task(schedule: &str, overlap: &str) -> Task {
    let settings = serde_json::json!({"schedule": schedule, "command": "x", "overlap": overlap});
    serde_json::from_value(settings).unwrap()
}

/// The environment, its disk, its processes, and everything that was ever told of it.
struct World {
    disk: Written,
    tasks: BTreeMap<Label, Option<Task>>,
    place: Place<'static>,
    held: BTreeSet<RunId>,
    ended: BTreeMap<RunId, Ending>,
    now: i64,
    /// By id, each stage in the order in which it was first told.
    told: BTreeMap<RunId, Vec<Run>>,
    started: Vec<Run>,
    chance: u64,
}

/// Where everything ends at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    Before,
    Written,
    Started,
    Told,
}

impl World {
    fn new(tasks: &[(&str, Task)]) -> World {
        let mut world = World {
            disk: Written::new(&EnvironmentName::parse("shop", "dev").unwrap()),
            tasks: tasks.iter().map(|(name, task)| (label(name), Some(task.clone()))).collect(),
            place: Place::There("v1"),
            held: BTreeSet::new(),
            ended: BTreeMap::new(),
            now: BEGIN,
            told: BTreeMap::new(),
            started: vec![],
            chance: 0,
        };
        world.look();
        world
    }

    fn with_look<T>(&self, decide: impl FnOnce(&Look<'_>) -> T) -> T {
        decide(&Look {
            written: &self.disk,
            tasks: &self.tasks,
            place: self.place,
            held: &self.held,
            ended: &self.ended,
            now: at(self.now),
        })
    }

    fn tell(&mut self, run: &Run) {
        let stages = self.told.entry(run.id.clone()).or_default();
        match stages.iter().find(|told| told.stage() == run.stage()) {
            Some(told) => assert_eq!(told, run, "told in two ways"),
            None => stages.push(run.clone()),
        }
    }

    /// As `Tasks::carry_out` does it.
    fn carry_out(&mut self, plan: Plan, crash: Option<Crash>) {
        if crash == Some(Crash::Before) {
            return self.crash();
        }
        self.disk = plan.written;
        let disk = &self.disk;
        self.ended.retain(|id, _| disk.has(id));
        let held = self.disk.running.iter().map(|run| run.id.clone()).collect::<BTreeSet<_>>();
        if crash == Some(Crash::Written) {
            return self.crash();
        }
        for (id, _) in &plan.end {
            self.end(id, Outcome::Replaced);
        }
        for run in &plan.start {
            self.begins(run);
        }
        self.held.retain(|id| held.contains(id));
        if crash == Some(Crash::Started) {
            return self.crash();
        }
        for run in plan.told.iter().chain(&plan.start) {
            self.tell(run);
        }
        if crash == Some(Crash::Told) {
            self.crash();
        }
    }

    fn begins(&mut self, run: &Run) {
        assert!(self.started.iter().all(|other| other.id != run.id), "{} begins twice", run.id);
        let others = self.held.iter().filter(|id| !self.ended.contains_key(id));
        let others =
            others.filter(|id| self.disk.running_of(&run.task).any(|other| other.id == **id)).count();
        let Some(Some(settings)) = self.tasks.get(&run.task) else { panic!("{} has no task", run.id) };
        if settings.overlap != Overlap::Allow {
            assert_eq!(others, 0, "{} overlaps", run.id);
        }
        if let Some(due) = run.due {
            assert!(self.disk.tasks[&run.task].suspended.is_none(), "{} is suspended", run.id);
            assert!(at(self.now) <= late_after(settings, due) && due <= at(self.now), "{} is late", run.id);
        }
        assert!(self.held.len() < MOST_AT_ONCE);
        self.started.push(run.clone());
        self.held.insert(run.id.clone());
    }

    fn end(&mut self, id: &RunId, outcome: Outcome) {
        let ending = Ending { at: at(self.now), outcome, exit_code: None, reason: None };
        self.ended.entry(id.clone()).or_insert(ending);
    }

    fn look(&mut self) -> Option<Timestamp> {
        let plan = self.with_look(plan);
        let wake = plan.wake;
        self.carry_out(plan, None);
        wake
    }

    /// Everything ends, and begins again with what is on the disk.
    fn crash(&mut self) {
        self.held.clear();
        self.ended.clear();
        for run in self.disk.recent().cloned().collect::<Vec<_>>() {
            self.tell(&run);
        }
    }

    fn run_now(&mut self, name: &Label, crash: Option<Crash>) -> bool {
        self.look();
        self.chance += 1;
        let wanted = RunNow { task: name.clone(), arguments: vec![], by: "ann".into() };
        let Ok((plan, _)) = self.with_look(|look| asked::run_now(look, &wanted, self.chance)) else {
            return false;
        };
        self.carry_out(plan, crash);
        true
    }

    fn suspend(&mut self, name: Option<&Label>, suspended: bool) {
        self.look();
        let how = Suspend { task: name.cloned(), suspended, dry_run: false, by: "ann".into() };
        let (plan, _) = self.with_look(|look| asked::suspend(look, &how)).unwrap();
        self.carry_out(plan, None);
    }

    /// The last that was told of the run that was due then.
    fn of(&self, name: &str, second: i64) -> Option<&Run> {
        self.told.get(&RunId::due(&label(name), at(second)))?.last()
    }

    #[track_caller]
    fn check(&self, name: &str, second: i64, stage: &str, reason: Option<&str>) {
        let run = self.of(name, second).unwrap_or_else(|| panic!("nothing was told: {:#?}", self.told));
        assert_eq!((run.stage(), run.reason.as_deref()), (stage, reason));
    }
}

fn one(overlap: &str) -> World {
    World::new(&[("m", task("* * * * *", overlap))])
}

#[test]
fn a_task_is_due_from_when_it_is_there_and_wakes_for_the_next() {
    let mut world = one("forbid");
    assert_eq!(world.look(), Some(at(BEGIN + MINUTE)));
    assert!(world.told.is_empty());
    world.now += 59;
    world.look();
    assert!(world.told.is_empty());
    world.now += 1;
    assert_eq!(world.look(), Some(at(BEGIN + 2 * MINUTE)));
    world.check("m", BEGIN + MINUTE, "running", None);
    let run = world.started[0].clone();
    assert_eq!((&*run.version, run.instance), ("v1", Some(format!("shop-dev--{}", run.id))));
    world.look();
    world.end(&run.id, Outcome::Succeeded);
    world.now += 3;
    world.look();
    world.check("m", BEGIN + MINUTE, "succeeded", None);
    assert_eq!(world.disk.tasks[&label("m")].last_success, Some(at(BEGIN + MINUTE)));
    assert_eq!(world.started.len(), 1);
}

#[test]
fn what_is_due_while_one_runs_is_skipped_or_runs_too_or_takes_its_place() {
    for (overlap, first, second, count) in [
        ("forbid", "running", "skipped", 1),
        ("allow", "running", "running", 2),
        ("replace", "replaced", "running", 2),
    ] {
        let mut world = one(overlap);
        for _ in 0..2 {
            world.now += MINUTE;
            world.look();
        }
        world.look();
        let reason = (overlap == "forbid").then(|| format!("run `m-{}` still ran", BEGIN / 60 + 1));
        world.check("m", BEGIN + MINUTE, first, None);
        world.check("m", BEGIN + 2 * MINUTE, second, reason.as_deref());
        assert_eq!(world.started.len(), count, "{overlap}");
    }
}

#[test]
fn what_a_user_runs_counts_for_what_is_due() {
    let mut world = one("forbid");
    world.now += 1;
    assert!(world.run_now(&label("m"), None));
    assert!(!world.run_now(&label("m"), None));
    let id = world.started[0].id.clone();
    world.now += MINUTE;
    world.look();
    world.check("m", BEGIN + MINUTE, "skipped", Some(&format!("run `{id}` still ran")));
}

#[test]
fn away_or_with_a_clock_that_jumped_the_newest_is_run_and_the_rest_is_missed() {
    let late = "it could not begin within 30 s: skpr was away, the machine asleep, or its disk slow";
    for (second, newest) in [(30, "running"), (31, "missed")] {
        let mut world = one("forbid");
        world.now += 5 * MINUTE + second;
        world.crash();
        world.look();
        for minute in 1..5 {
            world.check("m", BEGIN + minute * MINUTE, "missed", Some(late));
        }
        world.check("m", BEGIN + 5 * MINUTE, newest, (newest == "missed").then_some(late));
        // Set back, the clock repeats nothing.
        world.now -= 3 * MINUTE;
        world.look();
        world.now += 3 * MINUTE;
        world.look();
        assert_eq!(world.told.len(), 5);
    }
}

#[test]
fn after_a_month_the_newest_hundred_are_named_and_one_stands_for_the_rest() {
    let mut world = one("allow");
    world.now += 1000 * MINUTE;
    world.look();
    assert_eq!(world.told.len(), 101);
    let rest = world.of("m", BEGIN + 900 * MINUTE).unwrap();
    let reason = rest.reason.as_deref().unwrap();
    assert!(reason.ends_with("; it stands for 900 that were due until then"), "{reason}");
    world.check("m", BEGIN + 1000 * MINUTE, "running", None);
}

#[test]
fn a_clock_that_was_far_ahead_once_holds_up_nothing() {
    let mut world = one("allow");
    world.now += 48 * 3600;
    world.look();
    let ahead = world.started[0].id.clone();
    world.end(&ahead, Outcome::Succeeded);
    world.look();
    world.now -= 48 * 3600;
    let plan = world.with_look(plan);
    assert_eq!((plan.anew.clone(), plan.wake), (vec![label("m")], Some(at(BEGIN + MINUTE))));
    world.carry_out(plan, None);
    let entry = &world.disk.tasks[&label("m")];
    assert_eq!((&entry.last, entry.last_success), (&None, None), "of days that are still to come");
    world.now += MINUTE;
    world.look();
    world.check("m", BEGIN + MINUTE, "running", None);
}

#[test]
fn what_is_suspended_is_told_and_not_made_up_for() {
    let mut world = one("forbid");
    world.suspend(None, true);
    world.now += 2 * MINUTE;
    world.look();
    let reason = Some("it was suspended by ann");
    world.check("m", BEGIN + MINUTE, "suspended", reason);
    world.now += MINUTE;
    world.suspend(Some(&label("m")), false);
    world.look();
    world.check("m", BEGIN + 3 * MINUTE, "suspended", reason);
    assert!(world.started.is_empty());
    world.now += MINUTE;
    world.look();
    world.check("m", BEGIN + 4 * MINUTE, "running", None);
}

#[test]
fn with_nothing_to_run_it_is_missed_and_for_files_that_come_it_waits() {
    let mut world = one("forbid");
    world.place = Place::Nowhere("nothing is deployed");
    world.now += MINUTE;
    world.look();
    world.check("m", BEGIN + MINUTE, "missed", Some("nothing is deployed"));
    world.place = Place::Coming;
    world.now += MINUTE;
    assert_eq!(world.look(), Some(at(BEGIN + 2 * MINUTE + 30)));
    assert!(world.of("m", BEGIN + 2 * MINUTE).is_none());
    world.now += 10;
    world.place = Place::There("v1");
    world.look();
    world.check("m", BEGIN + 2 * MINUTE, "running", None);
    world.place = Place::Closed;
    world.now += MINUTE;
    assert_eq!(world.look(), None);
    assert!(world.of("m", BEGIN + 3 * MINUTE).is_none());
}

#[test]
fn tasks_come_and_go_with_the_settings() {
    let mut world = one("forbid");
    world.suspend(None, true);
    let suspended = world.disk.tasks[&label("m")].suspended.clone();
    world.now += 10 * MINUTE + 7;
    world.tasks.insert(label("m"), Some(task("*/2 * * * *", "forbid")));
    world.look();
    assert_eq!(world.told.len(), 10, "by the schedule that it had");
    assert_eq!(world.disk.tasks[&label("m")].suspended, suspended);
    world.tasks.insert(label("new"), None);
    world.now += 2 * MINUTE;
    world.look();
    assert!(world.of("new", BEGIN + 12 * MINUTE).is_none());
    world.tasks = [(label("new"), Some(task("* * * * *", "forbid")))].into_iter().collect();
    world.look();
    assert!(!world.disk.tasks.contains_key(&label("m")));
    world.now += MINUTE;
    world.look();
    world.check("new", BEGIN + 13 * MINUTE, "running", None);
    // Its run goes on when it goes; what comes back is due from then on, and not suspended.
    world.tasks = [(label("m"), Some(task("* * * * *", "forbid")))].into_iter().collect();
    world.look();
    assert_eq!((world.disk.running.len(), world.disk.tasks[&label("m")].suspended.clone()), (1, None));
    world.end(&world.started[0].id.clone(), Outcome::Failed);
    world.look();
    world.check("new", BEGIN + 13 * MINUTE, "failed", None);
}

#[test]
fn so_many_run_at_once_and_no_more() {
    let mut world = one("allow");
    for _ in 0..MOST_AT_ONCE + 1 {
        world.now += MINUTE;
        world.look();
    }
    let reason = "100 runs of its environment were running, the most there may be";
    world.check("m", world.now, "missed", Some(reason));
    assert_eq!(world.started.len(), MOST_AT_ONCE);
}

#[test]
fn a_run_that_a_crash_ended_is_of_unknown_end() {
    for crash in [Crash::Written, Crash::Started, Crash::Told] {
        let mut world = one("forbid");
        world.now += MINUTE;
        let plan = world.with_look(plan);
        world.carry_out(plan, Some(crash));
        world.now += 1;
        world.look();
        world.check("m", BEGIN + MINUTE, "unknown", Some(LEFT_BEHIND));
        assert_eq!(world.disk.running, []);
    }
}
