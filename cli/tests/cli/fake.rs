//! An aggregator that serves what a test put into it, behind a link that can be cut.

mod cron;

pub(crate) use cron::Tasks;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skpr_proto::v1;
use skpr_proto::v1::cron_server::CronServer;
use skpr_proto::v1::environments_server::{Environments, EnvironmentsServer};
use skpr_proto::v1::logs_server::{Logs, LogsServer};
use skpr_proto::v1::metrics_server::{Metrics, MetricsServer};
use skpr_proto::v1::sessions_server::{Sessions, SessionsServer};
use skpr_proto::v1::{
    EnvironmentSummary, ListRequest, ListResponse, LogRecord, LogsRequest, LogsResponse, WhoAmIRequest,
    WhoAmIResponse,
};
use skpr_proto::{ErrorKind, Failure};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

pub(crate) const TOKEN: &str = "token-that-must-not-be-shown";

/// What the fake answers; records are sent `batch` at a time and the cursor is the number of those sent.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) records: Vec<LogRecord>,
    pub(crate) batch: usize,
    /// For each connection in turn: cut the link after this many answers.
    pub(crate) cuts: VecDeque<usize>,
    /// Every cut waits for this, if it is there.
    pub(crate) gate: Option<Arc<Notify>>,
    /// For each call in turn: end it with this instead of serving it.
    pub(crate) failures: VecDeque<Option<Failure>>,
    pub(crate) skipped: u64,
    pub(crate) oldest_kept: Option<i64>,
    pub(crate) environments: Vec<EnvironmentSummary>,
    pub(crate) rights: Vec<String>,
    pub(crate) requests: Vec<LogsRequest>,
    pub(crate) list_requests: Vec<ListRequest>,
}

/// What the fake answers about deploys, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) described: v1::DescribeResponse,
    /// What deploys and rollbacks answer, but for the release and the version.
    pub(crate) planned: v1::DeployResponse,
    /// For each `follow` in turn.
    pub(crate) follow: VecDeque<Part>,
    pub(crate) events: Vec<v1::Event>,
    /// For each `events` in turn: cut the link after this many events.
    pub(crate) event_cuts: VecDeque<usize>,
    /// By call: end the next of its kind with this.
    pub(crate) refusals: HashMap<&'static str, VecDeque<Failure>>,
    pub(crate) deploys: Vec<v1::DeployRequest>,
    pub(crate) rollbacks: Vec<v1::RollbackRequest>,
    pub(crate) follows: Vec<v1::FollowRequest>,
    pub(crate) event_requests: Vec<v1::EventsRequest>,
    /// For each `read` of usage in turn, the last for all that follow; none cuts the link.
    pub(crate) usage: VecDeque<Option<v1::UsageResponse>>,
    pub(crate) usage_requests: Vec<v1::UsageRequest>,
    pub(crate) cron: Tasks,
    /// The other calls: `scale shop/dev`.
    pub(crate) calls: Vec<String>,
}

/// What one `follow` answers; then the link is cut when told so, or it stays open.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) answers: Vec<v1::FollowResponse>,
    pub(crate) cut: Option<Arc<Notify>>,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) script: Arc<Mutex<Script>>,
    // Dropping it ends the server.
    _runtime: Runtime,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Script>>,
    links: Arc<Mutex<JoinSet<()>>>,
}

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn identity(&self, names: &[&str], expired: bool) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(leaf.pem() + &self.pem, key.serialize_pem())
    }
}

impl Fake {
    pub(crate) fn start(state: State) -> Fake {
        Fake::start_as(state, &["127.0.0.1", "localhost"], false)
    }

