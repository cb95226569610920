//! An aggregator whose every answer the test gives, behind a TCP relay that the test can cut.

use super::soon;
use crate::config::{Address, Config};
use crate::usage::{Settings, Sources};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skpr_proto::NodeName;
use skpr_proto::v1::agents_server::{Agents, AgentsServer};
use skpr_proto::v1::{self, Ack, AgentMessage, AgentReport, Batch, Control, ReportSummary, SessionData};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// A `Connect` call.
pub(super) struct Hello {
    pub(super) token: String,
    pub(super) hello: v1::Hello,
    control: mpsc::Sender<Result<Control, Status>>,
}

impl Hello {
    async fn say(&self, control: v1::control::Control) {
        self.control.send(Ok(Control { control: Some(control) })).await.unwrap();
    }

    pub(super) async fn claim(&self, uids: &[&str]) {
        let claimed = uids.iter().map(|uid| (*uid).to_owned()).collect();
        self.say(v1::control::Control::Claims(v1::Claims {
            complete: true,
            claimed,
            ..v1::Claims::default()
        }))
        .await;
    }

    pub(super) async fn drain(&self, reconnect_after_millis: u32) {
        self.say(v1::control::Control::Drain(v1::Drain { reconnect_after_millis })).await;
    }

    pub(super) async fn dial(&self) {
        let dial =
            v1::Dial { session: "s".into(), purpose: "ssh".into(), target: "x".into(), ..Default::default() };
        self.say(v1::control::Control::Dial(dial)).await;
    }
}

/// A `Ship` call.
pub(super) struct Stream {
    batches: Streaming<Batch>,
    pub(super) acks: mpsc::Sender<Result<Ack, Status>>,
}

impl Stream {
    /// The ids and messages of the next batches.
    pub(super) async fn receive(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut received = Vec::new();
        for _ in 0..count {
            let batch = soon(self.batches.next()).await.unwrap().unwrap();
            received.push((batch.id, String::from_utf8(batch.messages.to_vec()).unwrap()));
        }
        received
    }

    pub(super) async fn ack(&self, id: u64) {
        self.acks.send(Ok(Ack { id, refused: None })).await.unwrap();
    }

    pub(super) async fn refuse(&self, id: u64) {
        self.acks.send(Ok(Ack { id, refused: Some("not claimed".into()) })).await.unwrap();
    }

    /// Waits until the agent has ended the call.
    pub(super) async fn ended(&mut self) {
        while let Some(Ok(_)) = soon(self.batches.next()).await {}
    }
}

struct Service {
    hellos: mpsc::Sender<Hello>,
    streams: mpsc::Sender<Stream>,
    reports: mpsc::Sender<AgentReport>,
    denial: Arc<Mutex<Option<Status>>>,
}

fn token<T>(request: &Request<T>) -> String {
    request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned()
}

