//! Starts processes from one thread that lives as long as the platform.
//!
//! "End with your parent" means the parent *thread* to Linux, and the runtime's threads come and go.

use anyhow::Context as _;
use std::sync::mpsc;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Requests that may wait: each instance has at most one, and waiting is harmless.
const WAITING: usize = 128;

type Request = (Command, oneshot::Sender<std::io::Result<Child>>);

/// The thread ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Spawner(mpsc::SyncSender<Request>);

impl Spawner {
    pub(super) fn start() -> anyhow::Result<Spawner> {
        let (requests, inbox) = mpsc::sync_channel::<Request>(WAITING);
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                let _inside = runtime.enter();
                for (mut command, reply) in inbox {
                    // Nobody waits any more: the child was dropped with the reply, and that kills it.
                    drop(reply.send(command.spawn()));
                }
            })
            .context("start the thread that starts processes")?;
        Ok(Spawner(requests))
    }

    pub(super) async fn spawn(&self, command: Command) -> std::io::Result<Child> {
        let (reply, child) = oneshot::channel();
        let gone = || std::io::Error::other("the thread that starts processes has ended");
        self.0.try_send((command, reply)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}
