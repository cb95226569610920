//! Starts processes from one thread that lives as long as whoever starts them.
//!
//! "End with your parent" means the parent *thread* to Linux, and the async runtime's threads come and go.

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait in the queue: each instance has at most one, and those beyond wait for a place.
const WAITING: usize = 16;

type Request = (Command, oneshot::Sender<std::io::Result<Child>>);

/// Starts processes. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Spawner(mpsc::Sender<Request>);

impl Spawner {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<Spawner> {
        let (requests, mut inbox) = mpsc::channel::<Request>(WAITING);
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                let _inside = runtime.enter();
                while let Some((mut command, reply)) = inbox.blocking_recv() {
                    // Nobody waits any more: the child was dropped with the reply, and that kills it.
                    drop(reply.send(command.spawn()));
                }
            })
            .context("start the thread that starts processes")?;
        Ok(Spawner(requests))
    }

    /// Starts a process from it.
    pub async fn spawn(&self, command: Command) -> std::io::Result<Child> {
        let (reply, child) = oneshot::channel();
        let gone = || std::io::Error::other("the thread that starts processes has ended");
        self.0.send((command, reply)).await.map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn more_requests_than_places_wait_their_turn() {
        let spawner = Spawner::start().unwrap();
        let mut started = JoinSet::new();
        for _ in 0..WAITING * 10 {
            let spawner = spawner.clone();
            started.spawn(async move { spawner.spawn(Command::new("true")).await });
        }
        while let Some(child) = started.join_next().await {
            assert!(child.unwrap().unwrap().wait().await.unwrap().success());
        }
    }
}
