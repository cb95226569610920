//! One connection after the other, with a stand-in for the tail engine.

use super::aggregator::{Aggregator, certificates, config, reserved_address};
use super::tail::StandIn;
use super::{PATIENCE, soon};
use crate::config::Config;
use crate::link::Link;
use crate::sessions::Sessions;
use crate::ship::tap::Teller;
use crate::tail::{ClaimChange, Counters};
use crate::usage::{Claims, Round};
use skpr_proto::PodUid;
use std::time::Instant;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// A running link and the stand-in behind it.
struct Running {
    tail: StandIn,
    teller: Teller,
    stop: CancellationToken,
    task: JoinSet<()>,
    _counted: watch::Sender<Counters>,
    _sampled: watch::Sender<Round>,
}

fn start(config: Config) -> Running {
    let (tap, tail) = StandIn::start();
    let teller = tap.teller();
    let (counted, counters) = watch::channel(Counters { read_bytes: 7, ..Counters::default() });
    let (claims, _) = Claims::pair();
    let (sampled, rounds) = watch::channel(Round::default());
    let (asker, _) = Sessions::new(&config, None);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let mut task = JoinSet::new();
    task.spawn(async move { Link { config, tap, counters, claims, rounds, asker }.run(&token).await });
    Running { tail, teller, stop, task, _counted: counted, _sampled: sampled }
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        soon(self.task.join_next()).await.unwrap().unwrap();
        self.teller.stop();
        self.tail.join();
    }
}

fn numbered(messages: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(messages).map(|(id, message)| (id, (*message).to_owned())).collect()
}

#[tokio::test]
async fn claims_come_down_and_batches_go_up() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b"]);
    let hello = aggregator.hello().await;
    assert_eq!((hello.token.as_str(), hello.hello.node.as_str()), ("Bearer first", "node-1"));
    // A session is asked for: warned about, survived. Nothing is shipped before the first claims.
    hello.dial().await;
    assert!(!aggregator.has_stream());
    hello.claim(&["uid-1", "uid-2"]).await;
    let mut stream = aggregator.stream().await;
    assert_eq!(stream.receive(2).await, numbered(&["a", "b"]));
    stream.ack(2).await;
    let told = running.tail.told(|told| told.acked == 2).await;
    let claimed = ["uid-1", "uid-2"].map(|uid| PodUid::parse(uid).unwrap());
    assert_eq!(told.claims, [ClaimChange::Complete(claimed.into())]);
    // Claims that change meanwhile, and a line on its own.
    hello.claim(&["uid-2"]).await;
    running.tail.told(|told| told.claims.len() == 2).await;
    running.tail.write(&["c"]);
    assert_eq!(stream.receive(1).await, [(3, "c".to_owned())]);
    stream.ack(3).await;
    running.tail.told(|told| told.acked == 3).await;
    assert_eq!(soon(aggregator.reports.recv()).await.unwrap().read_bytes, 7);
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again_after_a_cut() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b", "c", "d", "e"]);
    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(5).await, numbered(&["a", "b", "c", "d", "e"]));
    stream.ack(2).await;
    running.tail.told(|told| told.acked == 2).await;
    aggregator.cut();

    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(3).await, numbered(&["c", "d", "e"]));
    stream.ack(1).await;
    running.tail.told(|told| told.acked == 3).await;
    stream.ack(3).await;
    running.tail.told(|told| told.acked == 5).await;
    running.stop().await;
}

#[tokio::test]
async fn an_error_of_the_stream_goes_back_to_what_is_acknowledged() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b", "c"]);
    let (_hello, mut stream) = aggregator.accept().await;
    stream.receive(3).await;
    stream.ack(1).await;
    stream.acks.send(Err(Status::unavailable("the disk is full"))).await.unwrap();

    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(2).await, numbered(&["b", "c"]));
    // An answer to what was never sent ends the connection as well, and moves nothing.
    stream.ack(99).await;
    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(2).await, numbered(&["b", "c"]));
    stream.ack(2).await;
    running.tail.told(|told| told.acked == 3).await;
    running.stop().await;
}

