//! One process that was started by `pods/exec`: what moves its bytes, until nothing more comes.
//!
//! * Reading and writing are apart: one that does not read its input still has its output read, and can be signalled.
//! * It runs only when we have heard that it is there and have let it go: one that was given up never runs.
//! * None of its input goes before that: a terminal would show it, and a second attempt would miss it.

use super::control::{self, Control};
use super::frames::{self, Frame};
use super::hearing::{Hearing, Voice};
use super::note::{Note, Notes, Numbers, Piece, Secret};
use super::outcome::{not_started, why_not};
use super::pod::Pod;
use super::script;
use bytes::BytesMut;
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use skpr_agent::runtime::{Size, StartError, Started};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender, pipe};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

/// A shell is there when kubelet and runtime have started it: 100 ms, and much more on a node that is busy.
const THERE_WITHIN: Duration = Duration::from_secs(30);
/// What is kept of what a program says that ends without having been there.
const MOST_SAID: usize = 64 << 10;
/// Sent at once: what the API server itself sends.
const READ: usize = 32 << 10;
/// Often enough for load balancers before an API server, which forget connections that are silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Signals that wait while one is sent; a client that sends more has sent enough.
const SIGNALS: usize = 16;

pub(super) type Outgoing = Pin<Box<dyn Sink<Message, Error = Error> + Send>>;
pub(super) type Incoming = Pin<Box<dyn Stream<Item = Result<Message, Error>> + Send>>;

/// What is connected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streams {
    Pipes,
    Terminal(Size),
    /// Pipes, and no stderr: what it writes answers what it reads.
    Lines,
}

/// A connection on which words are run.
pub(super) struct Opened {
    pub(super) to: Outgoing,
    pub(super) from: Incoming,
}

/// A process that runs.
pub(super) struct Begun {
    to: Outgoing,
    from: Incoming,
    by: By,
    /// What was on its stderr already.
    said: Vec<Frame>,
}

/// What runs it.
pub(super) enum By {
    Shell(Secret, Numbers),
    /// No shell: this program is run as it is.
    Nothing {
        program: String,
    },
}

impl Opened {
    pub(super) fn new<S>(stream: S) -> Opened
    where
        S: Sink<Message, Error = Error> + Stream<Item = Result<Message, Error>> + Send + 'static,
    {
        let (to, from): (SplitSink<S, Message>, SplitStream<S>) = stream.split();
        Opened { to: Box::pin(to), from: Box::pin(from) }
    }

    /// Of a program that runs already.
    pub(super) fn unheard(self, program: String) -> Begun {
        Begun { to: self.to, from: self.from, by: By::Nothing { program }, said: vec![] }
    }

    /// Waits until the script is there, and lets it go; none where there is no shell to run it.
    pub(super) async fn let_go(self, secret: Secret, streams: Streams) -> Result<Option<Begun>, StartError> {
        let there = timeout(THERE_WITHIN, self.there(secret, streams)).await;
        there.map_err(|_| io::Error::other("the container does not start it"))?
    }

    async fn there(mut self, secret: Secret, streams: Streams) -> Result<Option<Begun>, StartError> {
        let mut notes = Notes::of(&secret);
        let (mut written, mut errors, mut said) = (BytesMut::new(), BytesMut::new(), vec![]);
        loop {
            let message = self.from.next().await.unwrap_or(Err(Error::ConnectionClosed));
            match frames::read(message.map_err(|error| lost(&error))?) {
                Some(Frame::Status(status)) => {
                    let written = [written, errors].concat();
                    let why = why_not(&status, &String::from_utf8_lossy(&written));
                    return match not_started(&why, "sh") {
                        StartError::NotFound(_) | StartError::NotRunnable(_) => Ok(None),
                        other => Err(other),
                    };
                }
                Some(Frame::Output(bytes)) => {
                    for piece in notes.take(bytes) {
                        match piece {
                            Piece::Note(Note::Here(numbers)) => {
                                self.go(streams).await.map_err(|error| lost(&error))?;
                                let by = By::Shell(secret, numbers);
                                return Ok(Some(Begun { to: self.to, from: self.from, by, said }));
                            }
                            Piece::Note(Note::Going | Note::Ended(_)) => {}
                            Piece::Text(text) => written.extend_from_slice(&text),
                        }
                    }
                }
                // What comes by another way may overtake it.
                Some(Frame::Errors(bytes)) => {
                    errors.extend_from_slice(&bytes);
                    said.push(Frame::Errors(bytes));
                }
                Some(Frame::Closed) => return Err(lost(&Error::ConnectionClosed)),
                Some(Frame::Pong(_)) | None => {}
            }
            if written.len().max(errors.len()) > MOST_SAID {
                return Err(io::Error::other("`sh` of the image does not do what it is told").into());
            }
        }
    }

    async fn go(&mut self, streams: Streams) -> Result<(), Error> {
        // Whatever shows it finds its terminal in the right size.
        if let Streams::Terminal(size) = streams {
            self.to.send(frames::size(size)).await?;
        }
        self.to.send(frames::input(script::GO)).await
    }
}

