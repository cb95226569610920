//! One pod's instance, as a runtime that starts processes by `pods/exec`.

use super::Instance;
use super::note::Secret;
use super::outcome::kubernetes_says;
use super::process::{Means, Opened, Streams};
use super::{process, script};
use crate::inventory::Inventory;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1 as core;
use kube::api::AttachParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use skpr_agent::runtime::{Command, Outside, Start, StartError, Started};
use skpr_proto::Label;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The API server asks the node's kubelet only after it has answered, so this is an answer of its own.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Where processes are started. Clones are the same.
#[derive(Clone)]
pub(super) struct Pod {
    pub(super) client: Client,
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    pub(super) denied: Arc<BTreeSet<Label>>,
    /// Places for processes, of all sessions.
    pub(super) processes: Arc<Semaphore>,
    /// Is cancelled when the aggregator stops, which waits for a moment only.
    pub(super) stopping: CancellationToken,
    pub(super) instance: Instance,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod({}/{})", self.instance.environment.namespace, self.instance.name)
    }
}

impl Outside for Pod {
    fn start(&self, start: Start) -> BoxFuture<'_, Result<Started, StartError>> {
        self.started(start).boxed()
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        let mut inventory = self.inventory.clone();
        async move {
            // When nobody keeps it any more, the aggregator ends.
            drop(inventory.wait_for(|inventory| !self.is_in(inventory)).await);
        }
        .boxed()
    }
}

impl Pod {
    async fn started(&self, start: Start) -> Result<Started, StartError> {
        let streams = match &start.terminal {
            Some(terminal) => Streams::Terminal(terminal.size),
            None => Streams::Pipes,
        };
        let place = Arc::clone(&self.processes).try_acquire_owned();
        let place = place.map_err(|_| failed("the aggregator runs as many as it can itself"))?;
        let (secret, means) = (Secret::new()?, Means::get(streams, place)?);
        let opened = self.open(&script::by_shell(&start, &secret)?, streams).await?;
        if let Some(begun) = opened.let_go(secret, streams).await? {
            return Ok(process::run(self.clone(), begun, means));
        }
        // There is no `sh`. Nothing has run, and nothing of what the client has sent has gone.
        let opened = self.open(&script::as_it_is(&start)?, streams).await?;
        let program = match &start.command {
            Command::Program(words) => words.first().map(|word| word.to_string_lossy().into_owned()),
            Command::Shell | Command::Line(_) | Command::Files | Command::Transfer | Command::TooLong => None,
        };
        Ok(process::run(self.clone(), opened.unheard(program.unwrap_or_default()), means))
    }

    /// Whether it is still the instance that it was.
    fn is_in(&self, inventory: &Inventory) -> bool {
        let pod = inventory.pods.get(&self.instance.uid);
        pod.is_some_and(|pod| pod.environment == self.instance.environment && pod.is_instance())
    }

    /// Has words run there, if it may be entered.
    pub(super) async fn open(&self, words: &[String], streams: Streams) -> Result<Opened, StartError> {
        let Instance { environment, name, container, .. } = &self.instance;
        if self.denied.contains(&environment.namespace) {
            return Err(StartError::Denied(environment.namespace.clone()));
        }
        // Another pod may have its name by now, with whatever rights.
        if !self.is_in(&self.inventory.borrow()) {
            return Err(StartError::Gone);
        }
        let how = AttachParams {
            container: Some(container.as_str().to_owned()),
            stdin: true,
            stdout: true,
            stderr: streams == Streams::Pipes,
            tty: matches!(streams, Streams::Terminal(_)),
            ..AttachParams::default()
        };
        let pods = Request::new(core::Pod::url_path(&(), Some(environment.namespace.as_str())));
        let request = pods.exec(name, words, &how).map_err(io::Error::other)?;
        let connected = timeout(ANSWERED_WITHIN, self.client.connect(request)).await;
        let connected = connected.map_err(|_| failed("Kubernetes does not answer"))?;
        let connection = connected.map_err(|error| refused(&error))?;
        if streams == Streams::Pipes && !connection.supports_stream_close() {
            // A program that reads to the end of its input would wait for ever, and closing the whole loses what it says.
            return Err(failed("this Kubernetes cannot tell a process that its input has ended"));
        }
        Ok(Opened::new(connection.into_stream()))
    }
}

fn refused(error: &kube::Error) -> StartError {
    match error {
        kube::Error::Api(status) if status.code == 404 => StartError::Gone,
        kube::Error::Api(status) if status.code == 403 => {
            tracing::warn!(message = %status.message, "the API server refuses `pods/exec`");
            failed("Kubernetes does not let the aggregator run anything there")
        }
        kube::Error::Api(status) => failed(&kubernetes_says(&status.message)),
        error => {
            tracing::warn!(%error, "`pods/exec` cannot be asked for");
            failed("Kubernetes cannot be asked")
        }
    }
}

fn failed(why: &str) -> StartError {
    StartError::Failed(io::Error::other(why.to_owned()))
}
