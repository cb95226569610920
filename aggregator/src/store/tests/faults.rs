//! Disks that fill up, fail, lose power and flip bits.

use super::support::*;
use crate::record::RecordKind;
use crate::store::disk::faults::{Faults, Panic};
use crate::store::{AppendError, check};

/// Case 30: a full disk refuses appends with its cause, reads go on, and it recovers when there is space again.
#[tokio::test(flavor = "multi_thread")]
async fn case_30_a_full_disk_refuses_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(1);
    let store = open_with(directory.path(), &faults).unwrap();
    append(&store, 0, 0, 100).await.unwrap();
    for round in 1..4 {
        faults.set_full(true);
        for _ in 0..3 {
            let refused = append(&store, 0, round * 100, 100).await;
            assert!(matches!(refused, Err(AppendError::Storage(_))), "{refused:?}");
            assert!(matches!(store.seal().await, Err(AppendError::Storage(_))));
            assert!(store.statistics().fault.is_some());
            assert_eq!(records(&store, everything("prod")).await.len() as u64, round * 100);
        }
        faults.set_full(false);
        assert_eq!(append(&store, 0, round * 100, 100).await.unwrap().kept, 100);
        store.seal().await.unwrap();
        assert_eq!(store.statistics().fault, None);
    }
    store.close().await;
    drop(store);
    let store = open(directory.path());
    assert_eq!(records(&store, everything("prod")).await.len(), 400);
    assert!(check(directory.path()).unwrap().is_whole());
}

#[tokio::test]
async fn a_failed_sync_is_never_taken_for_a_later_success() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(2);
    let store = open_with(directory.path(), &faults).unwrap();
    append(&store, 0, 0, 10).await.unwrap();
    faults.fail_syncs(1);
    assert!(append(&store, 0, 10, 10).await.is_err());
    assert_eq!(append(&store, 0, 10, 10).await.unwrap().kept, 10);
    store.close().await;
    drop(store);
    faults.power_cut();
    let store = open(directory.path());
    let expected: Vec<_> = lines(0, 0, 20).into_iter().map(|(.., text)| text).collect();
    assert_eq!(texts(&store, everything("prod")).await, expected);
}

/// A batch whose group fails takes those behind it along: were one of them stored, its position would make the failed
/// batch a duplicate when it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_behind_a_refused_one_of_its_lane_is_refused() {
    // Larger than a group, so that each batch is one.
    let big = |n: u64| {
        let text = format!("{n} {}", "x".repeat(1 << 20));
        batch(0, 1, &[((n + 1) * 10, START + i64::try_from(n).unwrap(), text)])
    };
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(3);
    let store = open_with(directory.path(), &faults).unwrap();
    store.append(big(0)).await.unwrap();
    faults.fail_syncs(1);
    let lane = store.lane();
    let results = futures::future::join_all((1..6).map(|n| lane.append(big(n)))).await;
    assert!(results.iter().all(Result::is_err), "{results:?}");
    // The agent comes again from what was acknowledged, while the old lane is not quite gone.
    let (again, late) = (store.lane(), lane.append(big(6)));
    let (results, late) = tokio::join!(futures::future::join_all((1..7).map(|n| again.append(big(n)))), late);
    assert!(late.is_err());
    assert!(
        results.iter().all(|result| result.as_ref().is_ok_and(|appended| appended.kept == 1)),
        "{results:?}"
    );
    let found = texts(&store, everything("prod")).await;
    let numbers: Vec<_> = found.iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6"]);
}

/// Both copies damaged, and then a second start, which used to find no manifest and to remove every file.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_manifest_costs_no_sealed_file() {
    for gone in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        for part in 0..4 {
            append(&store, 0, part * 50, 50).await.unwrap();
            append(&store, 3, part * 50, 50).await.unwrap();
            store.seal().await.unwrap();
        }
        store.housekeep().await.unwrap();
        append(&store, 0, 200, 50).await.unwrap();
        store.close().await;
        drop(store);
        let segments = directory.path().join("segments");
        let before = files(&segments);
        for name in ["manifest", "manifest.copy"] {
            let path = directory.path().join(name);
            if gone { std::fs::remove_file(path).unwrap() } else { flip(&path, 100) }
        }
        let expected: Vec<_> = lines(0, 0, 250).into_iter().map(|(.., text)| text).collect();
        for _ in 0..3 {
            let store = open(directory.path());
            assert_eq!(files(&segments), before);
            assert_eq!(texts(&store, everything("prod")).await, expected);
            assert_eq!(texts(&store, everything("dev")).await.len(), 200);
            store.close().await;
        }
        assert_eq!(directory.path().join("manifest.copy.damaged").exists(), !gone);
        assert_eq!(directory.path().join("manifest.damaged").exists(), !gone);
        let report = check(directory.path()).unwrap();
        assert!(report.is_whole() && report.notes.is_empty(), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_manifest_and_a_damaged_file_cost_only_that_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for first in [0, 4000] {
        append(&store, 0, first, 50).await.unwrap();
    }
    store.seal().await.unwrap();
    store.close().await;
    drop(store);
    let segments = files(&directory.path().join("segments"));
    flip(segments.iter().find(|path| path.extension().unwrap() == "parquet").unwrap(), 10);
    for name in ["manifest", "manifest.copy"] {
        flip(&directory.path().join(name), 100);
    }
    for _ in 0..2 {
        let store = open(directory.path());
        assert_eq!(texts(&store, everything("prod")).await.len(), 50);
        store.close().await;
    }
    assert_eq!(files(&directory.path().join("set-aside")).len(), 2);
}

