//! History against a naive computation over all rows, whatever part of them is in memory, in spools, sealed or merged.

use super::super::points::{LOOKBACK, Point, Points, ReadError, Series};
use super::super::row::{Amount, Row};
use super::super::seal;
use super::support::{DAY, HOUR, World, query, rows_in, steady};
use crate::store::disk::Disk;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a counter adds over values in order, of which only those from `since` on count; by the time of the later one.
fn added(values: &[(i64, Option<u64>)], since: i64) -> Vec<(i64, u64, i64)> {
    let known: Vec<_> = values.iter().filter_map(|(time, value)| Some((*time, (*value)?))).collect();
    let pairs = known.windows(2).map(|pair| {
        let ((from, before), (time, now)) = (pair[0], pair[1]);
        (time, now.saturating_sub(before), time - from)
    });
    pairs.filter(|(time, ..)| *time >= since).collect()
}

/// One series for each instance, straight from the rows.
fn naive(rows: &[Row], since: i64, until: i64, step: i64) -> Vec<Series> {
    let mut by_instance: BTreeMap<Arc<str>, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| (since - LOOKBACK..until).contains(&row.time)) {
        by_instance.entry(Arc::clone(&row.instance)).or_default().push(row);
    }
    let mut series = Vec::new();
    for (instance, rows) in by_instance {
        let bucket = |time: i64| (time - since).div_euclid(step);
        let mut points: BTreeMap<i64, Point> = BTreeMap::new();
        let mut measured = BTreeSet::new();
        for row in rows.iter().filter(|row| row.time >= since) {
            let time = since + bucket(row.time) * step;
            let point = points.entry(bucket(row.time)).or_default();
            let [limit, share, cpu_limit] = row.settings.map(Amount::get);
            let [working_set, not_reclaimable, cache] = row.peaks.map(Amount::get);
            *point = Point {
                time,
                instances: 1,
                ready: u32::from(row.ready),
                working_set_bytes: point.working_set_bytes.max(working_set),
                not_reclaimable_bytes: point.not_reclaimable_bytes.max(not_reclaimable),
                cache_bytes: point.cache_bytes.max(cache),
                memory_limit_bytes: limit,
                cpu_share_millicores: share,
                cpu_limit_millicores: cpu_limit,
                ..Point::default()
            };
        }
        for row in rows.iter().filter(|row| row.time >= since && row.counters[3].get().is_some()) {
            points.get_mut(&bucket(row.time)).unwrap().oom_kills = Some(0);
        }
        for counter in 0..5 {
            let values: Vec<_> = rows.iter().map(|row| (row.time, row.counters[counter].get())).collect();
            for (time, added, covered) in added(&values, since) {
                let point = points.get_mut(&bucket(time)).unwrap();
                match counter {
                    0 => {
                        measured.insert(bucket(time));
                        point.cpu_nanos = Some(point.cpu_nanos.unwrap_or_default() + added);
                        point.covered_millis += u64::try_from(covered).unwrap();
                    }
                    1 => point.periods += added,
                    2 => point.throttled_periods += added,
                    3 => *point.oom_kills.as_mut().unwrap() += added,
                    _ => point.restarts += added,
                }
            }
        }
        if !points.is_empty() {
            series.push(Series { instance: Some(instance), points: points.into_values().collect() });
        }
    }
    series
}

/// Where the rows are when they are read.
#[derive(Clone, Copy, Debug)]
struct State {
    /// What is written, of how many parts.
    flushed: usize,
    parts: usize,
    /// Up to when everything is done that is to be done.
    settled: i64,
    reopened: bool,
}

fn state() -> impl Strategy<Value = State> {
    (0usize..5, 1usize..5, 0i64..40, any::<bool>()).prop_map(|(flushed, parts, hours, reopened)| State {
        flushed,
        parts,
        settled: DAY + hours * HOUR,
        reopened,
    })
}

