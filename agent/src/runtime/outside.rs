//! A third kind of runtime, given from outside: whoever embeds this library starts the processes of one instance, and this
//! library has the two ends of their pipes.
//!
//! * Bytes go by pipes of the system, as of every other process: what is not read makes the writer wait.
//! * When a process is dropped, so is what moves its bytes.

use super::{Exit, Size, Start, StartError};
use futures::future::BoxFuture;
use rustix::process::Signal;
use std::fmt::Debug;
use std::io;
use std::time::Duration;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What ends a process does so by then, or is held up by something else.
const OVER_WITHIN: Duration = Duration::from_secs(30);
/// How it ended is known by then.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// Starts processes in one instance.
pub trait Outside: Debug + Send + Sync {
    fn start(&self, start: Start) -> BoxFuture<'_, Result<Started, StartError>>;

    /// Resolves when the instance is not there any more.
    fn gone(&self) -> BoxFuture<'_, ()>;
}

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    pub input: Sender,
    pub output: Receiver,
    /// None when it has a terminal.
    pub errors: Option<Receiver>,
    /// How it ended, said after all that it has written is in its pipes. Nobody knows when this is closed instead.
    pub exit: watch::Receiver<Option<Exit>>,
    /// Where its terminal's size goes; none without a terminal.
    pub size: Option<watch::Sender<Size>>,
    /// Where signals go, as far as they can be sent at all. When this is dropped, nobody is there for the process any more: it
    /// is to be ended, as [`ASKING`](super::ASKING) has it.
    pub signals: mpsc::Sender<Signal>,
    /// Is cancelled when nothing of it runs any more, or nothing can be done about it.
    pub over: CancellationToken,
    /// What moves its bytes, and ends it.
    pub tasks: JoinSet<()>,
}

/// What holds it.
#[derive(Debug)]
pub(super) struct Held {
    /// Dropped first: one that has ended is not to be ended.
    pub(super) tasks: JoinSet<()>,
    pub(super) exit: watch::Receiver<Option<Exit>>,
    pub(super) size: Option<watch::Sender<Size>>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) over: CancellationToken,
}

impl Held {
    /// Waits for its end. Cancel-safe.
    pub(super) async fn ended(&self) {
        // Of one that nobody hears of any more there is nothing to wait for.
        drop(self.exit.clone().wait_for(Option::is_some).await);
    }

    pub(super) async fn exit(&self) -> io::Result<Exit> {
        known(self.exit.clone()).await
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.signals.try_send(signal).is_err() {
            tracing::debug!("a signal was one too many");
        }
    }

    /// Ends it and what it has started.
    pub(super) async fn end(self) -> io::Result<Exit> {
        let Held { tasks: _tasks, exit, size: _, signals, over } = self;
        drop(signals);
        if timeout(OVER_WITHIN, over.cancelled()).await.is_err() {
            tracing::debug!("a process may go on");
        }
        timeout(KNOWN_WITHIN, known(exit)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// How it ended, once that is known.
async fn known(mut exit: watch::Receiver<Option<Exit>>) -> io::Result<Exit> {
    let known = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
    known.ok_or_else(|| io::Error::other("nobody knows how the process ended"))
}
