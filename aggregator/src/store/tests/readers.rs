//! Readers: ranges, the newest, cursors, following, and files that come and go below them.

use super::support::*;
use crate::record::{Cursor, Filter, Read};
use crate::store::{AppendError, Options, Store};
use skpr_proto::UnixNanos;

#[tokio::test(flavor = "multi_thread")]
async fn an_unclaimed_source_is_refused_and_a_remembered_one_survives() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(options(directory.path())).unwrap();
    assert_eq!(append(&store, 0, 0, 1).await, Err(AppendError::Unclaimed));
    let store = remembered(store);
    append(&store, 0, 0, 1).await.unwrap();
    store.close().await;
    assert_eq!(append(&store, 0, 1, 1).await, Err(AppendError::Closed));
    let store = Store::open(options(directory.path())).unwrap();
    assert_eq!(store.claim(&source(3)), Some(claim(3, "dev")));
    append(&store, 0, 1, 1).await.unwrap();
    store.seal().await.unwrap();
    store.close().await;
    let store = Store::open(options(directory.path())).unwrap();
    assert_eq!(store.claim(&source(3)), Some(claim(3, "dev")));
    assert_eq!(texts(&store, everything("prod")).await, ["source 0 line 0", "source 0 line 1"]);
    assert_eq!(store.environments(), [key("prod")]);
    assert_eq!(store.oldest(&key("prod")), Some(UnixNanos(START)));
}

/// Case 26: the connection is cut after sending and before the acknowledgement; batches of two connections mix.
#[tokio::test]
async fn case_26_resent_and_reordered_batches_are_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let appended = |kept, dropped| crate::store::Appended { kept, dropped };
    assert_eq!(append(&store, 0, 0, 10).await, Ok(appended(10, 0)));
    assert_eq!(append(&store, 0, 5, 10).await, Ok(appended(5, 5)));
    assert_eq!(append(&store, 0, 0, 10).await, Ok(appended(0, 10)));
    let (a, b) = tokio::join!(append(&store, 0, 15, 5), append(&store, 0, 15, 5));
    assert_eq!(a.unwrap().kept + b.unwrap().kept, 5);
    let other =
        store.append(batch(0, 2, &[(0, START, "gap".into()), (10, START, "other file".into())])).await;
    assert_eq!(other, Ok(appended(2, 0)));
    assert_eq!(store.append(batch(0, 2, &[(0, START, "gap".into())])).await, Ok(appended(0, 1)));
    assert_eq!(records(&store, everything("prod")).await.len(), 22);
}

/// Case 19: a small step back in time keeps the stream's order; a window is by the records' own times.
#[tokio::test]
async fn case_19_time_that_goes_backwards_keeps_the_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let line = |position, seconds: i64, text: &str| (position, START + seconds * SECOND, text.to_owned());
    let lines = [
        line(1, 10, "a"),
        line(2, 7, "b"),
        line(3, 10, "c"),
        line(4, 12, "d"),
        line(5, -60, "e"),
        line(6, -59, "f"),
    ];
    store.append(batch(0, 1, &lines)).await.unwrap();
    for sealed in [false, true] {
        if sealed {
            store.seal().await.unwrap();
        }
        assert_eq!(texts(&store, everything("prod")).await, ["e", "f", "a", "b", "c", "d"]);
        let window = Read { since: at(7), until: at(8), ..everything("prod") };
        assert_eq!(texts(&store, window).await, ["b"]);
        let (followed, _) = follow(&store, Some(Cursor::Live { after: 0 }), 6).await;
        assert_eq!(followed.iter().map(text).collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
    }
}

/// Case 32: the hand-over from memory to files, and from files to a merged one, shows each record once.
#[tokio::test(flavor = "multi_thread")]
async fn case_32_each_record_once_across_hand_over_and_merging() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let reading = store.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut before = 0;
        while before < 1200 {
            let sequences: Vec<u64> =
                records(&reading, everything("prod")).await.iter().map(|r| r.sequence).collect();
            assert!(sequences.len() >= before, "records vanished: {before} {}", sequences.len());
            before = sequences.len();
            let expected: Vec<u64> = (1..=before as u64).collect();
            assert_eq!(sequences, expected);
        }
    });
    for part in 0..12 {
        append(&store, 0, part * 100, 100).await.unwrap();
        store.seal().await.unwrap();
        store.housekeep().await.unwrap();
    }
    tasks.join_all().await;
    let statistics = store.statistics();
    assert!(statistics.compactions > 0 && statistics.segments < 12, "{statistics:?}");
    let report = crate::store::check(directory.path()).unwrap();
    assert!(report.is_whole() && report.records == 1200 && report.notes.is_empty(), "{report}");
}

