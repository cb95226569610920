//! Standalone's platform: runs each environment's instances on this machine as supervised processes.
//!
//! * An instance is a pod of namespace `local` with one container `app`, and its output lies in files as a node's do,
//!   so that agent and store need to know nothing of it.
//! * Each start of standalone gives its instances new UIDs; what earlier ones wrote stays claimed until it is pruned.
//! * When [`run`] has returned, nothing that it started is left.

mod cgroup;
mod former;
mod health;
mod output;
mod plan;
mod spawn;
mod supervisor;
mod wrapper;

pub use wrapper::{RunInstance, run_instance};

use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Pod, Presence};
use anyhow::Context as _;
use cgroup::Parents;
use former::Directories;
use plan::{Plan, Planned, Project};
use sha2::{Digest as _, Sha256};
use skpr_proto::{Failure, Label, NodeName, PodUid, Source};
use spawn::Spawner;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use supervisor::{Instance, Readiness, supervise};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The only namespace, node and container there are.
pub const NAMESPACE: &str = "local";
pub const NODE: &str = "local";
pub const CONTAINER: &str = "app";

/// What is shown of a project that is not in git, or has no commit.
const UNVERSIONED: &str = "unversioned";
/// git answers in milliseconds, or a file system hangs.
const GIT_WITHIN: Duration = Duration::from_secs(5);
/// Changes of readiness that may wait: all instances of a large plan at once. A full queue makes supervisors wait.
const READINESS_QUEUE: usize = 256;
/// How often former pods' directories are looked through.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// What to run, checked.
#[derive(Debug)]
pub struct LocalConfig {
    data: PathBuf,
    projects: Vec<Project>,
    plan: Plan,
    namespace: Label,
    node: NodeName,
    /// The program whose `run-instance` starts instances; without it they have no cgroup and outlive us when we are
    /// killed.
    wrapper: Option<PathBuf>,
}

impl LocalConfig {
    /// Reads the manifests. `wrapper` is this program's own file.
    pub fn load(
        manifests: &[PathBuf],
        data: &Path,
        wrapper: Option<PathBuf>,
    ) -> Result<LocalConfig, Failure> {
        let projects = manifests.iter().map(|path| Project::load(path)).collect::<Result<Vec<_>, _>>()?;
        let invalid =
            |error: skpr_proto::InvalidId| Failure::new(skpr_proto::ErrorKind::Failed, error.to_string());
        let namespace = Label::parse("namespace", NAMESPACE).map_err(invalid)?;
        let node = NodeName::parse(NODE).map_err(invalid)?;
        let plan = plan::plan(&namespace, &projects)?;
        Ok(LocalConfig { data: data.to_owned(), projects, plan, namespace, node, wrapper })
    }

    /// Where the instances' logs are: what the agent is pointed at.
    pub fn logs(&self) -> PathBuf {
        Directories::of(&self.data).pods
    }
}

