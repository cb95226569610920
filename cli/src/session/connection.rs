//! SSH with the agent over a relayed session: with the host key that the aggregator has told, and no other.

use crate::terminal::clean;
use russh::client::{AuthResult, Config, DisconnectReason, Handle, Handler, connect_stream};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Disconnect, Preferred, cipher, compression};
use std::borrow::Cow;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::DuplexStream;
use tonic::Status;

/// A window of a channel: what the other side may send before we have read it.
const WINDOW: u32 = 2 << 20;
/// The agent is asked for a sign of life after so much silence, and is gone after so many without: 16 s. Its own connection
/// to the aggregator takes longer to be missed.
const SILENCE: Duration = Duration::from_secs(4);
const SILENCES: usize = 3;

/// Why a session did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the relay ended: {}", .0.message())]
    Relay(Status),
    #[error("the connection ended before the process did")]
    Cut,
    /// In the agent's words.
    #[error("{0}")]
    Farewell(String),
    #[error("speak SSH with the agent")]
    Ssh(#[from] russh::Error),
    #[error("the agent lets nobody in")]
    Refused,
    #[error("the agent does not run it")]
    NotRun,
    #[error("prepare the terminal")]
    Terminal(#[source] io::Error),
    #[error("write to stdout")]
    Output(#[source] io::Error),
    #[error("read from stdin")]
    Input(#[source] io::Error),
}

/// Begins to speak SSH as this user.
/// Whatever the agent says when it ends the connection is put into `farewell`.
pub(super) async fn open(
    stream: DuplexStream,
    host_key: &str,
    user: &str,
    farewell: Arc<OnceLock<String>>,
) -> Result<Handle<Known>, Broken> {
    let config = Config {
        preferred: Preferred {
            cipher: Cow::Borrowed(&[cipher::AES_128_GCM, cipher::AES_256_GCM]),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW,
        keepalive_interval: Some(SILENCE),
        keepalive_max: SILENCES,
        ..Config::default()
    };
    let mut handle =
        connect_stream(Arc::new(config), stream, Known { host_key: host_key.to_owned(), farewell }).await?;
    match handle.authenticate_none(user).await? {
        AuthResult::Success => Ok(handle),
        AuthResult::Failure { .. } => Err(Broken::Refused),
    }
}

/// Says goodbye.
pub(super) async fn close(handle: &Handle<Known>) -> Result<(), russh::Error> {
    handle.disconnect(Disconnect::ByApplication, "", "").await
}

/// Knows one host.
pub(super) struct Known {
    host_key: String,
    farewell: Arc<OnceLock<String>>,
}

impl Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let known = PublicKey::from_openssh(&self.host_key).ok();
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                known.is_some_and(|known| known.key_data() == key.key_data())
            }
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(told) if !told.message.is_empty() => {
                // Only the first counts, and there is one.
                self.farewell
                    .get_or_init(|| clean(&told.message.chars().take(200).collect::<String>()).into_owned());
                Ok(())
            }
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}
