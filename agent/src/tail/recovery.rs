//! What becomes of lines when something else fails: the checkpoint's disk, the limit of open files, a batch.

use super::fake::{Node, UID, numbered};
use super::{ClaimChange, Limits, Tail};
use crate::checkpoint::{Checkpoint, Position};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skpr_proto::ids::PodUid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn saved(node: &Node) -> Vec<Position> {
    Checkpoint::from_bytes(&fs::read(node.state.join("checkpoint")).unwrap()).unwrap().sources
}

/// Makes every save fail until the directory is put back.
fn lose_state(node: &Node) -> PathBuf {
    let away = node.state.with_extension("away");
    fs::rename(&node.state, &away).unwrap();
    away
}

#[test]
fn a_partial_is_not_emitted_before_its_place_is_durable() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.chunk(false, "P", b"prompt> ");
    node.drain();
    let away = lose_state(&node);
    node.pass(31 * SECOND);
    node.look();
    assert!(node.next().is_none());
    // What is whole goes on, and the partial is still there to be completed.
    log.chunk(true, "F", b"other");
    node.look();
    node.ship();
    assert_eq!(node.store.texts(), ["other"]);
    fs::rename(away, &node.state).unwrap();
    node.pass(31 * SECOND);
    node.look();
    let batch = node.next().unwrap();
    node.store.append(&batch);
    log.chunk(false, "F", b"answer");
    node.kill();
    node.drain();
    assert_eq!(node.store.texts(), ["other", "prompt> ", "answer"]);
}

#[test]
fn a_shortage_of_room_emits_the_largest_partials_with_one_save() {
    let limits = Limits { watch: false, partial_bytes: 1 << 20, ..Limits::default() };
    let mut node = Node::with(limits);
    let mut logs: Vec<_> = (0..6).map(|number| node.log(&format!("c{number}"))).collect();
    let chunk = [b'x'; 16 << 10];
    // Small ones, which have their turns first and last, and three that are together too large.
    for (log, chunks) in logs.iter_mut().zip([1, 24, 24, 24, 1, 1]) {
        for _ in 0..chunks {
            log.chunk(false, "P", &chunk);
        }
    }
    node.look();
    node.ship();
    let mut emitted: Vec<_> = node.store.records.iter().map(|record| record.container.clone()).collect();
    emitted.sort();
    assert!(emitted.iter().all(|name| ["c1", "c2", "c3"].contains(&name.as_str())), "{emitted:?}");
    assert_eq!(emitted.len(), 2, "{emitted:?}");
    // One save had the places of both, though the batches left one after the other.
    let cuts = saved(&node).iter().map(|position| position.cuts.len()).sum::<usize>();
    assert_eq!(cuts, 2);
}

#[test]
fn a_shortage_of_room_emits_nothing_while_the_checkpoint_cannot_be_written() {
    let limits = Limits { watch: false, partial_bytes: 64 << 10, ..Limits::default() };
    let mut node = Node::with(limits);
    let mut log = node.log("php");
    node.drain();
    let away = lose_state(&node);
    for _ in 0..40 {
        log.chunk(false, "P", &[b'x'; 16 << 10]);
    }
    node.look();
    node.ship();
    assert_eq!(node.store.records.len(), 0);
    fs::rename(away, &node.state).unwrap();
    log.chunk(false, "F", b"end");
    node.drain();
    let total: usize = node.store.records.iter().map(|record| record.message.len()).sum();
    assert_eq!(total, 40 * (16 << 10) + 3);
}

#[test]
fn a_refused_batch_does_not_count_as_shipped() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    let batch = node.next().unwrap();
    node.tail().refused(batch.id, "not claimed");
    node.drain();
    assert!(saved(&node).iter().all(|position| position.time.is_none()));
    log.lines(10, 11);
    node.drain();
    assert!(saved(&node).iter().all(|position| position.time.is_some()));
}

#[test]
fn what_nobody_claims_is_neither_remembered_nor_missed() {
    let mut node = Node::new();
    node.claimed.clear();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    assert!(!node.state.join("checkpoint").exists(), "nothing to remember");
    for _ in 0..2 {
        node.kill();
        log.truncate();
        log.lines(20, 40);
        fs::remove_file(log.live()).unwrap();
        drop(log.reopen());
        log.lines(40, 50);
        node.drain();
    }
    assert_eq!((node.store.records.len(), node.tail().counters().gaps), (0, 0));
    assert_eq!(node.tail().counters().lost_bytes, 0);
}

#[test]
fn a_loss_before_the_claim_came_counts_with_the_claim() {
    let mut node = Node::new();
    node.claimed.clear();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    log.truncate();
    node.look();
    log.lines(10, 12);
    node.look();
    assert_eq!(node.tail().counters().gaps, 0);
    let now = node.now;
    let claimed = BTreeSet::from([PodUid::parse(UID).unwrap()]);
    node.tail().claim(ClaimChange::Delta { claimed, released: BTreeSet::new() }, now);
    node.drain();
    assert_eq!(node.tail().counters().gaps, 1);
    assert_eq!(node.store.texts().split_off(1), numbered(10, 12));
}

#[test]
fn a_line_of_one_byte_after_a_cut_is_kept_once() {
    for restarts in [false, true] {
        let mut node = Node::new();
        let mut log = node.log("php");
        log.chunk(false, "P", b"out> ");
        log.chunk(true, "P", b"err> ");
        node.drain();
        node.pass(31 * SECOND);
        node.drain();
        assert_eq!(node.store.texts(), ["out> ", "err> "]);
        let expected = ["out> ", "err> ", "", "", "", "end"];
        for line in 0..3 {
            if restarts {
                node.kill()
            } else {
                node.tail().rewind()
            }
            log.raw(b"\n");
            node.drain();
            assert_eq!(node.store.texts(), expected[..3 + line]);
        }
        node.tail().rewind();
        log.line("end");
        node.drain();
        assert_eq!(node.store.texts(), expected);
    }
}

/// Runs in a process of its own, since the limit is the process's.
#[test]
fn running_out_of_descriptors_at_the_start_forgets_and_loses_nothing() {
    const CHILD: &str = "SKPR_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = "tail::recovery::running_out_of_descriptors_at_the_start_forgets_and_loses_nothing";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let mut node = Node::new();
    let others = ["2", "3", "4"].map(|last| format!("0a1b2c3d-0000-4000-8000-00000000000{last}"));
    node.claimed.extend(others.iter().map(|uid| PodUid::parse(uid).unwrap()));
    let mut logs = vec![node.log("php")];
    logs.extend(others.iter().map(|uid| super::fake::Log::new(&node.logs, uid, "php")));
    for log in &mut logs {
        log.lines(0, 10);
        log.rotate(5);
        log.lines(10, 20);
    }
    node.drain();
    assert_eq!(node.store.records.len(), 80);
    node.kill();
    logs.iter_mut().for_each(|log| log.lines(20, 25));
    node.tail = Some(Tail::open(&node.logs, &node.state, node.limits.clone()).unwrap());
    let (now, claimed) = (node.now, node.claimed.clone());
    node.tail().claim(ClaimChange::Complete(claimed), now);

    let usual = getrlimit(Resource::Nofile);
    for free in 0..5 {
        let lowest = File::open("/").unwrap().as_raw_fd() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowest + free), ..usual }).unwrap();
        for _ in 0..3 {
            node.look();
        }
        setrlimit(Resource::Nofile, usual).unwrap();
    }
    node.drain();
    assert_eq!(node.store.gaps(), Vec::<String>::new());
    assert_eq!((node.store.records.len(), node.store.dropped), (100, 0));
}
