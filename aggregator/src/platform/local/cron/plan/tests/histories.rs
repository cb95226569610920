//! Random histories with crashes and clocks that are set, held against what was due.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    /// The clock is set.
    Set(i64),
    Crash(i64),
    /// The next look is cut short.
    Cut(i64, Crash),
    End(usize),
    Run(usize, Option<Crash>),
    Suspend(usize, bool),
    Files(u8),
    Schedule(usize, usize),
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![Just(Crash::Before), Just(Crash::Written), Just(Crash::Started), Just(Crash::Told)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..100_i64).prop_map(Step::Pass),
        1 => (1..30_000_i64).prop_map(Step::Pass),
        2 => (-8000..8000_i64).prop_map(Step::Set),
        2 => (0..1000_i64).prop_map(Step::Crash),
        3 => (0..100_i64, crash()).prop_map(|(seconds, crash)| Step::Cut(seconds, crash)),
        4 => (0..8_usize).prop_map(Step::End),
        1 => (0..3_usize, proptest::option::of(crash())).prop_map(|(task, crash)| Step::Run(task, crash)),
        2 => (0..3_usize, any::<bool>()).prop_map(|(task, suspended)| Step::Suspend(task, suspended)),
        1 => (0..3_u8).prop_map(Step::Files),
        1 => (0..3_usize, 0..SCHEDULES.len()).prop_map(|(task, schedule)| Step::Schedule(task, schedule)),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const SCHEDULES: [&str; 4] = ["* * * * *", "*/7 * * * *", "0,1,30 * * * *", "@hourly"];

/// What was due, by a look at each minute: the minutes of an hour that a task is due at, and since when.
struct Model {
    due: BTreeSet<(usize, i64)>,
    schedules: [usize; 3],
    /// The latest time that there ever was.
    high: i64,
}

impl Model {
    fn passes(&mut self, now: i64) {
        let minutes = (self.high / MINUTE + 1)..=(now / MINUTE);
        for minute in minutes {
            for (task, schedule) in self.schedules.iter().enumerate() {
                let is_due = match schedule {
                    0 => true,
                    1 => minute % 60 % 7 == 0,
                    2 => [0, 1, 30].contains(&(minute % 60)),
                    _ => minute % 60 == 0,
                };
                if is_due {
                    self.due.insert((task, minute));
                }
            }
        }
        self.high = self.high.max(now);
    }
}

fn check(steps: Vec<Step>, overlaps: [&str; 3]) {
    let given: Vec<(&str, Task)> =
        NAMES.iter().zip(overlaps).map(|(name, overlap)| (*name, task(SCHEDULES[0], overlap))).collect();
    let mut world = World::new(&given);
    let mut model = Model { due: BTreeSet::new(), schedules: [0; 3], high: BEGIN };
    for step in steps {
        match step {
            Step::Pass(seconds) | Step::Set(seconds) => {
                // Less than a day: what is wrong by more begins anew, and may be dealt with twice.
                world.now = (world.now + seconds).max(model.high - 80_000);
            }
            Step::Crash(seconds) => {
                world.crash();
                world.now += seconds;
            }
            Step::Cut(seconds, crash) => {
                world.now += seconds;
                let plan = world.with_look(plan);
                world.carry_out(plan, Some(crash));
            }
            Step::End(number) => {
                if let Some(id) = world.held.iter().nth(number).cloned() {
                    world.end(&id, Outcome::Succeeded);
                }
            }
            Step::Run(task, crash) => _ = world.run_now(&label(NAMES[task]), crash),
            Step::Suspend(task, suspended) => world.suspend(Some(&label(NAMES[task])), suspended),
            Step::Files(0) => world.place = Place::Coming,
            Step::Files(1) => world.place = Place::Nowhere("nothing is deployed"),
            Step::Files(_) => world.place = Place::There("v2"),
            // Where the clock has been set back, from when on another schedule counts is nothing to hold it to.
            Step::Schedule(name, schedule) if world.now == model.high && world.place != Place::Coming => {
                world.tasks.insert(label(NAMES[name]), Some(task(SCHEDULES[schedule], overlaps[name])));
                world.look();
                model.schedules[name] = schedule;
            }
            Step::Schedule(..) => {}
        }
        model.passes(world.now);
        world.look();
        assert!(world.disk.running.len() <= MOST_AT_ONCE);
    }
    // All that still runs ends, and what waits is decided.
    world.place = Place::There("v2");
    world.now = world.now.max(model.high);
    world.look();
    world.crash();
    world.look();

    let mut stands_for = 0;
    let mut dealt = BTreeSet::new();
    for (id, stages) in &world.told {
        let last = stages.last().unwrap();
        assert!(last.outcome.is_some(), "the end of {id} was never told");
        let begun = world.started.iter().any(|run| run.id == *id);
        assert!(!begun || last.outcome.is_some_and(Outcome::is_end), "{id}: {}", last.stage());
        // Begun or not begun, and one end.
        let ends = stages.iter().filter(|stage| stage.outcome.is_some()).count();
        assert_eq!(ends, 1, "{id} ended twice: {stages:#?}");
        let Some(due) = last.due else { continue };
        let name = NAMES.iter().position(|name| last.task == label(name)).unwrap();
        dealt.insert((name, due.as_second() / MINUTE));
        let stands = last.reason.as_deref().and_then(|reason| reason.split_once("it stands for "));
        stands_for +=
            stands.map_or(0, |(_, rest)| rest.split_once(' ').unwrap().0.parse::<usize>().unwrap() - 1);
    }
    assert!(world.started.iter().all(|run| world.told.contains_key(&run.id)));
    assert!(dealt.is_subset(&model.due), "not due: {:?}", dealt.difference(&model.due).collect::<Vec<_>>());
    assert_eq!(dealt.len() + stands_for, model.due.len(), "what was due and what was told");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn each_due_time_becomes_one_run_whatever_happens(
        steps in proptest::collection::vec(step(), 1..60),
        overlaps in (0..3_usize, 0..3_usize, 0..3_usize),
    ) {
        let name = |overlap: usize| ["forbid", "allow", "replace"][overlap];
        check(steps, [name(overlaps.0), name(overlaps.1), name(overlaps.2)]);
    }
}
