//! The instances of one environment: started, listened to, and ended when their connections have.
//!
//! * Each is a pod of its own, with a name that is nobody else's while it is there.
//! * One that was asked to end takes no new connections; it is told to stop when it has none left, or after a while.

use super::cgroup::{Cgroup, Limits};
use super::former::Note;
use super::forward::Routes;
use super::host::{Equipment, Host};
use super::plan::{Seen, seen};
use super::supervisor::{Instance, Report, Status, supervise};
use super::{CONTAINER, NAMESPACE, random_uid};
use crate::environment::EnvironmentKey;
use crate::inventory::{Detail, InstanceState, Pod, Presence};
use crate::release::Release;
use anyhow::Context as _;
use jiff::Timestamp;
use skpr_proto::{PodUid, Source};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long the connections of an instance that is to end are waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Reports that may wait: all instances of two releases at once, several times. A full queue makes supervisors wait.
const REPORTS: usize = 512;

/// One instance that is there.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: Arc<str>,
    pub(super) release: u64,
    pub(super) status: Status,
    pub(super) leaving: bool,
    index: u32,
    version: Arc<str>,
    digest: Option<Arc<str>>,
    created: Timestamp,
    production: bool,
    source: Source,
    stop: CancellationToken,
}

/// Something has happened to one.
#[derive(Debug)]
pub(super) enum Change {
    Reported(Report),
    Ended(PodUid),
}

pub(super) struct Instances {
    host: Arc<Host>,
    environment: EnvironmentKey,
    pub(super) routes: Routes,
    running: BTreeMap<PodUid, Running>,
    tell: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    supervisors: JoinSet<PodUid>,
    drains: JoinSet<()>,
    warned: bool,
}

impl Instances {
    pub(super) fn new(host: Arc<Host>, environment: EnvironmentKey) -> Instances {
        let (tell, reports) = mpsc::channel(REPORTS);
        Instances {
            host,
            environment,
            routes: Routes::default(),
            running: BTreeMap::new(),
            tell,
            reports,
            supervisors: JoinSet::new(),
            drains: JoinSet::new(),
            warned: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Running> {
        self.running.values()
    }

    /// As the next step is decided by.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let seen = |(uid, running): (&PodUid, &Running)| seen(uid, running.index, &running.state(&self.host));
        self.running.iter().filter_map(seen).collect()
    }

    /// As a release is judged by.
    pub(super) fn states(&self) -> BTreeMap<Arc<str>, InstanceState> {
        let state = |running: &Running| (Arc::clone(&running.name), running.state(&self.host));
        self.running.values().map(state).collect()
    }

    pub(super) fn pods(&self) -> HashMap<PodUid, Pod> {
        self.running.iter().map(|(uid, running)| (uid.clone(), self.pod(running))).collect()
    }

    /// Starts instance `index` of a release, whose files are in `directory`.
    pub(super) async fn start(
        &mut self,
        release: &Release,
        index: u32,
        directory: &Path,
    ) -> anyhow::Result<()> {
        let environment = &self.environment.name;
        let number = release.number;
        let name = format!("{}-{}-r{number}-{index}", environment.project, environment.environment);
        let equipment = self.host.equip(environment, release, &name).context("there is no command")?;
        let Equipment { recipe, volumes } = equipment;
        let uid = PodUid::parse(&random_uid()?)?;
        let source = Source::parse(NAMESPACE, &name, uid.as_str(), CONTAINER)?;
        let cpu_share = recipe.limits.cpu_share;
        let (logs, cgroup) = self.make(&source, recipe.limits, volumes.clone()).await?;
        let instance = Instance {
            wrapper: self.host.wrapper(cgroup.as_ref()),
            name: name.clone(),
            uid: uid.clone(),
            command: recipe.command,
            directory: directory.to_owned(),
            variables: recipe.variables,
            volumes,
            logs,
            probe: recipe.probe,
            ports: recipe.listens.then(|| self.host.ports.clone()),
            cgroup,
            cpu_share,
            whereabouts: self.host.whereabouts.clone(),
            entrances: self.host.entrances.clone(),
        };
        let stop = CancellationToken::new();
        let running = Running {
            name: name.into(),
            release: number,
            status: Status::default(),
            leaving: false,
            index,
            version: release.version.as_str().into(),
            digest: release.digest.as_deref().map(Into::into),
            created: Timestamp::now(),
            production: release.settings.production == Some(true),
            source,
            stop: stop.clone(),
        };
        self.running.insert(uid.clone(), running);
        let supervised = supervise(instance, self.host.spawner.clone(), self.tell.clone(), stop);
        self.supervisors.spawn(async move {
            supervised.await;
            uid
        });
        Ok(())
    }

    async fn make(
        &mut self,
        source: &Source,
        limits: Limits,
        volumes: Vec<(PathBuf, PathBuf)>,
    ) -> anyhow::Result<(PathBuf, Option<Cgroup>)> {
        let note = Note { environment: self.environment.clone(), task: None };
        let (host, source) = (Arc::clone(&self.host), source.clone());
        let make = move || host.make(&source, &note, &limits, &volumes);
        let made = tokio::task::spawn_blocking(make).await.context("make an instance's directories")?;
        let made = made.context("make an instance's directories")?;
        if !made.limited && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(environment = %self.environment, "memory is not limited: no cgroup allows it here");
        }
        Ok((made.logs, made.cgroup))
    }