/// What a process needs here. It is there before the process is: one that cannot be reached must not run.
pub(super) struct Means {
    streams: Streams,
    input: (Sender, Receiver),
    output: (Sender, Receiver),
    errors: Option<(Sender, Receiver)>,
    place: OwnedSemaphorePermit,
}

impl Means {
    pub(super) fn get(streams: Streams, place: OwnedSemaphorePermit) -> io::Result<Means> {
        let errors = match streams {
            Streams::Pipes => Some(pipe()?),
            Streams::Terminal(_) | Streams::Lines => None,
        };
        Ok(Means { streams, input: pipe()?, output: pipe()?, errors, place })
    }
}

/// Moves the bytes of a process.
pub(super) fn run(pod: Pod, begun: Begun, means: Means) -> Started {
    let Begun { to, from, by, said } = begun;
    let Means { streams, input: (input, stdin), output: (output, stdout), errors, place } = means;
    let (stderr, errors) = errors.unzip();
    let (tell, exit) = watch::channel(None);
    let (signals, signalled) = mpsc::channel(SIGNALS);
    let (resize, sizes) = match streams {
        Streams::Terminal(size) => {
            let (resize, mut sizes) = watch::channel(size);
            if matches!(by, By::Nothing { .. }) {
                // It has not been told yet.
                sizes.mark_changed();
            }
            (Some(resize), Some(sizes))
        }
        Streams::Pipes | Streams::Lines => (None, None),
    };
    let (lost, over, pulse) = (CancellationToken::new(), CancellationToken::new(), Arc::<Pulse>::default());
    let mut tasks = JoinSet::new();
    let secret = match &by {
        By::Shell(secret, _) => Some(secret),
        By::Nothing { .. } => None,
    };
    let hearing = Hearing {
        output: Voice::of_output(output, secret),
        errors: stderr.map(|pipe| Voice::of_errors(pipe, secret)),
        program: match &by {
            By::Shell(..) => None,
            By::Nothing { program } => Some(program.clone()),
        },
        pulse: Arc::clone(&pulse),
        lost: lost.clone(),
        over: over.clone(),
    };
    tasks.spawn(async move {
        hearing.run(said, from, tell).await;
        drop(place);
    });
    tasks.spawn(write(to, stdin, sizes, pulse));
    match by {
        By::Shell(secret, numbers) => {
            let control = Control::new(pod, secret, numbers);
            tasks.spawn(control.run(signalled, lost, over.clone().drop_guard()));
        }
        By::Nothing { .. } => {
            tasks.spawn(control::without_shell(signalled, exit.clone(), over.clone().drop_guard()));
        }
    }
    Started { input, output: stdout, errors, exit, size: resize, signals, over, tasks }
}

/// How far the API server is with what it was sent.
#[derive(Debug)]
pub(super) struct Pulse {
    sent: AtomicU64,
    /// So many it has read when it has answered last; more than there are before it has answered at all.
    read: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { sent: AtomicU64::new(0), read: AtomicU64::new(u64::MAX) }
    }
}

impl Pulse {
    pub(super) fn answered(&self, read: u64) {
        self.read.store(read, Ordering::Relaxed);
    }

    /// Whether it would answer at once if it were there. One that has something to read may wait for the process, and one
    /// that has never answered may be behind something that lets no ping through.
    pub(super) fn is_expected(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == self.read.load(Ordering::Relaxed)
    }
}

/// From what its client has sent, and what has become of its terminal, to Kubernetes.
async fn write(
    mut to: Outgoing,
    mut stdin: Receiver,
    mut sizes: Option<watch::Receiver<Size>>,
    pulse: Arc<Pulse>,
) {
    let terminal = sizes.is_some();
    let mut buffer = BytesMut::new();
    // None at once: what the API server has not read when it closes takes what it has sent with it.
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = false;
    loop {
        buffer.reserve(READ);
        let message = tokio::select! {
            biased;
            Some(size) = changed(&mut sizes) => Some(frames::size(size)),
            read = stdin.read_buf(&mut buffer), if !ended => match read {
                Ok(1..) => Some(frames::input(&buffer.split())),
                Ok(0) | Err(_) => {
                    ended = true;
                    // A terminal is told by what is typed, and goes on.
                    if terminal {
                        continue;
                    }
                    Some(frames::end_of_input())
                }
            },
            _ = pings.tick() => None,
        };
        let message = match message {
            Some(message) => {
                pulse.sent.fetch_add(1, Ordering::Relaxed);
                message
            }
            None => frames::ping(pulse.sent.load(Ordering::Relaxed)),
        };
        if let Err(error) = to.send(message).await {
            // Whoever hears it hears of that, too.
            return tracing::debug!(%error, "a process is not reached any more");
        }
    }
}

/// The next size of the terminal; none where there is no terminal, or nobody who could change it.
async fn changed(sizes: &mut Option<watch::Receiver<Size>>) -> Option<Size> {
    let sizes = sizes.as_mut()?;
    sizes.changed().await.ok()?;
    Some(*sizes.borrow_and_update())
}

fn lost(error: &Error) -> StartError {
    tracing::debug!(%error, "a process is not heard of any more");
    io::Error::other("the connection to Kubernetes broke").into()
}