    pub(crate) fn start_as(state: State, names: &[&str], expired: bool) -> Fake {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let authority = Authority::new();
        let identity = authority.identity(names, expired);
        let state = Arc::new(Mutex::new(state));
        let links = Arc::new(Mutex::new(JoinSet::new()));
        let script = Arc::new(Mutex::new(Script::default()));
        let service =
            Service { state: Arc::clone(&state), script: Arc::clone(&script), links: Arc::clone(&links) };
        let address = runtime.block_on(async {
            let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let inner_address = inner.local_addr().unwrap();
            let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = outer.local_addr().unwrap();
            let server = Server::builder()
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap()
                .add_service(EnvironmentsServer::new(service.clone()))
                .add_service(MetricsServer::new(service.clone()))
                .add_service(CronServer::new(service.clone()))
                .add_service(SessionsServer::new(service.clone()))
                .add_service(LogsServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(inner));
            links.lock().unwrap().spawn(async {});
            tokio::runtime::Handle::current().spawn(server);
            tokio::runtime::Handle::current().spawn(async move {
                while let Ok((mut client, _)) = outer.accept().await {
                    links.lock().unwrap().spawn(async move {
                        let mut server = TcpStream::connect(inner_address).await.unwrap();
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    });
                }
            });
            address
        });
        Fake { address, ca_pem: authority.pem, state, script, _runtime: runtime }
    }

    /// One that deploys as it is told.
    pub(crate) fn scripted(script: Script) -> Fake {
        let fake = Fake::start(State::default());
        *fake.script.lock().unwrap() = script;
        fake
    }

