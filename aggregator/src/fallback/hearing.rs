//! What comes from a process: its outputs, and how it ended.
//!
//! * Its end is told when all that it has written has been put into its pipes.
//! * Nothing is concluded from what has not come before all has been read that comes.
//! * What is not read from its pipes stays with the API server, which then reads no more from the process.

use super::frames::{self, Frame};
use super::note::{Note, Notes, Piece, Secret};
use super::outcome::{Outcome, Witness, outcome};
use super::process::{Incoming, Pulse};
use bytes::Bytes;
use futures::StreamExt as _;
use skpr_agent::runtime::Exit;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// An API server that would answer and has not for so long is gone: it has had two pings.
const SILENT: Duration = Duration::from_secs(40);
/// The API server closes the connection after a status, at once.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// One that hears a process.
pub(super) struct Hearing {
    pub(super) output: Voice,
    /// None with a terminal, which shows both.
    pub(super) errors: Option<Voice>,
    /// What is run as it is; none where a shell runs it.
    pub(super) program: Option<String>,
    pub(super) pulse: Arc<Pulse>,
    /// Is cancelled here when nobody will hear of it any more though it may go on.
    pub(super) lost: CancellationToken,
    /// Is cancelled when it does not, as far as can be told.
    pub(super) over: CancellationToken,
}

/// One of its outputs.
pub(super) struct Voice {
    /// None once nobody reads it.
    pipe: Option<Sender>,
    /// None where no script says anything.
    notes: Option<Notes>,
    /// What comes is the process's own.
    its_own: bool,
    /// Something has come.
    heard: bool,
    /// How it ended, when the script has said that it had written all.
    ended: Option<u8>,
}

impl Voice {
    pub(super) fn of_output(pipe: Sender, secret: Option<&Secret>) -> Voice {
        // A terminal shows what has let the script go.
        let (notes, its_own) = (secret.map(Notes::of), secret.is_none());
        Voice { pipe: Some(pipe), notes, its_own, heard: false, ended: None }
    }

    pub(super) fn of_errors(pipe: Sender, secret: Option<&Secret>) -> Voice {
        Voice { its_own: true, ..Voice::of_output(pipe, secret) }
    }

    async fn hear(&mut self, bytes: Bytes) {
        self.heard = true;
        let Some(notes) = &mut self.notes else { return self.put(&bytes).await };
        for piece in notes.take(bytes) {
            match piece {
                Piece::Text(text) if self.its_own => self.put(&text).await,
                Piece::Text(_) | Piece::Note(Note::Here(_)) => {}
                Piece::Note(Note::Going) => self.its_own = true,
                Piece::Note(Note::Ended(code)) => self.ended = Some(code),
            }
        }
    }

    async fn put(&mut self, bytes: &[u8]) {
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(bytes).await.is_err()
        {
            // It goes on, and how it ends is still to be heard.
            self.pipe = None;
        }
    }

    /// What was taken for the beginning of a note.
    async fn rest(&mut self) {
        if let Some(rest) = self.notes.as_mut().map(Notes::rest) {
            self.put(&rest).await;
        }
    }
}

impl Hearing {
    /// Hears it out, first what has come already.
    pub(super) async fn run(
        mut self,
        said: Vec<Frame>,
        mut from: Incoming,
        tell: watch::Sender<Option<Exit>>,
    ) {
        let (mut said, mut status, mut told) = (said.into_iter(), None, false);
        loop {
            let frame = match said.next() {
                Some(frame) => Some(frame),
                None => match self.next(&mut from, status.is_some()).await {
                    Some(message) => frames::read(message),
                    None => break,
                },
            };
            match frame {
                Some(Frame::Output(bytes)) => self.output.hear(bytes).await,
                Some(Frame::Errors(bytes)) => {
                    let errors = self.errors.as_mut().unwrap_or(&mut self.output);
                    errors.hear(bytes).await;
                }
                Some(Frame::Status(first)) => {
                    status.get_or_insert(first);
                }
                Some(Frame::Pong(read)) => self.pulse.answered(read),
                Some(Frame::Closed) => break,
                None => {}
            }
            // What others have of its outputs may go on.
            if !told && let Some(code) = self.ended() {
                tell.send_replace(Some(Exit::Code(code)));
                told = true;
            }
        }
        self.output.rest().await;
        if let Some(errors) = &mut self.errors {
            errors.rest().await;
        }
        if told {
            return;
        }
        let written = self.output.heard || self.errors.as_ref().is_some_and(|errors| errors.heard);
        let witness = match &self.program {
            Some(program) => Witness::None { program, written },
            None => Witness::Shell,
        };
        let exit = match outcome(witness, status.as_deref()) {
            Outcome::Ended(exit) => exit,
            Outcome::NotStarted(error) => {
                self.say(&error.to_string()).await;
                Exit::Code(error.exit_code())
            }
            Outcome::Unknown(why) => {
                tracing::debug!(%why, "the end of a process is unknown");
                // Before it is said: nobody may read that.
                self.lost.cancel();
                self.say(&why).await;
                if self.program.is_none() {
                    self.over.cancelled().await;
                }
                Exit::Code(u8::MAX)
            }
        };
        tell.send_replace(Some(exit));
    }

    /// How it ended, when each of its outputs has been heard to its end.
    fn ended(&self) -> Option<u8> {
        let code = self.output.ended?;
        self.errors.as_ref().is_none_or(|errors| errors.ended == Some(code)).then_some(code)
    }

    /// What comes next; none when nothing more will.
    async fn next(&self, from: &mut Incoming, after_status: bool) -> Option<Message> {
        loop {
            let limit = if after_status { CLOSED_WITHIN } else { SILENT };
            match timeout(limit, from.next()).await {
                Ok(Some(Ok(message))) => return Some(message),
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "the connection of a process broke");
                    return None;
                }
                Ok(None) => return None,
                Err(_) if after_status || self.pulse.is_expected() => {
                    tracing::debug!(after_status, "Kubernetes has fallen silent");
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    /// Tells its user something.
    async fn say(&mut self, what: &str) {
        match &mut self.errors {
            Some(errors) => errors.put(format!("skpr: {what}\n").as_bytes()).await,
            None => self.output.put(format!("skpr: {what}\r\n").as_bytes()).await,
        }
    }
}

#[cfg(test)]
mod tests;
