//! The tail engine: a directory of container logs and a set of claimed pods in, batches of records out.
//!
//! It owns the log files: which exist, in what order they follow each other, how far each was read and how far it
//! was acknowledged. It is a state machine for one thread; time comes in as a value, and only the file watcher has
//! a thread of its own.
//!
//! - Nothing that was read is kept: what is not acknowledged is read again from the file, whose descriptor stays open.
//! - The checkpoint moves on acknowledged data only.
//! - Whatever is in the files, memory is bounded, and nothing panics or stops a file.
//!
//! The loop around it: `wait`, `tick` at least once a second, then `next_batch` until it returns nothing, and `save`
//! at most once a second.

mod claims;
mod cri;
mod discover;
mod engine;
mod follow;
mod gap;
mod gzip;
mod look;
mod names;
mod outbox;
mod parse;
mod partial;
mod read;
mod time;
mod turn;
mod watch;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod simulator;

pub use watch::Waker;

use skpr_proto::ids::PodUid;
use skpr_proto::v1;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whether the engine reads a file of this name: for whoever writes files for it.
pub fn is_log_file(name: &str) -> bool {
    names::parse(name).is_some()
}

/// Bounds of the engine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of batches that were handed out and are neither acknowledged nor refused.
    pub window_bytes: usize,
    /// Bytes of messages whose last chunk has not been read yet, over all files. Past it the longest ones are
    /// emitted in parts.
    pub partial_bytes: usize,
    /// Log files held open. Past it the files that are read to their end and acknowledged are closed, and opened
    /// again by name when they grow.
    pub open_files: usize,
    /// Files of pods that nobody has claimed (yet), held open unread. Past it the oldest are let go.
    pub held_files: usize,
    /// How long an incomplete message waits for its next chunk.
    pub partial_timeout: Duration,
    /// How long files of a pod that a complete set of claims lacks are held.
    pub claim_grace: Duration,
    /// Below these a link in a log directory may lead; other links are left alone.
    pub link_targets: Vec<PathBuf>,
    /// Watch by the kernel's notifications. Without, only `reconcile` finds changes.
    pub watch: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            window_bytes: 4 << 20,
            partial_bytes: 4 << 20,
            open_files: 4096,
            held_files: 4096,
            partial_timeout: Duration::from_secs(30),
            claim_grace: Duration::from_secs(60),
            link_targets: vec![PathBuf::from("/var/lib/docker/containers")],
            watch: true,
        }
    }
}

/// What the aggregator says about this node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimChange {
    /// The whole set: what is not in it is not claimed now.
    Complete(BTreeSet<PodUid>),
    Delta {
        claimed: BTreeSet<PodUid>,
        released: BTreeSet<PodUid>,
    },
}

/// Counters since the engine was opened, and gauges now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub read_bytes: u64,
    /// Records that were acknowledged.
    pub shipped_records: u64,
    /// Records that were refused for good.
    pub refused_records: u64,
    pub lost_bytes: u64,
    pub gaps: u64,
    /// Files that were seen and could not be opened before they were gone.
    pub missed_files: u64,
    pub malformed_lines: u64,
    pub truncated_records: u64,
    /// Files of unclaimed pods that were let go unread.
    pub released_files: u64,
    pub followed_files: u64,
    pub held_files: u64,
    pub backlog_bytes: u64,
}

/// See the module.
pub struct Tail {
    engine: engine::Engine,
}

impl Tail {
    /// Takes the state directory's lock (waits up to ten seconds for another agent to let it go, then goes on
    /// without: what both send is dropped once by the store), loads the checkpoint, and starts to watch `logs`,
    /// which may not exist yet.
    ///
    /// A checkpoint that is absent, torn or of a newer version costs a replay, never a start.
    pub fn open(logs: &Path, state: &Path, limits: Limits) -> anyhow::Result<Tail> {
        Ok(Tail { engine: engine::Engine::open(logs, state, limits)? })
    }

    /// Applies a change of claims. A released pod's files are still read to the end they have by then.
    pub fn claim(&mut self, change: ClaimChange, now: Instant) {
        self.engine.claim(change, now);
    }

    /// Nothing runs any more in these pods, which are claimed: what their files hold is all there will be. When everything
    /// of a container has been handed out, [`next_batch`](Tail::next_batch) says so with a batch that is an `end`. Holds until
    /// a pod is released.
    pub fn ended(&mut self, pods: BTreeSet<PodUid>, now: Instant) {
        self.engine.ended(pods, now);
    }

    /// Ends a `wait`, from any thread. For whoever has a message for the thread that owns the engine.
    pub fn waker(&self) -> Waker {
        self.engine.waker()
    }

    /// Blocks until files changed, the waker was used, or `timeout` passed. A change of files is followed by a
    /// few milliseconds more, so that a busy file is read in batches and not line by line.
    pub fn wait(&mut self, timeout: Duration) {
        self.engine.wait(timeout);
    }

    /// Looks at what the watcher reported, and in rounds at what needs no report: sizes, directories, time-outs. A round
    /// comes every two seconds, and each second where the kernel reports nothing. Cheap; call it after each `wait`, at
    /// least once a second.
    pub fn tick(&mut self, now: Instant) {
        self.engine.tick(now);
    }

    /// Compares every directory and file with what is known, now. `tick` does it by itself: with the files in each round,
    /// and with directories that have not changed lately in one of fifteen while the kernel reports changes.
    pub fn reconcile(&mut self, now: Instant) {
        self.engine.reconcile(now);
    }

    /// The next piece to send; its `id` counts up from 1 and never repeats within this engine, and is what answers name
    /// here. Each stream that it goes out on numbers it anew. None: nothing to read now, or the window is full.
    ///
    /// Files go in turns of at most 256 KiB; of four turns three go to files that are about to disappear.
    pub fn next_batch(&mut self, now: Instant) -> Option<v1::Batch> {
        self.engine.next_batch(now)
    }

    /// Every batch up to `id` is on stable storage.
    pub fn acknowledged(&mut self, id: u64) {
        self.engine.acknowledged(id);
    }

    /// The batch was refused for good: it is not sent again, and counted. Batches before it are not affected; call
    /// `acknowledged` for those.
    pub fn refused(&mut self, id: u64, why: &str) {
        self.engine.refused(id, why);
    }

    /// The connection is gone: everything that is not acknowledged will be read and handed out again (with new ids).
    pub fn rewind(&mut self) {
        self.engine.rewind();
    }

    /// Whether anything moved since the last `save`.
    pub fn is_dirty(&self) -> bool {
        self.engine.is_dirty()
    }

    /// Writes the checkpoint, if anything moved. At most once a second, and at the end.
    pub fn save(&mut self) -> anyhow::Result<()> {
        self.engine.save()
    }

    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }
}