    pub(crate) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<LogsRequest> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn authorise<T>(request: &Request<T>) -> Result<(), Status> {
    let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    match token {
        Some(token) if token == format!("Bearer {TOKEN}") => Ok(()),
        Some(_) => Err(Failure::new(ErrorKind::NotLoggedIn, "the token has expired").into()),
        None => Err(Failure::new(ErrorKind::NotLoggedIn, "no token").into()),
    }
}

#[tonic::async_trait]
impl Environments for Service {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        authorise(&request)?;
        Ok(Response::new(WhoAmIResponse {
            name: "dana".into(),
            groups: vec!["developers".into(), "oncall".into()],
            server_version: "9.9.9".into(),
            rights: self.state.lock().unwrap().rights.clone(),
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        authorise(&request)?;
        let mut state = self.state.lock().unwrap();
        let request = request.into_inner();
        state.list_requests.push(request.clone());
        let ListRequest { project, without_instances } = request;
        let mut environments = state.environments.clone();
        if without_instances {
            environments.iter_mut().for_each(|summary| summary.instance.clear());
        }
        environments.retain(|summary| {
            project.is_none() || project == summary.environment.as_ref().map(|name| name.project.clone())
        });
        Ok(Response::new(ListResponse { environments }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        authorise(&request)?;
        self.refuse("describe")?;
        self.called("describe", &request.into_inner().environment);
        Ok(Response::new(self.script().described.clone()))
    }

    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::DeployResponse>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        let dry_run = request.dry_run;
        self.script().deploys.push(request.clone());
        if !dry_run {
            self.refuse("deploy")?;
        }
        let planned = self.script().planned.clone();
        let version = request.version;
        Ok(Response::new(v1::DeployResponse { release: if dry_run { 0 } else { 42 }, version, ..planned }))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::DeployResponse>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        let dry_run = request.dry_run;
        self.script().rollbacks.push(request);
        if !dry_run {
            self.refuse("rollback")?;
        }
        let planned = self.script().planned.clone();
        Ok(Response::new(v1::DeployResponse { release: if dry_run { 0 } else { 42 }, ..planned }))
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        authorise(&request)?;
        self.refuse("follow")?;
        self.script().follows.push(request.into_inner());
        let part = self.script().follow.pop_front().unwrap_or_default();
        let links = Arc::clone(&self.links);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::runtime::Handle::current().spawn(async move {
            for answer in part.answers {
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            if let Some(gate) = part.cut {
                gate.notified().await;
                links.lock().unwrap().abort_all();
            } else {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ScaleResponse>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        self.called("scale", &request.environment);
        Ok(Response::new(v1::ScaleResponse {
            minimum_before: 2,
            maximum_before: 8,
            minimum: request.minimum.unwrap_or(2),
            maximum: request.maximum.unwrap_or(8),
        }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        let call = match (request.dry_run, request.force) {
            (true, _) => "delete?",
            (false, true) => "delete!",
            (false, false) => "delete",
        };
        self.called(call, &request.environment);
        if !request.dry_run {
            self.refuse("delete")?;
        }
        let volume = "volume `files` (5Gi)".to_owned();
        let mut removed = vec!["2 instances".to_owned(), "domain `www.example.com`\u{1b}[2J".to_owned()];
        let mut kept = vec!["logs and events".to_owned()];
        if request.volumes {
            removed.push(volume)
        } else {
            kept.push(volume)
        }
        let newest = self.script().described.summary.as_ref().and_then(|summary| summary.release.clone());
        let under_way = newest.filter(|release| release.state == "deploying");
        Ok(Response::new(v1::DeleteResponse { removed, kept, under_way }))
    }
}

#[tonic::async_trait]
impl Metrics for Service {
    async fn read(&self, request: Request<v1::UsageRequest>) -> Result<Response<v1::UsageResponse>, Status> {
        authorise(&request)?;
        self.refuse("read")?;
        let answer = {
            let mut script = self.script();
            script.usage_requests.push(request.into_inner());
            let last = script.usage.len() < 2;
            if last { script.usage.front().cloned() } else { script.usage.pop_front() }
        };
        match answer.flatten() {
            Some(answer) => Ok(Response::new(answer)),
            None => {
                self.links.lock().unwrap().abort_all();
                Err(Status::cancelled("the link was cut"))
            }
        }
    }
}

/// Sessions are refused, or else the link is cut before they are there.
#[tonic::async_trait]
impl Sessions for Service {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn open(
        &self,
        request: Request<tonic::Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        authorise(&request)?;
        self.refuse("open")?;
        self.links.lock().unwrap().abort_all();
        Err(Status::cancelled("the link was cut"))
    }
}

impl Service {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Ends the call if a test wants that of the next of its kind.
    fn refuse(&self, call: &str) -> Result<(), Status> {
        match self.script().refusals.get_mut(call).and_then(VecDeque::pop_front) {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    fn called(&self, call: &str, environment: &Option<v1::Environment>) {
        let environment = environment.clone().unwrap_or_default();
        self.script().calls.push(format!("{call} {}/{}", environment.project, environment.environment));
    }
}

#[tonic::async_trait]
impl Logs for Service {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<v1::EventsResponse, Status>> + Send>>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        let (events, cut) = {
            let mut script = self.script();
            script.event_requests.push(request.clone());
            (script.events.clone(), script.event_cuts.pop_front())
        };
        let from = std::str::from_utf8(&request.cursor).unwrap().parse().unwrap_or(0usize);
        let links = Arc::clone(&self.links);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::runtime::Handle::current().spawn(async move {
            for (sent, event) in events.iter().enumerate().skip(from) {
                let response = v1::EventsResponse {
                    events: vec![event.clone()],
                    cursor: (sent + 1).to_string().into(),
                    namespace: Some("sites".into()),
                    ..v1::EventsResponse::default()
                };
                if cut == Some(sent) {
                    links.lock().unwrap().abort_all();
                    return;
                }
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
            if request.follow {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    type LogsStream = Pin<Box<dyn Stream<Item = Result<LogsResponse, Status>> + Send>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        authorise(&request)?;
        let request = request.into_inner();
        let (records, batch, cut, failure, skipped, oldest_kept) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(request.clone());
            let cut = state.cuts.pop_front();
            let failure = state.failures.pop_front().flatten();
            (state.records.clone(), state.batch.max(1), cut, failure, state.skipped, state.oldest_kept)
        };
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let gate = self.state.lock().unwrap().gate.clone();
        let from = std::str::from_utf8(&request.cursor).unwrap().parse().unwrap_or(0usize);
        let links = Arc::clone(&self.links);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::runtime::Handle::current().spawn(async move {
            let mut sent = from;
            for (index, chunk) in records[from..].chunks(batch).enumerate() {
                if cut == Some(index) {
                    if let Some(gate) = &gate {
                        gate.notified().await;
                    }
                    links.lock().unwrap().abort_all();
                    return;
                }
                sent += chunk.len();
                let response = LogsResponse {
                    records: chunk.to_vec(),
                    cursor: sent.to_string().into(),
                    skipped: if index == 0 { skipped } else { 0 },
                    oldest_kept: oldest_kept.map(|unix_nanos| skpr_proto::v1::Instant { unix_nanos }),
                    live: false,
                    namespace: Some("sites".into()),
                };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
            if request.follow {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}
