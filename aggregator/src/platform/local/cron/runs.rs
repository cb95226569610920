//! The runs of one environment that this process holds: started, asked to end, and seen to end.
//!
//! Each is a pod of its own, which is no instance; its output stays claimed when it has ended, as an instance's does.

use super::super::former::Note;
use super::super::host::Host;
use super::super::{CONTAINER, NAMESPACE, random_uid};
use super::execute::{EndedBy, Execution, execute, failed};
use super::plan::Ending;
use crate::environment::EnvironmentKey;
use crate::inventory::{Detail, Pod, Presence};
use crate::release::Release;
use crate::run::{Run, RunId, command};
use anyhow::Context as _;
use skpr_proto::manifest::Task;
use skpr_proto::{PodUid, Source};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a run runs, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct What<'a> {
    pub(super) task: &'a Task,
    /// What a user puts behind its command.
    pub(super) arguments: &'a [String],
    pub(super) release: &'a Release,
    pub(super) directory: &'a Path,
}

pub(super) struct Runs {
    host: Arc<Host>,
    environment: EnvironmentKey,
    live: BTreeMap<RunId, Live>,
    tasks: JoinSet<(RunId, Ending)>,
    /// Ended, and not yet taken.
    ended: BTreeMap<RunId, Ending>,
}

#[derive(Debug)]
struct Live {
    release: u64,
    uid: PodUid,
    pod: Pod,
    end: watch::Sender<Option<EndedBy>>,
}

impl Runs {
    pub(super) fn new(host: Arc<Host>, environment: EnvironmentKey) -> Runs {
        Runs { host, environment, live: BTreeMap::new(), tasks: JoinSet::new(), ended: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.ended.is_empty()
    }

    pub(super) fn is_live(&self) -> bool {
        !self.live.is_empty()
    }

    /// All that are held, whether they have ended or not.
    pub(super) fn held(&self) -> BTreeSet<RunId> {
        self.live.keys().chain(self.ended.keys()).cloned().collect()
    }

    pub(super) fn ended(&self) -> &BTreeMap<RunId, Ending> {
        &self.ended
    }

    /// The releases whose files they run in.
    pub(super) fn releases(&self) -> impl Iterator<Item = u64> {
        self.live.values().map(|live| live.release)
    }

    pub(super) fn pods(&self) -> HashMap<PodUid, Pod> {
        self.live.values().map(|live| (live.uid.clone(), live.pod.clone())).collect()
    }

    /// Starts one that is written as begun. That it cannot be started is how it ends.
    pub(super) fn start(&mut self, run: &Run, what: What<'_>) {
        tracing::info!(environment = %self.environment, run = %run.id, version = run.version, "run begins");
        if let Err(error) = self.try_start(run, what) {
            self.give_up(run, &format!("it cannot be started: {error:#}"));
        }
    }

    /// One that is written as begun, and cannot be.
    pub(super) fn give_up(&mut self, run: &Run, why: &str) {
        self.ended.insert(run.id.clone(), failed(&self.host.clock, why.to_owned()));
    }

    fn try_start(&mut self, run: &Run, what: What<'_>) -> anyhow::Result<()> {
        let (environment, release) = (&self.environment.name, what.release);
        let name = run.instance.as_deref().context("it has no name")?;
        let mut equipment = self.host.equip(environment, release, name).context("there is no command")?;
        for (name, value) in [(command::TASK, run.task.as_str()), (command::RUN, run.id.as_str())] {
            equipment.recipe.variables.push((name.to_owned(), value.to_owned()));
        }
        let uid = PodUid::parse(&random_uid()?)?;
        let source = Source::parse(NAMESPACE, name, uid.as_str(), CONTAINER)?;
        let (end, asked) = watch::channel(None);
        let command = command::command(what.task.command.as_str(), what.arguments);
        let execution = Execution {
            host: Arc::clone(&self.host),
            note: Note { environment: self.environment.clone(), task: Some(run.task.clone()) },
            equipment,
            directory: what.directory.to_owned(),
            command: command.into_iter().map(OsString::from).collect(),
            timeout: what.task.timeout.as_ref().map(|timeout| timeout.duration()),
            end: asked,
            source: source.clone(),
        };
        let pod = self.pod(run, &source, release);
        self.live.insert(run.id.clone(), Live { release: release.number, uid, pod, end });
        let id = run.id.clone();
        self.tasks.spawn(async move { (id, execute(execution).await) });
        Ok(())
    }

    fn pod(&self, run: &Run, source: &Source, release: &Release) -> Pod {
        Pod {
            environment: self.environment.clone(),
            node: Some(self.host.node.clone()),
            instance: Arc::clone(&source.pod),
            main_container: source.container.clone(),
            task: Some(run.task.clone()),
            labels: Default::default(),
            containers: Default::default(),
            version: release.version.as_str().into(),
            ready: false,
            production: release.settings.production == Some(true),
            presence: Presence::Present,
            detail: Detail { release: Some(release.number), created: run.began, ..Detail::default() },
        }
    }

    /// Asks one to end. What it was asked first is why it did.
    pub(super) fn end(&self, id: &RunId, by: &EndedBy) {
        if let Some(live) = self.live.get(id) {
            live.end.send_if_modified(|asked| {
                let is_first = asked.is_none();
                asked.get_or_insert_with(|| by.clone());
                is_first
            });
        }
    }

    pub(super) fn end_all(&self, by: &EndedBy) {
        for id in self.live.keys() {
            self.end(id, by);
        }
    }

    /// Returns when one has ended; never, while there is none. Cancel-safe.
    pub(super) async fn change(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok((id, ending))) => {
                if let Some(live) = self.live.remove(&id) {
                    self.host.publisher.ended(live.uid, live.pod);
                }
                let (outcome, code) = (ending.outcome.name(), ending.exit_code);
                tracing::info!(environment = %self.environment, run = %id, outcome, code, "run ended");
                self.ended.insert(id, ending);
            }
            Some(Err(error)) => super::super::resume(error),
            None => std::future::pending().await,
        }
    }

    /// Forgets those whose end is written down.
    pub(super) fn taken(&mut self, is_written: impl Fn(&RunId) -> bool) {
        self.ended.retain(|id, _| !is_written(id));
    }
}
