//! The SSH server of one session: what stands at the agent's end of the aggregator's relay.
//!
//! * Whoever gets here has been let in by the aggregator, so no key and no password is asked for.
//! * One channel never holds up another: what a process does not read is kept aside ([`spill`]), and what a client does
//!   not read stays in the process's pipe.
//! * When the connection ends, no process of it is left after ten seconds and a moment.
//!
//! Not served, and refused with a message: forwarding of the client's ports, of X11 and of keys.

mod channel;
mod connection;
mod forward;
mod output;
mod signals;
pub mod spill;
mod taken;

use crate::recording::Record;
use crate::runtime::{Exit, Runtime, User};
use channel::Channels;
use connection::{Connection, Opened};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Config, run_stream};
use russh::{Disconnect, MethodKind, MethodSet, Preferred, cipher, compression};
use skpr_proto::PodUid;
use spill::Space;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Sessions on one connection, as an `ssh` that is shared by many opens them.
pub const CHANNELS: usize = 10;
/// Connections to what listens in the instance, on one connection.
pub const FORWARDS: usize = 64;
/// What a client is told when there is nothing more to be a client of.
const INSTANCE_ENDED: &str = "the instance has ended";
/// A client that has not come to its log-in by then never will.
const LOG_IN_WITHIN: Duration = Duration::from_secs(30);
/// A window of each channel: 2 MiB are 400 Mbit/s at 40 ms.
const WINDOW: u32 = 2 << 20;
/// What the largest packet of OpenSSH holds.
const PACKET: u32 = 32 << 10;

/// The private part of an environment's host key: the seed of an Ed25519 key.
#[derive(Clone)]
pub struct HostKey(pub [u8; 32]);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKey(…)")
    }
}

/// What a session is about.
#[derive(Clone, Debug)]
pub struct Session {
    pub host_key: HostKey,
    pub instance: PodUid,
    pub runtime: Runtime,
    pub space: Space,
    /// How its terminals are recorded; none where they are not.
    pub record: Option<Record>,
}

/// How a session ended in which something was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Of its last process.
    pub exit: Exit,
    /// As whom its processes were to run.
    pub user: User,
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Ended {
        Ended { exit, user: User::Own }
    }
}

/// Serves one client until the connection ends, and returns when nothing of it runs any more.
pub async fn serve<S>(stream: S, session: Session) -> Option<Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = Arc::new(config(&session.host_key));
    // A channel is handed over here as it is opened; those beyond the cap are refused before.
    let (opened, mut channels) = mpsc::channel(CHANNELS + FORWARDS);
    let shared = Arc::new(Channels::new(session));
    let connection = Connection::new(Arc::clone(&shared), opened);
    let logged_in = connection.logged_in();
    let running = match timeout(LOG_IN_WITHIN, run_stream(config, stream, connection)).await {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client did not begin to speak SSH");
            return None;
        }
        Err(_) => return None,
    };
    let mut tasks = JoinSet::new();
    {
        let handle = running.handle();
        let mut gone = std::pin::pin!(shared.gone());
        let mut there = true;
        let mut running = std::pin::pin!(running);
        let mut waiting = std::pin::pin!(tokio::time::sleep(LOG_IN_WITHIN));
        let mut unknown = true;
        loop {
            tokio::select! {
                ended = &mut running => {
                    if let Err(error) = ended {
                        // Clients hang up without a goodbye.
                        tracing::debug!(%error, "the connection ended");
                    }
                    break;
                }
                () = &mut waiting, if unknown => {
                    unknown = false;
                    if !logged_in.is_cancelled() {
                        // Whoever has the other end of the stream closes it.
                        break;
                    }
                }
                // What only forwards, or does nothing, would not see it.
                () = &mut gone, if there => {
                    there = false;
                    drop(handle.disconnect(Disconnect::ByApplication, INSTANCE_ENDED.to_owned(), String::new()).await);
                }
                Some(channel) = channels.recv() => {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        match channel {
                            Opened::Session(session) => channel::serve(session, &shared).await,
                            Opened::Forward(forward) => forward::serve(forward, &shared).await,
                        }
                    });
                }
                Some(ended) = tasks.join_next() => log(ended),
            }
        }
    }
    shared.end();
    while let Some(ended) = tasks.join_next().await {
        log(ended);
    }
    shared.ended()
}

fn log(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a channel ended abnormally");
    }
}

fn config(host_key: &HostKey) -> Config {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&host_key.0));
    let preferred = Preferred {
        // The client's order decides, and OpenSSH would take a cipher that is a third slower.
        cipher: Cow::Borrowed(&[cipher::AES_128_GCM, cipher::AES_256_GCM]),
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::DEFAULT
    };
    Config {
        methods: MethodSet::from(&[MethodKind::None][..]),
        keys: vec![key],
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        preferred,
        max_auth_attempts: 3,
        // OpenSSH asks what is allowed before anything else, and would be kept waiting for it.
        auth_rejection_time_initial: Some(Duration::ZERO),
        // Shells are idle for hours. That the client is there at all, the connections below find out.
        inactivity_timeout: None,
        keepalive_interval: None,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests;
