//! Signals for a process, and its end when nobody is there for it any more.
//!
//! * `pods/exec` has no signals: a shell of the container sends them, one for all that a process is sent. It is started at
//!   the first, and as long as it is there, so is the container that the numbers mean something in.
//! * A process is ended as every other: hung up, asked to end, killed; and what it has started with it, as far as that is
//!   in its group.

use super::frames::{self, Frame};
use super::note::{Numbers, Secret};
use super::pod::Pod;
use super::process::{Opened, Streams};
use super::script;
use bytes::BytesMut;
use futures::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use skpr_agent::runtime::{ASKING, Exit, LOOK_EVERY, StartError};
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The patience with what is ended while the aggregator stops.
const STOPPING: Duration = Duration::from_millis(1500);
/// The shell that sends them takes some 100 ms to start.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// A shell that could not be reached is tried again then.
const AGAIN: Duration = Duration::from_secs(1);
/// One that cannot be reached so often in a row has no container any more, or no Kubernetes.
const ATTEMPTS: u32 = 3;
/// It answers in lines of two bytes.
const LONGEST_ANSWER: usize = 64;

/// What controls one process.
pub(super) struct Control {
    pod: Pod,
    secret: Secret,
    numbers: Numbers,
    shell: Option<Shell>,
    /// Since it was reached last.
    failed: u32,
}

/// The shell that sends signals.
struct Shell {
    lines: Opened,
    answers: BytesMut,
    /// Lines that it has not answered yet; of one, nobody may have waited for the answer.
    unanswered: u32,
}

impl Control {
    pub(super) fn new(pod: Pod, secret: Secret, numbers: Numbers) -> Control {
        Control { pod, secret, numbers, shell: None, failed: 0 }
    }

    /// Sends signals until nobody is there who could, or the process is `lost`; ends it then. `over` is when it has.
    pub(super) async fn run(
        mut self,
        mut signals: mpsc::Receiver<Signal>,
        lost: CancellationToken,
        over: DropGuard,
    ) {
        let sending = async {
            while let Some(signal) = signals.recv().await {
                if let Err(error) = self.say(Some(signal)).await {
                    tracing::debug!(%error, "a signal was not delivered");
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = lost.cancelled() => {}
        }
        self.end().await;
        drop(over);
    }

    async fn end(&mut self) {
        self.failed = 0;
        for (signal, patience) in ASKING {
            let patience = if self.pod.stopping.is_cancelled() { patience.min(STOPPING) } else { patience };
            if self.ask(signal, patience).await {
                return;
            }
        }
        if let Err(error) = self.say(Some(Signal::KILL)).await {
            tracing::debug!(%error, "a process may go on");
        }
    }

    /// Whether nothing is left of it after a signal and the time that it is given, or nothing can be done about it.
    async fn ask(&mut self, signal: Signal, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        // What is stopped would see it only when it goes on.
        let mut signals = [signal, Signal::CONT].into_iter().peekable();
        while Instant::now() < deadline {
            match self.say(signals.peek().copied()).await {
                Ok(false) => return true,
                Ok(true) => {
                    if signals.next().is_none() {
                        sleep(LOOK_EVERY).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a process may go on");
                    if self.failed >= ATTEMPTS {
                        return true;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
        false
    }

    /// Sends a signal, or looks alone; whether anything is left of the process.
    async fn say(&mut self, signal: Option<Signal>) -> Result<bool, StartError> {
        let was_there = self.shell.is_some();
        let said = self.say_once(signal).await;
        // What nobody has used for a while may have been cut off, and a second one of a signal is the lesser harm.
        if was_there && said.is_err() { self.say_once(signal).await } else { said }
    }

    async fn say_once(&mut self, signal: Option<Signal>) -> Result<bool, StartError> {
        let answered = timeout(ANSWERED_WITHIN, self.answer(signal)).await;
        let answer = answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        match answer {
            // With the pod, all that it has run.
            Ok(_) | Err(StartError::Gone) => self.failed = 0,
            Err(_) => {
                self.failed += 1;
                self.shell = None;
            }
        }
        if matches!(answer, Err(StartError::Gone)) { Ok(false) } else { answer }
    }

    async fn answer(&mut self, signal: Option<Signal>) -> Result<bool, StartError> {
        let shell = match self.shell.take() {
            Some(shell) => shell,
            None => Shell::open(&self.pod, &self.secret, self.numbers).await?,
        };
        Ok(self.shell.insert(shell).ask(&script::line(signal)).await?)
    }
}

impl Shell {
    async fn open(pod: &Pod, secret: &Secret, numbers: Numbers) -> Result<Shell, StartError> {
        let lines = pod.open(&script::signals(secret, numbers), Streams::Lines).await?;
        Ok(Shell { lines, answers: BytesMut::new(), unanswered: 0 })
    }

    async fn ask(&mut self, line: &[u8]) -> io::Result<bool> {
        self.unanswered += 1;
        // One that has found nothing reads nothing, and has said so.
        drop(self.lines.to.send(frames::input(line)).await);
        loop {
            while let Some(end) = self.answers.iter().position(|byte| *byte == b'\n') {
                let left = match self.answers.split_to(end + 1).trim_ascii() {
                    b"y" => true,
                    b"n" => false,
                    _ => return Err(io::Error::other("`sh` of the image does not do what it is told")),
                };
                self.unanswered = self.unanswered.saturating_sub(1);
                if self.unanswered == 0 || !left {
                    return Ok(left);
                }
            }
            let message = self.lines.from.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            match frames::read(message.map_err(io::Error::other)?) {
                Some(Frame::Output(bytes)) if self.answers.len() < LONGEST_ANSWER => {
                    self.answers.extend_from_slice(&bytes);
                }
                Some(Frame::Errors(_) | Frame::Pong(_)) | None => {}
                // It has nothing to end for.
                Some(Frame::Output(_) | Frame::Status(_) | Frame::Closed) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Where no shell could send them.
pub(super) async fn without_shell(
    mut signals: mpsc::Receiver<Signal>,
    mut exit: watch::Receiver<Option<Exit>>,
    over: DropGuard,
) {
    while signals.recv().await.is_some() {
        tracing::debug!("a signal was not delivered: the image has no `sh`");
    }
    // Only its stdin, which has ended, tells it that nobody is there.
    let patience = ASKING.iter().map(|(_, patience)| *patience).sum();
    drop(timeout(patience, exit.wait_for(Option::is_some)).await);
    drop(over);
}
