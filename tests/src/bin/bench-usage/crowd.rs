//! A thousand agents that are only connections: each says hello, takes its claims, and reports a round of made-up samples
//! every five seconds, at a phase of its own.

use crate::aggregator::Aggregator;
use anyhow::Context as _;
use futures::StreamExt as _;
use skpr_proto::v1::agents_client::AgentsClient;
use skpr_proto::v1::{self, AgentMessage, AgentReport, Batch, Hello, agent_message};
use skpr_tests::fleet::{Fleet, container_id, node, uid};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// Ends with its owner.
pub(crate) struct Crowd {
    agents: JoinSet<anyhow::Result<()>>,
    sent: Arc<AtomicU64>,
    runtime: Runtime,
}

impl Crowd {
    /// Connects all of them.
    pub(crate) fn gather(aggregator: &Aggregator, fleet: Fleet) -> anyhow::Result<Crowd> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let pem = std::fs::read(&aggregator.ca).context("read the CA")?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        let endpoint = Endpoint::from_shared(format!("https://{}", aggregator.address))?.tls_config(tls)?;
        let sent = Arc::new(AtomicU64::new(0));
        let mut agents = JoinSet::new();
        for number in 0..fleet.nodes {
            let token = aggregator.agent_token(node(number)?.as_str())?;
            let agent = Agent {
                number,
                endpoint: endpoint.clone(),
                authorization: format!("Bearer {token}").parse().context("make a header of a token")?,
                fleet,
                sent: Arc::clone(&sent),
            };
            agents.spawn_on(agent.run(), runtime.handle());
        }
        Ok(Crowd { agents, sent, runtime })
    }

    /// How many rounds were sent.
    pub(crate) fn rounds(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Fails when an agent has ended, and says why.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.agents.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                self.runtime
                    .block_on(async { ended.context("an agent panicked")?.context("an agent ended") })?;
                anyhow::bail!("an agent ended")
            }
        }
    }
}

struct Agent {
    number: usize,
    endpoint: Endpoint,
    authorization: MetadataValue<Ascii>,
    fleet: Fleet,
    sent: Arc<AtomicU64>,
}

impl Agent {
    async fn run(self) -> anyhow::Result<()> {
        let phase = INTERVAL.mul_f64(self.number as f64 / self.fleet.nodes as f64);
        let begun = tokio::time::Instant::now();
        tokio::time::sleep(phase).await;
        let mut client = AgentsClient::new(self.endpoint.connect().await.context("connect")?);
        let hello = Hello { node: node(self.number)?.to_string(), version: "1.0.0".into(), sessions: false };
        let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
        let hello = futures::stream::once(std::future::ready(hello)).chain(futures::stream::pending());
        let mut control = client.connect(self.request(hello)).await?.into_inner();
        let mut acks = client.ship(self.request(futures::stream::pending::<Batch>())).await?.into_inner();
        let reports = self.reports(begun + phase)?;
        tokio::select! {
            ended = client.report(self.request(reports)) => { ended.context("report")?; }
            ended = control.by_ref().for_each(|_| std::future::ready(())) => ended,
            ended = acks.by_ref().for_each(|_| std::future::ready(())) => ended,
        }
        Ok(())
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }

    fn reports(
        &self,
        first: tokio::time::Instant,
    ) -> anyhow::Result<impl futures::Stream<Item = AgentReport> + use<>> {
        let mut usage = self.usage()?;
        let sent = Arc::clone(&self.sent);
        let ticks = tokio::time::interval_at(first, INTERVAL);
        Ok(futures::stream::unfold(ticks, |mut ticks| async {
            ticks.tick().await;
            Some(((), ticks))
        })
        .map(move |()| {
            advance(&mut usage);
            sent.fetch_add(1, Ordering::Relaxed);
            AgentReport { usage: Some(usage.clone()), ..AgentReport::default() }
        }))
    }

    /// A pod is its own cgroup, its container and its sandbox.
    fn usage(&self) -> anyhow::Result<v1::Usage> {
        let mut pods = Vec::new();
        for pod in self.fleet.pods_of(self.number) {
            let sandbox = container_id(pod).replacen('0', "f", 1);
            let containers = [(container_id(pod), sample(pod)), (sandbox, sample(pod))];
            let containers =
                containers.map(|(id, sample)| v1::ContainerSample { id, sample: Some(sample) }).into();
            let uid = uid(pod)?.as_str().to_owned();
            pods.push(v1::PodSample { uid, total: Some(sample(pod)), containers, misses_last_kills: false });
        }
        let node = v1::NodeSample {
            cpu_nanos: Some(1 << 40),
            cores: 16,
            memory_total_bytes: Some(64 << 30),
            memory_working_set_bytes: Some(20 << 30),
            cpu_pressure_micros: Some(1 << 30),
            memory_pressure_micros: Some(1 << 20),
            io_pressure_micros: Some(1 << 30),
        };
        Ok(v1::Usage { monotonic_nanos: 1 << 40, interval_millis: 5000, node: Some(node), pods })
    }
}

/// Every value that there is.
fn sample(pod: usize) -> v1::Sample {
    let pod = pod as u64;
    v1::Sample {
        cpu_nanos: Some((1 << 40) + pod * 977),
        cpu_user_nanos: Some((1 << 39) + pod * 577),
        cpu_system_nanos: Some((1 << 38) + pod * 377),
        periods: Some(100_000 + pod),
        throttled_periods: Some(1000 + pod % 17),
        throttled_nanos: Some(1 << 33),
        cpu_limit_millicores: Some(2000),
        cpu_share_millicores: Some(500),
        memory_usage_bytes: Some((300 << 20) + pod * 4096),
        memory_working_set_bytes: Some((200 << 20) + pod * 4096),
        memory_not_reclaimable_bytes: Some((150 << 20) + pod * 4096),
        memory_cache_bytes: Some(100 << 20),
        memory_peak_bytes: Some(400 << 20),
        memory_limit_bytes: Some(1 << 30),
        oom_kills: Some(pod % 3),
        cpu_pressure_micros: Some(1 << 30),
        memory_pressure_micros: Some(1 << 20),
        io_pressure_micros: Some(1 << 25),
        processes: Some(12),
    }
}

/// Five seconds later.
fn advance(usage: &mut v1::Usage) {
    usage.monotonic_nanos += INTERVAL.as_nanos() as u64;
    let add = |value: &mut Option<u64>, more: u64| *value = value.map(|value| value + more);
    if let Some(node) = &mut usage.node {
        add(&mut node.cpu_nanos, 4_000_000_000);
    }
    for (number, pod) in (0..).zip(&mut usage.pods) {
        let used = 50_000_000 + number * 10_000_000;
        for sample in
            pod.total.iter_mut().chain(pod.containers.iter_mut().filter_map(|all| all.sample.as_mut()))
        {
            add(&mut sample.cpu_nanos, used);
            add(&mut sample.cpu_user_nanos, used / 2);
            add(&mut sample.periods, 50);
            add(&mut sample.memory_working_set_bytes, 4096);
            add(&mut sample.cpu_pressure_micros, 100);
        }
    }
}
