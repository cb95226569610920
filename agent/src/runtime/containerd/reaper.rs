//! Ends and forgets processes that nobody waits for: those whose session is over, and those that an agent before this one
//! has left, which are known by their directories.

use super::Places;
use super::api::{Api, Name};
use super::fifos::{Fifos, Outputs};
use rustix::process::Signal;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// What is killed has ended by then.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// A container that hangs keeps its processes; it is asked again so often, and then left to the next agent.
const TRIES: u32 = 5;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A process that nobody waits for, whether or not it has ended.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) name: Name,
    pub(super) fifos: Fifos,
    /// Of one that may only just be being started: containerd waits for whoever reads, and for nothing that is gone.
    pub(super) outputs: Option<Outputs>,
    /// Whether containerd has said that it knows it.
    pub(super) announced: bool,
}

/// Runs beside whatever starts processes.
#[derive(Debug)]
pub(crate) struct Reaper {
    api: Api,
    leaving: mpsc::Receiver<Left>,
    running: JoinSet<()>,
}

impl Reaper {
    pub(super) fn new(api: Api, leaving: mpsc::Receiver<Left>) -> Reaper {
        Reaper { api, leaving, running: JoinSet::new() }
    }

    /// Takes what is left from before; how many they are. To be called before anything is started.
    pub(crate) fn sweep(&mut self, places: &Places) -> io::Result<usize> {
        let left = Fifos::left(&places.fifos)?;
        let count = left.len();
        for (name, fifos) in left {
            self.take(Left { name, fifos, outputs: None, announced: true });
        }
        Ok(count)
    }

    /// Runs until it is dropped. Cancel-safe.
    pub(crate) async fn run(&mut self) {
        loop {
            tokio::select! {
                Some(left) = self.leaving.recv() => self.take(left),
                Some(_) = self.running.join_next() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Ends what is left, in so much time. To be called when nothing more is started, and whoever could is being dropped.
    pub(crate) async fn finish(mut self, limit: Duration) {
        let all = async {
            while let Some(left) = self.leaving.recv().await {
                self.take(left);
            }
            while self.running.join_next().await.is_some() {}
        };
        if timeout(limit, all).await.is_err() {
            tracing::info!(left = self.running.len(), "processes are left to the next agent");
        }
    }

    fn take(&mut self, left: Left) {
        let api = self.api.clone();
        self.running.spawn(async move { reap(&api, left).await });
    }
}

async fn reap(api: &Api, left: Left) {
    let Left { name, fifos, outputs: _outputs, announced } = left;
    if name.container.is_empty() {
        return fifos.remove();
    }
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(TRY_AGAIN_AFTER).await;
        }
        match api.delete(&name).await {
            Ok(()) => return fifos.remove(),
            // What was being announced when nobody wanted it any more may be known a moment later.
            Err(status) if status.code() == Code::NotFound && (announced || attempt > 0) => {
                return fifos.remove();
            }
            Err(_) => {}
        }
        // It has not ended, or is only just being started, and then cannot be killed yet.
        let killed = api.kill(&name, Signal::KILL.as_raw()).await.is_ok();
        if killed && timeout(ENDS_WITHIN, api.wait(&name)).await.is_ok() && api.delete(&name).await.is_ok() {
            return fifos.remove();
        }
    }
    tracing::warn!(container = %name.container, exec = %name.exec, "a process cannot be ended");
}
