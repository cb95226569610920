//! Standalone's platform: runs each environment's instances on this machine as supervised processes.
//!
//! * An instance is a pod of namespace `local` with one container `app`, and its output lies in files as a node's do,
//!   so that agent and store need to know nothing of it. Each has a UID of its own; what earlier ones wrote stays
//!   claimed until it is pruned.
//! * Each environment has a driver of its own, which keeps what is written of it. One that cannot be read is left alone,
//!   and the others go on.
//! * When [`Machine::run`] has returned, nothing that it started is left.

mod cgroup;
mod checkout;
mod clock;
mod command;
mod cron;
mod driver;
mod former;
mod forward;
mod front;
mod git;
mod handle;
mod health;
mod host;
mod instances;
mod output;
mod places;
mod plan;
mod ports;
mod process;
mod project;
mod publish;
mod state;
mod supervisor;
mod tell;
mod variables;
mod words;
mod wrapper;

pub use handle::Local;
pub use wrapper::{RunInstance, run_instance};

use crate::event;
use crate::inventory::{Inventory, Managed, Wanted};
use anyhow::Context as _;
use cgroup::Parents;
use checkout::Checkouts;
use clock::Clock;
use command::Commands;
use driver::Driver;
use former::Directories;
use handle::Entry;
use host::{Host, cgroup_prefix};
use ports::Ports;
use project::Project;
use publish::{Publisher, View};
use skpr_agent::runtime::{self, Spawner};
use skpr_proto::manifest::Environment;
use skpr_proto::{EnvironmentName, Failure, Label, NodeName, PodUid};
use state::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The only namespace, node and container there are.
pub const NAMESPACE: &str = "local";
pub const NODE: &str = "local";
pub const CONTAINER: &str = "app";

/// What is shown of a project that is not in git, or has no commit.
const UNVERSIONED: &str = "unversioned";
/// What is shown of an environment whose state cannot be read; why, and which file it is, stands in the log.
const UNREADABLE: &str = "its state cannot be read, and it is left alone: the aggregator's log says why";
/// How often former pods' directories are looked through.
const LOOK_THROUGH_EVERY: Duration = Duration::from_secs(600);

/// What to run, checked.
#[derive(Debug)]
pub struct LocalConfig {
    data: PathBuf,
    projects: BTreeMap<Label, PathBuf>,
    asked: BTreeMap<EnvironmentName, (PathBuf, Environment)>,
    wrapper: Option<PathBuf>,
    clock: Clock,
}

impl LocalConfig {
    /// Reads the manifests. `wrapper` is this program's own file; without it instances have no cgroup and outlive us
    /// when we are killed.
    pub fn load(
        manifests: &[PathBuf],
        data: &Path,
        wrapper: Option<PathBuf>,
    ) -> Result<LocalConfig, Failure> {
        let projects = manifests.iter().map(|path| Project::load(path)).collect::<Result<Vec<_>, _>>()?;
        let asked = project::environments(&projects)?;
        let directory = |project: Project| (project.manifest.project, project.directory);
        let projects = projects.into_iter().map(directory).collect();
        Ok(LocalConfig { data: data.to_owned(), projects, asked, wrapper, clock: Clock::default() })
    }

    /// Where the instances' logs are: what the agent is pointed at.
    pub fn logs(&self) -> PathBuf {
        Directories::of(&self.data).pods
    }
}

/// The environments of this machine, before they run.
pub struct Machine {
    host: Arc<Host>,
    local: Arc<Local>,
    asked: BTreeMap<EnvironmentName, (PathBuf, Environment)>,
    /// Environments that users make, with what they ask of them.
    made: mpsc::Receiver<handle::Made>,
}

