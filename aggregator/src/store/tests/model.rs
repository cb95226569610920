//! Random operations against a plain model, compared for equality.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::support::*;
use crate::record::{Cursor, Read};
use crate::store::disk::faults::Faults;

#[derive(Clone, Debug)]
enum Operation {
    /// Source, how far before what is acknowledged it begins, time step in seconds, and how many lines each batch has:
    /// all batches are under way at once.
    Append {
        source: usize,
        back: u64,
        step: i64,
        counts: Vec<u64>,
    },
    Seal,
    Housekeep,
    Reopen,
    /// The power is cut at this operation on the disk from now.
    Cut {
        after: u64,
    },
    Full(bool),
    FailSync,
    /// A follower reads one chunk on.
    Follow,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..3usize, 0..8u64, -3..900i64, prop::collection::vec(1..12u64, 1..6))
            .prop_map(|(source, back, step, counts)| Operation::Append { source, back, step, counts }),
        2 => Just(Operation::Seal),
        1 => Just(Operation::Housekeep),
        1 => Just(Operation::Reopen),
        2 => (1..30u64).prop_map(|after| Operation::Cut { after }),
        1 => any::<bool>().prop_map(Operation::Full),
        1 => Just(Operation::FailSync),
        2 => Just(Operation::Follow),
    ]
}

/// Each source's lines that are stored, and that may be.
#[derive(Default)]
struct Model {
    written: BTreeMap<usize, Vec<Line>>,
    acknowledged: BTreeMap<usize, usize>,
    followed: Vec<u64>,
    cursor: Option<Cursor>,
}

async fn run(operations: Vec<Operation>) {
    let directory = tempfile::tempdir().unwrap();
    let mut faults = Faults::new(operations.len() as u64);
    let mut store = open_with(directory.path(), &faults).unwrap();
    let mut model = Model::default();
    for operation in operations.into_iter().chain([Operation::Reopen, Operation::Follow]) {
        match operation {
            Operation::Append { source, back, step, counts } => {
                let written = model.written.entry(source).or_default();
                let acknowledged = model.acknowledged.entry(source).or_default();
                let mut from = acknowledged.saturating_sub(usize::try_from(back).unwrap());
                // The file has what was written before; then it grows.
                let until = *acknowledged + usize::try_from(counts.iter().sum::<u64>()).unwrap();
                while written.len() < until {
                    let (position, time, _) = written.last().cloned().unwrap_or((0, START, String::new()));
                    let number = written.len();
                    // Steps back by less than what is taken for a corrected clock.
                    let step = if step < 0 && number % 2 == 0 { -step } else { step };
                    written.push((position + 7, time + step * SECOND, format!("{source} {number}")));
                }
                let lane = store.lane();
                let mut ends = Vec::new();
                let appends = counts.iter().map(|count| {
                    let to = until.min(from + usize::try_from(*count).unwrap());
                    ends.push((to, to - from));
                    let append = lane.append(batch(source, 1, &written[from..to]));
                    from = to;
                    append
                });
                let results = futures::future::join_all(appends).await;
                let stored = results.iter().take_while(|result| result.is_ok()).count();
                assert!(results[stored..].iter().all(Result::is_err), "{results:?}");
                for (result, (to, count)) in results.iter().flatten().zip(ends) {
                    assert_eq!(result.kept + result.dropped, count);
                    *acknowledged = to.max(*acknowledged);
                }
            }
            Operation::Seal => drop(store.seal().await),
            Operation::Housekeep => drop(store.housekeep().await),
            Operation::Full(full) => faults.set_full(full),
            Operation::FailSync => faults.fail_syncs(1),
            Operation::Cut { after } => faults.crash_in(after),
            Operation::Follow if faults.crashed() => {}
            Operation::Follow => {
                let mut reader =
                    store.read(Read { follow: true, cursor: model.cursor, ..everything("prod") });
                let chunk = reader.next().await.unwrap().unwrap();
                assert_eq!(chunk.skipped, 0);
                model.cursor = Some(chunk.cursor);
                model.followed.extend(chunk.records.iter().map(|record| record.sequence));
            }
            Operation::Reopen => {
                store.close().await;
                drop(store);
                faults.power_cut();
                faults = Faults::new(7);
                store = open_with(directory.path(), &faults).unwrap();
            }
        }
        if faults.crashed() {
            store.close().await;
            drop(store);
            faults.power_cut();
            faults = Faults::new(9);
            store = open_with(directory.path(), &faults).unwrap();
        }
        compare(&store, &mut model).await;
    }
    store.close().await;
    let report = crate::store::check(directory.path()).unwrap();
    assert!(report.is_whole(), "{report}");
    let mut followed = model.followed;
    let count = followed.len();
    followed.sort_unstable();
    followed.dedup();
    assert_eq!(followed.len(), count, "a record was given twice");
}

/// Each source's lines are there once and in order: all acknowledged ones, and of the others a beginning.
async fn compare(store: &crate::store::Store, model: &mut Model) {
    let found = records(store, everything("prod")).await;
    let mut sequences: Vec<_> = found.iter().map(|record| record.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=found.len() as u64).collect::<Vec<_>>());
    let mut by_source: BTreeMap<usize, Vec<(u64, String)>> = BTreeMap::new();
    for record in &found {
        let text = text(record);
        by_source
            .entry(text.split(' ').next().unwrap().parse().unwrap())
            .or_default()
            .push((record.sequence, text));
    }
    for (source, written) in &model.written {
        let mut lines = by_source.remove(source).unwrap_or_default();
        assert!(lines.is_sorted(), "source {source} is out of order: {lines:?}");
        let acknowledged = model.acknowledged.get_mut(source).unwrap();
        assert!(lines.len() >= *acknowledged, "source {source}: {} of {acknowledged}", lines.len());
        let expected: Vec<_> = written[..lines.len()].iter().map(|(.., text)| text.clone()).collect();
        assert_eq!(lines.drain(..).map(|(_, text)| text).collect::<Vec<_>>(), expected);
    }
    assert!(by_source.is_empty());
    let head = found.len() as u64;
    assert!(model.followed.iter().all(|sequence| *sequence <= head));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_operations_keeps_what_was_acknowledged(operations in prop::collection::vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(operations));
    }
}