#[tonic::async_trait]
impl Agents for Service {
    type ConnectStream = ReceiverStream<Result<Control, Status>>;
    type ShipStream = ReceiverStream<Result<Ack, Status>>;
    type AcceptStream = ReceiverStream<Result<SessionData, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let token = token(&request);
        let message = request.into_inner().next().await.unwrap()?;
        let Some(v1::agent_message::Message::Hello(hello)) = message.message else { panic!("no hello") };
        let (control, controls) = mpsc::channel(16);
        self.hellos.send(Hello { token, hello, control }).await.unwrap();
        if let Some(status) = self.denial.lock().unwrap().clone() {
            return Err(status);
        }
        Ok(Response::new(ReceiverStream::new(controls)))
    }

    async fn ship(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::ShipStream>, Status> {
        let (acks, answers) = mpsc::channel(16);
        self.streams.send(Stream { batches: request.into_inner(), acks }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn report(
        &self,
        request: Request<Streaming<AgentReport>>,
    ) -> Result<Response<ReportSummary>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.next().await {
            self.reports.send(report?).await.unwrap();
        }
        Ok(Response::new(ReportSummary {}))
    }

    async fn accept(
        &self,
        _: Request<Streaming<SessionData>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

/// See the module.
pub(super) struct Aggregator {
    hellos: mpsc::Receiver<Hello>,
    streams: mpsc::Receiver<Stream>,
    pub(super) reports: mpsc::Receiver<AgentReport>,
    /// What `Connect` answers instead of a stream.
    pub(super) denial: Arc<Mutex<Option<Status>>>,
    /// How many TCP connections were opened.
    pub(super) opened: watch::Receiver<usize>,
    cut: watch::Sender<u64>,
    address: SocketAddr,
    /// With `ca`, `token` and `state`.
    pub(super) files: TempDir,
    _tasks: JoinSet<()>,
}

/// An address where nobody listens yet, and nobody else can.
pub(super) fn reserved_address() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A certificate authority and a certificate for `localhost` with its key, as PEM.
pub(super) fn certificates() -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    (ca.pem(), leaf.pem(), key.serialize_pem())
}

impl Aggregator {
    pub(super) async fn start() -> Self {
        Self::start_at(reserved_address().0, TempDir::new().unwrap()).await
    }

    pub(super) async fn start_at(address: TcpSocket, files: TempDir) -> Self {
        let (ca, certificate, key) = certificates();
        std::fs::write(files.path().join("ca"), ca).unwrap();
        std::fs::write(files.path().join("token"), "first\n").unwrap();
        let (hello, hellos) = mpsc::channel(16);
        let (stream, streams) = mpsc::channel(16);
        let (report, reports) = mpsc::channel(16);
        let denial = Arc::new(Mutex::new(None));
        let service =
            Service { hellos: hello, streams: stream, reports: report, denial: Arc::clone(&denial) };

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        let serving = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AgentsServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serving.await.unwrap() });

        let (opening, opened) = watch::channel(0);
        let (cut, cuts) = watch::channel(0);
        let front = address.listen(128).unwrap();
        let address = front.local_addr().unwrap();
        tasks.spawn(relay(front, server, opening, cuts));
        Aggregator { hellos, streams, reports, denial, opened, cut, address, files, _tasks: tasks }
    }

    pub(super) fn config(&self) -> Config {
        config(self.address, self.files.path())
    }

    pub(super) async fn hello(&mut self) -> Hello {
        soon(self.hellos.recv()).await.unwrap()
    }

    pub(super) async fn stream(&mut self) -> Stream {
        soon(self.streams.recv()).await.unwrap()
    }

    /// Says hello back with a claim, and returns the stream that follows.
    pub(super) async fn accept(&mut self) -> (Hello, Stream) {
        let hello = self.hello().await;
        hello.claim(&["uid-1"]).await;
        (hello, self.stream().await)
    }

    pub(super) fn has_stream(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }

    /// Cuts every open TCP connection, without a goodbye.
    pub(super) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

pub(super) fn config(address: SocketAddr, files: &Path) -> Config {
    Config {
        aggregator: Address { host: "localhost".into(), port: address.port() },
        ca: files.join("ca"),
        token: files.join("token"),
        node: NodeName::parse("node-1").unwrap(),
        logs: files.join("pods"),
        state: files.join("state"),
        usage: Settings {
            interval: Some(Duration::from_millis(100)),
            sources: Sources::Cgroups(files.join("cgroups")),
        },
        sessions: None,
    }
}

async fn relay(
    front: TcpListener,
    server: SocketAddr,
    opened: watch::Sender<usize>,
    cuts: watch::Receiver<u64>,
) {
    let mut relays = JoinSet::new();
    loop {
        let (mut near, _) = front.accept().await.unwrap();
        opened.send_modify(|count| *count += 1);
        let mut cuts = cuts.clone();
        cuts.mark_unchanged();
        relays.spawn(async move {
            let mut far = TcpStream::connect(server).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}
