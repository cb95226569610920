//! Reading a range of an environment's records or events, and what comes from now on.
//!
//! Invariants: the cursor moves on only after what is before it was written to stdout, so a cut connection neither
//! loses nor repeats anything; nothing that was received is held back while waiting for more.

use crate::client::Client;
use crate::error::Error;
use crate::link::{Cut, Link};
use crate::output::Output;
use crate::time;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use skpr_proto::{UnixNanos, v1};
use tonic::{Status, Streaming};

/// What is read: log records, or events.
pub(super) trait Source {
    type Answer;
    async fn call(&self, client: &Client) -> Result<Streaming<Self::Answer>, Status>;
    /// What every answer has beside its content.
    fn frame(answer: &mut Self::Answer) -> Frame;
    /// Keeps the content of an answer until [`flush`](Source::flush).
    fn push(&mut self, answer: Self::Answer);
    fn is_full(&self) -> bool;
    /// Writes all that was pushed.
    fn flush(&mut self, output: &Output) -> Result<(), Error>;
    /// The next call goes on after this.
    fn resume(&mut self, cursor: Bytes);
    /// Whose environment it is.
    fn belongs_to(&mut self, namespace: String);
}

/// What an answer says about itself.
#[derive(Default)]
pub(super) struct Frame {
    pub cursor: Bytes,
    pub skipped: u64,
    pub oldest_kept: Option<v1::Instant>,
    pub namespace: Option<String>,
    /// It has no content.
    pub empty: bool,
}

/// One command, over as many connections as it takes.
pub(super) struct Reading<'a, S> {
    pub source: S,
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub zone: TimeZone,
    pub output: &'a Output,
    pub link: Link<'a>,
    /// The cursor behind what is pushed.
    pub pending: Option<Bytes>,
    /// Answers with content so far.
    pub heard: u64,
}

impl<S: Source> Reading<'_, S> {
    /// Reads to the end of the range. When it is left early, it may be gone on with: nothing that was received is unwritten then.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        while let Err(cut) = self.connection().await {
            self.link.wait(cut).await?;
        }
        Ok(())
    }

    /// From connecting to the end of the stream.
    async fn connection(&mut self) -> Result<(), Cut> {
        let client = self.link.client().await?;
        let mut stream = self.source.call(&client).await.map_err(|status| self.link.cut(&status))?;
        let mut first = true;
        loop {
            let next = match stream.next().now_or_never() {
                Some(next) => next,
                // Nothing more is here at the moment: what is, must be seen before the wait.
                None => {
                    self.written()?;
                    stream.next().await
                }
            };
            match next {
                Some(Ok(mut answer)) => {
                    let frame = S::frame(&mut answer);
                    if std::mem::take(&mut first) {
                        self.connected(&frame);
                    }
                    self.take(frame, answer)?;
                }
                Some(Err(status)) => {
                    self.written()?;
                    return Err(self.link.cut(&status));
                }
                None => {
                    self.written()?;
                    if self.follow {
                        return Err(Cut::Closed);
                    }
                    self.link.keep(client);
                    return Ok(());
                }
            }
        }
    }

    fn connected(&mut self, frame: &Frame) {
        let first_of_all = self.link.answered();
        // The cursor belongs to this environment, also when by then another of its name is the one that runs.
        if let Some(namespace) = &frame.namespace {
            self.source.belongs_to(namespace.clone());
        }
        let oldest = frame.oldest_kept.map(UnixNanos::from);
        if let (true, Some(oldest), Some(since)) = (first_of_all, oldest, self.since)
            && oldest > UnixNanos::from(since)
        {
            let oldest = Timestamp::from_nanosecond(i128::from(oldest.0)).unwrap_or_default();
            self.output.note(&format!("nothing before {} is kept", time::show(oldest, &self.zone)));
        }
    }

    fn take(&mut self, frame: Frame, answer: S::Answer) -> Result<(), Cut> {
        if frame.skipped > 0 {
            self.written()?;
            self.output.warn(&format!("{} records expired before they could be sent", frame.skipped));
        }
        self.heard += u64::from(!frame.empty);
        self.source.push(answer);
        if !frame.cursor.is_empty() {
            self.pending = Some(frame.cursor);
        }
        if self.source.is_full() { self.written() } else { Ok(()) }
    }

    /// Writes what is buffered; then, and only then, moves the cursor.
    fn written(&mut self) -> Result<(), Cut> {
        self.source.flush(self.output).map_err(Cut::Final)?;
        if let Some(cursor) = self.pending.take() {
            self.source.resume(cursor);
        }
        Ok(())
    }
}
