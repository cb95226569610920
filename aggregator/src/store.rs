//! The log store: a write-ahead log with group commit, memory that is searchable at once, and sealed Parquet files by
//! environment and hour, listed by a manifest.
//!
//! - A record is acknowledged only after it is on stable storage, and is then found exactly once, whatever the process
//!   or the machine does: in memory or in one sealed file, never in both in one snapshot.
//! - A full or failing disk refuses appends; reads go on, and appends recover by themselves.
//! - Two threads change it: the writer owns the write-ahead log, the committed positions and the sequences; the keeper
//!   owns the manifest. Readers only take snapshots, and hold none while their caller is slow.

mod check;
pub(crate) mod codec;
mod compact;
pub(crate) mod disk;
mod history;
mod keeper;
mod lane;
mod live;
mod manifest;
mod memory;
mod merge;
mod positions;
mod query;
mod rebuild;
mod recover;
mod retention;
mod seal;
pub mod segment;
mod table;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skpr_proto::{Source, UnixNanos};
use tokio::sync::{mpsc, oneshot};

use crate::batch::Batch;
use crate::environment::{Claim, EnvironmentKey};
use crate::record::Read;
use keeper::Keeper;
use table::{Shared, Watched};
use writer::{Command, Writer};

pub use check::{Report, check};
pub use lane::Lane;
pub(crate) use positions::ORDER_SLACK;
pub use query::{ReadError, Reader};
pub use table::{Statistics, StorageFault};

/// How many commands wait for the writer: with batches of the agents' 256 KiB about 8 MiB. Past it `append` waits, and
/// through it the agents' connections.
const COMMANDS: usize = 32;

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub directory: PathBuf,
    /// Memory is sealed into files when it holds this much,
    pub seal_bytes: usize,
    /// or when its oldest record has been there this long. Twice `seal_bytes` may be in memory: one part being sealed
    /// while another fills. When both are full, appends wait for the disk.
    pub seal_age: Duration,
    pub keep_age: Duration,
    pub keep_bytes_per_environment: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            directory: PathBuf::from("data"),
            seal_bytes: 32 << 20,
            seal_age: Duration::from_secs(5 * 60),
            keep_age: Duration::from_secs(30 * 24 * 60 * 60),
            keep_bytes_per_environment: 20 << 30,
        }
    }
}

/// Why a store cannot be opened. Damaged data is no reason: what can be read is kept, the rest is reported.
#[derive(Debug, thiserror::Error)]
#[error("{action} `{}`", path.display())]
pub struct OpenError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: std::io::Error,
}

/// What became of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub kept: usize,
    /// Records that were in the store already.
    pub dropped: usize,
}

/// Why a batch was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The source was never remembered, or so long ago that it is forgotten. Trying again does not help.
    #[error("the source is not claimed by any environment")]
    Unclaimed,
    /// The disk failed or is full: nothing of the batch is stored. Trying again later may help.
    #[error("the store cannot write: {0}")]
    Storage(Arc<str>),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// The store. Clones are handles to the same one.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates the store and recovers what is in its write-ahead log. Blocks.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        Store::open_on(disk::Disk::default(), options)
    }

    fn open_on(disk: disk::Disk, options: Options) -> Result<Store, OpenError> {
        let recovered = recover::recover(disk, options)?;
        let shared = recovered.shared;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (work, jobs) = std::sync::mpsc::sync_channel(keeper::JOBS);
        let writer = Writer::new(Arc::clone(&shared), recovered.wal, recovered.positions, work);
        let keeper = Keeper::new(Arc::clone(&shared), recovered.manifest, commands.downgrade());
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|source| OpenError {
                action: "start a thread for",
                path: shared.options.directory.clone(),
                source,
            })
        };
        let (watched, watched_too) = (Watched(Arc::clone(&shared)), Watched(Arc::clone(&shared)));
        let write = move || {
            let _watched = watched;
            writer.run(inbox);
        };
        let keep = move || {
            let _watched = watched_too;
            // Gone before the others are told, so that nobody waits for an answer from here.
            let jobs = jobs;
            keeper.run(&jobs);
        };
        let threads = vec![spawn("store-writer", Box::new(write))?, spawn("store-keeper", Box::new(keep))?];
        Ok(Store(Arc::new(Inner { shared, commands, threads: Mutex::new(threads) })))
    }

    /// Remembers whose a source is: durable with the next commit. Idempotent, and cheap when nothing changed. It is
    /// forgotten when the source has not been used for `keep_age`.
    pub fn remember(&self, source: &Source, claim: &Claim) {
        if self.0.shared.remember(source, claim) {
            // A full queue will come to it anyway: the writer takes what is pending with each commit.
            drop(self.0.commands.try_send(Command::Wake));
        }
    }

    /// Forgets what was remembered of sources that are not kept and have not been used for a day: each run of a task is a source
    /// of its own.
    pub fn forget_unless(&self, is_kept: impl Fn(&Source) -> bool) {
        self.0.shared.forget_unless(table::now_seconds(), is_kept);
    }

    /// What was remembered of a source.
    pub fn claim(&self, source: &Source) -> Option<Claim> {
        self.0.shared.claimed(source).map(|labels| labels.claim.clone())
    }

    /// For appending batches of which several are under way at once.
    pub fn lane(&self) -> Lane {
        Lane::new(self.clone())
    }

    /// Appends one batch, of whose sources no other is under way: else see [`Store::lane`].
    pub async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        self.lane().append(batch).await
    }

    /// Reads history, and with `follow` what arrives. Nothing happens before the reader is first polled.
    pub fn read(&self, request: Read) -> Reader {
        Reader::new(Arc::clone(&self.0.shared), request)
    }

    /// The environments that have records, sorted.
    pub fn environments(&self) -> Vec<EnvironmentKey> {
        self.0.shared.environments()
    }

    /// The time of the oldest record that is kept.
    pub fn oldest(&self, environment: &EnvironmentKey) -> Option<UnixNanos> {
        self.0.shared.existing(environment)?.oldest()
    }

    /// Counters since the store was opened, and gauges now.
    pub fn statistics(&self) -> Statistics {
        self.0.shared.statistics()
    }

    /// Resolves when a thread of the store has panicked: nothing is stored any more, and only opening it again helps.
    pub async fn failed(&self) {
        self.0.shared.failed.cancelled().await;
    }

    /// The sequence of the environment's last record.
    pub fn head(&self, environment: &EnvironmentKey) -> u64 {
        self.0.shared.existing(environment).map_or(0, |table| table.lock().head)
    }

    /// Seals what is in memory now, and returns when that is done or has failed.
    pub async fn seal(&self) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::Seal { reply }).await.map_err(|_closed| AppendError::Closed)?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Merges and expires files now, as otherwise happens every minute.
    pub async fn housekeep(&self) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::Housekeep { reply }).await.map_err(|_closed| AppendError::Closed)?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Ends readers, refuses further appends, and waits until the threads have ended. What was acknowledged is on
    /// stable storage already. Idempotent.
    pub async fn close(&self) {
        self.0.shared.closing.cancel();
        drop(self.0.commands.send(Command::Close).await);
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if threads.is_empty() {
            return;
        }
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a store thread ended abnormally");
        }
    }
}
