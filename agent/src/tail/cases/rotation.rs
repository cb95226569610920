//! Rotation, compression and what is lost by it.

use super::super::Limits;
use super::super::fake::{Node, numbered};
use std::fs;
use std::io::Write as _;
use std::time::Duration;

#[test]
fn writes_to_a_renamed_file_until_the_reopen_are_read_first() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.lines(10, 20);
    log.rename();
    node.look();
    node.ship();
    log.lines(20, 30);
    let mut old = log.reopen();
    log.lines(30, 40);
    node.look();
    node.ship();
    // A straggler after the new file has begun, within the grace period.
    old.write_all(b"2026-11-22T10:00:01Z stdout F late\n").unwrap();
    node.drain();
    let mut expected = numbered(0, 30);
    expected.push("late".into());
    expected.extend(numbered(30, 40));
    assert_eq!(node.store.texts(), expected);
    assert_eq!(node.store.dropped, 0);
}

#[test]
fn a_straggler_after_the_successor_was_read_is_not_lost() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 3);
    node.drain();
    log.rename();
    let mut old = log.reopen();
    log.lines(3, 6);
    node.look();
    node.ship();
    node.pass(Duration::from_millis(60));
    node.look();
    node.ship();
    assert_eq!(node.store.texts(), numbered(0, 6));
    old.write_all(b"2026-11-22T10:00:01Z stdout F late\n").unwrap();
    node.kill();
    node.look();
    node.drain();
    let mut texts = node.store.texts();
    texts.sort();
    let mut expected = numbered(0, 6);
    expected.insert(0, "late".into());
    assert_eq!(texts, expected);
}

#[test]
fn a_failed_reopen_renames_back_and_repeats_nothing() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 5);
    node.drain();
    let renamed = log.rename();
    log.lines(5, 8);
    node.look();
    node.ship();
    fs::rename(renamed, log.live()).unwrap();
    log.lines(8, 10);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 10));
    assert_eq!(node.store.dropped, 0);
}

#[test]
fn several_rotations_while_the_reader_is_blocked_are_read_in_order() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 5);
    node.look();
    for round in 0..3 {
        log.lines(5 + round * 5, 10 + round * 5);
        log.rotate(10);
    }
    log.lines(20, 25);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 25));
}

#[test]
fn a_file_that_is_compressed_while_being_read_is_finished_and_not_read_again() {
    let mut node = Node::with(Limits { watch: false, window_bytes: 400 << 10, ..Limits::default() });
    let mut log = node.log("php");
    log.lines(0, 20_000);
    node.look();
    let first = node.next().unwrap();
    node.store.append(&first);
    log.rotate(5);
    log.lines(20_000, 20_010);
    fs::write(log.directory.join("0.log.20261122-100009.tmp"), "junk\n").unwrap();
    node.look();
    log.rotate(5);
    log.lines(20_010, 20_020);
    node.tail().acknowledged(first.id);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 20_020));
    assert_eq!(node.store.dropped, 0);
    node.drain();
    node.kill();
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 20_020));
}

#[test]
fn downtime_over_two_rotations_goes_on_inside_the_compressed_file() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 100);
    node.drain();
    node.kill();
    log.lines(100, 200);
    log.rotate(5);
    log.lines(200, 300);
    log.rotate(5);
    log.lines(300, 400);
    assert!(
        fs::read_dir(&log.directory)
            .unwrap()
            .any(|entry| entry.unwrap().path().extension() == Some("gz".as_ref()))
    );
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 400));
    assert_eq!(node.store.dropped, 0);
    assert_eq!(node.store.gaps(), Vec::<String>::new());
}

#[test]
fn downtime_past_the_horizon_is_one_gap_and_the_oldest_surviving_line() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 100);
    node.drain();
    node.kill();
    for round in 1..6 {
        log.lines(round * 100, round * 100 + 100);
        log.rotate(3);
    }
    log.lines(600, 610);
    node.drain();
    let texts = node.store.texts();
    let gaps = node.store.gaps();
    assert_eq!(gaps.len(), 1, "{texts:?}");
    assert!(
        gaps[0].contains("between 2026-11-22T10:00:00.1") && gaps[0].contains("and 2026-11-22T10:00:00.4"),
        "{gaps:?}"
    );
    let mut expected = numbered(0, 100);
    expected.push(gaps[0].clone());
    expected.extend(numbered(400, 610));
    assert_eq!(texts, expected);
    assert_eq!(node.tail().counters().gaps, 1);
    // Neither a lost acknowledgement nor another restart makes it two.
    node.tail().rewind();
    node.drain();
    node.kill();
    node.drain();
    assert_eq!(node.store.texts(), expected);
}

#[test]
fn a_gap_whose_acknowledgement_is_lost_is_kept_once() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    node.kill();
    fs::remove_file(log.live()).unwrap();
    drop(log.reopen());
    log.lines(20, 30);
    node.look();
    let batch = node.next().unwrap();
    node.store.append(&batch);
    node.kill();
    node.drain();
    assert_eq!(node.store.gaps().len(), 1);
    assert_eq!(node.store.records.len(), 21);
}
