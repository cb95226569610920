//! The composition root, in the order in which data flows: agents in, store, users out.
//!
//! Stop: readiness goes off and agents are told to move on; after a grace period open streams are ended; under one
//! deadline from the beginning the server is joined and the store closed. Whoever is late is named in the log.

mod stop;

pub use crate::web::{Described, Family, Kind, Monitoring, families};

use crate::agents::{AgentsService, Nodes};
use crate::api;
use crate::audit::{Audit, Sparing};
use crate::auth::{self, AgentAccount, Auth, Reviews, TokenFile};
use crate::config;
use crate::ends::Ends;
use crate::event;
use crate::fallback::{self, Fallback};
use crate::gate::Gate;
use crate::health;
use crate::host_key::{self, HostKeys};
use crate::ingest;
use crate::inventory::Inventory;
use crate::platform::Platform;
use crate::platform::kubernetes::{self, MetricsApi};
use crate::private_file;
use crate::relay::Relay;
use crate::store::{self, Store};
use crate::tls::{Acceptor, AskForCertificate, CaPlace, Tls};
use crate::usage::{self, Usage};
use crate::web::{self, Metrics};
use anyhow::{Context as _, anyhow};
use rustls::server::danger::ClientCertVerifier;
use skpr_proto::v1::agents_server::AgentsServer;
use skpr_proto::v1::cron_server::CronServer;
use skpr_proto::v1::environments_server::EnvironmentsServer;
use skpr_proto::v1::logs_server::LogsServer;
use skpr_proto::v1::metrics_server::MetricsServer;
use skpr_proto::v1::sessions_server::SessionsServer;
use skpr_proto::{ErrorKind, Failure, MAX_FRAME};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// A quiet connection is asked for a sign of life: below the idle limit of common load balancers (60 s), above the
/// rate that proxies punish (20 s).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// An agent has three streams open; a CLI few. Each costs up to a window of memory.
const STREAMS_PER_CONNECTION: u32 = 256;
/// What an agent may send before it is read: 50 MB/s over a path of 20 ms, and at 1 ms 1 GB/s. It is held here while the
/// disk is behind, so 100 agents that all are cost 100 MiB. Not yet measured against the throughput of a slow path.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Batches of all agents that wait for the disk. A stream alone may have 8 MiB: eight at full speed have their fill, and
/// of more each gets its turn. A commit of 20 ms takes 8 MiB at 400 MB/s, so the disk never waits for it.
pub(crate) const ALL_IN_FLIGHT_BYTES: usize = 64 << 20;
/// An OIDC token with many groups has some 12 KiB.
const MAX_HEADERS: u32 = 64 << 10;
/// What the CLI asks is small.
const MAX_REQUEST: usize = 1 << 20;

/// A request or two; what has not ended by then is left to the lease's own end.
const LEASE_GIVEN_BACK_WITHIN: Duration = Duration::from_secs(4);

/// What a running aggregator consists of.
pub struct Parts {
    pub store: Store,
    pub inventory: watch::Receiver<Arc<Inventory>>,
    pub platform: Arc<dyn Platform>,
    pub usage: Usage,
    /// What the platform tells of, and the aggregator does itself.
    pub events: event::Queue,
    pub auth: Auth,
    pub host_keys: HostKeys,
    /// Serves sessions where no agent does.
    pub fallback: Option<(Fallback, fallback::Server)>,
    pub tls: Tls,
    pub listener: TcpListener,
    pub http_listener: Option<TcpListener>,
    pub monitoring: Option<Monitoring>,
    pub stop: config::StopTimes,
}

