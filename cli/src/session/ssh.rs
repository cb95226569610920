//! Our own SSH client: one channel over a relayed session, with the host key that the aggregator has told.

use super::Relay;
use super::connection::{self, Broken};
use super::stdio::{Output, stdin, stdout};
use super::typing::{Size, Typing};
use super::writing::{Stream, Writing};
use crate::terminal;
use bytes::BytesMut;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use skpr_proto::ssh;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite, Stderr, duplex, split};
use tokio::sync::watch;
use tokio::time::timeout;

/// What the two sides may be apart: two messages of the relay.
const PIPE: usize = 128 << 10;
const READ: usize = 32 << 10;
/// Often enough for an agent that may be [`ssh::MOST_UNTAKEN`] ahead.
const TELL_EVERY: u64 = ssh::MOST_UNTAKEN / 16;
/// Variables of ours that the process gets, too.
const VARIABLES: [&str; 3] = ["LANG", "LANGUAGE", "COLORTERM"];
/// How long the goodbye may take once the exit code is known.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long what came before a connection broke may take to be read, and to be written where nobody knows how it ended. With
/// what it takes to find out, it is less than 20 s.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

/// All that there was to hear, some of which may have to be written yet.
struct Heard<O, E> {
    outcome: Outcome,
    writing: Writing<O, E>,
}

/// Runs it to its end.
pub(crate) async fn run(relay: Relay, run: Run) -> Result<Outcome, Broken> {
    let heard = hear(relay, run).await?;
    // For this nobody else is needed, and whoever reads has all the time they take.
    let mut writing = heard.writing;
    writing.finish().await.map_or_else(not_written, |()| Ok(heard.outcome))
}

async fn hear(relay: Relay, run: Run) -> Result<Heard<Output, Stderr>, Broken> {
    let (ours, theirs) = duplex(PIPE);
    let (read, write) = split(theirs);
    let relayed = relay.pass(read, write);
    let session = talk(ours, run);
    tokio::pin!(relayed, session);
    tokio::select! {
        heard = &mut session => {
            // The goodbye tells the aggregator how it ended.
            drop(timeout(GOODBYE, relayed).await);
            heard
        }
        ended = &mut relayed => match ended {
            // What came before the end is still to be read.
            Ok(()) => session.await,
            Err(status) => match timeout(LAST_WORDS, session).await {
                Ok(Ok(heard)) => Ok(heard),
                Ok(Err(_)) | Err(_) => Err(Broken::Relay(status)),
            },
        },
    }
}

async fn talk(stream: tokio::io::DuplexStream, run: Run) -> Result<Heard<Output, Stderr>, Broken> {
    let handle =
        connection::open(stream, &run.host_key, run.user.as_deref().unwrap_or(ssh::OWN_USER), Arc::default())
            .await?;
    let (read, write) = handle.channel_open_session().await?.split();
    let heard = converse(read, &write, &run).await;
    drop(connection::close(&handle).await);
    heard
}

async fn converse(
    read: ChannelReadHalf,
    write: &ChannelWriteHalf<Msg>,
    run: &Run,
) -> Result<Heard<Output, Stderr>, Broken> {
    for (name, value) in variables() {
        write.set_env(false, name, value).await?;
    }
    let mut typing = Typing::begin(run.terminal).map_err(Broken::Terminal)?;
    if run.terminal {
        let kind = std::env::var("TERM").unwrap_or_default();
        let ((columns, rows), modes) = (typing.size().now(), typing.modes());
        write.request_pty(false, &kind, columns, rows, 0, 0, &modes).await?;
    } else {
        write.set_env(false, ssh::TELL_TAKEN, "1").await?;
    }
    write.set_env(false, ssh::TELLS_TAKEN, "1").await?;
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
            Ok(()) | Err(_) => pending().await,
        }
    };
    let (written, passed_on) = watch::channel(0);
    let mut writing = Writing::new(stdout(), tokio::io::stderr(), written);
    // What the process itself says there comes through its terminal, and so for stdout.
    if run.terminal && !(typing.is_raw() && terminal::stderr_is_terminal()) {
        writing = writing.with_plain_errors();
    }
    tokio::select! {
        outcome = receive(read, taken, writing) => outcome,
        broken = sending => Err(broken),
        never = tell_sizes(write, typing.size()) => match never {},
        never = tell_written(write, passed_on) => match never {},
    }
}

/// Tells each new size of our terminal.
async fn tell_sizes(write: &ChannelWriteHalf<Msg>, size: &mut Size) -> Infallible {
    loop {
        let (columns, rows) = size.next().await;
        if write.window_change(columns, rows, 0, 0).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// Tells how much was passed on of what the process says.
async fn tell_written(write: &ChannelWriteHalf<Msg>, mut passed_on: watch::Receiver<u64>) -> Infallible {
    let mut told = 0;
    loop {
        let more = passed_on.wait_for(|bytes| *bytes >= told + TELL_EVERY).await.map(|bytes| *bytes);
        match more {
            Ok(bytes) => told = bytes,
            Err(_) => pending().await,
        }
        if write.extended_data_bytes(ssh::TAKEN, ssh::taken(told)).await.is_err() {
            pending::<()>().await;
        }
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
    write: &ChannelWriteHalf<Msg>,
    mut taken: watch::Receiver<u64>,
    typed: bool,
) -> Result<(), Broken> {
    let mut stdin = stdin();
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

/// From the process to stdout and stderr, until it has ended and all that it has said is here.
async fn receive<O, E>(
    mut read: ChannelReadHalf,
    taken: watch::Sender<u64>,
    mut writing: Writing<O, E>,
) -> Result<Heard<O, E>, Broken>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut outcome = None;
    loop {
        let message = tokio::select! {
            message = read.wait(), if writing.has_room() => message,
            written = writing.step() => match written {
                Ok(()) => continue,
                Err(error) => return not_written(error).map(|outcome| Heard { outcome, writing: writing.gone() }),
            },
        };
        match message {
            Some(ChannelMsg::Data { data }) => writing.push(Stream::Output, &data),
            Some(ChannelMsg::ExtendedData { data, ext: ssh::STDERR }) => writing.push(Stream::Errors, &data),
            Some(ChannelMsg::ExtendedData { data, ext: ssh::TAKEN }) => {
                if let Some(bytes) = ssh::bytes_taken(&data) {
                    taken.send_replace(bytes);
                }
            }
            Some(ChannelMsg::ExitStatus { exit_status }) => outcome = Some(Outcome::Code(exit_status)),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                outcome = Some(Outcome::Signal(name(&signal_name)));
            }
            // Only to run something was an answer wanted.
            Some(ChannelMsg::Failure) => return Err(Broken::NotRun),
            Some(ChannelMsg::Close) | None => break,
            Some(_) => {}
        }
    }
    let Some(outcome) = outcome else {
        drop(timeout(LAST_WORDS, writing.finish()).await);
        return Err(Broken::Cut);
    };
    Ok(Heard { outcome, writing })
}

fn not_written(error: io::Error) -> Result<Outcome, Broken> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(Outcome::ClosedPipe),
        // Half of it would look like all of it.
        _ => Err(Broken::Output(error)),
    }
}

fn name(signal: &Sig) -> String {
    let name = match signal {
        Sig::Custom(name) => name.split('@').next().unwrap_or_default().to_owned(),
        known => format!("{known:?}"),
    };
    name.chars().filter(char::is_ascii_alphanumeric).take(16).collect()
}
