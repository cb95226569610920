//! What crashes, full disks and damage do to history: what was written stays, and what is gone is said.

use super::super::counts::Outcome;
use super::super::files;
use super::super::points::Points;
use super::super::row::Row;
use super::support::{DAY, HOUR, World, key, query, steady};
use crate::store::disk::Disk;
use crate::store::disk::faults::Faults;
use std::path::{Path, PathBuf};

fn hour_of_rows(hour: i64) -> Vec<Row> {
    let row = |at: i64| {
        let time = DAY + hour * HOUR + at * 60_000;
        steady(if at % 2 == 0 { "web-1" } else { "web-2" }, time, (hour * 60 + at).unsigned_abs() * 1_000_000)
    };
    (0..60).map(row).collect()
}

fn all(world: &World) -> Points {
    world.read(&query(DAY, DAY + 30 * HOUR, 60_000, true)).unwrap()
}

fn path(root: &Path, name: &str) -> PathBuf {
    files::directory(root, &key("prod")).join(name)
}

/// What is there when nothing goes wrong.
fn expected(hours: i64) -> Points {
    let directory = tempfile::tempdir().unwrap();
    let world = World::open(directory.path(), Disk::default()).unwrap();
    (0..hours).for_each(|hour| world.add(&hour_of_rows(hour)));
    all(&world)
}

#[test]
fn a_crash_at_any_moment_costs_no_more_than_what_was_not_written() {
    let complete = expected(3);
    let mut crashes = 0;
    for operation in 1..200 {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::new(operation);
        faults.crash_in(operation);
        let mut flushed = 0;
        if let Ok(mut world) = World::open(directory.path(), Disk::with(faults.clone())) {
            for hour in 0..3 {
                world.add(&hour_of_rows(hour));
                world.keeper.flush(DAY + (hour + 1) * HOUR);
                if !faults.crashed() {
                    flushed = hour + 1;
                }
                while world.keeper.step(DAY + (hour + 1) * HOUR + 20_000) && !faults.crashed() {}
            }
            // A whole day later, which merges the cells.
            world.settle(DAY + 26 * HOUR);
        }
        crashes += u32::from(faults.crashed());
        faults.power_cut();

        let mut world = World::open(directory.path(), Disk::default()).unwrap();
        // What was written is there, at once and after everything that was left undone is done.
        for settled in [false, true] {
            if settled {
                world.settle(DAY + 26 * HOUR);
            }
            let found = all(&world);
            assert_eq!(found.damaged, 0, "operation {operation}");
            let points = |points: &Points, until: i64| -> Vec<_> {
                let of = |s: &super::super::points::Series| {
                    s.points.iter().filter(|p| p.time < until).cloned().collect::<Vec<_>>()
                };
                points.series.iter().map(of).collect()
            };
            let until = DAY + flushed * HOUR;
            if flushed > 0 {
                assert_eq!(
                    points(&found, until),
                    points(&complete, until),
                    "operation {operation}, {settled}"
                );
            }
        }
        let left = world.files();
        assert!(left.iter().all(|name| name.ends_with(".parquet")), "operation {operation}: {left:?}");
    }
    assert!(crashes > 40, "{crashes}");
}

#[test]
fn a_full_disk_keeps_rows_in_memory_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(1);
    let mut world = World::open(directory.path(), Disk::with(faults.clone())).unwrap();
    world.add(&hour_of_rows(0));
    world.keeper.flush(DAY + HOUR);
    faults.set_full(true);
    world.add(&hour_of_rows(1));
    for minute in 0..10 {
        // Half a block is written each time and cut off again.
        world.settle(DAY + 2 * HOUR + minute * 60_000);
    }
    assert!(world.counts.numbers().fault);
    assert_eq!(all(&world), expected(2));
    faults.set_full(false);
    world.settle(DAY + 3 * HOUR);
    assert!(!world.counts.numbers().fault);
    assert_eq!(all(&world), expected(2));
    assert_eq!(world.counts.sample(Outcome::Kept), 120);
    assert_eq!(world.files().len(), 4, "{:?}", world.files());
}

