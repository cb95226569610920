//! As an agent: control, records, reports.

use super::*;
use skpr_proto::v1::agent_message::Message;
use skpr_proto::v1::control::Control as Kind;
use skpr_proto::v1::{Ack, AgentMessage, AgentReport, Batch, Control, Hello};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// An open `Ship` stream.
pub(super) struct Shipping {
    pub(super) batches: Sender<Batch>,
    pub(super) acks: Streaming<Ack>,
}

impl Shipping {
    pub(super) async fn open(world: &World) -> Shipping {
        let (batches, stream) = channel(64);
        let response = world.agents().await.ship(ReceiverStream::new(stream)).await.unwrap();
        Shipping { batches, acks: response.into_inner() }
    }

    pub(super) async fn send(&mut self, batch: Batch) -> Result<Ack, Status> {
        self.batches.send(batch).await.unwrap();
        Ok(soon(self.acks.message()).await?.expect("an ack"))
    }
}

pub(super) async fn connect(world: &World, node: &str) -> (Sender<AgentMessage>, Streaming<Control>) {
    let (messages, stream) = channel(4);
    let hello = Hello { node: node.into(), version: "test".into(), sessions: true };
    messages.send(AgentMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
    let control = world.agents().await.connect(ReceiverStream::new(stream)).await.unwrap().into_inner();
    (messages, control)
}

async fn claims(control: &mut Streaming<Control>) -> v1::Claims {
    match soon(control.message()).await.unwrap().unwrap().control.unwrap() {
        Kind::Claims(claims) => claims,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_durable() {
    let world = World::with_pods().await;
    let mut shipping = Shipping::open(&world).await;
    let mut offset = 0;
    for id in 1..=20 {
        let line = format!("line {id}");
        shipping.batches.send(batch(id, OURS, offset, &[&line])).await.unwrap();
        offset += line.len() as u64 + 1;
    }
    let mut acknowledged = 0;
    while acknowledged < 20 {
        let ack = soon(shipping.acks.message()).await.unwrap().unwrap();
        assert!(ack.id > acknowledged && ack.refused.is_none(), "{ack:?}");
        acknowledged = ack.id;
    }
    // Sent again, it is acknowledged again and stored once.
    assert_eq!(shipping.send(batch(21, OURS, 0, &["line 1"])).await.unwrap().id, 21);
    let request = v1::LogsRequest { environment: environment("dev"), ..Default::default() };
    let messages = history(&world, world.token("admin.token"), request).await.unwrap();
    assert_eq!(messages, (1..=20).map(|id| format!("line {id}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_foreign_or_unclaimed_is_refused_and_the_rest_goes_on() {
    let world = World::with_pods().await;
    let mut shipping = Shipping::open(&world).await;
    let foreign = shipping.send(batch(1, ("u2", "web-2"), 0, &["a"])).await.unwrap();
    assert!(foreign.refused.unwrap().contains("another node"));
    assert!(shipping.send(batch(2, ("u2", "web-2"), 5, &["b"])).await.unwrap().refused.is_some());
    let unclaimed = shipping.send(batch(3, ("u9", "web-9"), 0, &["a"])).await.unwrap();
    assert!(unclaimed.refused.unwrap().contains("no environment"));
    assert_eq!(shipping.send(batch(4, OURS, 0, &["ours"])).await.unwrap(), Ack { id: 4, refused: None });
    // A pod that is gone: what was claimed once still is.
    world.publish(&[]);
    assert_eq!(shipping.send(batch(5, OURS, 5, &["late"])).await.unwrap().refused, None);
    let audit = world.end().await;
    let denied: Vec<_> = audit.iter().filter(|line| line["audit"] == "Agents.Ship").collect();
    assert_eq!(denied.len(), 1, "once a connection: {audit:?}");
    assert_eq!((denied[0]["decision"].as_str(), denied[0]["user"].as_str()), (Some("denied"), Some("agent")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_before_the_platform_is_heard_from() {
    let world = World::start().await;
    let mut shipping = Shipping::open(&world).await;
    let status = shipping.send(batch(1, OURS, 0, &["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_batches_end_their_stream_only() {
    let world = World::with_pods().await;
    let uneven = Batch { flags: vec![0; 2].into(), ..batch(1, OURS, 0, &["a"]) };
    let end_with_records = Batch { end: true, ..batch(1, OURS, 0, &["a"]) };
    let no_source = Batch { source: None, ..batch(1, OURS, 0, &["a"]) };
    let mut bad_name = batch(1, OURS, 0, &["a"]);
    bad_name.source.as_mut().unwrap().pod = "../../etc".into();
    let lying = Batch { length: vec![99], ..batch(1, OURS, 0, &["a"]) };
    let oversized = Batch { messages: vec![b'x'; MAX_FRAME + 1].into(), ..batch(1, OURS, 0, &["a"]) };
    for bad in [uneven, end_with_records, no_source, bad_name, lying, oversized, batch(0, OURS, 0, &["a"])] {
        let mut shipping = Shipping::open(&world).await;
        assert_eq!(shipping.send(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // Ids that do not count up.
    let mut shipping = Shipping::open(&world).await;
    shipping.send(batch(5, OURS, 0, &["a"])).await.unwrap();
    assert_eq!(shipping.send(batch(5, OURS, 2, &["b"])).await.unwrap_err().code(), Code::InvalidArgument);
    let mut shipping = Shipping::open(&world).await;
    assert_eq!(shipping.send(batch(1, OURS, 2, &["b"])).await.unwrap().refused, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_store_ends_the_stream() {
    let world = World::with_pods().await;
    let mut shipping = Shipping::open(&world).await;
    shipping.send(batch(1, OURS, 0, &["a"])).await.unwrap();
    world.store.close().await;
    assert_eq!(shipping.send(batch(2, OURS, 2, &["b"])).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_come_when_they_are_known_and_as_they_change() {
    let world = World::start().await;
    let (_messages, mut control) = connect(&world, "local").await;
    world.publish(&[("u1", "web-1", "local"), ("u2", "web-2", "elsewhere")]);
    let first = claims(&mut control).await;
    assert!(first.complete);
    assert_eq!((first.claimed, first.ended), (vec!["u1".into()], vec![]));
    let ended = Pod { presence: Presence::Finished, ..pod("web-1", "local") };
    let pods = HashMap::from([(PodUid::parse("u1").unwrap(), ended)]);
    world.publish.send_replace(Arc::new(Inventory::of(pods, &BTreeMap::new())));
    assert_eq!(claims(&mut control).await, v1::Claims { ended: vec!["u1".into()], ..v1::Claims::default() });
    world.publish(&[("u3", "web-3", "local")]);
    let next = claims(&mut control).await;
    assert_eq!((next.complete, next.claimed, next.released), (false, vec!["u3".into()], vec!["u1".into()]));
    // A newer connection of the node takes over, and begins with the whole set.
    let (_newer_messages, mut newer) = connect(&world, "local").await;
    assert_eq!(claims(&mut newer).await.claimed, ["u3"]);
    assert_eq!(soon(control.message()).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_speaks_for_its_own_node_only_and_needs_its_token() {
    let world = World::with_pods().await;
    let (_messages, mut control) = connect(&world, "elsewhere").await;
    assert_eq!(soon(control.message()).await.unwrap_err().code(), Code::PermissionDenied);
    let mut user = AgentsClient::with_interceptor(world.channel().await, world.token("admin.token"));
    let status = user.ship(tokio_stream::empty::<Batch>()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut agent = world.agents().await;
    let status = agent.accept(tokio_stream::empty::<v1::SessionData>()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_become_metrics() {
    let world = World::with_pods().await;
    let report = AgentReport { backlog_bytes: 4711, ..Default::default() };
    world.agents().await.report(tokio_stream::once(report)).await.unwrap();
    let metrics = monitoring::metrics(&world).await;
    assert!(metrics.contains("skpr_agent_backlog_bytes{node=\"local\"} 4711"), "{metrics}");
    assert!(
        metrics.contains("skpr_grpc_server_handled_total{method=\"Agents.Report\",code=\"OK\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.contains("# EOF"), "{metrics}");
}
