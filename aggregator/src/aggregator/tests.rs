//! A whole aggregator with a real store, spoken to over TLS as agents and the CLI do.

mod agents;
mod api;
mod cron;
mod deploys;
mod end;
mod events;
mod following;
mod monitoring;
mod resources;
mod samples;
mod scripted;
mod sessions;

use super::*;
use crate::auth::create_token;
use crate::config::StopTimes;
use crate::environment::EnvironmentKey;
use crate::inventory::{Pod, Presence};
use prost::Message as _;
use scripted::Scripted;
use skpr_proto::v1::agents_client::AgentsClient;
use skpr_proto::v1::environments_client::EnvironmentsClient;
use skpr_proto::v1::logs_client::LogsClient;
use skpr_proto::v1::{self, ErrorDetail};
use skpr_proto::{Label, NodeName, PodUid};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

/// Nothing here takes seconds; a test that waits this long has failed.
const SOON: Duration = Duration::from_secs(20);

/// What the audit thread has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    data: TempDir,
    address: SocketAddr,
    http: SocketAddr,
    monitoring: SocketAddr,
    publish: watch::Sender<Arc<Inventory>>,
    platform: Arc<Scripted>,
    tell: event::Sender,
    store: Store,
    stop: CancellationToken,
    audit: Written,
    running: JoinSet<anyhow::Result<()>>,
}

/// Adds a token to each call.
#[derive(Clone)]
struct Token(String);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

type WithToken = InterceptedService<Channel, Token>;

impl World {
    async fn start() -> World {
        World::start_with(AT_ONCE).await
    }

    async fn start_with(stop_times: StopTimes) -> World {
        World::start_in(tempfile::tempdir().unwrap(), stop_times).await
    }

    /// Starts on what an earlier world has left.
    async fn start_in(data: TempDir, stop_times: StopTimes) -> World {
        World::start_changed(data, stop_times, |_| ()).await
    }

    /// Starts with some part another one.
    async fn start_changed(data: TempDir, stop_times: StopTimes, change: impl FnOnce(&mut Parts)) -> World {
        let (publish, inventory) = watch::channel(Arc::default());
        let any = "127.0.0.1:0".parse().unwrap();
        let config = config::Standalone {
            data: data.path().into(),
            manifests: vec![],
            listen: any,
            http_listen: Some(any),
            monitoring_listen: Some(any),
            recordings: None,
            store: store::Options { directory: data.path().join("store"), ..store::Options::default() },
            usage: usage::Options { directory: data.path().join("usage"), ..usage::Options::default() },
            tls: config::Tls { names: vec!["localhost".into()], files: None },
            stop: stop_times,
        };
        let platform = Arc::new(Scripted::new(publish.clone()));
        let events = event::queue();
        let tell = events.0.clone();
        let shared = Arc::clone(&platform) as Arc<dyn Platform>;
        let (mut parts, files) = prepare_local(&config, inventory, shared, events).await.unwrap();
        change(&mut parts);
        let http = parts.http_listener.as_ref().unwrap().local_addr().unwrap();
        let (store, stop, audit) = (parts.store.clone(), CancellationToken::new(), Written::default());
        let mut running = JoinSet::new();
        running.spawn(run_with(parts, Audit::new(audit.clone()).unwrap(), stop.clone()));
        let (address, monitoring) = (files.address, files.monitoring.unwrap());
        World { data, address, http, monitoring, publish, platform, tell, store, stop, audit, running }
    }

    /// A world whose platform runs pod `u1` on this node and `u2` on another.
    async fn with_pods() -> World {
        let world = World::start().await;
        world.publish(&[("u1", "web-1", "local"), ("u2", "web-2", "elsewhere")]);
        world
    }

    fn publish(&self, pods: &[(&str, &str, &str)]) {
        let pods: HashMap<_, _> =
            pods.iter().map(|(uid, name, node)| (PodUid::parse(uid).unwrap(), pod(name, node))).collect();
        self.publish.send_replace(Arc::new(Inventory::of(pods, &BTreeMap::new())));
    }