#[test]
fn what_is_half_written_is_cut_off_before_the_next_rows() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    let rows = hour_of_rows(0);
    world.add(&rows[..30]);
    world.keeper.flush(DAY + HOUR);
    drop(world);
    let spool = path(directory.path(), "2026-11-24T00.spool");
    let mut bytes = std::fs::read(&spool).unwrap();
    bytes.extend_from_slice(&bytes.clone()[..100]);
    std::fs::write(&spool, &bytes).unwrap();

    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    world.add(&rows[30..]);
    world.settle(DAY + HOUR / 2);
    assert_eq!(all(&world), expected(1));
    world.settle(DAY + 2 * HOUR);
    assert_eq!(all(&world), expected(1));
}

#[test]
fn sealed_rows_win_over_a_spool_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    world.add(&hour_of_rows(0));
    world.settle(DAY + 2 * HOUR);
    let spool = path(directory.path(), "2026-11-24T00.spool");
    std::fs::write(&spool, super::super::spool::block(&[steady("ghost", DAY, 1)])).unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    assert_eq!(all(&world), expected(1));
    world.settle(DAY + 2 * HOUR);
    assert!(!spool.exists());
    assert_eq!(all(&world), expected(1));
}

#[test]
fn rows_of_an_hour_that_is_sealed_are_dropped_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    world.add(&hour_of_rows(0));
    world.settle(DAY + 2 * HOUR);
    world.add(&[steady("web-1", DAY + 30_000, 5)]);
    world.settle(DAY + 2 * HOUR);
    assert_eq!(all(&world), expected(1));
    assert_eq!(world.counts.sample(Outcome::Late), 1);
}

#[test]
fn a_damaged_file_is_skipped_counted_and_said() {
    let damage = |root: &Path, name: &str| {
        let path = path(root, name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        std::fs::write(path, bytes).unwrap();
    };
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    (0..3).for_each(|hour| world.add(&hour_of_rows(hour)));
    world.settle(DAY + 4 * HOUR);
    let coarse = |world: &World| world.read(&query(DAY, DAY + 3 * HOUR, HOUR, true)).unwrap();
    let whole = coarse(&world);

    // Damaged cells: their rows are read in their place.
    damage(directory.path(), "2026-11-24T01.5m.parquet");
    let found = coarse(&world);
    assert_eq!((found.damaged, &found.series), (1, &whole.series));
    // Also when days are merged, which leaves that hour out.
    world.settle(DAY + 26 * HOUR);
    assert_eq!(coarse(&world), whole);
    let names =
        ["2026-11-24.5m.parquet", "2026-11-24T00.parquet", "2026-11-24T01.parquet", "2026-11-24T02.parquet"];
    assert_eq!(world.files(), names);

    // Damaged rows: that hour is missing.
    damage(directory.path(), "2026-11-24T01.parquet");
    let found = all(&world);
    assert_eq!(found.damaged, 1);
    let times = found.series.iter().flat_map(|series| &series.points).map(|point| point.time);
    assert!(times.clone().all(|time| !(DAY + HOUR..DAY + 2 * HOUR).contains(&time)));
    assert_eq!(times.count(), 120);
    // A checksum that is gone is damage, too.
    std::fs::remove_file(path(directory.path(), "2026-11-24T02.parquet.crc")).unwrap();
    assert_eq!(all(&world).damaged, 2);
}

#[test]
fn one_environment_that_cannot_be_sealed_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    let rows = hour_of_rows(0);
    world.pending.add(rows.iter().map(|row| (key("broken"), row.clone())).collect());
    world.add(&rows);
    world.keeper.flush(DAY + HOUR + 20_000);
    // A directory in the place of the file.
    let broken = files::directory(directory.path(), &key("broken"));
    std::fs::create_dir(broken.join("2026-11-24T00.5m.parquet")).unwrap();
    world.settle(DAY + HOUR + 20_000);
    assert_eq!(world.files(), ["2026-11-24T00.5m.parquet", "2026-11-24T00.parquet"]);
    assert!(world.counts.numbers().fault);
    std::fs::remove_dir(broken.join("2026-11-24T00.5m.parquet")).unwrap();
    world.settle(DAY + 2 * HOUR);
    assert!(broken.join("2026-11-24T00.parquet").exists());
    world.settle(DAY + 2 * HOUR);
    assert!(!world.counts.numbers().fault);
}

#[test]
fn what_is_too_old_goes_with_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    world.add(&hour_of_rows(0));
    world.settle(DAY + 26 * HOUR);
    assert_eq!(world.files(), ["2026-11-24.5m.parquet", "2026-11-24T00.parquet"]);
    let much_later = DAY + (1 << 43);
    world.settle(much_later);
    assert!(!files::directory(directory.path(), &key("prod")).exists());
}