impl Machine {
    /// Opens what is kept of the environments. Nothing runs yet.
    pub fn open(
        config: LocalConfig,
        out: watch::Sender<Arc<Inventory>>,
        events: event::Sender,
    ) -> anyhow::Result<Machine> {
        let (data, directories) = (&config.data, Directories::of(&config.data));
        let records = data.join("environments");
        for directory in [&directories.pods, &records] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("make the directory `{}`", directory.display()))?;
        }
        let host = Arc::new(Host {
            namespace: Label::parse("namespace", NAMESPACE)?,
            node: NodeName::parse(NODE)?,
            clock: config.clock,
            records,
            volumes: data.join("volumes"),
            directories,
            checkouts: Checkouts::open(data.join("releases")).context("open the release directories")?,
            publisher: Publisher::new(out),
            events,
            spawner: Spawner::start()?,
            ports: Ports::default(),
            whereabouts: watch::Sender::default(),
            entrances: watch::Sender::default(),
            parents: if config.wrapper.is_some() { Parents::find() } else { Parents::default() },
            cgroup_prefix: cgroup_prefix(data),
            wrapper: config.wrapper,
        });
        let (local, made) = Local::new(Arc::clone(&host), config.projects);
        Ok(Machine { host, local: Arc::new(local), asked: config.asked, made })
    }

    /// Where the agent that runs beside it can measure what the instances use.
    pub fn whereabouts(&self) -> watch::Receiver<BTreeMap<PodUid, skpr_agent::usage::Local>> {
        self.host.whereabouts.subscribe()
    }

    /// What lets the agent that runs beside it start processes in the instances; none where a process of ours cannot be
    /// started again as another.
    pub fn runtime(&self) -> Option<runtime::Runtime> {
        let entrances = self.host.entrances.subscribe();
        self.host.wrapper.as_ref().map(|_| runtime::Runtime::new(entrances, self.host.spawner.clone()))
    }

    /// What takes users' changes.
    pub fn platform(&self) -> Arc<Local> {
        Arc::clone(&self.local)
    }

    /// Runs every environment until `stop`, and returns when their instances have ended.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let host = Arc::clone(&self.host);
        tokio::task::spawn_blocking(move || host.parents.sweep(&host.cgroup_prefix))
            .await
            .context("end what was left behind")?;
        let mut drivers = JoinSet::new();
        self.start_all(&mut drivers, &stop)?;

        let mut look_through = tokio::time::interval(LOOK_THROUGH_EVERY);
        let mut looking = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = drivers.join_next() => {
                    let name = ended.context("run an environment")?;
                    self.local.leave(&name);
                }
                () = stop.cancelled(), if drivers.is_empty() => break,
                Some((name, directory, commands)) = self.made.recv(), if !stop.is_cancelled() => {
                    let record = Record::new(&name, directory);
                    let driver = Driver::new(Arc::clone(&self.host), &name, record);
                    drivers.spawn(driver.run(None, commands, stop.clone()));
                }
                _ = look_through.tick() => {
                    let host = Arc::clone(&self.host);
                    looking.spawn_blocking(move || host.publisher.look_through(&host.directories));
                }
                Some(looked) = looking.join_next() => looked.context("look through earlier output")?,
            }
        }
        while looking.join_next().await.is_some() {}
        Ok(())
    }

    fn start_all(
        &mut self,
        drivers: &mut JoinSet<EnvironmentName>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let written = state::names(&self.host.records).context("list the environments")?;
        let names: BTreeSet<EnvironmentName> = written.iter().chain(self.asked.keys()).cloned().collect();
        for name in &names {
            project::namesake(name, &names).map_err(|failure| {
                let Failure { message, hint, .. } = failure;
                let hint = hint.unwrap_or_default();
                anyhow::anyhow!(
                    "{message}; what is kept of them is in `{}`: {hint}",
                    self.host.records.display()
                )
            })?;
        }
        self.host.publisher.expect(names.iter().map(|name| self.host.key(name)).collect());
        for name in &names {
            let asked = self.asked.remove(name);
            let record = match (written.contains(name), &asked) {
                (true, _) => state::load(&self.host.records, name),
                (false, Some((directory, _))) => Ok(Record::new(name, directory.clone())),
                (false, None) => continue,
            };
            match record {
                Ok(mut record) => {
                    let (directory, settings) = asked.unzip();
                    // A project that was moved is where its manifest is.
                    record.directory = directory.unwrap_or(record.directory);
                    let (sender, commands) = Commands::new();
                    self.local.enter(name, Entry::Runs(sender, record.directory.clone()));
                    let driver = Driver::new(Arc::clone(&self.host), name, record);
                    drivers.spawn(driver.run(settings, commands, stop.clone()));
                }
                Err(error) => self.leave_alone(name, &format!("{error:#}")),
            }
        }
        Ok(())
    }

    /// An environment whose state cannot be read is shown and not touched.
    fn leave_alone(&self, name: &EnvironmentName, why: &str) {
        tracing::error!(environment = %name, error = why, "the environment is left alone");
        let managed = Managed {
            image: None,
            version: String::new(),
            settings: Environment::default(),
            releases: vec![],
            trouble: Some(UNREADABLE.to_owned()),
            waiting_for: None,
            target: 0,
            deleting: false,
            created: None,
            serves: vec![],
            tasks: Default::default(),
        };
        let view = View { wanted: Wanted::default(), managed: Arc::new(managed), pods: HashMap::new() };
        self.host.publisher.publish(&self.host.key(name), view);
        self.local.enter(name, Entry::Unreadable);
    }
}

/// Passes a task's abnormal end on to the one that owns it, up to the process's: half of an environment helps nobody.
fn resume(error: tokio::task::JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}

/// Never returns; ends abnormally with any of the tasks. Cancel-safe.
async fn watch_over(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(resume);
    }
    std::future::pending().await
}

fn randomness<const BYTES: usize>() -> anyhow::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read randomness")?;
    Ok(bytes)
}

/// A random number.
fn random() -> anyhow::Result<u64> {
    randomness().map(u64::from_be_bytes)
}

/// A random UUID (version 4).
fn random_uid() -> anyhow::Result<String> {
    let number = u128::from_be_bytes(randomness()?) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let part = |range| hex.get(range).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)))
}

#[cfg(test)]
mod tests;