#[tokio::test]
async fn the_newest_are_given_in_order_and_after_the_filter() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 5000).await.unwrap();
    store.seal().await.unwrap();
    append(&store, 1, 4990, 20).await.unwrap();
    let all = texts(&store, everything("prod")).await;
    assert_eq!(all.len(), 5020);
    for last in [0, 1, 25, 4000, 6000] {
        let newest = texts(&store, Read { last: Some(last), ..everything("prod") }).await;
        assert_eq!(newest, all[all.len().saturating_sub(last)..], "{last}");
    }
    let grep = vec![regex::bytes::Regex::new("0 line .*7$").unwrap()];
    let filter = Filter { grep, ..Filter::default() };
    let newest = texts(&store, Read { last: Some(2), filter, ..everything("prod") }).await;
    assert_eq!(newest, ["source 0 line 4987", "source 0 line 4997"]);
    let filter = Filter { instances: vec!["web-1".into()], ..Filter::default() };
    assert_eq!(texts(&store, Read { filter, ..everything("prod") }).await.len(), 20);
    let window = Read { since: at(100), until: at(200), ..everything("prod") };
    assert_eq!(texts(&store, window).await, all[100..200]);
}

#[tokio::test]
async fn a_read_goes_on_from_the_cursor_of_each_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 3000).await.unwrap();
    store.seal().await.unwrap();
    append(&store, 1, 2500, 1000).await.unwrap();
    let request = || Read { last: Some(3900), ..everything("prod") };
    let all = chunks(&store, request()).await;
    let whole: Vec<_> = all.iter().flat_map(|chunk| chunk.records.clone()).collect();
    assert_eq!(whole.len(), 3900);
    append(&store, 2, 0, 10).await.unwrap();
    store.seal().await.unwrap();
    let mut given = 0;
    for chunk in &all {
        given += chunk.records.len();
        let rest = records(&store, Read { cursor: Some(chunk.cursor), ..request() }).await;
        assert_eq!(rest, whole[given..]);
    }
}

/// Case 33: history becomes live under load; a follower that is slow gets everything all the same.
#[tokio::test(flavor = "multi_thread")]
async fn case_33_history_becomes_live_without_gap_or_repeat() {
    const COUNT: u64 = 6000;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 500).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for slow in [false, true] {
        let store = store.clone();
        tasks.spawn(async move {
            let mut reader = store.read(Read { follow: true, ..everything("prod") });
            let mut sequences = Vec::new();
            while sequences.len() < COUNT as usize {
                let chunk = reader.next().await.unwrap().unwrap();
                assert_eq!(chunk.skipped, 0);
                sequences.extend(chunk.records.iter().map(|record| record.sequence));
                if slow && sequences.len() % 3 == 0 {
                    // Far behind, and from a cursor that went over the wire.
                    store.seal().await.unwrap();
                    let cursor = Some(Cursor::decode(&chunk.cursor.encode()).unwrap());
                    reader = store.read(Read { follow: true, cursor, ..everything("prod") });
                }
            }
            assert_eq!(sequences, (1..=COUNT).collect::<Vec<_>>());
        });
    }
    for part in 10..(COUNT / 50) {
        append(&store, 0, part * 50, 50).await.unwrap();
    }
    tasks.join_all().await;
    let (behind, skipped) = follow(&store, Some(Cursor::Live { after: 10 }), COUNT as usize - 10).await;
    assert_eq!((behind.len(), skipped), (COUNT as usize - 10, 0));
    assert_eq!(store.statistics().readers, 0);
}

/// Case 34: files expire while a reader has them open; a cursor into what expired says how much is missing.
#[tokio::test(flavor = "multi_thread")]
async fn case_34_expiry_leaves_active_readers_alone() {
    let directory = tempfile::tempdir().unwrap();
    let keep = Options { keep_bytes_per_environment: 30_000, ..options(directory.path()) };
    let store = remembered(Store::open(keep).unwrap());
    // An hour each.
    let lines = |hour: i64| -> Vec<Line> {
        let line = |n: i64| {
            (
                ((hour * 2000 + n + 1) * 100) as u64,
                START + hour * 3600 * SECOND + n,
                format!("{hour} {n} {:x}", (n + 1) * 0x9E37_79B9),
            )
        };
        (0..2000).map(line).collect()
    };
    for hour in 0..2 {
        store.append(batch(0, 1, &lines(hour))).await.unwrap();
        store.seal().await.unwrap();
    }
    let mut reader = store.read(everything("prod"));
    let first = reader.next().await.unwrap().unwrap();
    for hour in 2..6 {
        store.append(batch(0, 1, &lines(hour))).await.unwrap();
        store.seal().await.unwrap();
    }
    store.housekeep().await.unwrap();
    let mut given = first.records.len();
    while let Some(chunk) = reader.next().await {
        given += chunk.unwrap().records.len();
    }
    assert_eq!(given, 4000, "the reader keeps what it began with");
    drop(reader);
    let statistics = store.statistics();
    assert!(statistics.expired_records >= 4000 && statistics.segment_bytes <= 30_000, "{statistics:?}");
    let on_disk = files(&directory.path().join("segments")).len() as u64;
    assert_eq!(on_disk, statistics.segments * 2, "nobody holds the expired files any more");

    let resumed = chunks(&store, Read { cursor: Some(first.cursor), ..everything("prod") }).await;
    assert_eq!(resumed.iter().map(|chunk| chunk.records.len() as u64 + chunk.skipped).sum::<u64>(), 4000);
    let kept = 12_000 - usize::try_from(statistics.expired_records).unwrap();
    let (live, skipped) = follow(&store, Some(Cursor::Live { after: 100 }), kept).await;
    assert_eq!((live.len(), skipped), (kept, statistics.expired_records - 100));
    assert!(crate::store::check(directory.path()).unwrap().is_whole());
}

