//! Usage over time, on disk: takes rows, writes and seals them on a thread of its own, and answers queries.
//!
//! Taking rows never waits for the disk. What is lost by a crash is what came after the last flush.

use super::counts::Counts;
use super::files::Limits;
use super::keeper::Keeper;
use super::pending::Pending;
use super::points::{Points, Query, ReadError};
use super::read::Reader;
use super::row::Row;
use crate::environment::EnvironmentKey;
use crate::store::OpenError;
use crate::store::disk::Disk;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// How often rows are written: what a crash may lose.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Reads at once: each takes a core and some tens of MiB. More wait for their turn.
const READERS: usize = 2;
/// Commands that wait for the thread: a stop's close, and what tests ask. It looks after each piece of its work, which
/// takes at most some seconds; whoever comes then waits on a thread for blocking.
const COMMANDS: usize = 8;

/// How history is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub directory: PathBuf,
    pub keep_age: Duration,
    pub keep_bytes_per_environment: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            directory: PathBuf::from("usage"),
            keep_age: Duration::from_secs(30 * 24 * 60 * 60),
            keep_bytes_per_environment: 2 << 30,
        }
    }
}

/// History. Clones are handles to the same one.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    options: Options,
    pending: Arc<Pending>,
    counts: Arc<Counts>,
    commands: SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    failed: CancellationToken,
    readers: Arc<Semaphore>,
}

enum Command {
    Flush(oneshot::Sender<()>),
    Close,
}

/// Tells of a panic of the thread that holds it.
struct Watched(CancellationToken);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

impl History {
    /// Finishes what a crash has left, and starts the thread. Blocks.
    pub fn open(options: Options, counts: Arc<Counts>) -> Result<History, OpenError> {
        History::open_on(Disk::default(), options, counts)
    }

    fn open_on(disk: Disk, options: Options, counts: Arc<Counts>) -> Result<History, OpenError> {
        let path = options.directory.clone();
        let failed = |action| {
            let path = path.clone();
            move |source| OpenError { action, path, source }
        };
        let pending = Arc::new(Pending::new(Arc::clone(&counts)));
        let limits = Limits { age: options.keep_age, bytes: options.keep_bytes_per_environment };
        let keeper =
            Keeper::open(disk, options.directory.clone(), limits, Arc::clone(&pending), Arc::clone(&counts))
                .map_err(failed("open usage history"))?;
        let (commands, inbox) = sync_channel(COMMANDS);
        let panicked = CancellationToken::new();
        let watched = Watched(panicked.clone());
        let run = move || {
            let _watched = watched;
            run(keeper, &inbox);
        };
        let thread = std::thread::Builder::new().name("usage-keeper".to_owned()).spawn(run);
        let thread = Mutex::new(Some(thread.map_err(failed("start a thread for"))?));
        let readers = Arc::new(Semaphore::new(READERS));
        Ok(History(Arc::new(Inner { options, pending, counts, commands, thread, failed: panicked, readers })))
    }

    /// Takes rows. Those of one instance have ascending times.
    pub fn add(&self, rows: Vec<(EnvironmentKey, Row)>) {
        self.0.pending.add(rows);
    }

    /// Reads on a thread for blocking, with at most one other read.
    pub async fn read(&self, query: Query) -> Result<Points, ReadError> {
        let permit =
            Arc::clone(&self.0.readers).acquire_owned().await.map_err(|_closed| ReadError::Closed)?;
        let history = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            history.read_now(&query)
        });
        read.await.unwrap_or(Err(ReadError::Closed))
    }

    /// Reads. Blocks.
    pub fn read_now(&self, query: &Query) -> Result<Points, ReadError> {
        let Inner { options, pending, counts, .. } = &*self.0;
        let age = i64::try_from(options.keep_age.as_millis()).unwrap_or(i64::MAX);
        let oldest = now().saturating_sub(age).max(0);
        Reader { root: &options.directory, pending, counts, oldest }.read(query)
    }

    /// Writes what waits now, and returns when that is done or has failed.
    pub async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        self.command(Command::Flush(reply)).await;
        // No answer: the thread is gone, and nothing is left to wait for.
        drop(done.await);
    }

    async fn command(&self, command: Command) {
        let commands = self.0.commands.clone();
        // It only fails when the thread is gone.
        drop(tokio::task::spawn_blocking(move || commands.send(command)).await);
    }

    /// Resolves when the thread has panicked: nothing is kept any more.
    pub async fn failed(&self) {
        self.0.failed.cancelled().await;
    }

    /// Writes what waits and ends the thread. Idempotent.
    pub async fn close(&self) {
        self.command(Command::Close).await;
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && !tokio::task::spawn_blocking(|| thread.join().is_ok()).await.unwrap_or(false)
        {
            tracing::error!("the thread of usage history ended abnormally");
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn run(mut keeper: Keeper, inbox: &Receiver<Command>) {
    let mut flush_at = Instant::now() + FLUSH_EVERY;
    loop {
        let flush = |keeper: &mut Keeper| {
            keeper.flush(now());
            Instant::now() + FLUSH_EVERY
        };
        if Instant::now() >= flush_at {
            flush_at = flush(&mut keeper);
        }
        let idle = !keeper.step(now());
        let wait = if idle { flush_at.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        match inbox.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Command::Flush(reply)) => {
                flush_at = flush(&mut keeper);
                // Whoever asked may be gone.
                reply.send(()).ok();
            }
            Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => {
                flush(&mut keeper);
                return;
            }
        }
    }
}
