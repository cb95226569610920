//! What is sent, acknowledged or not, and remembered.

use super::super::fake::{Node, UID, numbered};
use super::super::{ClaimChange, Limits, Tail};
use super::SECOND;
use skpr_proto::ids::PodUid;
use std::collections::BTreeSet;
use std::fs;

#[test]
fn reading_stops_when_nothing_is_acknowledged() {
    let mut node = Node::with(Limits { watch: false, window_bytes: 1 << 20, ..Limits::default() });
    let mut log = node.log("php");
    log.lines(0, 100_000);
    node.look();
    let mut bytes = 0;
    let mut batches = Vec::new();
    while let Some(batch) = node.next() {
        bytes += batch.messages.len();
        batches.push(batch);
    }
    assert!(bytes < 2 << 20, "{bytes}");
    for batch in batches {
        node.store.append(&batch);
        node.tail().acknowledged(batch.id);
    }
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 100_000));
}

#[test]
fn what_was_sent_and_not_acknowledged_is_sent_again() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    let batch = node.next().unwrap();
    node.store.append(&batch);
    node.tail().rewind();
    node.tail().acknowledged(batch.id);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 10));
    assert_eq!(node.store.dropped, 10);
}

#[test]
fn a_torn_old_or_newer_checkpoint_costs_a_replay_only() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    let path = node.state.join("checkpoint");
    let old = fs::read(&path).unwrap();
    log.lines(10, 20);
    node.drain();
    for bytes in [&old[..], &old[..old.len() / 2], b"", b"skprck99 from the future"] {
        node.kill();
        fs::write(&path, bytes).unwrap();
        log.line("more");
        node.drain();
    }
    let mut expected = numbered(0, 20);
    expected.extend(std::iter::repeat_n("more".to_owned(), 4));
    assert_eq!(node.store.texts(), expected);
}

#[test]
fn a_second_agent_on_the_node_is_harmless() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    let now = node.now;
    let mut other = Tail::open(&node.logs, &node.state.join("other"), node.limits.clone()).unwrap();
    other.claim(ClaimChange::Complete(node.claimed.clone()), now);
    other.tick(now);
    node.look();
    let twin = other.next_batch(now).unwrap();
    node.store.append(&twin);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 10));
    assert_eq!(node.store.dropped, 10);
}

#[test]
fn unclaimed_files_are_held_and_let_go() {
    let mut node = Node::with(Limits { watch: false, held_files: 2, ..Limits::default() });
    node.claimed.clear();
    let mut logs: Vec<_> = ["a", "b", "c"].map(|name| node.log(name)).into();
    for log in &mut logs {
        log.line("unclaimed");
        node.drain();
    }
    assert_eq!(node.store.records.len(), 0);
    assert_eq!(node.tail().counters().held_files, 2);
    assert_eq!(node.tail().counters().released_files, 1);
    // A claim that comes after the pod is gone still gets what is held, and what was let go is read when it exists.
    let now = node.now;
    let uid = PodUid::parse(UID).unwrap();
    node.tail().claim(ClaimChange::Delta { claimed: BTreeSet::from([uid]), released: BTreeSet::new() }, now);
    logs[0].delete_pod();
    node.drain();
    assert_eq!(node.store.texts(), ["unclaimed"; 3]);
}

#[test]
fn a_pod_that_a_complete_set_lacks_is_let_go_after_a_grace_period() {
    let mut node = Node::new();
    node.claimed.clear();
    let mut log = node.log("php");
    log.line("unclaimed");
    node.drain();
    assert_eq!(node.tail().counters().held_files, 1);
    node.pass(61 * SECOND);
    node.look();
    assert_eq!(node.tail().counters().held_files, 0);
}

#[test]
fn a_refused_batch_is_not_sent_again() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    let batch = node.next().unwrap();
    node.tail().refused(batch.id, "not claimed");
    node.tail().rewind();
    log.lines(10, 12);
    node.drain();
    assert_eq!(node.store.texts(), numbered(10, 12));
    assert_eq!(node.tail().counters().refused_records, 10);
}

#[test]
fn more_files_than_descriptors_are_all_read() {
    let mut node = Node::with(Limits { watch: false, open_files: 5, ..Limits::default() });
    let mut logs: Vec<_> = (0..40).map(|number| node.log(&format!("c{number}"))).collect();
    for round in 0..3 {
        for log in &mut logs {
            log.line(&format!("round {round}"));
            if round == 1 {
                log.rotate(5);
            }
        }
        node.drain();
    }
    assert_eq!(node.store.records.len(), 120);
    assert_eq!(node.store.dropped, 0);
    assert_eq!(node.store.gaps(), Vec::<String>::new());
}

#[test]
fn endless_partials_in_many_files_are_bounded_and_complete() {
    let mut node = Node::with(Limits { watch: false, partial_bytes: 1 << 20, ..Limits::default() });
    let mut logs: Vec<_> = (0..8).map(|number| node.log(&format!("c{number}"))).collect();
    for log in &mut logs {
        for _ in 0..40 {
            log.chunk(false, "P", &[b'x'; 16 << 10]);
        }
    }
    node.drain();
    for log in &mut logs {
        log.chunk(false, "F", b"end");
    }
    node.drain();
    let total: usize = node.store.records.iter().map(|record| record.message.len()).sum();
    assert_eq!(total, 8 * (40 * (16 << 10) + 3));
    assert!(node.store.records.len() > 8);
}