/// It used to wait for a place among those who read files, and had no cursor until then: what came in between was lost
/// to a caller whose connection was cut.
#[tokio::test]
async fn a_follower_from_now_has_its_cursor_before_anything_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 10).await.unwrap();
    let places = store.0.shared.reading.acquire_many(8).await.unwrap();
    let request = || Read { follow: true, last: Some(0), ..everything("prod") };
    let mut reader = store.read(request());
    let first = reader.next().await.unwrap().unwrap();
    assert_eq!((first.records.len(), first.live, first.cursor), (0, true, Cursor::Live { after: 10 }));
    assert_eq!(store.head(&key("prod")), 10);
    append(&store, 0, 10, 5).await.unwrap();
    let mut again = store.read(Read { cursor: Some(first.cursor), ..request() });
    assert_eq!(again.next().await.unwrap().unwrap().records.len(), 5);
    assert!(chunks(&store, Read { follow: false, ..request() }).await.is_empty());
    drop(places);
}

#[tokio::test]
async fn a_follower_that_asks_for_the_rest_gets_what_is_there_and_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 3000).await.unwrap();
    let follow = || Read { follow: true, ..everything("prod") };
    let rest = |cursor| Read { follow: false, to_now: true, cursor, ..follow() };
    let mut reader = store.read(follow());
    let first = reader.next().await.unwrap().unwrap();
    assert!(!first.live && first.records.len() < 3000, "{}", first.records.len());
    append(&store, 0, 3000, 10).await.unwrap();
    // From within history, from behind it, and from the end.
    assert_eq!(records(&store, rest(Some(first.cursor))).await.len(), 3010 - first.records.len());
    let mut cursor = first.cursor;
    while let Cursor::History { .. } = cursor {
        cursor = reader.next().await.unwrap().unwrap().cursor;
    }
    append(&store, 0, 3010, 5).await.unwrap();
    let chunks = chunks(&store, rest(Some(cursor))).await;
    let last = chunks.last().unwrap().cursor;
    assert_eq!(last, Cursor::Live { after: 3015 });
    assert!(records(&store, rest(Some(last))).await.is_empty());
    // Without a cursor it is history, as without following at all.
    assert_eq!(records(&store, rest(None)).await.len(), 3015);
    assert_eq!(records(&store, Read { last: Some(2), ..rest(None) }).await.len(), 2);
}

/// The last use of a claim is known to the hour only.
#[tokio::test]
async fn a_short_keep_age_does_not_forget_a_source_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let keep_age = std::time::Duration::from_secs(60);
    let store = remembered(Store::open(Options { keep_age, ..options(directory.path()) }).unwrap());
    let used = |number| store.0.shared.claimed(&source(number)).unwrap();
    let now = crate::store::table::now_seconds();
    used(0).used.store(now - 3599, std::sync::atomic::Ordering::Relaxed);
    used(1).used.store(now - 3 * 3600, std::sync::atomic::Ordering::Relaxed);
    append(&store, 0, 0, 1).await.unwrap();
    store.seal().await.unwrap();
    assert!(store.claim(&source(0)).is_some());
    assert!(store.claim(&source(1)).is_none());
    assert_eq!(append(&store, 0, 0, 1).await.unwrap().dropped, 1);
}

/// A task of every minute has 43,200 sources in a month.
#[tokio::test]
async fn a_source_that_the_platform_has_forgotten_is_forgotten_after_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let store = remembered(Store::open(options(directory.path())).unwrap());
    let now = crate::store::table::now_seconds();
    for (number, age) in [(0, 86_000), (1, 87_000), (2, 87_000)] {
        let used = &store.0.shared.claimed(&source(number)).unwrap().used;
        used.store(now - age, std::sync::atomic::Ordering::Relaxed);
    }
    store.forget_unless(|kept| *kept == source(2));
    let is_remembered = [0, 1, 2].map(|number| store.claim(&source(number)).is_some());
    assert_eq!(is_remembered, [true, false, true]);
}

#[tokio::test]
async fn a_follower_waits_for_an_environment_that_has_nothing_yet() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut reader = store.read(Read { follow: true, ..everything("prod") });
    let first = reader.next().await.unwrap().unwrap();
    assert!(first.live && first.records.is_empty());
    let (chunk, appended) = tokio::join!(reader.next(), append(&store, 0, 0, 1));
    appended.unwrap();
    assert_eq!(chunk.unwrap().unwrap().records.len(), 1);
    store.close().await;
    assert_eq!(reader.next().await.unwrap().unwrap_err(), crate::store::ReadError::Closed);
    assert!(reader.next().await.is_none());
}