/// What every call needs.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) inventory: watch::Receiver<Arc<Inventory>>,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) usage: Usage,
    pub(crate) auth: Auth,
    pub(crate) audit: Audit,
    pub(crate) strangers: Sparing,
    /// A permit a byte of the batches that wait for the disk.
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) seats: api::Seats,
    pub(crate) session_seats: api::Seats,
    pub(crate) nodes: Nodes,
    pub(crate) ends: Ends,
    pub(crate) relay: Arc<Relay>,
    pub(crate) host_keys: HostKeys,
    pub(crate) fallback: Option<Fallback>,
    /// Where events go that the aggregator itself has to tell of.
    pub(crate) tell: event::Sender,
    /// Carries out the calls that change something.
    pub(crate) lasting: api::Lasting,
    pub(crate) metrics: Metrics,
    pub(crate) gate: Gate,
    pub(crate) stopping: Stopping,
}

/// The two moments of a stop that calls see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopping {
    /// A stop has begun: be not ready, tell agents.
    pub(crate) begun: CancellationToken,
    /// Streams end now.
    pub(crate) ending: CancellationToken,
}

/// What a call ends with when the aggregator stops.
pub(crate) fn stopping() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the aggregator is stopping")
}

/// Where a standalone aggregator is found and who is let in.
#[derive(Debug)]
pub struct LocalFiles {
    pub address: SocketAddr,
    pub ca: PathBuf,
    pub admin_token: PathBuf,
    pub agent_token: PathBuf,
    pub monitoring: Option<SocketAddr>,
}

/// Runs in a Kubernetes cluster.
pub async fn serve(config: config::Serve, stop: CancellationToken) -> anyhow::Result<()> {
    // Each node holds a connection open, and 1,024 are the usual limit.
    skpr_agent::raise_file_limit();
    private_file::create_directory(&config.data)?;
    let client = kube::Client::try_default().await.context("find the Kubernetes API server")?;
    let store = open_store(config.store).await?;
    let (publish, inventory) = watch::channel(Arc::default());
    let usage = open_usage(config.usage, inventory.clone()).await?;
    let account = AgentAccount { namespace: config.namespace.clone(), name: config.agent_service_account };
    let keys = host_key::Place::Secret {
        client: client.clone(),
        namespace: config.namespace.clone(),
        name: config.host_keys_secret,
    };
    let host_keys = HostKeys::load_or_create(&keys).await.context("prepare the host keys")?;
    let fallback = match config.fallback {
        Some(options) => Some(Fallback::prepare(options, inventory.clone()).await?),
        None => None,
    };
    let place =
        CaPlace::Secret { client: client.clone(), namespace: config.namespace, name: config.ca_secret };
    let events = event::queue();
    let metrics_api = config.kubernetes.metrics_api;
    let (platform, runner) =
        kubernetes::prepare(client.clone(), config.kubernetes, publish, events.0.clone());
    let (tell_front_proxies, front_proxies) = watch::channel(None);
    let tls = Tls::new(&config.tls, place).await.context("prepare the certificate")?;
    let authority = tls.authority();
    // Without the API there is nobody to ask for a certificate, and none to believe.
    let clients = (metrics_api != MetricsApi::Never)
        .then(|| Arc::new(AskForCertificate::new()) as Arc<dyn ClientCertVerifier>);
    let reviews = Reviews::new(client.clone(), account)?.believing(front_proxies.clone());
    let parts = Parts {
        store,
        inventory,
        usage,
        platform: Arc::new(platform),
        events,
        auth: Auth::Kubernetes(Box::new(reviews)),
        host_keys,
        fallback,
        tls,
        listener: listen(config.listen).await?,
        http_listener: Some(listen(config.http_listen).await?),
        monitoring: Some(Monitoring { listener: listen(config.monitoring_listen).await?, clients }),
        stop: config.stop,
    };
    // The watch ends with the aggregator, not with the stop: late records of new pods still find their claim.
    let watching = CancellationToken::new();
    let mut watch = std::pin::pin!(async {
        tokio::select! {
            result = runner.run(authority, front_proxies, watching.clone()) => result,
            () = auth::keep_front_proxies(client, tell_front_proxies), if metrics_api != MetricsApi::Never => {
                Err(anyhow!("the watch of the front proxy ended"))
            }
        }
    });
    tokio::select! {
        result = run(parts, stop) => {
            watching.cancel();
            // Another aggregator need not wait for a lease that is given back.
            if tokio::time::timeout(LEASE_GIVEN_BACK_WITHIN, watch).await.is_err() {
                tracing::warn!("the lease was not given back in time");
            }
            result
        }
        result = &mut watch => Err(result.err().unwrap_or_else(|| anyhow!("the watch of the cluster ended"))),
    }
}