#[tokio::test]
async fn a_refused_batch_is_not_sent_again() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b", "c"]);
    let (_hello, mut stream) = aggregator.accept().await;
    stream.receive(3).await;
    stream.refuse(2).await;
    let told = running.tail.told(|told| told.acked == 2).await;
    assert_eq!(told.refused, ["not claimed"]);
    aggregator.cut();
    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(1).await, numbered(&["c"]));
    running.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_answers_and_comes_back_with_the_new_token() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b"]);
    let (hello, mut stream) = aggregator.accept().await;
    stream.receive(2).await;
    std::fs::write(aggregator.files.path().join("token"), "second").unwrap();
    hello.drain(50).await;
    stream.ack(2).await;
    stream.ended().await;
    running.tail.told(|told| told.acked == 2).await;
    running.tail.write(&["c"]);

    let hello = aggregator.hello().await;
    assert_eq!(hello.token, "Bearer second");
    hello.claim(&[]).await;
    assert_eq!(aggregator.stream().await.receive(1).await, numbered(&["c"]));
    running.stop().await;
}

#[tokio::test]
async fn another_authority_is_not_trusted_until_the_file_changes() {
    let mut aggregator = Aggregator::start().await;
    let file = aggregator.files.path().join("ca");
    let right = std::fs::read(&file).unwrap();
    std::fs::write(&file, certificates().0).unwrap();
    let running = start(aggregator.config());
    // The file is read before TCP connects, so the first connection cannot have seen the right one.
    soon(aggregator.opened.wait_for(|opened| *opened == 1)).await.unwrap();
    std::fs::write(&file, right).unwrap();
    assert_eq!(aggregator.hello().await.token, "Bearer first");
    assert!(*aggregator.opened.borrow() >= 2);
    running.stop().await;
}

#[tokio::test]
async fn an_aggregator_that_is_not_there_yet_is_waited_for() {
    let files = TempDir::new().unwrap();
    let (socket, address) = reserved_address();
    // Neither the files nor the aggregator are there.
    let running = start(config(address, files.path()));
    running.tail.write(&["a"]);
    let mut aggregator = Aggregator::start_at(socket, files).await;
    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(1).await, numbered(&["a"]));
    running.stop().await;
}

#[tokio::test]
async fn a_refused_agent_waits_long_and_still_stops_at_once() {
    let mut aggregator = Aggregator::start().await;
    *aggregator.denial.lock().unwrap() = Some(Status::permission_denied("the token names another node"));
    let running = start(aggregator.config());
    let hello = aggregator.hello().await;
    drop(hello);
    let before = Instant::now();
    running.stop().await;
    assert!(before.elapsed() < PATIENCE);
    assert_eq!(*aggregator.opened.borrow(), 1);
}

#[tokio::test]
async fn stopping_waits_for_answers_to_what_was_sent() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a", "b"]);
    let (_hello, mut stream) = aggregator.accept().await;
    stream.receive(2).await;
    running.stop.cancel();
    stream.ack(2).await;
    running.tail.told(|told| told.acked == 2).await;
    stream.ended().await;
    running.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let mut aggregator = Aggregator::start().await;
    let running = start(aggregator.config());
    running.tail.write(&["a"]);
    let (_hello, mut stream) = aggregator.accept().await;
    stream.receive(1).await;
    running.stop().await;
    stream.ended().await;
}

#[tokio::test]
async fn a_backlog_goes_through_in_order_whatever_the_window() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    let lines: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    running.tail.write(&lines);
    let (_hello, mut stream) = aggregator.accept().await;
    for part in lines.chunks(500) {
        let received = stream.receive(part.len()).await;
        assert!(received.iter().map(|(_, line)| line.as_str()).eq(part.iter().copied()));
        stream.ack(received.last().unwrap().0).await;
    }
    running.tail.told(|told| told.acked == 3000).await;
    running.stop().await;
}

#[tokio::test]
async fn a_token_that_ends_in_a_good_connection_is_replaced_at_once() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a"]);
    let (_hello, mut stream) = aggregator.accept().await;
    stream.receive(1).await;
    stream.ack(1).await;
    running.tail.told(|told| told.acked == 1).await;
    std::fs::write(aggregator.files.path().join("token"), "second").unwrap();
    stream.acks.send(Err(Status::unauthenticated("the token has expired"))).await.unwrap();
    assert_eq!(aggregator.hello().await.token, "Bearer second");
    running.stop().await;
}

#[tokio::test]
async fn a_drain_that_ends_ship_at_once_is_still_a_drain() {
    let mut aggregator = Aggregator::start().await;
    let mut running = start(aggregator.config());
    running.tail.write(&["a"]);
    let (hello, mut stream) = aggregator.accept().await;
    stream.receive(1).await;
    hello.drain(1).await;
    stream.acks.send(Err(Status::unavailable("going away"))).await.unwrap();
    let (_hello, mut stream) = aggregator.accept().await;
    assert_eq!(stream.receive(1).await, numbered(&["a"]));
    stream.ack(1).await;
    running.tail.told(|told| told.acked == 1).await;
    running.stop().await;
}