/// History with these rows in it, of which some are in memory, some written and some sealed.
fn history(directory: &std::path::Path, rows: &[Row], state: State) -> World {
    let mut world = World::open(directory, Disk::default()).unwrap();
    let mut by_time = rows.to_vec();
    by_time.sort_by_key(|row| row.time);
    let size = by_time.len().div_ceil(state.parts);
    for (index, part) in by_time.chunks(size).enumerate() {
        world.add(part);
        // What is to be sealed has to be written.
        if index < state.flushed || part.iter().any(|row| row.time < state.settled) {
            world.keeper.flush(part.last().unwrap().time);
        }
    }
    if state.reopened {
        world.keeper.flush(state.settled);
        world = World::open(directory, Disk::default()).unwrap();
        world.keeper.flush(state.settled);
    }
    world.settle(state.settled);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn history_equals_a_naive_computation(
        rows in rows_in(80, 1 << 40, DAY + 20 * HOUR..DAY + 27 * HOUR),
        state in state(),
        since in 0i64..7 * 3600,
        length in 1i64..7 * 3600,
        step in prop_oneof![4i64..300, (1i64..60).prop_map(|minutes| minutes * 300), 300i64..4000],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let world = history(directory.path(), &rows, state);
        let since = DAY + 20 * HOUR + since * 1000;
        let asked = query(since, since + length * 1000, step * 1000, true);
        let found = match world.read(&asked) {
            Err(ReadError::TooManyBuckets { step, .. }) => {
                // The step that it names is one that works.
                world.read(&query(asked.since, asked.until, i64::try_from(step.as_millis()).unwrap(), true)).unwrap()
            }
            found => found.unwrap(),
        };
        let Points { since, until, step, .. } = found;
        prop_assert!(since <= asked.since && until >= asked.until && step * 2000 >= until - since);
        prop_assert_eq!(&found.series, &naive(&rows, since, until, step));
        prop_assert_eq!(found.damaged, 0);

        // The environment's counters are its instances' together, but for CPU, which is spread over time.
        let all = world.read(&query(since, until, step, false)).unwrap();
        prop_assert_eq!((all.since, all.until, all.step), (since, until, step));
        let sum = |of: fn(&Point) -> u64| -> BTreeMap<i64, u64> {
            let mut sums = BTreeMap::new();
            for point in found.series.iter().flat_map(|series| &series.points) {
                *sums.entry(point.time).or_default() += of(point);
            }
            sums
        };
        let whole = |of: fn(&Point) -> u64| -> BTreeMap<i64, u64> {
            all.series.iter().flat_map(|series| &series.points).map(|point| (point.time, of(point))).collect()
        };
        let counters: [fn(&Point) -> u64; 4] = [
            |point| point.periods,
            |point| point.throttled_periods,
            |point| point.oom_kills.unwrap_or_default(),
            |point| point.restarts,
        ];
        for of in counters {
            prop_assert_eq!(whole(of), sum(of));
        }
        // At once they have no more than one by one, and at least what the first of them has.
        let at_most: [fn(&Point) -> u64; 3] = [
            |point| point.instances.into(),
            |point| point.ready.into(),
            |point| point.working_set_bytes.unwrap_or_default(),
        ];
        for of in at_most {
            let sum = sum(of);
            prop_assert!(whole(of).iter().all(|(time, whole)| whole <= &sum[time]));
        }
        for point in &all.series[0].points {
            let of = found.series.iter().flat_map(|series| &series.points).filter(|one| one.time == point.time);
            let most = of.map(|one| one.working_set_bytes).max().flatten();
            prop_assert!(point.covered_millis <= step.unsigned_abs());
            prop_assert!(point.working_set_bytes >= most && (1..=point.instances).contains(&point.ready.max(1)));
        }
    }

    #[test]
    fn cells_say_the_same_as_rows(
        rows in rows_in(80, 1 << 40, DAY..DAY + 3 * HOUR),
        step in 1i64..20,
        since in 0i64..36,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let state = State { flushed: 5, parts: 1, settled: DAY + 4 * HOUR, reopened: false };
        let world = history(directory.path(), &rows, state);
        for per_instance in [true, false] {
            let asked = query(DAY + since * 300_000, DAY + 3 * HOUR, step * 300_000, per_instance);
            let of_cells = world.read(&asked).unwrap();
            for cells in world.files().iter().filter(|name| name.ends_with(".5m.parquet")) {
                let path = super::super::files::directory(&world.root, &asked.environment).join(cells);
                std::fs::rename(&path, path.with_extension("away")).unwrap();
            }
            let of_rows = world.read(&asked).unwrap();
            prop_assert_eq!(of_cells, of_rows);
            for cells in world.files().iter().filter(|name| name.ends_with(".away")) {
                let path = super::super::files::directory(&world.root, &asked.environment).join(cells);
                std::fs::rename(&path, path.with_extension("parquet")).unwrap();
            }
        }
    }
}

