//! Probes, and the stop.

use super::*;
use skpr_proto::v1::agent_message::Message;
use skpr_proto::v1::control::Control as Kind;
use skpr_proto::v1::{AgentMessage, Batch, Hello, LogsRequest};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

pub(super) async fn get(world: &World, path: &str) -> String {
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_once_the_platform_is_heard_from() {
    let world = World::start().await;
    assert!(get(&world, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(&world, "/readyz").await.starts_with("HTTP/1.1 503"));
    world.publish(&[]);
    assert!(get(&world, "/readyz").await.starts_with("HTTP/1.1 200"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_open_streams_in_time_and_tells_agents_to_come_back() {
    let times = StopTimes { timeout: Duration::from_secs(8), grace: Duration::from_millis(300) };
    let mut world = World::start_with(times).await;
    world.publish(&[("u1", "web-1", "local")]);
    let mut agents = world.agents().await;
    // Streams that nobody on the other side would ever end.
    let hello = Message::Hello(Hello { node: "local".into(), version: "test".into(), sessions: true });
    let (messages, stream) = tokio::sync::mpsc::channel(4);
    messages.send(AgentMessage { message: Some(hello) }).await.unwrap();
    let outbound = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut control = agents.connect(outbound).await.unwrap().into_inner();
    let mut acks = agents.ship(tokio_stream::pending::<Batch>()).await.unwrap().into_inner();
    let request = LogsRequest { environment: environment("dev"), follow: true, ..Default::default() };
    let mut logs = world.logs(world.token("admin.token")).await;
    let mut follower = logs.logs(request).await.unwrap().into_inner();
    soon(follower.message()).await.unwrap();
    soon(control.message()).await.unwrap();

    let begun = Instant::now();
    world.stop.cancel();
    let Some(Kind::Drain(drain)) = soon(control.message()).await.unwrap().unwrap().control else {
        panic!("no drain")
    };
    assert!(drain.reconnect_after_millis >= 500);
    assert!(get(&world, "/readyz").await.contains("stopping"));
    loop {
        match soon(follower.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a follower was told that its logs have come to their end"),
            Err(status) => break assert_eq!(status.code(), Code::Unavailable),
        }
    }
    assert_eq!(soon(acks.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(soon(control.message()).await.unwrap_err().code(), Code::Unavailable);
    soon(world.running.join_next()).await.unwrap().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_the_plain_port_keep_no_probe_out() {
    let world = World::start().await;
    let mut silent = vec![];
    for _ in 0..200 {
        silent.push(TcpStream::connect(world.http).await.unwrap());
    }
    assert!(get(&world, "/livez").await.starts_with("HTTP/1.1 200"));
    // The oldest had to go.
    assert_eq!(soon(silent[0].read(&mut [0; 1])).await.unwrap_or(0), 0);
    world.end().await;
}
