//! Events in the store: each once, whatever is told again and whatever fails.

use super::support::*;
use crate::environment::EnvironmentKey;
use crate::event::{Body, Counts, Event, Kind, RUNS, STREAM, STREAMS, Writer};
use crate::record::{Filter, Read};
use crate::run::{self, Outcome, Run};
use crate::store::Store;
use crate::store::disk::faults::Faults;
use proptest::prelude::*;
use skpr_proto::UnixNanos;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn now() -> UnixNanos {
    UnixNanos(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap())
}

fn event(environment: &EnvironmentKey, time: UnixNanos, id: &str) -> Event {
    let text = format!("what {id} means");
    let body = Body { release: Some(1), ..Body::new(id.to_owned(), Kind::Deploy, text) };
    Event { environment: environment.clone(), time, body }
}

async fn tell(store: &Store, events: &[Event]) {
    let mut writer = Writer::new(store.clone(), Counts::default()).unwrap();
    // Ended already: what is refused is not tried again.
    let ending = CancellationToken::new();
    ending.cancel();
    writer.keep(events.to_vec(), &ending).await;
}

/// The ids of what is stored, sorted.
async fn stored(store: &Store, environment: &str) -> Vec<String> {
    stored_in(store, environment, STREAM).await
}

async fn stored_in(store: &Store, environment: &str, stream: &str) -> Vec<String> {
    let filter = Filter { streams: vec![stream.to_owned()], ..Filter::default() };
    let records = records(store, Read { filter, ..everything(environment) }).await;
    let id = |message: &[u8]| serde_json::from_slice::<Body>(message).unwrap().id;
    let mut ids: Vec<_> = records.iter().map(|record| id(&record.message)).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn an_event_that_is_told_again_is_kept_once_across_starts() {
    let directory = tempfile::tempdir().unwrap();
    let (prod, old) = (key("prod"), UnixNanos(START));
    let told = [event(&prod, old, "old"), event(&prod, now(), "new"), event(&key("dev"), now(), "new")];
    for start in 0..4 {
        let store = open(directory.path());
        tell(&store, &told).await;
        // Told with another time: what is not long ago is known by its id alone.
        tell(&store, &[event(&prod, now(), "new")]).await;
        assert_eq!(stored(&store, "prod").await, ["new", "old"]);
        assert_eq!(stored(&store, "dev").await, ["new"]);
        if start == 1 {
            // From a file, too.
            store.seal().await.unwrap();
        }
        store.close().await;
    }
}

#[tokio::test]
async fn events_are_records_of_a_stream_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 1).await.unwrap();
    tell(&store, &[event(&key("prod"), UnixNanos(START + SECOND), "release/1/succeeded")]).await;
    for sealed in [false, true] {
        let all = records(&store, everything("prod")).await;
        let streams: Vec<_> = all.iter().map(|record| (&*record.stream, record.sequence)).collect();
        assert_eq!(streams, [("stdout", 1), ("events", 2)]);
        let filter = Filter { except_streams: &STREAMS, ..Filter::default() };
        assert_eq!(texts(&store, Read { filter, ..everything("prod") }).await, ["source 0 line 0"]);
        if !sealed {
            store.seal().await.unwrap();
        }
    }
    store.close().await;
}

/// The two events of a run that has begun and ended at some second.
fn of_run(minute: i64, outcome: Outcome) -> [Event; 2] {
    let at = |second| jiff::Timestamp::from_second(START / SECOND + 60 * minute + second).unwrap();
    let task = skpr_proto::Label::parse("task", "drush").unwrap();
    let run = Run { began: Some(at(1)), ..Run::due(&task, at(0)) };
    let ended = Run { ended: Some(at(3)), outcome: Some(outcome), ..run.clone() };
    [run, ended].map(|run| run::told(&key("prod"), &run, at(9)))
}

