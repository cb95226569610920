//! Sessions that the aggregator asks for: each on a connection of its own, so that none waits for another's reader, and
//! none for a log line.
//!
//! They outlive the control stream that asked for them, and end with their own connection or with the agent.

mod relayed;

use crate::config::Config;
use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use crate::runtime::{Exit, Runtime};
use crate::ssh::spill::Space;
use crate::ssh::{self, HostKey, Session};
use relayed::Relayed;
use skpr_proto::{PodUid, v1};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Sessions asked for and not begun: as many as the aggregator may ask for at once.
const ASKED: usize = 16;
/// Sessions at once. Each costs a connection and some 300 KiB; what processes do not read has a limit of its own.
const SESSIONS: usize = 256;
/// How long the end of a session may take to be told.
const GOODBYE: Duration = Duration::from_secs(5);
/// What a session is for; another purpose is one of a later version.
const SSH: &str = "ssh";

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
    runtime: Option<Runtime>,
    asked: mpsc::Receiver<v1::Dial>,
    space: Space,
}

impl Sessions {
    pub(crate) fn new(config: &Config) -> (Asker, Sessions) {
        let (sender, asked) = mpsc::channel(ASKED);
        let runtime = config.sessions.clone();
        let asker = Asker(runtime.is_some().then_some(sender));
        let space = Space::new(config.state.clone());
        (asker, Sessions { config: Arc::new(config.clone()), runtime, asked, space })
    }

    /// Runs until it is dropped, and ends every session then.
    pub(crate) async fn run(mut self) {
        let mut running = JoinSet::new();
        loop {
            let dial = tokio::select! {
                Some(dial) = self.asked.recv() => dial,
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        let error: tokio::task::JoinError = error;
                        tracing::error!(%error, "a session ended abnormally");
                    }
                    continue;
                }
                else => std::future::pending().await,
            };
            let Some(runtime) = self.runtime.clone() else { continue };
            if running.len() >= SESSIONS {
                tracing::warn!(session = %dial.session, "there are {SESSIONS} sessions already");
                continue;
            }
            let (config, space) = (Arc::clone(&self.config), self.space.clone());
            running.spawn(async move {
                let session = dial.session.clone();
                if let Err(error) = serve(&config, runtime, space, dial).await {
                    tracing::warn!(%session, %error, "a session was not served");
                }
            });
        }
    }
}

/// Why a session was not served.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("it is for `{0}`, which this version does not know")]
    Purpose(String),
    #[error("it names no instance and key that can be")]
    Target,
    #[error(transparent)]
    Link(#[from] LinkError),
}

async fn serve(config: &Config, runtime: Runtime, space: Space, dial: v1::Dial) -> Result<(), NotServed> {
    if dial.purpose != SSH {
        return Err(NotServed::Purpose(dial.purpose.chars().take(64).flat_map(char::escape_debug).collect()));
    }
    let host_key = <[u8; 32]>::try_from(&*dial.host_key).map(HostKey).map_err(|_| NotServed::Target)?;
    let instance = PodUid::parse(&dial.target).map_err(|_| NotServed::Target)?;
    let connection = Connection::open(config).await?;
    let (ours, relayed) = Relayed::accept(&connection, dial.session).await?;
    tracing::debug!(%instance, "a session begins");
    let session = Session { host_key, instance, runtime, space };
    let (tell, exit) = oneshot::channel();
    let mut passing = pin!(relayed.pass(exit));
    let mut serving = pin!(ssh::serve(ours, session));
    let exit = tokio::select! {
        exit = &mut serving => {
            tell.send(exit).ok();
            // Whatever is not said by then, nobody listens to.
            timeout(GOODBYE, passing).await.ok();
            exit
        }
        // The caller has gone: what the session has started still has to be ended.
        () = &mut passing => serving.await,
    };
    tracing::debug!(?exit, "a session has ended");
    Ok(())
}

impl From<Exit> for v1::Exit {
    fn from(exit: Exit) -> v1::Exit {
        match exit {
            Exit::Code(code) => v1::Exit { code: code.into(), signal: 0 },
            Exit::Signal(signal) => v1::Exit { code: 0, signal: u32::try_from(signal).unwrap_or(0) },
        }
    }
}
