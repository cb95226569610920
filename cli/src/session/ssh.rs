//! Our own SSH client: one channel over a relayed session, with the host key that the aggregator has told.

use super::Relay;
use super::connection::{self, Broken};
use super::typing::Typing;
use bytes::BytesMut;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use skpr_proto::ssh;
use std::ffi::OsString;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio::sync::watch;
use tokio::time::timeout;

/// What the two sides may be apart: two messages of the relay.
const PIPE: usize = 128 << 10;
const READ: usize = 32 << 10;
/// Variables of ours that the process gets, too.
const VARIABLES: [&str; 3] = ["LANG", "LANGUAGE", "COLORTERM"];
/// How long the goodbye may take once the exit code is known.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is to run.
pub(crate) struct Run {
    /// A program and its arguments; none for a shell.
    pub command: Option<Vec<OsString>>,
    /// As whom; none for the instance's own user.
    pub user: Option<String>,
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
    let handle =
        connection::open(stream, &run.host_key, run.user.as_deref().unwrap_or(ssh::OWN_USER)).await?;
    let (read, write) = handle.channel_open_session().await?.split();
    let outcome = converse(read, &write, &run).await;
    drop(connection::close(&handle).await);
    outcome
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
    } else {
        write.set_env(false, ssh::TELL_TAKEN, "1").await?;
    }
    // What is typed is never much, and is not to wait for anything.
    let (taken, allowed) = watch::channel(if run.terminal { u64::MAX } else { 0 });
    match &run.command {
        Some(words) => {
            write.exec(true, command(words)).await?;
        }
        None => write.request_shell(true).await?,
    }
    let sending = async {
        match send(write, allowed, run.terminal).await {
            Err(broken @ Broken::Input(_)) => broken,
            // What cannot be sent any more shows in what is received: its end.
            Ok(()) | Err(_) => std::future::pending().await,
        }
    };
    let resizing = async {
        typing.resized(write).await;
        std::future::pending::<Outcome>().await
    };
    tokio::select! {
        outcome = receive(read, taken) => outcome,
        broken = sending => Err(broken),
        outcome = resizing => Ok(outcome),
    }
}

/// What is sent of a program and its arguments.
pub(crate) fn command(words: &[OsString]) -> Vec<u8> {
    ssh::command_of(words.iter().map(|word| word.as_encoded_bytes()))
}

fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| VARIABLES.contains(&name.as_str()) || name.starts_with("LC_"))
}

/// From stdin to the process, to its end, and no further ahead of it than the agent holds in memory.
async fn send(
    write: &ChannelWriteHalf<russh::client::Msg>,
    mut taken: watch::Receiver<u64>,
    typed: bool,
) -> Result<(), Broken> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = BytesMut::new();
    let mut sent: u64 = 0;
    loop {
        if taken.wait_for(|taken| sent <= taken.saturating_add(ssh::MOST_UNTAKEN)).await.is_err() {
            return Ok(());
        }
        buffer.reserve(READ);
        match stdin.read_buf(&mut buffer).await {
            Ok(length @ 1..) => {
                sent += length as u64;
                write.data_bytes(buffer.split().freeze()).await?;
            }
            Ok(0) => return Ok(write.eof().await?),
            // A terminal that is gone types no more.
            Err(_) if typed => return Ok(write.eof().await?),
            // Its end would be taken for the end of all there was.
            Err(error) => return Err(Broken::Input(error)),
        }
    }
}

/// From the process to stdout and stderr, until it has ended.
async fn receive(mut read: ChannelReadHalf, taken: watch::Sender<u64>) -> Result<Outcome, Broken> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut outcome = None;
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let written = async {
                    stdout.write_all(&data).await?;
                    stdout.flush().await
                };
                match written.await {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(Outcome::ClosedPipe);
                    }
                    // Half of it would look like all of it.
                    Err(error) => return Err(Broken::Output(error)),
                }
            }
            ChannelMsg::ExtendedData { data, ext: ssh::STDERR } => {
                // A stderr that is gone is no reason to stop.
                drop(stderr.write_all(&data).await);
                drop(stderr.flush().await);
            }
            ChannelMsg::ExtendedData { data, ext: ssh::TAKEN } => {
                if let Some(bytes) = ssh::bytes_taken(&data) {
                    taken.send_replace(bytes);
                }
            }
            ChannelMsg::ExitStatus { exit_status } => outcome = Some(Outcome::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                outcome = Some(Outcome::Signal(name(&signal_name)));
            }
            ChannelMsg::Close => break,
            // Only to run something was an answer wanted.
            ChannelMsg::Failure => return Err(Broken::NotRun),
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
