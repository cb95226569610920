//! Pods that have ended: it is said when everything has been handed out, and not before.

use super::super::fake::{Node, numbered};
use std::fs;

fn end(node: &mut Node) {
    let (pods, now) = (node.claimed.clone(), node.now);
    node.tail().ended(pods, now);
}

#[test]
fn the_end_is_said_once_behind_the_last_line_which_does_not_wait_for_more() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    log.chunk(true, "P", b"without newline");
    node.drain();
    assert_eq!((node.store.records.len(), node.store.ends.len()), (10, 0));
    log.lines(10, 20);
    end(&mut node);
    node.ship();
    let mut expected = numbered(0, 20);
    expected.push("without newline".into());
    assert_eq!(node.store.texts(), expected);
    assert_eq!(node.store.ends, [("php".to_owned(), 21)]);
    node.drain();
    end(&mut node);
    node.drain();
    assert_eq!(node.store.ends.len(), 1);
}

#[test]
fn the_end_is_said_again_to_whoever_is_asked_next() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    log.chunk(false, "P", b"without newline");
    end(&mut node);
    node.look();
    node.ship();
    node.tail().rewind();
    node.ship();
    assert_eq!(node.store.ends.len(), 2);
    node.tail().save().unwrap();
    node.kill();
    end(&mut node);
    node.look();
    node.ship();
    assert_eq!(node.store.ends.len(), 3);
    assert_eq!(node.store.records.len(), 11);
}

#[test]
fn what_was_rotated_a_moment_ago_comes_before_the_end() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.lines(10, 20);
    log.rotate(5);
    log.lines(20, 30);
    end(&mut node);
    node.ship();
    // Something may still be written to the renamed file.
    assert_eq!(node.store.ends, []);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 30));
    assert_eq!(node.store.ends, [("php".to_owned(), 30)]);
}

#[test]
fn a_container_that_is_seen_after_its_end_says_so_too() {
    let mut node = Node::new();
    end(&mut node);
    node.drain();
    let mut log = node.log("php");
    log.line("brief");
    let silent = node.log("proxy");
    node.drain();
    assert_eq!(node.store.texts(), ["brief"]);
    let mut ends = node.store.ends.clone();
    ends.sort();
    assert!(matches!(&ends[..], [(php, 1), (proxy, _)] if php == "php" && proxy == "proxy"), "{ends:?}");
    assert_eq!(fs::metadata(silent.live()).unwrap().len(), 0);
}

#[test]
fn a_pod_that_is_deleted_at_its_end_is_not_forgotten_before_that_is_said() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    let batch = node.next().unwrap();
    end(&mut node);
    log.delete_pod();
    node.look();
    node.store.append(&batch);
    node.tail().acknowledged(batch.id);
    node.drain();
    assert_eq!(node.store.ends, [("php".to_owned(), 10)]);
    assert_eq!(node.tail().counters().followed_files, 0);
}

#[test]
fn what_is_written_after_the_end_is_read_all_the_same() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    end(&mut node);
    node.drain();
    log.lines(10, 20);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 20));
    assert_eq!(node.store.ends, [("php".to_owned(), 10)]);
}