/// It used to leave ingest waiting for ever, behind probes that were content.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_store_thread_is_told_and_leaves_nobody_waiting() {
    for place in [Panic::Log, Panic::Segment] {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::new(4);
        let store = open_with(directory.path(), &faults).unwrap();
        append(&store, 0, 0, 10).await.unwrap();
        faults.panic_at(place);
        match place {
            Panic::Log => assert_eq!(append(&store, 0, 10, 10).await, Err(AppendError::Closed)),
            Panic::Segment => assert_eq!(store.seal().await, Err(AppendError::Closed)),
        }
        store.failed().await;
        assert!(store.statistics().fault.is_some());
        assert!(store.seal().await.is_err());
        assert!(store.housekeep().await.is_err());
        store.close().await;
        drop(store);
        let store = open(directory.path());
        assert_eq!(texts(&store, everything("prod")).await.len(), 10);
    }
}

/// The first minute of every hour, which are small files.
async fn small_files(store: &crate::store::Store, number: usize, hours: i64, each: i64) {
    for part in 0..each {
        for hour in 0..hours {
            let position = u64::try_from((part * 1000 + hour) * 10 + 10).unwrap();
            let line = (position, START + (hour * 3600 + part) * SECOND, format!("{hour} {part}"));
            store.append(batch(number, 1, &[line])).await.unwrap();
        }
        store.seal().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_disk_loses_the_oldest_records_of_all_environments() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(5);
    let store = open_with(directory.path(), &faults).unwrap();
    small_files(&store, 0, 2, 1).await;
    small_files(&store, 3, 4, 1).await;
    faults.set_space(1 << 30, 1 << 40);
    store.housekeep().await.unwrap();
    assert_eq!(store.statistics().expired_records, 0);
    // Two files have more than this, one has less: the first hour of both environments.
    faults.set_space((1 << 30) - store.statistics().segment_bytes / 5, 1 << 40);
    store.housekeep().await.unwrap();
    let statistics = store.statistics();
    assert_eq!((statistics.expired_records, statistics.expired_for_space), (2, 2));
    assert_eq!(texts(&store, everything("prod")).await, ["1 0"]);
    assert_eq!(texts(&store, everything("dev")).await, ["1 0", "2 0", "3 0"]);
    store.close().await;
    assert!(check(directory.path()).unwrap().is_whole());
}

/// It used to stop its environment's merging for ever, and to count and log the damage again every minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_small_file_does_not_stop_merging() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(6);
    let store = open_with(directory.path(), &faults).unwrap();
    small_files(&store, 0, 2, 4).await;
    small_files(&store, 3, 1, 4).await;
    let first = files(&directory.path().join("segments"));
    let damaged = first.iter().find(|path| {
        path.to_string_lossy().contains("environment=prod") && path.extension().unwrap() == "parquet"
    });
    flip(damaged.unwrap(), 10);
    for _ in 0..3 {
        store.housekeep().await.unwrap();
        let statistics = store.statistics();
        assert_eq!((statistics.segments, statistics.damage), (4, 1));
        assert_eq!(statistics.fault, None);
    }
    let kept = |record: &crate::record::Record| record.kind == RecordKind::Line;
    assert_eq!(records(&store, everything("prod")).await.into_iter().filter(kept).count(), 7);
    assert_eq!(records(&store, everything("dev")).await.len(), 4);
    // A merge that cannot be written says nothing about appends.
    small_files(&store, 1, 1, 2).await;
    faults.set_full(true);
    assert!(store.housekeep().await.is_err());
    assert_eq!(store.statistics().fault, None);
}

