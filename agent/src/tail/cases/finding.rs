//! Files that are found, are none of ours, or are too many.

use super::super::Limits;
use super::super::fake::{Node, numbered};
use super::super::watch::Watch;
use super::SECOND;
use std::fs;
use std::os::unix::fs::symlink;

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