    /// Asks an instance to end. It is in no route any more.
    pub(super) fn end(&mut self, uid: &PodUid) {
        let Some(running) = self.running.get_mut(uid).filter(|running| !running.leaving) else { return };
        running.leaving = true;
        let (routes, uid, stop) = (self.routes.clone(), uid.clone(), running.stop.clone());
        self.drains.spawn(async move {
            tokio::select! {
                () = routes.drained(&uid) => {}
                () = sleep(DRAIN_WITHIN) => {}
            }
            stop.cancel();
        });
    }

    /// Tells all to stop now.
    pub(super) fn stop(&mut self) {
        for running in self.running.values_mut() {
            running.leaving = true;
            running.stop.cancel();
        }
    }

    /// The ports that these instances listen on.
    pub(super) fn targets(&self, uids: &[PodUid]) -> Vec<(PodUid, u16)> {
        let target = |uid: &PodUid| Some((uid.clone(), self.running.get(uid)?.status.port?));
        uids.iter().filter_map(target).collect()
    }

    /// The next thing that happens to any of them; never, while there is none. Cancel-safe.
    pub(super) async fn change(&mut self) -> Change {
        loop {
            tokio::select! {
                // What an instance said comes before its end.
                biased;
                Some(report) = self.reports.recv() => return Change::Reported(report),
                Some(ended) = self.supervisors.join_next() => match ended {
                    Ok(uid) => return Change::Ended(uid),
                    Err(error) => super::resume(error),
                },
                Some(drained) = self.drains.join_next() => drained.unwrap_or_else(super::resume),
            }
        }
    }

    /// Takes a report in; what the instance was, and how it was before.
    pub(super) fn report(&mut self, report: Report) -> Option<(&Running, Status)> {
        let running = self.running.get_mut(&report.uid)?;
        let before = std::mem::replace(&mut running.status, report.status);
        Some((running, before))
    }

    /// Nothing of it is left but what it wrote.
    pub(super) fn ended(&mut self, uid: &PodUid) {
        if let Some(running) = self.running.remove(uid) {
            self.host.publisher.ended(uid.clone(), self.pod(&running));
        }
    }

    fn pod(&self, running: &Running) -> Pod {
        let state = running.state(&self.host);
        Pod {
            environment: self.environment.clone(),
            node: state.node,
            instance: Arc::clone(&running.source.pod),
            main_container: running.source.container.clone(),
            task: None,
            labels: Default::default(),
            containers: Default::default(),
            version: state.version,
            ready: state.ready,
            production: running.production,
            presence: Presence::Present,
            detail: state.detail,
        }
    }
}

impl Running {
    fn state(&self, host: &Host) -> InstanceState {
        let detail = Detail {
            release: Some(self.release),
            created: Some(self.created),
            leaving: self.leaving,
            digest: self.digest.clone(),
            ..self.status.detail()
        };
        InstanceState {
            version: Arc::clone(&self.version),
            ready: self.status.ready,
            node: Some(host.node.clone()),
            detail,
        }
    }
}
