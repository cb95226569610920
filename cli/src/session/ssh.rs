//! Our own SSH client: one channel over a relayed session, with the host key that the aggregator has told.

use super::Relay;
use super::typing::Typing;
use bytes::BytesMut;
use russh::client::{AuthResult, Config, Handle, Handler, connect_stream};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Preferred, Sig, cipher, compression};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio::time::timeout;
use tonic::Status;

/// What the two sides may be apart: two messages of the relay.
const PIPE: usize = 128 << 10;
const READ: usize = 32 << 10;
/// A window of the channel: what the other side may send before we have read it.
const WINDOW: u32 = 2 << 20;
/// Variables of ours that the process gets, too.
const VARIABLES: [&str; 3] = ["LANG", "LANGUAGE", "COLORTERM"];
/// How long the goodbye may take once the exit code is known.
const GOODBYE: Duration = Duration::from_millis(500);
/// The agent asks for no name.
const USER: &str = "skpr";
/// SSH's number for stderr.
const STDERR: u32 = 1;

/// What is to run.
pub(crate) struct Run {
    /// A program and its arguments; none for a shell.
    pub command: Option<Vec<OsString>>,
    /// Whether it has a terminal, which is then ours.
    pub terminal: bool,
    /// As the aggregator told it.
    pub host_key: String,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Code(u32),
    Signal(String),
    /// The reader of our stdout has gone.
    ClosedPipe,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the relay ended: {}", .0.message())]
    Relay(Status),
    #[error("the connection ended before the process did")]
    Cut,
    #[error("speak SSH with the agent")]
    Ssh(#[from] russh::Error),
    #[error("the agent lets nobody in")]
    Refused,
    #[error("prepare the terminal")]
    Terminal(#[source] io::Error),
}

/// Runs it to its end.
pub(crate) async fn run(relay: Relay, run: Run) -> Result<Outcome, Broken> {
    let (ours, theirs) = duplex(PIPE);
    let (read, write) = split(theirs);
    let relayed = relay.pass(read, write);
    let session = talk(ours, run);
    tokio::pin!(relayed, session);
    tokio::select! {
        outcome = &mut session => {
            // The goodbye tells the aggregator how it ended.
            drop(timeout(GOODBYE, relayed).await);
            outcome
        }
        ended = &mut relayed => match ended {
            // What came before the end is still to be read.
            Ok(()) => session.await,
            Err(status) => Err(Broken::Relay(status)),
        },
    }
}

async fn talk(stream: tokio::io::DuplexStream, run: Run) -> Result<Outcome, Broken> {
    let config = Config {
        preferred: Preferred {
            cipher: Cow::Borrowed(&[cipher::AES_128_GCM, cipher::AES_256_GCM]),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW,
        ..Config::default()
    };
    let mut handle = connect_stream(Arc::new(config), stream, Known(run.host_key.clone())).await?;
    if !matches!(handle.authenticate_none(USER).await?, AuthResult::Success) {
        return Err(Broken::Refused);
    }
    let (read, write) = handle.channel_open_session().await?.split();
    let outcome = converse(read, &write, &run).await;
    drop(goodbye(&handle).await);
    outcome
}

async fn goodbye(handle: &Handle<Known>) -> Result<(), russh::Error> {
    handle.disconnect(Disconnect::ByApplication, "", "").await
}

async fn converse(
    read: ChannelReadHalf,
    write: &ChannelWriteHalf<russh::client::Msg>,
    run: &Run,
) -> Result<Outcome, Broken> {
    for (name, value) in variables() {
        write.set_env(false, name, value).await?;
    }
    let typing = Typing::begin(run.terminal).map_err(Broken::Terminal)?;
    if run.terminal {
        let kind = std::env::var("TERM").unwrap_or_default();
        let ((columns, rows), modes) = (typing.size(), typing.modes());
        write.request_pty(false, &kind, columns, rows, 0, 0, &modes).await?;
    }
    match &run.command {
        Some(words) => write.exec(true, line(words)).await?,
        None => write.request_shell(true).await?,
    }
    let sending = async {
        // What cannot be sent any more shows in what is received: its end.
        drop(send(write).await);
        std::future::pending::<Outcome>().await
    };
    let resizing = async {
        typing.resized(write).await;
        std::future::pending::<Outcome>().await
    };
    tokio::select! {
        outcome = receive(read) => outcome,
        outcome = sending => Ok(outcome),
        outcome = resizing => Ok(outcome),
    }
}

/// A command as it travels: after a NUL, which no shell's line can hold, the words with a NUL between them.
fn line(words: &[OsString]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        line.push(0);
        line.extend_from_slice(word.as_encoded_bytes());
    }
    line
}

fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| VARIABLES.contains(&name.as_str()) || name.starts_with("LC_"))
}

/// From stdin to the process, to its end.
async fn send(write: &ChannelWriteHalf<russh::client::Msg>) -> Result<(), russh::Error> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match stdin.read_buf(&mut buffer).await {
            Ok(1..) => write.data_bytes(buffer.split().freeze()).await?,
            Ok(0) | Err(_) => return write.eof().await,
        }
    }
}

/// From the process to stdout and stderr, until it has ended.
async fn receive(mut read: ChannelReadHalf) -> Result<Outcome, Broken> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut outcome = None;
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let written = async {
                    stdout.write_all(&data).await?;
                    stdout.flush().await
                };
                if written.await.is_err() {
                    return Ok(Outcome::ClosedPipe);
                }
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => {
                // A stderr that is gone is no reason to stop.
                drop(stderr.write_all(&data).await);
                drop(stderr.flush().await);
            }
            ChannelMsg::ExitStatus { exit_status } => outcome = Some(Outcome::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                outcome = Some(Outcome::Signal(name(&signal_name)));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    outcome.ok_or(Broken::Cut)
}

fn name(signal: &Sig) -> String {
    let name = match signal {
        Sig::Custom(name) => name.split('@').next().unwrap_or_default().to_owned(),
        known => format!("{known:?}"),
    };
    name.chars().filter(char::is_ascii_alphanumeric).take(16).collect()
}

/// Knows one host.
struct Known(String);

impl Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let known = PublicKey::from_openssh(&self.0).ok();
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                known.is_some_and(|known| known.key_data() == key.key_data())
            }
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }
}