/// Opens what a standalone aggregator needs, with the files made at first start.
pub async fn prepare_local(
    config: &config::Standalone,
    inventory: watch::Receiver<Arc<Inventory>>,
    platform: Arc<dyn Platform>,
    events: event::Queue,
) -> anyhow::Result<(Parts, LocalFiles)> {
    private_file::create_directory(&config.data)?;
    let store = open_store(config.store.clone()).await?;
    let usage = open_usage(config.usage.clone(), inventory.clone()).await?;
    let auth = Auth::Tokens(TokenFile::open(&config.data)?);
    let keys = host_key::Place::Directory(config.data.clone());
    let host_keys = HostKeys::load_or_create(&keys).await.context("prepare the host keys")?;
    let place = CaPlace::Directory(config.data.clone());
    let tls = Tls::new(&config.tls, place).await.context("prepare the certificate")?;
    let listener = listen(config.listen).await?;
    let http_listener = match config.http_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let monitoring = match config.monitoring_listen {
        Some(address) => Some(Monitoring { listener: listen(address).await?, clients: None }),
        None => None,
    };
    let own_ca = CaPlace::certificate_file(&config.data);
    let ca = match &config.tls.files {
        Some(files) => files.ca.clone().unwrap_or_else(|| files.certificate.clone()),
        None => own_ca,
    };
    let files = LocalFiles {
        address: listener.local_addr().context("read the listener's address")?,
        ca,
        admin_token: TokenFile::admin_token(&config.data),
        agent_token: TokenFile::agent_token(&config.data),
        monitoring: match &monitoring {
            Some(monitoring) => {
                Some(monitoring.listener.local_addr().context("read the listener's address")?)
            }
            None => None,
        },
    };
    let stop = config.stop;
    let parts = Parts {
        store,
        inventory,
        usage,
        platform,
        events,
        auth,
        host_keys,
        fallback: None,
        tls,
        listener,
        http_listener,
        monitoring,
        stop,
    };
    Ok((parts, files))
}

impl LocalFiles {
    /// Says on stdout, for people and scripts, that the aggregator is ready and how to reach it.
    pub fn announce(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "address: {}", self.address)?;
        writeln!(out, "ca: {}", self.ca.display())?;
        writeln!(out, "token: {}", self.admin_token.display())?;
        if let Some(address) = self.monitoring {
            writeln!(out, "monitoring: {address}")?;
        }
        out.flush()
    }
}

/// Runs until `stop`, then stops within the configured time. The store is closed when this returns.
pub async fn run(parts: Parts, stop: CancellationToken) -> anyhow::Result<()> {
    let audit = Audit::new(std::io::stdout()).context("start the audit thread")?;
    run_with(parts, audit, stop).await
}