    async fn channel(&self) -> Channel {
        let pem = std::fs::read(self.data.path().join("ca.crt")).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    fn token(&self, file: &str) -> Token {
        Token(read(&self.data.path().join(file)))
    }

    fn new_token(&self, name: &str, rights: &str) -> Token {
        Token(create_token(self.data.path(), name, rights).unwrap())
    }

    async fn agents(&self) -> AgentsClient<WithToken> {
        AgentsClient::with_interceptor(self.channel().await, self.token("agent.token"))
            .max_encoding_message_size(usize::MAX)
    }

    async fn environments(&self, token: Token) -> EnvironmentsClient<WithToken> {
        EnvironmentsClient::with_interceptor(self.channel().await, token)
    }

    async fn logs(&self, token: Token) -> LogsClient<WithToken> {
        LogsClient::with_interceptor(self.channel().await, token)
    }

    /// Stops, and gives what the audit has written by then.
    async fn end(self) -> Vec<serde_json::Value> {
        self.end_and_keep().await.0
    }

    /// The same, with the data.
    async fn end_and_keep(mut self) -> (Vec<serde_json::Value>, TempDir) {
        self.stop.cancel();
        soon(self.running.join_next()).await.unwrap().unwrap().unwrap();
        let text = self.audit.0.lock().unwrap().clone();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        (lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), self.data)
    }
}

/// How a world stops that nothing keeps.
const AT_ONCE: StopTimes = StopTimes { timeout: Duration::from_secs(10), grace: Duration::from_millis(100) };

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it did not happen")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn pod(name: &str, node: &str) -> Pod {
    Pod {
        environment: EnvironmentKey {
            namespace: Label::parse("namespace", "sites").unwrap(),
            name: skpr_proto::EnvironmentName::parse("web", "dev").unwrap(),
        },
        node: Some(NodeName::parse(node).unwrap()),
        instance: name.into(),
        main_container: Label::parse("container", "php").unwrap(),
        task: None,
        labels: Default::default(),
        containers: Default::default(),
        version: "1.0".into(),
        ready: true,
        production: false,
        presence: Presence::Present,
        detail: Default::default(),
    }
}

/// A batch of these lines from the first file of a pod, a second apart, beginning at `offset`.
fn batch(id: u64, (uid, pod): (&str, &str), offset: u64, lines: &[&str]) -> v1::Batch {
    let mut position = vec![];
    let mut time = vec![];
    for (index, line) in lines.iter().enumerate() {
        position.push(line.len() as u64 + if index == 0 { offset + 1 } else { 1 });
        time.push(if index == 0 { 1_700_000_000_000_000_000 + (offset as i64) * 1_000_000 } else { 1_000 });
    }
    v1::Batch {
        id,
        source: Some(v1::Source {
            namespace: "sites".into(),
            pod: pod.into(),
            uid: uid.into(),
            container: "php".into(),
        }),
        generation: 7,
        position,
        time,
        length: lines.iter().map(|line| line.len() as u32).collect(),
        flags: vec![0; lines.len()].into(),
        messages: lines.concat().into_bytes().into(),
        attempt: 0,
        end: false,
    }
}

const OURS: (&str, &str) = ("u1", "web-1");

fn environment(environment: &str) -> Option<v1::Environment> {
    Some(v1::Environment { project: "web".into(), environment: environment.into(), namespace: None })
}

fn hint(status: &Status) -> String {
    ErrorDetail::decode(status.details()).unwrap().hint
}

/// All messages of a read that ends by itself.
async fn history(world: &World, token: Token, request: v1::LogsRequest) -> Result<Vec<String>, Status> {
    let mut stream = world.logs(token).await.logs(request).await?.into_inner();
    let mut messages = vec![];
    while let Some(response) = soon(stream.message()).await? {
        messages.extend(
            response.records.iter().map(|record| String::from_utf8_lossy(&record.message).into_owned()),
        );
    }
    Ok(messages)
}
