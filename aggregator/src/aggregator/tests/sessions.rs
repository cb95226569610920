//! The relay: a caller on one side, the agent on the other.

use super::agents::connect;
use super::*;
use crate::fallback::fake::{Fake, Ways};
use bytes::Bytes;
use skpr_proto::v1::control::Control as Kind;
use skpr_proto::v1::sessions_client::SessionsClient;
use skpr_proto::v1::{
    AgentMessage, Control, Dial, Exit, OpenSession, SessionData, SessionRequest, SessionResponse,
};
use std::time::Instant;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// What "at once" may take on a busy machine.
const AT_MOST: Duration = Duration::from_secs(1);
/// The windows of two connections with one stream each, and what lies between.
const BOUND: usize = 12 << 20;

struct Caller {
    to: Sender<SessionRequest>,
    from: Streaming<SessionResponse>,
}

struct Accepted {
    to: Sender<SessionData>,
    from: Streaming<SessionData>,
}

/// The agent of this node, which is dialled.
struct Agent {
    _messages: Sender<AgentMessage>,
    control: Streaming<Control>,
}

impl Agent {
    async fn of(world: &World) -> Agent {
        let (messages, mut control) = connect(world, "local").await;
        // It is told what is its node's when it has been given its place, and not before.
        while !matches!(soon(control.message()).await.unwrap().unwrap().control, Some(Kind::Claims(_))) {}
        Agent { _messages: messages, control }
    }

    async fn dialled(&mut self) -> Dial {
        loop {
            let control = soon(self.control.message()).await.unwrap().unwrap();
            if let Some(Kind::Dial(dial)) = control.control {
                return dial;
            }
        }
    }
}

impl Caller {
    async fn open(world: &World, token: Token, name: &str) -> Result<Caller, Status> {
        Caller::open_on(world.channel().await, token, name, "").await
    }

    async fn open_on(connection: Channel, token: Token, name: &str, purpose: &str) -> Result<Caller, Status> {
        let (to, messages) = channel(1);
        let open =
            OpenSession { environment: environment(name), purpose: purpose.into(), ..Default::default() };
        to.send(SessionRequest { open: Some(open), ..Default::default() }).await.unwrap();
        let mut client = SessionsClient::with_interceptor(connection, token);
        let from = soon(client.open(ReceiverStream::new(messages))).await?.into_inner();
        Ok(Caller { to, from })
    }

    async fn say(&self, data: &[u8], end: bool) {
        let data = Bytes::copy_from_slice(data);
        soon(self.to.send(SessionRequest { data, end, ..Default::default() })).await.unwrap();
    }
}

impl Accepted {
    async fn accept(world: &World, session: &str) -> Result<Accepted, Status> {
        let (to, messages) = channel(1);
        to.send(SessionData { session: session.to_owned(), ..Default::default() }).await.unwrap();
        let from = soon(world.agents().await.accept(ReceiverStream::new(messages))).await?.into_inner();
        Ok(Accepted { to, from })
    }

    async fn say(&self, data: &[u8], exit: Option<Exit>) {
        let (data, end) = (Bytes::copy_from_slice(data), exit.is_some());
        soon(self.to.send(SessionData { data, end, exit, ..Default::default() })).await.unwrap();
    }
}

/// A session that is open, and its two ends.
async fn session(world: &World) -> (Caller, Accepted, Agent) {
    session_on(world, world.channel().await).await
}

async fn session_on(world: &World, connection: Channel) -> (Caller, Accepted, Agent) {
    let mut agent = Agent::of(world).await;
    let opening = Caller::open_on(connection, world.token("admin.token"), "dev", "");
    let (caller, accepted) = tokio::join!(opening, async {
        let dial = agent.dialled().await;
        assert_eq!((dial.purpose.as_str(), dial.target.as_str(), dial.host_key.len()), ("ssh", "u1", 32));
        let names = [dial.project.as_str(), dial.environment.as_str(), dial.instance.as_str()];
        assert_eq!(names, ["web", "dev", "web-1"]);
        Accepted::accept(world, &dial.session).await.unwrap()
    });
    let mut caller = caller.unwrap();
    let opened = soon(caller.from.message()).await.unwrap().unwrap().opened.unwrap();
    assert_eq!((opened.instance.as_str(), opened.version.as_str(), opened.instances), ("web-1", "1.0", 1));
    assert!(opened.host_key.starts_with("ssh-ed25519 "));
    (caller, accepted, agent)
}

