//! Sessions where no agent serves them: the aggregator itself is the SSH server, and starts processes by `pods/exec`.
//!
//! * It is there only where the chart's `sessions.podsExec` has given the right, and an agent that can is always preferred.
//! * It enters only pods that the inventory knows as instances, and none of a namespace that is denied: as an agent does.
//! * One task owns all sessions; one that has lost its caller is still there to end what it has started.

mod control;
mod frames;
mod hearing;
mod note;
mod outcome;
mod pod;
mod process;
mod script;

use crate::api::Seat;
use crate::environment::EnvironmentKey;
use crate::host_key::HostKey;
use crate::inventory::Inventory;
use crate::relay::Here;
use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::{Client, Config};
use pod::Pod;
use skpr_agent::runtime::Runtime;
use skpr_agent::ssh::spill::Space;
use skpr_agent::ssh::{self, Session};
use skpr_proto::{ErrorKind, Failure, Label, PodUid};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Sessions at once: as many as one agent serves.
const SESSIONS: usize = 256;
/// Processes at once, of all sessions. Each has some 400 KiB and eight descriptors; what it has not read yet has a limit of its
/// own.
const PROCESSES: usize = 512;
/// Sessions that wait to be taken up, which takes no time at all.
const QUEUE: usize = 16;
/// What may wait in a file for a process that does not read, and what for all of them: these are on the disk of the records.
const IN_FILE: u64 = 256 << 20;
const IN_FILES: u64 = 1 << 30;
/// How long processes may take to be ended when the aggregator stops.
const ENDED_WITHIN: Duration = Duration::from_secs(6);

/// What it works with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces in whose pods nothing is started.
    pub denied: BTreeSet<Label>,
    /// Where what processes do not read is kept aside.
    pub directory: PathBuf,
}

/// Serves sessions. Whoever holds it makes [`Server::run`] run, too.
pub struct Fallback {
    client: Client,
    inventory: watch::Receiver<Arc<Inventory>>,
    denied: Arc<BTreeSet<Label>>,
    space: Space,
    places: Arc<Semaphore>,
    processes: Arc<Semaphore>,
    stopping: CancellationToken,
    work: mpsc::Sender<BoxFuture<'static, ()>>,
}

/// The sessions that were begun.
pub struct Server {
    begun: mpsc::Receiver<BoxFuture<'static, ()>>,
    stopping: CancellationToken,
}

/// An instance that a session is with.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) uid: PodUid,
    pub(crate) environment: EnvironmentKey,
    /// The pod's name.
    pub(crate) name: Arc<str>,
    pub(crate) container: Label,
}

/// A place for a session.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_user: Seat,
}

impl Fallback {
    /// Finds the API server anew: a connection that is a session waits for its process as long as that takes.
    pub async fn prepare(
        options: Options,
        inventory: watch::Receiver<Arc<Inventory>>,
    ) -> anyhow::Result<(Fallback, Server)> {
        let mut config = Config::infer().await.context("find the Kubernetes API server")?;
        (config.read_timeout, config.write_timeout) = (None, None);
        // What has begun to run is not to be run again.
        config.default_retry = false;
        let client = Client::try_from(config).context("prepare a client of the Kubernetes API server")?;
        std::fs::create_dir_all(&options.directory)
            .with_context(|| format!("create `{}`", options.directory.display()))?;
        Ok(Fallback::new(client, options, inventory))
    }

    pub(crate) fn new(
        client: Client,
        options: Options,
        inventory: watch::Receiver<Arc<Inventory>>,
    ) -> (Fallback, Server) {
        let (work, begun) = mpsc::channel(QUEUE);
        let space = Space::of(options.directory, IN_FILE, IN_FILES);
        let places = Arc::new(Semaphore::new(SESSIONS));
        let denied = Arc::new(options.denied);
        let (processes, stopping) = (Arc::new(Semaphore::new(PROCESSES)), CancellationToken::new());
        let server = Server { begun, stopping: stopping.clone() };
        (Fallback { client, inventory, denied, space, places, processes, stopping, work }, server)
    }

    /// A place for one more session of whoever has the seat: both are given back when all that it has run is over, which may
    /// be later than its caller knows.
    pub(crate) fn take(&self, of_user: Seat) -> Result<Place, Failure> {
        let of_all = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Failure::new(ErrorKind::Unavailable, "the aggregator has as many sessions as it serves itself")
                .with_hint("try again in a moment")
        })?;
        Ok(Place { _of_all: of_all, _of_user: of_user })
    }

    /// Serves a session to its end.
    pub(crate) async fn serve(&self, instance: Instance, key: &HostKey, here: Here, place: Place) {
        let host_key = ssh::HostKey(key.seed());
        let uid = instance.uid.clone();
        let pod = Pod {
            client: self.client.clone(),
            inventory: self.inventory.clone(),
            denied: Arc::clone(&self.denied),
            processes: Arc::clone(&self.processes),
            stopping: self.stopping.clone(),
            instance,
        };
        let runtime = Runtime::outside(Arc::new(pod));
        let session = Session { host_key, instance: uid, runtime, space: self.space.clone(), record: None };
        let served = async move {
            skpr_agent::serve_session(here.from, here.to, session).await;
            drop(place);
        };
        // Where nobody takes it up any more, the caller sees it end with the aggregator.
        drop(self.work.send(served.boxed()).await);
    }
}

impl Server {
    /// Serves until `ending`, and then for a moment those that have something to end.
    pub(crate) async fn run(mut self, ending: CancellationToken) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(ended) = sessions.join_next() => report(ended),
                session = self.begun.recv() => match session {
                    Some(session) => drop(sessions.spawn(session)),
                    None => ending.cancelled().await,
                },
            }
        }
        self.begun.close();
        self.stopping.cancel();
        let ended = async {
            while let Some(ended) = sessions.join_next().await {
                report(ended);
            }
        };
        if timeout(ENDED_WITHIN, ended).await.is_err() {
            tracing::warn!("processes of sessions may go on: they have not ended in time");
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session ended abnormally");
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
