//! Standalone: aggregator, agent and local platform in one process.
//!
//! * Started against the flow of data and stopped with it: the instances first, then the agent that reads what they
//!   wrote, then the aggregator that keeps it. What is still unread then is read at the next start.
//! * The agent is the same as on a node: it connects over TLS, with a token, and reads files.
//! * One data directory belongs to one process.

mod lock;

use crate::config;
use crate::event;
use crate::inventory::Inventory;
use crate::platform::local::{LocalConfig, Machine, NODE};
use crate::{aggregator, private_file};
use anyhow::{Context as _, anyhow};
use lock::Lock;
use skpr_agent::config::Serving;
use skpr_agent::usage;
use skpr_proto::manifest::{FILE_NAME, Manifest};
use skpr_proto::{ErrorKind, Failure, Label, NodeName};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// What a part may take beyond its own limit before it counts as stuck.
const SLACK: Duration = Duration::from_secs(1);

/// How long open calls are waited for before they are ended.
const GRACE: Duration = Duration::from_millis(500);

/// Runs until `stop`, or until a part fails.
pub async fn run(mut config: config::Standalone, stop: CancellationToken) -> anyhow::Result<()> {
    skpr_agent::raise_file_limit();
    // No load balancer has to notice, and the only agent has stopped before.
    config.stop.grace = config.stop.grace.min(GRACE);
    private_file::create_directory(&config.data)?;
    let _lock = Lock::take(&config.data)?;
    each_project_once(&config.manifests)?;
    let wrapper = std::env::current_exe().ok();
    let local = LocalConfig::load(&config.manifests, &config.data, wrapper)?;
    // The agent connects to the address that is listened on, which the certificate therefore has to name.
    let reachable = reachable(config.listen);
    config.tls.names.push(reachable.ip().to_string());

    let (publish, mut inventory) = watch::channel(Arc::<Inventory>::default());
    let events = event::queue();
    let logs = local.logs();
    let machine = Machine::open(local, publish, events.0.clone())?;
    let (parts, files) =
        aggregator::prepare_local(&config, inventory.clone(), machine.platform(), events).await?;
    let agent = skpr_agent::Config {
        aggregator: skpr_agent::Address { host: reachable.ip().to_string(), port: files.address.port() },
        ca: files.ca.clone(),
        token: files.agent_token.clone(),
        node: NodeName::parse(NODE)?,
        logs,
        state: config.data.join("agent"),
        usage: usage::Settings {
            interval: Some(usage::INTERVAL),
            sources: usage::Sources::Local(machine.whereabouts()),
        },
        sessions: machine
            .runtime()
            .map(|runtime| Serving::Here { runtime, recordings: config.recordings.clone() }),
    };
    // Both look at these before anything else has made them.
    std::fs::create_dir_all(&agent.logs).context("make the directory of the instances' logs")?;
    std::fs::create_dir_all(&agent.state).context("make the agent's directory")?;

    let mut aggregator = Stage::start("aggregator", |stop| aggregator::run(parts, stop));
    let mut agent = Stage::start("agent", |stop| skpr_agent::run(agent, stop));
    let mut platform = Stage::start("platform", |stop| machine.run(stop));
    let announce = async {
        if inventory.wait_for(|inventory| inventory.heard).await.is_ok() {
            files.announce().context("say that it is ready")?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };

    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = announce => error,
        error = platform.ended() => Err(error),
        error = agent.ended() => Err(error),
        error = aggregator.ended() => Err(error),
    };
    let within = config.stop.timeout;
    let stopped = [
        platform.stop(within).await,
        agent.stop(skpr_agent::STOPS_WITHIN + SLACK).await,
        aggregator.stop(within + SLACK).await,
    ];
    result.and(stopped.into_iter().collect())
}

/// Two manifests of one project would be told apart by nothing. What else is wrong with one, its platform says.
fn each_project_once(manifests: &[PathBuf]) -> Result<(), Failure> {
    let mut known: BTreeMap<Label, &Path> = BTreeMap::new();
    for path in manifests {
        let file = if path.is_dir() { path.join(FILE_NAME) } else { path.clone() };
        let Ok(manifest) = Manifest::load(&file) else { continue };
        let project = manifest.project.clone();
        let Some(other) = known.insert(manifest.project, path) else { continue };
        let shown = |path: &Path| path.display().to_string().escape_debug().to_string();
        let message =
            format!("the project `{project}` is given twice: by `{}` and by `{}`", shown(other), shown(path));
        return Err(Failure::new(ErrorKind::InvalidConfiguration, message)
            .with_hint("name each project's .skpr.yml once, or give one of them another `project`"));
    }
    Ok(())
}

/// One part, with its own moment to stop. Dropping it ends it.
struct Stage {
    name: &'static str,
    stop: CancellationToken,
    task: JoinSet<anyhow::Result<()>>,
}

impl Stage {
    fn start<F>(name: &'static str, part: impl FnOnce(CancellationToken) -> F) -> Stage
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(part(stop.clone()));
        Stage { name, stop, task }
    }

    /// Why it ended although nobody asked it to.
    async fn ended(&mut self) -> anyhow::Error {
        let name = self.name;
        match self.task.join_next().await {
            Some(Ok(Err(error))) => error.context(format!("run the {name}")),
            Some(Err(error)) => anyhow!(error).context(format!("run the {name}")),
            Some(Ok(Ok(()))) | None => anyhow!("the {name} ended by itself"),
        }
    }

    async fn stop(mut self, within: Duration) -> anyhow::Result<()> {
        self.stop.cancel();
        match timeout_at(Instant::now() + within, self.task.join_next()).await {
            Ok(Some(ended)) => ended.with_context(|| format!("stop the {}", self.name))?,
            Ok(None) => Ok(()), // it has ended already, and was reported
            Err(_) => Err(anyhow!("the {} did not stop within {} s", self.name, within.as_secs())),
        }
    }
}

/// Where this machine reaches what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        for (listen, expected) in
            [("0.0.0.0:7443", "127.0.0.1:7443"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn a_project_that_is_given_twice_is_named_with_both_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, project: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("project: {project}\nenvironments: {{dev: {{port: 80}}}}\n"))
                .unwrap();
            path
        };
        let (manifest, other) = (write(".skpr.yml", "shop"), write("blog.yml", "blog"));
        assert_eq!(each_project_once(&[manifest.clone(), other]), Ok(()));
        for twice in [manifest.clone(), directory.path().to_owned(), write("again.yml", "shop")] {
            let failure = each_project_once(&[manifest.clone(), twice.clone()]).unwrap_err();
            let expected =
                format!("`shop` is given twice: by `{}` and by `{}`", manifest.display(), twice.display());
            assert!(failure.message.contains(&expected), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_an_error_and_one_that_was_asked_is_not() {
        let mut early = Stage::start("platform", |_| async { Ok(()) });
        assert_eq!(early.ended().await.to_string(), "the platform ended by itself");
        early.stop(Duration::from_secs(1)).await.unwrap();
        let mut failed = Stage::start("agent", |_| async { Err(anyhow!("no")) });
        assert_eq!(format!("{:#}", failed.ended().await), "run the agent: no");
        let asked = Stage::start("agent", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        asked.stop(Duration::from_secs(5)).await.unwrap();
        let late = Stage::start("agent", |_| std::future::pending());
        let error = late.stop(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), "the agent did not stop within 0 s");
    }
}
