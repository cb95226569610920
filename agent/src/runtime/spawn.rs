//! Starts processes from one thread that lives as long as whoever starts them.
//!
//! "End with your parent" means the parent *thread* to Linux, and the async runtime's threads come and go. And what this
//! program was told to ignore, what it starts would ignore, too.

use anyhow::Context as _;
use procfs::process::Process;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait in the queue: each instance has at most one, and those beyond wait for a place.
const WAITING: usize = 16;

/// The highest number of a signal.
const LAST: i32 = 64;
/// Those that stop who reads or writes a terminal in the background. To ignore them is how one goes on without it, and what is
/// started here begins a session of its own, in which they mean nothing.
const OF_THE_BACKGROUND: [i32; 2] = [Signal::TTIN.as_raw(), Signal::TTOU.as_raw()];

type Request = (Command, oneshot::Sender<std::io::Result<Child>>);

/// Starts processes. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Spawner(mpsc::Sender<Request>);

impl Spawner {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<Spawner> {
        stop_ignoring().context("see which signals are ignored")?;
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

/// `nohup`, or a script's `&`, has had this program ignore signals, and what is ignored stays so in every program that is
/// started: nobody could hang up on it, or interrupt it. What is handled does not: so they are handled, by doing nothing.
fn stop_ignoring() -> anyhow::Result<()> {
    let ignored = Process::myself()?.status()?.sigign;
    for number in (1..=LAST).filter(|number| ignored & (1 << (number - 1)) != 0) {
        // Those that cannot be handled are not. That of a closed pipe is at its default in children anyway.
        if number != SignalKind::pipe().as_raw_value() && !OF_THE_BACKGROUND.contains(&number) {
            drop(signal(SignalKind::from_raw(number)));
        }
    }
    Ok(())
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
