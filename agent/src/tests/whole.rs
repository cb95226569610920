//! The whole agent with its real tail engine on real files.

use super::aggregator::{Aggregator, Stream};
use super::soon;
use crate::{check_health, run};
use std::fs::{File, OpenOptions, create_dir_all};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn log_file(files: &Path, uid: &str) -> File {
    let directory = files.join(format!("pods/default_web_{uid}/php"));
    create_dir_all(&directory).unwrap();
    OpenOptions::new().create(true).append(true).open(directory.join("0.log")).unwrap()
}

fn write(file: &mut File, lines: std::ops::Range<usize>) {
    for i in lines {
        writeln!(file, "2026-11-23T10:00:00.{i:09}Z stdout F line {i};").unwrap();
    }
}

fn messages(lines: std::ops::Range<usize>) -> String {
    lines.map(|i| format!("line {i};")).collect()
}

/// Receives and acknowledges until exactly `expected` has come.
async fn expect(stream: &mut Stream, expected: &str) {
    let mut received = String::new();
    while received.len() < expected.len() {
        for (id, messages) in stream.receive(1).await {
            received.push_str(&messages);
            stream.ack(id).await;
        }
    }
    assert_eq!(received, expected);
}

#[tokio::test]
async fn lines_arrive_in_order_and_a_restart_repeats_none() {
    let mut aggregator = Aggregator::start().await;
    let mut log = log_file(aggregator.files.path(), "uid-1");
    let mut unclaimed = log_file(aggregator.files.path(), "uid-2");
    write(&mut log, 0..1000);
    write(&mut unclaimed, 0..1000);

    let (stop, mut agent) = (CancellationToken::new(), JoinSet::new());
    agent.spawn(run(aggregator.config(), stop.clone()));
    let (_hello, mut stream) = aggregator.accept().await;
    expect(&mut stream, &messages(0..1000)).await;
    write(&mut log, 1000..1001);
    expect(&mut stream, &messages(1000..1001)).await;
    check_health(&aggregator.files.path().join("state")).unwrap();

    // A connection that goes between sending and acknowledging.
    write(&mut log, 1001..1100);
    stream.receive(1).await;
    aggregator.cut();
    let (_hello, mut stream) = aggregator.accept().await;
    expect(&mut stream, &messages(1001..1100)).await;
    stop.cancel();
    stream.ended().await;
    soon(agent.join_next()).await.unwrap().unwrap().unwrap();

    // Another life of the agent goes on where this one was acknowledged.
    write(&mut log, 1100..1200);
    let stop = CancellationToken::new();
    agent.spawn(run(aggregator.config(), stop.clone()));
    let (_hello, mut stream) = aggregator.accept().await;
    expect(&mut stream, &messages(1100..1200)).await;
    stop.cancel();
    soon(agent.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_lone_line_leaves_at_once() {
    let mut aggregator = Aggregator::start().await;
    let mut log = log_file(aggregator.files.path(), "uid-1");
    let (stop, mut agent) = (CancellationToken::new(), JoinSet::new());
    agent.spawn(run(aggregator.config(), stop.clone()));
    let (_hello, mut stream) = aggregator.accept().await;
    let mut fastest = Duration::MAX;
    for i in 0..20 {
        let written = Instant::now();
        write(&mut log, i..i + 1);
        expect(&mut stream, &messages(i..i + 1)).await;
        fastest = fastest.min(written.elapsed());
    }
    // The fastest, because the machine may be busy with other things; a fixed delay would show in each.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    stop.cancel();
    soon(agent.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_a_claimed_pod_uses_is_reported() {
    const CLAIMED: &str = "0f2a7f34-5c1d-4f4e-9d55-2d9d3a9c1b7e";
    const OTHER: &str = "0f2a7f34-5c1d-4f4e-9d55-2d9d3a9c1b7f";
    let mut aggregator = Aggregator::start().await;
    let cgroups = aggregator.files.path().join("cgroups");
    let id = "a".repeat(64);
    for pod in [CLAIMED, OTHER] {
        let container = cgroups.join(format!("kubepods/pod{pod}/{id}"));
        create_dir_all(&container).unwrap();
        for directory in [&container, container.parent().unwrap()] {
            std::fs::write(directory.join("cpu.stat"), "usage_usec 5\n").unwrap();
        }
    }
    std::fs::write(cgroups.join("cgroup.controllers"), "cpu memory\n").unwrap();
    let (stop, mut agent) = (CancellationToken::new(), JoinSet::new());
    agent.spawn(run(aggregator.config(), stop.clone()));
    let hello = aggregator.hello().await;
    hello.claim(&[CLAIMED]).await;
    let mut last = 0;
    for _ in 0..3 {
        let usage = loop {
            if let Some(usage) = soon(aggregator.reports.recv()).await.unwrap().usage {
                break usage;
            }
        };
        assert!(usage.monotonic_nanos > last);
        last = usage.monotonic_nanos;
        assert_eq!(usage.interval_millis, 100);
        assert_eq!(usage.pods.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), [CLAIMED]);
        let container = &usage.pods[0].containers[0];
        assert_eq!((container.id.as_str(), container.sample.unwrap().cpu_nanos), (id.as_str(), Some(5000)));
    }
    check_health(&aggregator.files.path().join("state")).unwrap();
    stop.cancel();
    soon(agent.join_next()).await.unwrap().unwrap().unwrap();
}
