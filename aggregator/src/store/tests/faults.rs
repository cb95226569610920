//! Disks that fill up, fail, lose power and flip bits.

use super::support::*;
use crate::record::RecordKind;
use crate::store::disk::faults::Faults;
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
