//! What happens to log files on a node, one test each, with real files.

use super::fake::{Node, UID, numbered};
use super::watch::Watch;
use super::{ClaimChange, Limits, Tail};
use skpr_proto::MAX_MESSAGE;
use skpr_proto::ids::PodUid;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

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
    let mut log = super::fake::Log::new(&node.logs, other, "php");
    log.line("new");
    node.drain();
    let seen: Vec<_> = node.store.records.iter().map(|record| (record.uid.as_str(), record.text())).collect();
    assert_eq!(seen, [(UID, "old".to_owned()), (other, "new".to_owned())]);
}

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

#[test]
fn without_a_watch_polling_finds_everything() {
    let mut watch = Watch::new(std::path::Path::new("/proc/self/does-not-exist"), true);
    watch.establish();
    assert!(!watch.is_watching());
    let mut node = Node::new();
    node.drain();
    let mut log = node.log("php");
    log.lines(0, 3);
    // No event is ever reported to this engine: only the passing of time finds the file.
    node.pass(5 * SECOND);
    let now = node.now;
    node.tail().tick(now);
    node.ship();
    assert_eq!(node.store.texts(), numbered(0, 3));
}

#[test]
fn links_are_followed_once_and_tricks_are_ignored() {
    let runtime = tempfile::tempdir().unwrap();
    let allowed = fs::canonicalize(runtime.path()).unwrap();
    let mut node =
        Node::with(Limits { watch: false, link_targets: vec![allowed.clone()], ..Limits::default() });
    let mut log = node.log("php");
    let target = allowed.join("docker.log");
    fs::write(&target, "2026-11-22T10:00:00Z stdout F linked\n").unwrap();
    // Somebody else's file, which happens to be readable for the agent.
    let secret = node.logs.parent().unwrap().join("secret");
    fs::write(&secret, "2026-11-22T10:00:00Z stdout F secret\n").unwrap();
    symlink(&secret, log.directory.join("6.log")).unwrap();
    fs::remove_file(log.live()).unwrap();
    symlink(&target, log.live()).unwrap();
    symlink(&target, log.directory.join("1.log")).unwrap();
    symlink("nowhere", log.directory.join("2.log")).unwrap();
    symlink("3.log", log.directory.join("3.log")).unwrap();
    fs::create_dir(log.directory.join("4.log")).unwrap();
    symlink(&node.logs, log.directory.parent().unwrap().join("loop")).unwrap();
    symlink(&node.logs, node.logs.join("default_loop_uid")).unwrap();
    for odd in ["a_b", "..._.._..", "x_y_z_w", "UPPER_case_x", "default_web_\u{1b}[31m"] {
        fs::create_dir_all(node.logs.join(odd).join("c")).unwrap();
        fs::write(node.logs.join(odd).join("c/0.log"), "2026-11-22T10:00:00Z stdout F forged\n").unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        log.directory.join("5.log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    node.drain();
    assert_eq!(node.store.texts(), ["linked"]);
    log.line("never linked");
}

#[test]
fn a_busy_file_does_not_starve_a_quiet_one_and_endangered_files_go_first() {
    let mut node = Node::new();
    let mut busy = node.log("busy");
    for _ in 0..64 {
        busy.raw(&b"2026-11-22T10:00:00.000000001Z stdout F busy busy busy\n".repeat(5000));
    }
    let mut quiet = node.log("quiet");
    quiet.line("quiet");
    let mut rotated = node.log("rotated");
    rotated.lines(0, 100);
    node.look();
    rotated.rotate(5);
    node.look();
    let mut order = Vec::new();
    for _ in 0..4 {
        let batch = node.next().unwrap();
        order.push(batch.source.unwrap().container);
    }
    assert_eq!(order[0], "rotated");
    assert!(order.contains(&"quiet".to_owned()), "{order:?}");
}

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