/// A world whose only instance is on this node.
async fn world() -> World {
    let world = World::start().await;
    world.publish(&[("u1", "web-1", "local")]);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    let world = world().await;
    let (mut caller, mut agent, _control) = session(&world).await;
    let all: Vec<u8> = (0..=255).collect();
    caller.say(&all, false).await;
    assert_eq!(soon(agent.from.message()).await.unwrap().unwrap().data, all);
    agent.say(&all, None).await;
    assert_eq!(soon(caller.from.message()).await.unwrap().unwrap().data, all);
    // The caller says no more, and listens on.
    caller.say(b"", true).await;
    assert!(soon(agent.from.message()).await.unwrap().unwrap().end);
    agent.say(b"more", None).await;
    agent.say(b"last", Some(Exit { code: 42, signal: 0, user: "www-data".into() })).await;
    assert_eq!(soon(caller.from.message()).await.unwrap().unwrap().data, "more");
    let last = soon(caller.from.message()).await.unwrap().unwrap();
    assert_eq!((&*last.data, last.end), (&b"last"[..], true));
    assert!(soon(caller.from.message()).await.unwrap().is_none());
    assert!(soon(agent.from.message()).await.unwrap().is_none());
    drop((caller, agent));

    let lines = world.end().await;
    let line = lines.iter().find(|line| line["audit"] == "Sessions.Open").unwrap();
    for (key, value) in [
        ("user", "admin"),
        ("environment", "web/dev"),
        ("namespace", "sites"),
        ("instance", "web-1"),
        ("purpose", "ssh"),
        ("exit", "42"),
        ("run_as", "www-data"),
        ("ended", "completed"),
        ("decision", "allowed"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(line["bytes"], 520, "{line}");
    // As recordings are called, so that each has its person.
    assert_eq!(line["session"].as_str().map(str::len), Some(32), "{line}");
    assert!(line["duration_seconds"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_end_that_goes_takes_the_other_with_it_within_a_second() {
    let world = world().await;
    let (caller, mut agent, control) = session(&world).await;
    let begun = Instant::now();
    drop(caller);
    assert!(soon(agent.from.message()).await.is_err());
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    drop((agent, control));

    let (mut caller, agent, _control) = session(&world).await;
    let begun = Instant::now();
    drop(agent);
    let status = soon(caller.from.message()).await.unwrap_err();
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("agent has gone"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_makes_the_writer_wait_and_goes_on_later() {
    let world = world().await;
    let (mut caller, agent, _control) = session(&world).await;
    let piece = SessionData { data: vec![7; 64 << 10].into(), ..Default::default() };
    let mut sent = 0;
    // Each that is not taken within half a second is not taken at all.
    while tokio::time::timeout(AT_MOST / 2, agent.to.send(piece.clone())).await.is_ok() {
        sent += piece.data.len();
        assert!(sent < BOUND, "{sent} bytes went to nobody");
    }
    assert!(sent > 1 << 20, "{sent}");
    let mut got = 0;
    while got < sent {
        got += soon(caller.from.message()).await.unwrap().unwrap().data.len();
    }
    agent.say(b"", Some(Exit::default())).await;
    while !soon(caller.from.message()).await.unwrap().unwrap().end {}
}

/// Neither side reads, so that no direction is asked for more; then the caller's machine is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_which_nobody_reads_ends_with_its_caller() {
    let world = world().await;
    let machine = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let connection = {
        let _on = machine.enter();
        world.channel().await
    };
    let (caller, agent, _control) = session_on(&world, connection).await;
    let data = Bytes::from(vec![7; 64 << 10]);
    let to_caller = SessionData { data: data.clone(), ..Default::default() };
    while tokio::time::timeout(AT_MOST / 2, agent.to.send(to_caller.clone())).await.is_ok() {}
    let to_agent = SessionRequest { data, ..Default::default() };
    while tokio::time::timeout(AT_MOST / 2, caller.to.send(to_agent.clone())).await.is_ok() {}
    machine.shutdown_background();
    soon(agent.to.closed()).await;
    drop(agent);
    let lines = world.end().await;
    assert!(lines.iter().any(|line| line["audit"] == "Sessions.Open" && line["ended"] == "disconnected"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_an_environment_is_as_one_that_is_not_there() {
    let world = world().await;
    let _agent = Agent::of(&world).await;
    let reader = world.new_token("reader", "web/other:list+logs+exec");
    let told = async |name: &str| {
        let status = Caller::open(&world, reader.clone(), name).await.err().unwrap();
        (status.code(), status.message().replace(name, "it"), hint(&status))
    };
    let forbidden = told("dev").await;
    assert_eq!(forbidden, told("nowhere").await);
    assert_eq!(forbidden.0, Code::PermissionDenied);
    // Who may see it is told what is missing.
    let seer = world.new_token("seer", "web/dev:list+logs+deploy");
    let status = Caller::open(&world, seer, "dev").await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("run anything in it"), "{status:?}");
    let runner = world.new_token("runner", "web/dev:exec");
    let mut control = Agent::of(&world).await;
    let (opened, ()) = tokio::join!(Caller::open(&world, runner, "dev"), async {
        let dial = control.dialled().await;
        let _accepted = Accepted::accept(&world, &dial.session).await.unwrap();
    });
    opened.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_of_files_takes_a_right_of_its_own_and_is_audited_as_one() {
    let world = world().await;
    let mut control = Agent::of(&world).await;
    let (runner, mover) =
        (world.new_token("runner", "web/dev:exec"), world.new_token("mover", "web/dev:files"));
    let refused = async |token: &Token, purpose: &str| {
        Caller::open_on(world.channel().await, token.clone(), "dev", purpose).await.err().unwrap()
    };
    let status = refused(&runner, "files").await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("read and write its files"), "{status:?}");
    let status = refused(&mover, "ssh").await;
    assert!(status.message().contains("run anything in it"), "{status:?}");
    assert_eq!(refused(&mover, "\u{1b}x11").await.code(), Code::InvalidArgument);
    let opening = Caller::open_on(world.channel().await, mover, "dev", "files");
    let (caller, agent) = tokio::join!(opening, async {
        let dial = control.dialled().await;
        assert_eq!((dial.purpose.as_str(), dial.target.as_str()), ("files", "u1"));
        Accepted::accept(&world, &dial.session).await.unwrap()
    });
    let (mut caller, mut agent) = (caller.unwrap(), agent);
    soon(caller.from.message()).await.unwrap().unwrap().opened.unwrap();
    caller.say(b"files", true).await;
    while !soon(agent.from.message()).await.unwrap().unwrap().end {}
    agent.say(b"", Some(Exit::default())).await;
    while !soon(caller.from.message()).await.unwrap().unwrap().end {}
    drop((caller, agent));
    let lines = world.end().await;
    let line = |user: &str| lines.iter().rfind(|line| line["user"] == user).unwrap();
    let (allowed, denied) = (line("mover"), line("runner"));
    assert_eq!((&allowed["purpose"], &allowed["decision"]), (&"files".into(), &"allowed".into()));
    assert_eq!((&allowed["bytes"], &allowed["exit"]), (&5.into(), &"0".into()), "{allowed}");
    assert_eq!(denied["decision"], "denied", "{denied}");
}

/// Case 49: a work order that is another node's, or was used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_for_one_agent_and_for_once() {
    let world = world().await;
    for unknown in ["", "nonsense", &"0".repeat(32)] {
        let status = Accepted::accept(&world, unknown).await.err().unwrap();
        assert_eq!(status.code(), Code::NotFound, "{unknown}");
    }
    let mut control = Agent::of(&world).await;
    let (caller, _accepted) = tokio::join!(Caller::open(&world, world.token("admin.token"), "dev"), async {
        let dial = control.dialled().await;
        let accepted = Accepted::accept(&world, &dial.session).await.unwrap();
        let again = Accepted::accept(&world, &dial.session).await.err().unwrap();
        assert_eq!(again.code(), Code::NotFound);
        accepted
    });
    caller.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_agent_is_or_none_can_the_caller_is_told_at_once() {
    let world = world().await;
    let status = Caller::open(&world, world.token("admin.token"), "dev").await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not connected"), "{status:?}");
    world.publish(&[]);
    let status = Caller::open(&world, world.token("admin.token"), "dev").await.err().unwrap();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

/// What it serves is looked at in `fallback`; here, that it does, and that nobody sees a difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_agent_serves_sessions_the_aggregator_does_if_it_may() {
    let data = tempfile::tempdir().unwrap();
    let options = fallback::Options { denied: Default::default(), directory: data.path().to_owned() };
    let kubernetes = Fake::start(Ways::default()).await;
    let world = World::start_changed(tempfile::tempdir().unwrap(), AT_ONCE, |parts| {
        let inventory = parts.inventory.clone();
        parts.fallback = Some(Fallback::new(kubernetes.client.clone(), options, inventory));
    })
    .await;
    world.publish(&[("u1", "web-1", "local")]);
    let mut caller = Caller::open(&world, world.token("admin.token"), "dev").await.unwrap();
    let opened = soon(caller.from.message()).await.unwrap().unwrap().opened.unwrap();
    assert!(opened.instance == "web-1" && opened.host_key.starts_with("ssh-ed25519 "), "{opened:?}");
    caller.say(b"SSH-2.0-test\r\n", false).await;
    let said = soon(caller.from.message()).await.unwrap().unwrap().data;
    assert!(said.starts_with(b"SSH-2.0-"), "{said:?}");
    // One that says no more has ended its session.
    caller.say(b"", true).await;
    while soon(caller.from.message()).await.unwrap().is_some_and(|message| !message.end) {}
    // An agent that can is preferred, whatever there is besides.
    let (_caller, _accepted, _agent) = session(&world).await;
    let lines = world.end().await;
    let line = lines.iter().find(|line| line["audit"] == "Sessions.Open" && line["ended"] == "completed");
    assert_eq!((&line.unwrap()["instance"], &line.unwrap()["purpose"]), (&"web-1".into(), &"ssh".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_ended_and_counted_when_the_aggregator_stops() {
    let world = world().await;
    let (mut caller, mut agent, _control) = session(&world).await;
    world.stop.cancel();
    assert_eq!(soon(caller.from.message()).await.unwrap_err().code(), Code::Unavailable);
    assert!(soon(agent.from.message()).await.is_err());
    let lines = world.end().await;
    assert!(lines.iter().any(|line| line["audit"] == "Sessions.Open" && line["ended"] == "unavailable"));
}