/// The writer waits for it when memory is full, and through it all agents.
#[tokio::test(flavor = "multi_thread")]
async fn sealing_does_not_wait_for_the_end_of_merging() {
    const HOURS: i64 = 30;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    small_files(&store, 0, HOURS, 2).await;
    append(&store, 3, 0, 1).await.unwrap();
    let merging = store.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { merging.housekeep().await.unwrap() });
    while store.statistics().compactions == 0 {
        tokio::task::yield_now().await;
    }
    store.seal().await.unwrap();
    assert!(store.statistics().compactions < HOURS as u64);
    tasks.join_all().await;
    assert_eq!(store.statistics().compactions, HOURS as u64);
}

fn flip(path: &std::path::Path, at: usize) {
    let mut content = std::fs::read(path).unwrap();
    let at = at % content.len();
    content[at] ^= 0x10;
    std::fs::write(path, content).unwrap();
}

/// Case 31: a flipped bit anywhere is reported; what does not depend on it can be read, and the store starts.
#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_flipped_bit_costs_no_neighbours() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, 0, 0, 50).await.unwrap();
    append(&store, 0, 4000, 50).await.unwrap();
    store.seal().await.unwrap();
    for part in 0..5 {
        append(&store, 1, part * 10, 10).await.unwrap();
    }
    store.close().await;
    drop(store);
    let originals: Vec<_> = files(directory.path())
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    let all = {
        let store = open(directory.path());
        let all = texts(&store, everything("prod")).await;
        store.close().await;
        all
    };
    assert_eq!(all.len(), 150);
    for (number, (path, original)) in originals.iter().enumerate() {
        for flipped in 0..6 {
            for path in files(directory.path()) {
                std::fs::remove_file(path).unwrap();
            }
            for (path, original) in &originals {
                std::fs::write(path, original).unwrap();
            }
            flip(path, (flipped * 7919 + number * 104_729 + original.len() / 2) % original.len());
            let store = open(directory.path());
            let found = records(&store, everything("prod")).await;
            let lines: Vec<_> =
                found.iter().filter(|record| record.kind == RecordKind::Line).map(text).collect();
            // Nothing false, nothing twice, in order; and at most one file's or one entry's records are gone.
            let mut rest = all.iter();
            assert!(
                lines.iter().all(|line| rest.any(|known| known == line)),
                "{}: {lines:?}",
                path.display()
            );
            assert!(lines.len() >= 100, "{}: {}", path.display(), lines.len());
            let damage = store.statistics().damage;
            let is_tail = path.extension().is_some_and(|extension| extension == "wal");
            assert!(lines.len() == 150 || damage > 0 || is_tail, "{}: {}", path.display(), lines.len());
            store.close().await;
        }
    }
}

/// Case 29 (power cut): at every single operation on the disk. What was acknowledged is there once, after any number
/// of cuts; what was not may be there, whole.
#[tokio::test(flavor = "multi_thread")]
async fn case_29_a_power_cut_at_every_operation_loses_nothing_acknowledged() {
    for crash_in in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::new(crash_in);
        let mut acknowledged = 0;
        let mut offered = 0;
        faults.crash_in(crash_in);
        if let Ok(store) = open_with(directory.path(), &faults) {
            'work: for part in 0..4u64 {
                for piece in 0..2 {
                    let first = part * 20 + piece * 10;
                    offered = first + 10;
                    match append(&store, 0, first, 10).await {
                        Ok(_) => acknowledged = offered,
                        Err(_) => break 'work,
                    }
                }
                if store.seal().await.is_err() || store.housekeep().await.is_err() {
                    break;
                }
            }
            store.close().await;
        }
        let finished = !faults.crashed();
        faults.power_cut();
        for again in 0..2 {
            let store = open(directory.path());
            let count = records(&store, everything("prod")).await.len() as u64;
            let expected: Vec<_> = lines(0, 0, count).into_iter().map(|(.., text)| text).collect();
            assert_eq!(
                texts(&store, everything("prod")).await,
                expected,
                "cut at {crash_in}, opened {again}"
            );
            assert!(
                count == acknowledged || count == offered,
                "cut at {crash_in}: {acknowledged} {count} {offered}"
            );
            // The agent sends again what was not acknowledged.
            append(&store, 0, acknowledged, 30).await.unwrap();
            acknowledged += 30;
            offered = acknowledged;
            if again == 0 {
                store.seal().await.unwrap();
            }
            store.close().await;
        }
        let report = check(directory.path()).unwrap();
        assert!(report.is_whole(), "cut at {crash_in}: {report}");
        if finished {
            assert!(crash_in > 40, "{crash_in} operations only");
            return;
        }
    }
}