#[test]
fn an_environment_s_memory_is_what_its_instances_have_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    // One takes the other's place after ten minutes.
    for at in 0..120 {
        let time = DAY + at * 5000;
        rows.push(steady("web-1", time, at.unsigned_abs() * 1_000_000_000));
        rows.push(steady("web-2", time + 600_000, at.unsigned_abs() * 2_000_000_000));
    }
    seal::in_order(&mut rows);
    let state = State { flushed: 1, parts: 1, settled: DAY + 2 * HOUR, reopened: false };
    let world = history(directory.path(), &rows, state);
    let found = world.read(&query(DAY, DAY + HOUR, HOUR, false)).unwrap();
    let [series] = &found.series[..] else { panic!("{found:?}") };
    let [point] = &series.points[..] else { panic!("{series:?}") };
    assert_eq!(point.working_set_bytes, Some(100 << 20));
    assert_eq!((point.memory_limit_bytes, point.cpu_limit_millicores), (Some(512 << 20), None));
    assert_eq!((point.instances, point.ready), (1, 1));
    assert_eq!(point.cpu_nanos, Some(119 * 3_000_000_000));
    assert_eq!(point.covered_millis, 2 * 119 * 5000);
}

/// Where instances were sampled at different moments, the CPU of a short step once was that of one of them, or fifty cores.
#[test]
fn an_environment_s_cpu_is_even_when_its_instances_are() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for at in 0..400_i64 {
        for (instance, phase) in [("a", 0), ("b", 2_500), ("c", 4_990)] {
            let time = DAY + at * 5000 + phase + at % 3 * 40;
            // A core each, and the third has ended after half of the time.
            if instance != "c" || at < 200 {
                rows.push(steady(instance, time, (time - DAY).unsigned_abs() * 1_000_000));
            }
        }
    }
    seal::in_order(&mut rows);
    let state = State { flushed: 1, parts: 1, settled: DAY + 2 * HOUR, reopened: false };
    let world = history(directory.path(), &rows, state);
    for step in [5_000, 10_000, 30_000] {
        let found = world.read(&query(DAY + 60_000, DAY + 2_000_000, step, false)).unwrap();
        for point in &found.series[0].points {
            let millicores = point.cpu_nanos.unwrap() / point.covered_millis / 1000;
            let whole = [(0, 1000 * 1000, 3000), (1_030_000, 2_000_000, 2000)];
            let expected =
                whole.iter().find(|(from, until, _)| (DAY + from..DAY + until - step).contains(&point.time));
            if let Some((_, _, expected)) = expected {
                assert!(millicores.abs_diff(*expected) <= 1, "{step} {point:?}");
            }
            assert!((1999..=3001).contains(&millicores), "{step} {point:?}");
        }
    }
}

/// Instances replaced within a cell were once counted beside those that replaced them.
#[test]
fn a_deploy_within_a_cell_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for at in 0..60_i64 {
        let old_or_new = if at < 30 { "old" } else { "new" };
        for instance in 0..3 {
            let cpu = at.unsigned_abs() % 30 * 1_000_000_000;
            rows.push(steady(&format!("{old_or_new}-{instance}"), DAY + at * 5000 + instance, cpu));
        }
    }
    seal::in_order(&mut rows);
    let state = State { flushed: 1, parts: 1, settled: DAY + 2 * HOUR, reopened: false };
    let world = history(directory.path(), &rows, state);
    let found = world.read(&query(DAY, DAY + HOUR, 300_000, false)).unwrap();
    let point = &found.series[0].points[0];
    assert_eq!((point.instances, point.ready, point.working_set_bytes), (3, 3, Some(300 << 20)));
    assert_eq!((point.memory_limit_bytes, point.cpu_share_millicores), (Some(1536 << 20), Some(750)));
    // A core's fifth each: 29 s of 145 s, before the deploy and after it. Two go on for a moment until the third is sampled.
    assert_eq!((point.cpu_nanos, point.covered_millis), (Some(2 * 3 * 29_000_000_000 + 600_000), 295_002));
}

#[test]
fn questions_that_cannot_be_answered_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::open(directory.path(), Disk::default()).unwrap();
    let refused = |since, until, step| world.read(&query(since, until, step, false)).unwrap_err();
    assert!(matches!(refused(DAY, DAY - 1, 1000), ReadError::Range));
    assert!(matches!(refused(0, i64::MAX, 1000), ReadError::Range));
    assert!(matches!(refused(DAY, DAY + HOUR, 1000), ReadError::TooManyBuckets { buckets: 3600, .. }));
    // Nothing is no error.
    assert_eq!(world.read(&query(DAY, DAY, 1000, true)).unwrap().series, []);
}
