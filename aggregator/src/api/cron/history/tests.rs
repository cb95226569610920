//! What is read page by page, from the newest backwards, is what all events together say.

use super::*;
use crate::run::{RunNow, Trigger};
use proptest::prelude::*;

fn task(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn nanos(second: i64) -> UnixNanos {
    at(second).into()
}

fn now(second: i64, running: Option<&[&Run]>) -> Now {
    let running = running.map(|runs| runs.iter().map(|run| run.id.clone()).collect());
    Now { time: at(second), running }
}

fn all(last: usize) -> Asked {
    Asked { last, ..Asked::default() }
}

fn begun(minute: i64) -> Run {
    Run {
        began: Some(at(60 * minute + 2)),
        version: "v1".into(),
        ..Run::due(&task("drush"), at(60 * minute))
    }
}

fn ended(run: &Run, outcome: Outcome, second: i64) -> Run {
    Run { ended: Some(at(second)), outcome: Some(outcome), ..run.clone() }
}

/// What comes of these events, all read at once.
fn found(asked: Asked, now: Now, events: &[Run]) -> Found {
    let mut history = History::new(asked, now);
    events.iter().for_each(|run| history.take(run.clone()));
    history.found()
}

#[test]
fn of_a_run_its_latest_stage_counts_in_whatever_order_it_was_told() {
    let run = begun(10);
    let failed = ended(&run, Outcome::Failed, 700);
    let missed = Run::not_begun(&task("drush"), at(600), Outcome::Missed, "the aggregator was away".into());
    let unknown = ended(&run, Outcome::Unknown, 900);
    let check = |events: &[&Run], expected: &Run| {
        let mut events: Vec<Run> = events.iter().map(|run| (*run).clone()).collect();
        for _ in 0..2 {
            events.reverse();
            let found = found(all(5), now(10_000, Some(&[])), &events);
            assert_eq!(found, Found { runs: vec![expected.clone()], more: false });
        }
    };
    check(&[&run, &failed], &failed);
    check(&[&failed, &run, &failed, &run], &failed);
    check(&[&unknown, &failed], &failed);
    check(&[&missed, &failed], &failed);
    check(&[&failed], &failed);
    check(&[&missed], &missed);
}

#[test]
fn a_run_without_an_end_runs_if_the_platform_says_so_and_else_its_end_was_not_seen() {
    let run = begun(10);
    let outcome = |now: Now| {
        let run = found(all(5), now, std::slice::from_ref(&run)).runs.remove(0);
        (run.stage(), run.reason)
    };
    assert_eq!(outcome(now(10_000, Some(&[&run]))), ("running", None));
    assert_eq!(outcome(now(10_000, None)), ("running", None), "nobody knows");
    assert_eq!(outcome(now(10_000, Some(&[]))), ("unknown", Some("its end was not seen".into())));
    // It may only not have come to the platform's list.
    assert_eq!(outcome(now(610, Some(&[]))), ("running", None));
    let failed = Asked { failed: true, ..all(5) };
    assert_eq!(found(failed.clone(), now(10_000, Some(&[])), &[begun(10)]).runs.len(), 1);
    assert_eq!(found(failed, now(10_000, Some(&[&run])), &[begun(10)]).runs.len(), 0);
}

#[test]
fn one_that_waits_to_begin_is_the_newest_and_is_there_once() {
    let wanted = RunNow { task: task("drush"), arguments: vec![], by: "ann".into() };
    let waits = Run::asked(RunId::asked(&wanted.task, 7), &wanted);
    let events = [begun(10), waits.clone(), begun(20)];
    let shown = found(all(2), now(10_000, Some(&[&waits])), &events);
    assert_eq!((shown.runs[0].stage(), shown.runs[1].id.as_str(), shown.more), ("waiting", "drush-20", true));
    // The store knows already that it began.
    let runs = Run { began: Some(at(9_000)), ..waits.clone() };
    let shown = found(all(5), now(10_000, Some(&[&waits])), &[waits.clone(), runs.clone()]);
    assert_eq!(shown.runs, [runs]);
    assert_eq!(waits.trigger, Trigger::User("ann".into()));
}

#[test]
fn more_at_once_than_are_kept_are_left_out_and_said_to_be_missing() {
    // They all end after everything that has been read began.
    let many = MOST_OPEN + 5;
    let mut history = History::new(all(LIMIT), now(10_000_000, Some(&[])));
    for minute in 0..many {
        let run = begun(i64::try_from(minute).unwrap());
        history.take(ended(&run, Outcome::Succeeded, 9_000_000));
    }
    history.read_up_to(nanos(8_000_000));
    assert_eq!(history.open.len(), MOST_OPEN);
    // What was left out does not come back as one whose end nobody saw.
    history.take(begun(4));
    assert_eq!(history.open.len(), MOST_OPEN);
    let found = history.found();
    assert_eq!((found.runs.len(), found.more), (LIMIT, true));
    assert_eq!(found.runs[0].id.as_str(), format!("drush-{}", many - 1));
}

#[test]
fn a_page_of_one_moment_is_read_again_as_a_larger_one() {
    let page = |events, oldest| Page { events, oldest: Some(UnixNanos(oldest)), is_cut: false };
    let mut pages = Pages::for_runs(20);
    assert_eq!(pages.size, 256);
    let later = UnixNanos(5_000 + ORDER_SLACK + 1);
    assert_eq!(pages.turn(page(256, 5_000)), Turned::UpTo(later));
    assert_eq!(pages.turn(page(512, 5_000)), Turned::Again);
    assert_eq!((pages.size, pages.until), (2048, Some(later)));
    assert_eq!(pages.turn(Page { is_cut: true, ..page(100, 5_000) }), Turned::UpTo(UnixNanos(5_000)));
    assert_eq!(pages.turn(page(2047, 4_000)), Turned::Whole);
    assert_eq!(Pages::for_runs(LIMIT).turn(Page::default()), Turned::Whole);
}

/// An event in a store: when it was told, how far behind that it stands in order, and the run.
type Told = (UnixNanos, i64, Run);

/// The newest of a store, as it gives them.
fn page(store: &[Told], pages: Pages, since: Option<UnixNanos>) -> Vec<Told> {
    let within = |(time, ..): &&Told| {
        pages.until.is_none_or(|until| *time < until) && since.is_none_or(|since| *time >= since)
    };
    let mut found: Vec<Told> = store.iter().filter(within).cloned().collect();
    found.sort_by_key(|(time, lag, _)| Reverse(time.0 + lag));
    found.truncate(pages.size);
    found
}

/// Reads as [`stored`](super::super::stored) does.
fn read(store: &[Told], asked: &Asked, now: &Now, size: usize) -> (Found, usize) {
    let since = asked.since.map(|since| UnixNanos(since.0 - SLACK.as_nanos() as i64));
    let mut history = History::new(asked.clone(), now.clone());
    history.pages.size = size;
    let mut turns = 0;
    while let Some(pages) = history.next_page() {
        let found = page(store, pages, since);
        let oldest = found.iter().map(|(time, ..)| *time).min();
        let page = Page { events: found.len(), oldest, is_cut: false };
        found.into_iter().for_each(|(.., run)| history.take(run));
        history.turn(page);
        turns += 1;
    }
    (history.found(), turns)
}

/// What the answer is, from everything that was ever told.
fn model(store: &[Told], asked: &Asked, now: &Now) -> Found {
    let mut latest: BTreeMap<RunId, Run> = BTreeMap::new();
    for (.., run) in store {
        let known = latest.entry(run.id.clone()).or_insert_with(|| run.clone());
        if run.ended > known.ended || (run.outcome.is_some() && known.outcome.is_none()) {
            *known = run.clone();
        }
    }
    let mut runs: Vec<Run> = latest.into_values().map(|run| now.judged(run)).collect();
    runs.retain(|run| {
        asked.covers(run, now.place(run).0) && (!asked.failed || run.outcome.is_some_and(Outcome::is_failure))
    });
    runs.sort_by_key(|run| Reverse(now.place(run)));
    let more = runs.len() > asked.last;
    runs.truncate(asked.last);
    Found { runs, more }
}

/// Runs of two tasks, by the minute, each with which of its events are kept and how often.
fn stores() -> impl Strategy<Value = Vec<Told>> {
    let run = (
        0..2u8,
        0..3_000i64,
        0..4_000i64,
        0..Outcome::ALL.len(),
        // How often its beginning and its end are there, how far behind each stands, and how the clocks differ.
        (0..3usize, 0..3usize),
        (0..ORDER_SLACK, 0..ORDER_SLACK),
        -60..60i64,
    );
    prop::collection::vec(run, 0..120).prop_map(|runs| {
        let mut store = vec![];
        let mut seen = BTreeSet::new();
        for (which, minute, lasts, outcome, (begins, ends), (lag, later_lag), apart) in runs {
            let task = task(if which == 0 { "drush" } else { "index" });
            // Many in one minute.
            let minute = minute / 10;
            let run = Run { task: task.clone(), id: RunId::due(&task, at(60 * minute)), ..begun(minute) };
            if !seen.insert(run.id.clone()) {
                continue;
            }
            let (began, outcome) = (run.began.unwrap(), Outcome::ALL[outcome]);
            if !outcome.is_end() {
                let unbegun = Run::not_begun(&task, run.due.unwrap(), outcome, "why".into());
                store.extend((0..ends.max(1)).map(|_| (unbegun.due.unwrap().into(), lag, unbegun.clone())));
                continue;
            }
            let end = ended(&run, outcome, (began.as_second() + lasts + apart).max(began.as_second() - 60));
            store.extend((0..begins).map(|_| (began.into(), lag, run.clone())));
            store.extend((0..ends).map(|_| (end.ended.unwrap().into(), later_lag, end.clone())));
        }
        store
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever is missing, told again, cut off at either end or out of order.
    #[test]
    fn reading_backwards_in_pages_finds_what_everything_together_says(
        store in stores(),
        size in 1..60usize,
        last in 1..40usize,
        (since, until) in (prop::option::of(0..20_000i64), prop::option::of(0..20_000i64)),
        (failed, one_task, heard) in any::<(bool, bool, bool)>(),
        running in prop::collection::btree_set(0..300i64, 0..40),
    ) {
        let running = running.into_iter().map(|minute| RunId::due(&task("drush"), at(60 * minute))).collect();
        let now = Now { time: at(20_000), running: heard.then_some(running) };
        let asked = Asked {
            task: one_task.then(|| task("drush")),
            since: since.map(nanos),
            until: until.map(nanos),
            failed,
            last,
        };
        let (found, turns) = read(&store, &asked, &now, size);
        prop_assert_eq!(found, model(&store, &asked, &now));
        prop_assert!(turns <= 3 * store.len() + 3, "{} turns", turns);
    }
}