#[tokio::test]
async fn runs_that_go_as_they_should_have_a_stream_of_their_own_and_are_each_kept_once() {
    let directory = tempfile::tempdir().unwrap();
    let [begun, succeeded] = of_run(0, Outcome::Succeeded);
    let [begun_too, failed] = of_run(1, Outcome::Failed);
    let id = |event: &Event| event.body.id.clone();
    for start in 0..3 {
        let store = open(directory.path());
        // In any order, together and one by one.
        tell(&store, &[succeeded.clone(), begun.clone(), succeeded.clone()]).await;
        for event in [&failed, &begun, &begun_too, &failed, &succeeded] {
            tell(&store, std::slice::from_ref(event)).await;
        }
        let mut runs = [id(&begun), id(&succeeded), id(&begun_too)];
        runs.sort();
        assert_eq!(stored_in(&store, "prod", RUNS).await, runs);
        assert_eq!(stored(&store, "prod").await, [id(&failed)]);
        if start == 1 {
            store.seal().await.unwrap();
        }
        store.close().await;
    }
}

#[tokio::test]
async fn many_runs_do_not_push_events_out_of_what_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut writer = Writer::new(store.clone(), Counts::default()).unwrap();
    let ending = CancellationToken::new();
    writer.keep(vec![event(&key("prod"), now(), "trouble")], &ending).await;
    let runs = (0..300).flat_map(|minute| of_run(minute, Outcome::Succeeded));
    writer.keep(runs.collect(), &ending).await;
    // Told with another time, it is known by its id alone, as long as that is remembered.
    writer.keep(vec![event(&key("prod"), now(), "trouble")], &ending).await;
    assert_eq!(stored(&store, "prod").await, ["trouble"]);
    assert_eq!(stored_in(&store, "prod", RUNS).await.len(), 600);
    store.close().await;
}

#[tokio::test]
async fn many_events_of_one_moment_are_each_kept_once() {
    let directory = tempfile::tempdir().unwrap();
    let (prod, time) = (key("prod"), now());
    // More than are remembered, of one time.
    let told: Vec<_> = (0..700).map(|n| event(&prod, time, &format!("{n:04}"))).collect();
    for _ in 0..2 {
        let store = open(directory.path());
        for events in told.chunks(256) {
            tell(&store, events).await;
        }
        let ids = stored(&store, "prod").await;
        assert_eq!(ids.len(), 700);
        assert!(ids.is_sorted_by(|a, b| a < b), "each once");
        store.close().await;
    }
}

#[tokio::test]
async fn an_event_waits_for_a_disk_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(1);
    let store = open_with(directory.path(), &faults).unwrap();
    faults.set_full(true);
    let mut writer = Writer::new(store.clone(), Counts::default()).unwrap();
    let ending = CancellationToken::new();
    let told = vec![event(&key("prod"), now(), "a"), event(&key("dev"), now(), "b")];
    let heal = async {
        while store.statistics().refused_batches < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(stored(&store, "prod").await.is_empty());
        faults.set_full(false);
    };
    tokio::join!(writer.keep(told, &ending), heal);
    assert_eq!(
        (stored(&store, "prod").await, stored(&store, "dev").await),
        (vec!["a".into()], vec!["b".into()])
    );
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// The power goes at some write; afterwards everything is told again.
    #[test]
    fn a_crash_at_any_write_loses_no_event_and_keeps_none_twice(
        seed in 0..1000u64,
        crashes in prop::collection::vec(1..12u64, 1..5),
        seals in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let time = now();
            let told: Vec<_> = (0..20)
                .map(|n| event(&key(if n % 3 == 0 { "dev" } else { "prod" }), time, &format!("{n:02}")))
                .collect();
            for (round, crash) in crashes.iter().enumerate() {
                let faults = Faults::new(seed + round as u64);
                let Ok(store) = open_with(directory.path(), &faults) else { continue };
                faults.crash_in(*crash);
                for events in told.chunks(5) {
                    tell(&store, events).await;
                }
                if seals {
                    drop(store.seal().await);
                }
                store.close().await;
                drop(store);
                faults.power_cut();
            }
            let store = open(directory.path());
            tell(&store, &told).await;
            let mut ids = stored(&store, "prod").await;
            ids.extend(stored(&store, "dev").await);
            ids.sort();
            let expected: Vec<_> = (0..20).map(|n| format!("{n:02}")).collect();
            assert_eq!(ids, expected);
            store.close().await;
        });
    }
}
