//! Sessions that the aggregator asks for: each on a connection of its own, so that none waits for another's reader, and
//! none for a log line.
//!
//! They outlive the control stream that asked for them, and end with their own connection or with the agent.
//!
//! Standalone, they are served here. In Kubernetes this part of the agent, which is on the network, may start nothing: it
//! passes bytes to a [`program`] beside it, which may.

mod beside;
mod handover;
pub(crate) mod program;
mod relayed;
mod target;

use crate::config::{Config, Serving};
use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use crate::recording::{Record, Recorder};
use crate::runtime::{Exit, Runtime, User};
use crate::ssh::spill::Space;
use crate::ssh::{self, Ended, Session};
use crate::transfer;
use beside::Beside;
pub use relayed::Incoming;
use relayed::Relayed;
use skpr_proto::{Purpose, v1};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use target::{NoTarget, Target};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// Sessions asked for and not begun: as many as the aggregator may ask for at once.
const ASKED: usize = 16;
/// Sessions at once. Each costs a connection and some 300 KiB; what processes do not read has a limit of its own.
const SESSIONS: usize = 256;
/// How long the end of a session may take to be told.
const GOODBYE: Duration = Duration::from_secs(5);

/// Where the control stream puts what the aggregator asks for; none where nothing can be started.
#[derive(Clone, Debug)]
pub(crate) struct Asker(Option<mpsc::Sender<v1::Dial>>);

impl Asker {
    /// Whether sessions are served at all.
    pub(crate) fn serves(&self) -> bool {
        self.0.is_some()
    }

    /// Never waits: the control stream has other things to say.
    pub(crate) fn ask(&self, dial: v1::Dial) {
        let session = dial.session.clone();
        if self.0.as_ref().is_none_or(|asked| asked.try_send(dial).is_err()) {
            // The aggregator's own time limit ends the caller's wait.
            tracing::warn!(%session, "a session was asked for that cannot be served");
        }
    }
}

/// Serves sessions.
pub(crate) struct Sessions {
    config: Arc<Config>,
    serving: Option<Serving>,
    asked: mpsc::Receiver<v1::Dial>,
    space: Space,
    recorder: Option<Recorder>,
}

impl Sessions {
    pub(crate) fn new(config: &Config, recorder: Option<Recorder>) -> (Asker, Sessions) {
        let (sender, asked) = mpsc::channel(ASKED);
        let serving = config.sessions.clone();
        let asker = Asker(serving.is_some().then_some(sender));
        let space = Space::new(config.state.clone());
        (asker, Sessions { config: Arc::new(config.clone()), serving, asked, space, recorder })
    }

    /// Runs until it is dropped, and ends every session then.
    pub(crate) async fn run(mut self) {
        let mut running = JoinSet::new();
        loop {
            let dial = tokio::select! {
                Some(dial) = self.asked.recv() => dial,
                Some(ended) = running.join_next() => {
                    log(ended);
                    continue;
                }
                else => std::future::pending().await,
            };
            let Some(serving) = self.serving.clone() else { continue };
            if running.len() >= SESSIONS {
                tracing::warn!(session = %dial.session, "there are {SESSIONS} sessions already");
                continue;
            }
            let config = Arc::clone(&self.config);
            let here = Here { serving, space: self.space.clone(), recorder: self.recorder.clone() };
            running.spawn(async move {
                let session = dial.session.clone();
                if let Err(error) = serve(&config, here, dial).await {
                    tracing::warn!(%session, %error, "a session was not served");
                }
            });
        }
    }
}

fn log(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session ended abnormally");
    }
}

/// Why a session was not served.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error(transparent)]
    Target(#[from] NoTarget),
    #[error("what serves sessions beside this program does not take it: {0}")]
    Beside(#[source] std::io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A session that is being served, up to how it ended.
type Served = Pin<Box<dyn Future<Output = Option<v1::Exit>> + Send>>;

/// What a session is served with.
struct Here {
    serving: Serving,
    space: Space,
    recorder: Option<Recorder>,
}

async fn serve(config: &Config, here: Here, dial: v1::Dial) -> Result<(), NotServed> {
    let Here { serving, space, recorder } = here;
    let target = Target::try_from(&dial)?;
    let record = target.record(recorder.as_ref())?;
    let beside = match &serving {
        Serving::Here { .. } => None,
        Serving::Beside(socket) => Some(Beside::open(socket, &dial).await.map_err(NotServed::Beside)?),
    };
    let connection = Connection::open(config).await?;
    let (ours, relayed) = Relayed::accept(&connection, dial.session).await?;
    tracing::debug!(instance = %target.instance, "a session begins");
    let serving: Served = match (serving, beside) {
        (Serving::Here { runtime, .. }, _) => {
            Box::pin(async move { serve_target(ours, target, runtime, space, record).await.map(Into::into) })
        }
        (Serving::Beside(_), Some(beside)) => Box::pin(beside.pass(ours)),
        (Serving::Beside(_), None) => return Ok(()),
    };
    let exit = to_its_end(serving, relayed).await;
    tracing::debug!(?exit, "a session has ended");
    Ok(())
}

/// Serves what a session is for; how it ended, where something was run.
async fn serve_target(
    stream: DuplexStream,
    target: Target,
    runtime: Runtime,
    space: Space,
    record: Option<Record>,
) -> Option<Ended> {
    let Target { purpose, instance, host_key, .. } = target;
    match purpose {
        Purpose::Ssh => ssh::serve(stream, Session { host_key, instance, runtime, space, record }).await,
        Purpose::Files => transfer::serve(stream, &runtime, &instance).await.map(Ended::from),
    }
}

/// Serves a session of which the other end is in this program: what comes from its client, and what goes there.
pub async fn serve_session(from: Incoming, to: mpsc::Sender<v1::SessionData>, session: Session) {
    let (ours, relayed) = Relayed::of(from, to);
    let serving = Box::pin(async move { ssh::serve(ours, session).await.map(Into::into) });
    let exit = to_its_end(serving, relayed).await;
    tracing::debug!(?exit, "a session has ended");
}

async fn to_its_end(mut serving: Served, relayed: Relayed) -> Option<v1::Exit> {
    let (tell, exit) = oneshot::channel();
    let mut passing = pin!(relayed.pass(exit));
    tokio::select! {
        exit = &mut serving => {
            tell.send(exit.clone()).ok();
            // Whatever is not said by then, nobody listens to.
            timeout(GOODBYE, passing).await.ok();
            exit
        }
        // The caller has gone: what the session has started still has to be ended.
        () = &mut passing => serving.await,
    }
}

impl From<Ended> for v1::Exit {
    fn from(Ended { exit, user }: Ended) -> v1::Exit {
        let user = if user == User::Own { String::new() } else { user.to_string() };
        match exit {
            Exit::Code(code) => v1::Exit { code: code.into(), signal: 0, user },
            Exit::Signal(signal) => v1::Exit { code: 0, signal: u32::try_from(signal).unwrap_or(0), user },
        }
    }
}

#[cfg(test)]
mod tests;
