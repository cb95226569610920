//! Lines as the runtime cuts them.

use super::super::fake::Node;
use super::SECOND;
use skpr_proto::MAX_MESSAGE;

#[test]
fn an_empty_file_and_a_half_first_line_wait() {
    let mut node = Node::new();
    let mut log = node.log("php");
    node.drain();
    log.raw(b"2026-11-22T10:00:00.5Z stdout F he");
    node.drain();
    assert_eq!(node.store.records.len(), 0);
    log.raw("llo \u{1f980}".as_bytes().split_at(5).0);
    node.drain();
    log.raw("llo \u{1f980}".as_bytes().split_at(5).1);
    log.raw(b"\n");
    node.drain();
    assert_eq!(node.store.texts(), ["hello \u{1f980}"]);
    assert_eq!(node.store.dropped, 0);
}

#[test]
fn chunks_of_any_size_are_one_message_with_the_first_ones_time() {
    for size in [16 << 10, 8 << 10] {
        let mut node = Node::new();
        let mut log = node.log("php");
        let message: Vec<u8> = (0..500_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let chunks: Vec<_> = message.chunks(size).collect();
        let (last, first) = chunks.split_last().unwrap();
        for chunk in first {
            log.chunk(false, "P", chunk);
        }
        log.chunk(false, "F", last);
        log.line("next");
        node.drain();
        assert_eq!(node.store.records.len(), 2);
        assert!(node.store.records[0].message == message);
        assert!(node.store.records[0].time < node.store.records[1].time - 1_000_000 * (first.len() as i64));
        assert!(!node.store.records[0].is_truncated());
    }
}

#[test]
fn a_message_over_the_cap_is_truncated_and_marked_and_the_next_is_unharmed() {
    let mut node = Node::new();
    let mut log = node.log("php");
    for _ in 0..320 {
        log.chunk(false, "P", &[b'x'; 16 << 10]);
    }
    log.chunk(false, "F", b"end");
    log.line("next");
    // And one physical line that is longer than any runtime writes.
    log.raw(&vec![b'y'; 3 << 20]);
    log.raw(b"\n");
    log.line("last");
    node.drain();
    let lengths: Vec<_> =
        node.store.records.iter().map(|record| (record.message.len(), record.is_truncated())).collect();
    assert_eq!(lengths, [(MAX_MESSAGE, true), (4, false), (MAX_MESSAGE, true), (4, false)]);
    assert_eq!(node.tail().counters().truncated_records, 2);
    node.tail().rewind();
    node.kill();
    node.drain();
    assert_eq!(node.store.records.len(), 4);
}

#[test]
fn interleaved_streams_are_joined_apart() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.chunk(false, "P", b"out 1 ");
    log.chunk(true, "P", b"err 1 ");
    log.chunk(true, "F", b"err 2");
    log.chunk(true, "F", b"err alone");
    log.chunk(false, "F", b"out 2");
    node.drain();
    assert_eq!(node.store.of(false), ["out 1 out 2"]);
    assert_eq!(node.store.of(true), ["err 1 err 2", "err alone"]);
}

#[test]
fn a_message_over_two_files_is_one_and_survives_a_kill_between() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.line("before");
    log.chunk(false, "P", b"first ");
    log.chunk(true, "F", b"other");
    node.drain();
    log.rotate(5);
    node.drain();
    node.kill();
    node.drain();
    log.chunk(false, "F", b"second");
    node.drain();
    assert_eq!(node.store.texts(), ["before", "other", "first second"]);
}

#[test]
fn a_trailing_partial_is_emitted_after_a_time_and_once() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.chunk(false, "P", b"prompt> ");
    log.chunk(true, "F", b"noise");
    node.drain();
    assert_eq!(node.store.texts(), ["noise"]);
    node.pass(31 * SECOND);
    node.look();
    let batch = node.next().unwrap();
    node.store.append(&batch);
    assert_eq!(node.store.texts(), ["noise", "prompt> "]);
    // The acknowledgement is lost with the agent, and then the rest comes after all.
    log.chunk(false, "F", b"answer");
    log.line("next");
    node.kill();
    node.drain();
    assert_eq!(node.store.texts(), ["noise", "prompt> ", "answer", "next"]);
}

#[test]
fn anything_that_is_no_cri_line_is_kept_and_counted() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.line("good");
    log.raw(b"torn li\n\0\0\0\0\n\n2026-11-22T10:00:00Z stdout\n");
    log.chunk(false, "F", b"\xff\xfe\r");
    log.chunk(false, "F", b"");
    log.raw(b"2026-11-22T10:00:09Z stdout F\n");
    node.drain();
    let messages: Vec<_> = node.store.records.iter().map(|record| record.message.as_slice()).collect();
    let expected: [&[u8]; 8] =
        [b"good", b"torn li", b"\0\0\0\0", b"", b"2026-11-22T10:00:00Z stdout", b"\xff\xfe\r", b"", b""];
    assert_eq!(messages, expected);
    assert_eq!(node.tail().counters().malformed_lines, 4);
    assert_eq!(node.store.records[0].time, node.store.records[4].time);
}

#[test]
fn a_torn_last_line_of_a_finished_file_is_kept() {
    let mut node = Node::new();
    let mut log = node.log("php");
    log.line("whole");
    log.raw(b"2026-11-22T10:00:09Z stdout F torn");
    log.restart();
    log.line("next");
    node.drain();
    assert_eq!(node.store.texts(), ["whole", "torn", "next"]);
}

#[test]
fn times_that_step_back_or_repeat_keep_their_order() {
    let mut node = Node::new();
    let mut log = node.log("php");
    for (second, text) in [("05", "a"), ("05", "b"), ("03", "c"), ("59", "d")] {
        log.raw(format!("2026-11-22T10:00:{second}Z stdout F {text}\n").as_bytes());
    }
    node.drain();
    assert_eq!(node.store.texts(), ["a", "b", "c", "d"]);
}
