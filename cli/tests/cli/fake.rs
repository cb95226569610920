//! An aggregator that serves what a test put into it, behind a link that can be cut.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skpr_proto::v1::environments_server::{Environments, EnvironmentsServer};
use skpr_proto::v1::logs_server::{Logs, LogsServer};
use skpr_proto::v1::{
    EnvironmentSummary, ListRequest, ListResponse, LogRecord, LogsRequest, LogsResponse, WhoAmIRequest,
    WhoAmIResponse,
};
use skpr_proto::{ErrorKind, Failure};
use std::collections::VecDeque;
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
    pub(crate) requests: Vec<LogsRequest>,
    pub(crate) list_requests: Vec<ListRequest>,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    pub(crate) state: Arc<Mutex<State>>,
    // Dropping it ends the server.
    _runtime: Runtime,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
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
        let service = Service { state: Arc::clone(&state), links: Arc::clone(&links) };
        let address = runtime.block_on(async {
            let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let inner_address = inner.local_addr().unwrap();
            let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = outer.local_addr().unwrap();
            let server = Server::builder()
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap()
                .add_service(EnvironmentsServer::new(service.clone()))
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
        Fake { address, ca_pem: authority.pem, state, _runtime: runtime }
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
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        authorise(&request)?;
        let mut state = self.state.lock().unwrap();
        let project = request.into_inner().project;
        state.list_requests.push(ListRequest { project: project.clone() });
        let mut environments = state.environments.clone();
        environments.retain(|summary| {
            project.is_none() || project == summary.environment.as_ref().map(|name| name.project.clone())
        });
        Ok(Response::new(ListResponse { environments }))
    }
}

#[tonic::async_trait]
impl Logs for Service {
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
