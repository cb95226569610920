//! Pods and containers that come, go and come back.

use super::super::fake::{Node, UID, numbered};
use super::super::{ClaimChange, Limits};
use super::SECOND;
use skpr_proto::ids::PodUid;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_deleted_pod_is_drained_and_its_descriptors_are_closed() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 20_000);
    log.chunk(true, "P", b"last words");
    node.look();
    log.delete_pod();
    node.drain();
    let mut expected = numbered(0, 20_000);
    expected.push("last words".into());
    assert_eq!(node.store.texts(), expected);
    assert_eq!(node.tail().counters().followed_files, 0);
    assert_eq!(node.tail().counters().backlog_bytes, 0);
}

#[test]
fn a_released_claim_still_drains_a_deleted_pod() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.lines(10, 20);
    let now = node.now;
    let released = node.claimed.clone();
    node.tail().claim(ClaimChange::Delta { claimed: BTreeSet::new(), released }, now);
    log.delete_pod();
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 20));
}

#[test]
fn a_short_lived_container_is_caught_by_the_watch() {
    let mut node = Node::with(Limits::default());
    let now = node.now;
    node.tail().tick(now);
    let mut log = node.log("php");
    log.line("brief");
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.tail().counters().followed_files == 0 && Instant::now() < deadline {
        node.tail().wait(SECOND);
        node.tail().tick(now);
    }
    log.delete_pod();
    node.drain();
    assert_eq!(node.store.texts(), ["brief"]);
}

#[test]
fn a_write_wakes_the_watch() {
    let mut node = Node::with(Limits::default());
    let mut log = node.log("php");
    log.line("first");
    node.drain();
    node.tail().wait(Duration::ZERO);
    log.line("second");
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.store.records.len() < 2 && Instant::now() < deadline {
        node.tail().wait(SECOND);
        // Time stands still: no reconcile falls due.
        let now = node.now - SECOND;
        node.tail().tick(now);
        node.ship();
    }
    assert_eq!(node.store.texts(), ["first", "second"]);
}

#[test]
fn a_restarted_container_goes_on_in_the_next_file() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    node.ship();
    log.lines(10, 20);
    log.chunk(false, "P", b"cut off");
    log.restart();
    log.lines(20, 30);
    node.drain();
    let mut expected = numbered(0, 20);
    expected.push("cut off".into());
    expected.extend(numbered(20, 30));
    assert_eq!(node.store.texts(), expected);
}

#[test]
fn a_restart_whose_file_is_gone_is_a_gap() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    node.kill();
    log.restart();
    log.lines(10, 20);
    fs::remove_file(log.live()).unwrap();
    log.restart();
    log.lines(20, 30);
    node.drain();
    assert_eq!(node.store.gaps().len(), 1);
    assert_eq!(node.store.records.len(), 21);
}

#[test]
fn a_pod_recreated_with_the_same_name_is_another_source() {
    let mut node = Node::new();
    let other = "0a1b2c3d-0000-4000-8000-000000000002";
    node.claimed.insert(PodUid::parse(other).unwrap());
    let mut log = node.log("php");
    log.line("old");
    node.drain();
    log.delete_pod();
    let mut log = super::super::fake::Log::new(&node.logs, other, "php");
    log.line("new");
    node.drain();
    let seen: Vec<_> = node.store.records.iter().map(|record| (record.uid.as_str(), record.text())).collect();
    assert_eq!(seen, [(UID, "old".to_owned()), (other, "new".to_owned())]);
}
