//! Files that are written anew in their place.

use super::super::fake::{Node, numbered};

#[test]
fn a_reused_inode_with_a_larger_file_is_read_from_its_start() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    node.kill();
    // The same inode with other content, as if it were reused.
    log.truncate();
    log.lines(100, 130);
    node.drain();
    assert_eq!(node.store.gaps().len(), 1);
    assert_eq!(node.store.texts().split_off(11), numbered(100, 130));
}

#[test]
fn a_truncated_file_is_read_from_its_start() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.truncate();
    node.look();
    log.lines(10, 13);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 13));
}

#[test]
fn a_file_truncated_and_refilled_past_the_offset_is_read_from_its_start() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.truncate();
    log.lines(10, 50);
    node.drain();
    assert_eq!(node.store.texts(), numbered(0, 50));
}

#[test]
fn a_truncation_of_unread_bytes_is_a_gap() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.drain();
    log.lines(10, 20);
    node.look();
    log.truncate();
    log.line("after");
    node.drain();
    let texts = node.store.texts();
    assert_eq!(texts.len(), 12, "{texts:?}");
    assert!(texts[10].contains("truncated") && texts[10].contains("bytes"), "{texts:?}");
    assert!(node.tail().counters().lost_bytes > 300);
}

#[test]
fn a_truncation_of_unacknowledged_bytes_is_a_gap_after_a_rewind() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.lines(0, 10);
    node.look();
    let lost = node.next().unwrap();
    log.truncate();
    log.line("after");
    node.look();
    let sent = node.next().unwrap();
    assert!(sent.id > lost.id);
    node.tail().rewind();
    node.drain();
    let texts = node.store.texts();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("acknowledged"), "{texts:?}");
}