async fn run_with(parts: Parts, audit: Audit, stop: CancellationToken) -> anyhow::Result<()> {
    let (lasting, carrier) = api::lasting();
    let (tell, events) = parts.events;
    let (fallback, sessions) = parts.fallback.unzip();
    let shared = Arc::new(Shared {
        metrics: Metrics::new(),
        store: parts.store,
        inventory: parts.inventory,
        platform: parts.platform,
        usage: parts.usage,
        auth: parts.auth,
        audit,
        strangers: Sparing::default(),
        in_flight: Arc::new(Semaphore::new(ALL_IN_FLIGHT_BYTES)),
        seats: api::Seats::of("streams"),
        session_seats: api::Seats::of("sessions"),
        nodes: Nodes::default(),
        ends: Ends::default(),
        relay: Arc::default(),
        host_keys: parts.host_keys,
        fallback,
        tell,
        lasting,
        gate: Gate::default(),
        stopping: Stopping::default(),
    });
    let mut tasks: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let ending = shared.stopping.ending.clone();
    let address = parts.listener.local_addr().context("read the listener's address")?;

    let (acceptor, connections) = Acceptor::new(parts.listener, parts.tls.server_config());
    let (accepting, current) = (ending.clone(), ending.clone());
    tasks.spawn(infallible("accept", acceptor.run(accepting)));
    if let Some(monitoring) = parts.monitoring {
        let (listener, connections) = monitoring.accept(&parts.tls)?;
        tasks.spawn(infallible("accept monitoring", listener.run(ending.clone())));
        tasks.spawn(infallible("monitoring", web::monitor(connections, Arc::clone(&shared))));
    }
    tasks.spawn(infallible("certificate", parts.tls.keep_current(current)));

    let (reporter, health_service) = tonic_health::server::health_reporter();
    let routes = tonic::service::Routes::new(health_service)
        .add_service(AgentsServer::new(AgentsService::new(&shared)).max_decoding_message_size(MAX_FRAME))
        .add_service(
            EnvironmentsServer::new(api::Environments::new(&shared)).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(LogsServer::new(api::Logs::new(&shared)).max_decoding_message_size(MAX_REQUEST))
        .add_service(MetricsServer::new(api::Metrics::new(&shared)).max_decoding_message_size(MAX_REQUEST))
        .add_service(CronServer::new(api::Cron::new(&shared)).max_decoding_message_size(MAX_REQUEST))
        .add_service(SessionsServer::new(api::Sessions::new(&shared)).max_decoding_message_size(MAX_REQUEST));
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, ending.clone().cancelled_owned());
    tasks.spawn(async { ("server", server.await.context("serve")) });

    tasks.spawn(infallible("changes", carrier.run(ending.clone())));
    if let Some(sessions) = sessions {
        tasks.spawn(infallible("sessions", sessions.run(ending.clone())));
    }
    let writer = event::Writer::new(shared.store.clone(), shared.metrics.events.clone())?;
    tasks.spawn(infallible("claims", ingest::forget_gone(Arc::clone(&shared))));
    tasks.spawn(infallible("events", writer.run(events, ending.clone())));
    tasks.spawn(infallible("usage", shared.usage.clone().prune(ending)));
    let readiness = health::publish(Arc::clone(&shared), reporter);
    tasks.spawn(infallible("health", readiness));
    if let Some(listener) = parts.http_listener {
        tasks.spawn(infallible("probes", web::answer_probes(listener, Arc::clone(&shared))));
    }
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "ready to take connections");

    let failed = tokio::select! {
        () = stop.cancelled() => None,
        Some(ended) = tasks.join_next() => Some(ended),
        // Starting again helps, and nothing else does.
        () = shared.store.failed() => Some(Ok(("store", Err(anyhow!("a thread of it panicked"))))),
        () = shared.usage.history().failed() => Some(Ok(("usage", Err(anyhow!("a thread of it panicked"))))),
    };
    let stopped = stop::stop(&shared, &mut tasks, parts.stop).await;
    match failed {
        None => stopped,
        Some(Ok((name, result))) => {
            result.with_context(|| format!("{name} failed"))?;
            Err(anyhow!("{name} ended although nobody asked it to"))
        }
        Some(Err(error)) => Err(error).context("a task ended abnormally"),
    }
}

/// A task that can end but not fail.
async fn infallible(
    name: &'static str,
    task: impl Future<Output = ()>,
) -> (&'static str, anyhow::Result<()>) {
    task.await;
    (name, Ok(()))
}

async fn open_store(options: store::Options) -> anyhow::Result<Store> {
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    opened.context("open the store")?.context("open the store")
}

async fn open_usage(
    options: usage::Options,
    inventory: watch::Receiver<Arc<Inventory>>,
) -> anyhow::Result<Usage> {
    let opened = tokio::task::spawn_blocking(move || Usage::open(options, inventory)).await;
    opened.context("open usage history")?.context("open usage history")
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

#[cfg(test)]
mod tests;
