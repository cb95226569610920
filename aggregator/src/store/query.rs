//! The reader: history up to a fixed sequence, then what comes after it, in one cursor.
//!
//! A reader holds a snapshot only while it works and its caller keeps up. A slow caller delays nobody: it is only told
//! what expired before it came.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinHandle;

use super::history::{History, Outcome};
use super::live::{self, Next, Step};
use super::table::{Shared, Table};
use crate::record::{Chunk, Cursor, Read};
use skpr_proto::UnixNanos;
use std::sync::atomic::Ordering;

/// How many readers work on files at once; further ones wait their turn, which is over when their caller is slow.
pub(super) const READERS: usize = 8;
/// Chunks read ahead: with the chunks' 256 KiB about 1 MiB for each reader.
const READ_AHEAD: usize = 4;

/// Why reading ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the store is closing")]
    Closed,
    #[error("the records cannot be read")]
    Failed,
}

/// A read in progress. Dropping it ends its work.
pub struct Reader {
    shared: Arc<Shared>,
    table: Arc<Table>,
    request: Arc<Read>,
    head: watch::Receiver<u64>,
    /// Where what is told beyond history ends: with what was there at the start. None: nowhere.
    until: Option<u64>,
    state: State,
}

enum State {
    Start,
    History { horizon: u64, after: Option<(UnixNanos, u64)>, last: Option<usize>, work: Option<Work> },
    Live { after: u64, told: Option<u64>, skipped: u64, work: Option<JoinHandle<Step>> },
    Done,
}

struct Work {
    chunks: mpsc::Receiver<Chunk>,
    task: JoinHandle<Outcome>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.counters.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, request: Read) -> Reader {
        shared.counters.readers.fetch_add(1, Ordering::Relaxed);
        let table = shared.table(&request.environment);
        let head = table.head.subscribe();
        let until = (!request.follow).then(|| table.lock().head);
        Reader { shared, table, request: Arc::new(request), head, until, state: State::Start }
    }

    /// The next piece; `None` when everything was given, which does not happen to a follower. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Chunk, ReadError>> {
        loop {
            if self.shared.closing.is_cancelled() && !matches!(self.state, State::Done) {
                self.state = State::Done;
                return Some(Err(ReadError::Closed));
            }
            let step = match &self.state {
                State::Start => {
                    self.state = self.start();
                    continue;
                }
                State::History { .. } => self.history().await,
                State::Live { .. } => self.live().await,
                State::Done => return None,
            };
            match step {
                Ok(Some(chunk)) => return Some(Ok(chunk)),
                Ok(None) => {}
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
    }

    fn start(&self) -> State {
        let head = self.table.lock().head;
        match self.request.cursor {
            // None of what is there is wanted.
            None if self.request.last == Some(0) && self.request.follow => live_after(head),
            None if self.request.last == Some(0) => State::Done,
            None => State::History { horizon: head, after: None, last: self.request.last, work: None },
            Some(Cursor::History { horizon, order_time, sequence }) => State::History {
                horizon: horizon.min(head),
                after: Some((order_time, sequence)),
                last: None,
                work: None,
            },
            Some(Cursor::Live { after }) if self.goes_on() => live_after(after.min(head)),
            Some(Cursor::Live { .. }) => State::Done,
        }
    }

    /// Whether anything is told beyond history.
    fn goes_on(&self) -> bool {
        self.request.follow || (self.request.to_now && self.request.cursor.is_some())
    }

    async fn history(&mut self) -> Result<Option<Chunk>, ReadError> {
        let State::History { horizon, after, last, work } = &mut self.state else { return Ok(None) };
        let Some(working) = work else {
            let permit = permit(&self.shared).await?;
            let history = History {
                shared: Arc::clone(&self.shared),
                table: Arc::clone(&self.table),
                request: Arc::clone(&self.request),
                horizon: *horizon,
                after: *after,
                last: *last,
            };
            let (out, chunks) = mpsc::channel(READ_AHEAD);
            let runtime = tokio::runtime::Handle::current();
            let task = tokio::task::spawn_blocking(move || {
                let outcome = history.run(out, &runtime);
                drop(permit);
                outcome
            });
            *work = Some(Work { chunks, task });
            return Ok(None);
        };
        if let Some(chunk) = working.chunks.recv().await {
            if let Cursor::History { order_time, sequence, .. } = chunk.cursor {
                *after = Some((order_time, sequence));
                // What is left lies within the newest.
                *last = None;
            }
            return Ok(Some(chunk));
        }
        let outcome = (&mut working.task).await.map_err(|_panicked| ReadError::Failed)?;
        match outcome {
            Outcome::Paused => *work = None,
            Outcome::Finished => {
                let horizon = *horizon;
                self.state = if self.goes_on() { live_after(horizon) } else { State::Done };
            }
        }
        Ok(None)
    }

    async fn live(&mut self) -> Result<Option<Chunk>, ReadError> {
        let State::Live { after, told, skipped, work } = &mut self.state else { return Ok(None) };
        let step = if let Some(task) = work {
            let step = task.await.map_err(|_panicked| ReadError::Failed)?;
            *work = None;
            step
        } else if self.until.is_some_and(|until| *after >= until) {
            self.state = State::Done;
            return Ok(None);
        } else if *self.head.borrow_and_update() <= *after {
            if told.is_some() {
                tokio::select! {
                    () = self.shared.closing.cancelled() => {}
                    // The table, which is held here, keeps the sender.
                    _ = self.head.changed() => {}
                }
                return Ok(None);
            }
            Step { after: *after, ..Step::default() }
        } else {
            match live::find(&self.table, *after) {
                Next::Stretches(stretches) if stretches.is_empty() => return Err(ReadError::Failed),
                Next::Stretches(stretches) => live::read_stretches(&stretches, &self.request, *after),
                Next::Files(files, up_to) => {
                    let permit = permit(&self.shared).await?;
                    let (shared, request, after) =
                        (Arc::clone(&self.shared), Arc::clone(&self.request), *after);
                    *work = Some(tokio::task::spawn_blocking(move || {
                        let step = live::read_files(&shared, &files, &request, after, up_to);
                        drop(permit);
                        step
                    }));
                    return Ok(None);
                }
            }
        };
        *after = step.after;
        *skipped += step.skipped;
        let quiet = step.records.is_empty() && told.is_some_and(|told| !live::is_progress(told, step.after));
        if quiet && *skipped == 0 {
            // Others have their turn although nothing was waited for.
            tokio::task::consume_budget().await;
            return Ok(None);
        }
        *told = Some(step.after);
        let cursor = Cursor::Live { after: step.after };
        Ok(Some(Chunk { records: step.records, cursor, live: true, skipped: std::mem::take(skipped) }))
    }
}

fn live_after(after: u64) -> State {
    State::Live { after, told: None, skipped: 0, work: None }
}

async fn permit(shared: &Shared) -> Result<OwnedSemaphorePermit, ReadError> {
    Arc::clone(&shared.reading).acquire_owned().await.map_err(|_closed| ReadError::Closed)
}