/// Runs every instance until `stop`, and returns when they have ended.
pub async fn run(
    config: LocalConfig,
    out: watch::Sender<Arc<Inventory>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let directories = Directories::of(&config.data);
    std::fs::create_dir_all(&directories.pods).context("make the directory of the instances' logs")?;
    let versions = versions(&config.projects).await;
    let parents = if config.wrapper.is_some() { Parents::find() } else { Parents::default() };
    let prefix = cgroup_prefix(&config.data);
    {
        let (parents, prefix) = (parents.clone(), prefix.clone());
        tokio::task::spawn_blocking(move || parents.sweep(&prefix))
            .await
            .context("end what was left behind")?;
    }

    let spawner = Spawner::start()?;
    let (readiness, mut changes) = mpsc::channel(READINESS_QUEUE);
    let mut current = HashMap::new();
    let mut supervisors = JoinSet::new();
    for planned in &config.plan.instances {
        let uid = PodUid::parse(&random_uid()?)?;
        let source = Source::parse(NAMESPACE, &planned.name, uid.as_str(), CONTAINER)?;
        let logs =
            directories.make(&source, &planned.environment).context("make an instance's log directory")?;
        let version = versions.get(&planned.directory).cloned().unwrap_or_else(|| UNVERSIONED.into());
        current.insert(uid.clone(), pod(&config, planned, &source, version));
        let cgroup = parents.make(&format!("{prefix}{}", planned.name));
        let instance = instance(&config, planned, uid, logs, cgroup);
        supervisors.spawn(supervise(instance, spawner.clone(), readiness.clone(), stop.clone()));
    }
    drop((readiness, spawner));

    let uids: HashSet<PodUid> = current.keys().cloned().collect();
    let mut former = HashMap::new();
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    // Supervisors are listened to until the last has ended: one that stops has something to say, too.
    let mut listening = true;
    while listening || !stop.is_cancelled() {
        tokio::select! {
            change = changes.recv(), if listening => match change {
                Some(change) => apply(&mut current, change),
                None => listening = false,
            },
            () = stop.cancelled(), if !listening => break,
            _ = prune.tick() => {
                let (directories, uids) = (directories.clone(), uids.clone());
                let work = move || {
                    directories.prune(&uids, SystemTime::now());
                    directories.former(&uids)
                };
                former = tokio::task::spawn_blocking(work).await.context("look through earlier runs' output")?;
            }
        }
        while let Ok(change) = changes.try_recv() {
            apply(&mut current, change);
        }
        let pods = former.iter().chain(&current).map(|(uid, pod)| (uid.clone(), pod.clone())).collect();
        out.send_replace(Arc::new(Inventory::of(pods, &config.plan.wanted)));
    }
    while let Some(ended) = supervisors.join_next().await {
        ended.context("supervise an instance")?;
    }
    Ok(())
}

fn apply(pods: &mut HashMap<PodUid, Pod>, change: Readiness) {
    if let Some(pod) = pods.get_mut(&change.uid) {
        pod.ready = change.ready;
    }
}

fn pod(config: &LocalConfig, planned: &Planned, source: &Source, version: Arc<str>) -> Pod {
    Pod {
        environment: EnvironmentKey { namespace: config.namespace.clone(), ..planned.environment.clone() },
        node: Some(config.node.clone()),
        instance: Arc::clone(&source.pod),
        main_container: source.container.clone(),
        version,
        ready: false,
        production: planned.production,
        presence: Presence::Present,
    }
}

fn instance(
    config: &LocalConfig,
    planned: &Planned,
    uid: PodUid,
    logs: PathBuf,
    cgroup: Option<cgroup::Cgroup>,
) -> Instance {
    let mut words: Vec<OsString> = planned.command.iter().map(OsString::from).collect();
    if let Some(wrapper) = &config.wrapper {
        let mut wrapped = vec![wrapper.into(), "run-instance".into()];
        wrapped.extend(["--parent".into(), std::process::id().to_string().into()]);
        for entrance in cgroup.iter().flat_map(cgroup::Cgroup::entrances) {
            wrapped.extend(["--cgroup".into(), entrance.into()]);
        }
        wrapped.push("--".into());
        wrapped.append(&mut words);
        words = wrapped;
    }
    Instance {
        name: planned.name.clone(),
        uid,
        program: words.first().map(PathBuf::from).unwrap_or_default(),
        arguments: words.into_iter().skip(1).collect(),
        directory: planned.directory.clone(),
        variables: planned.variables.clone(),
        logs,
        probe: planned.probe.clone(),
        cgroup,
    }
}

/// One data directory's cgroups, told apart from another's.
fn cgroup_prefix(data: &Path) -> String {
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("skpr-{short}-")
}

/// Each project's version by its directory, as git describes it.
async fn versions(projects: &[Project]) -> HashMap<PathBuf, Arc<str>> {
    let mut versions = HashMap::new();
    for project in projects {
        let mut git = tokio::process::Command::new("git");
        git.args(["describe", "--tags", "--always", "--dirty"]).current_dir(&project.directory);
        let described = tokio::time::timeout(GIT_WITHIN, git.kill_on_drop(true).output()).await;
        let version = match described {
            Ok(Ok(output)) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            Ok(_) | Err(_) => UNVERSIONED.to_owned(),
        };
        versions.insert(project.directory.clone(), version.into());
    }
    versions
}

/// A random UUID (version 4).
fn random_uid() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read randomness")?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let part = |range| hex.get(range).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)))
}

#[cfg(test)]
mod tests;
