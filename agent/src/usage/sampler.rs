//! One round of samples: what is there, then what it uses.

use super::cgroup::Reader;
use super::local::Locals;
use super::pods::Pods;
use super::{Local, Once, Sources, node};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use skpr_proto::{PodUid, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Left to everything else that opens files, the followed logs above all.
const OTHER_FILES: u64 = 8192;
const PROC: &str = "/proc";

/// Bounds of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Containers that are sampled.
    pub containers: usize,
    /// Directories that are looked at, and how deep.
    pub directories: usize,
    pub depth: usize,
    /// Files that are held open. What is beyond is opened, read and closed, which costs three times as much.
    pub open_files: usize,
}

impl Limits {
    /// With as many open files as this process can spare.
    pub fn of_this_process() -> Limits {
        let open_files = match getrlimit(Resource::Nofile).current {
            Some(limit) => {
                usize::try_from(limit.saturating_sub(OTHER_FILES).max(limit / 4)).unwrap_or(usize::MAX)
            }
            None => usize::MAX,
        };
        Limits { containers: 5000, directories: 50_000, depth: 24, open_files }
    }
}

/// Reads what claimed pods use. Blocks while it reads, and is used from one thread at a time.
#[derive(Debug)]
pub struct Sampler {
    source: Source,
    reader: Reader,
    limits: Limits,
    /// How many files may stay open: fewer than the limits allow while others hold the rest.
    room: usize,
    unreadable: u64,
    cramped: Once,
    failed: Once,
}

#[derive(Debug)]
enum Source {
    Pods(Box<Pods>),
    Local { told: watch::Receiver<BTreeMap<PodUid, Local>>, locals: Locals },
}

impl Sampler {
    pub fn new(sources: Sources, limits: Limits) -> Sampler {
        let source = match sources {
            Sources::Cgroups(root) => Source::Pods(Box::new(Pods::new(root, limits))),
            Sources::Local(told) => Source::Local { told, locals: Locals::default() },
        };
        let reader = Reader::new(limits.open_files);
        Sampler {
            source,
            reader,
            limits,
            room: limits.open_files,
            unreadable: 0,
            cramped: Once::default(),
            failed: Once::default(),
        }
    }

    /// How often a cgroup could not be read though it was there.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// How many files are open.
    pub fn open_files(&self) -> usize {
        match &self.source {
            Source::Pods(pods) => pods.open_files(),
            Source::Local { locals, .. } => locals.open_files(),
        }
    }

    /// One round, of a series in which one follows after each `interval`.
    pub fn round(&mut self, claimed: &BTreeSet<PodUid>, interval: Duration) -> v1::Usage {
        let node = node::sample();
        // Whoever took the rest of the files may have given them back: all of it is tried again within a minute or two.
        self.room = self.room.saturating_add(self.room / 16 + 1).min(self.limits.open_files);
        match &mut self.source {
            Source::Pods(pods) => pods.discover(claimed, Instant::now(), node.cores),
            Source::Local { told, locals } => locals.discover(claimed, &told.borrow_and_update()),
        }
        let mut at = monotonic_nanos();
        let (mut pods, mut unreadable) = self.read();
        if self.reader.full {
            // Half is let go of, for ourselves and for whoever else needs a file, and everything read once more.
            self.room = self.open_files() / 2;
            self.close();
            at = monotonic_nanos();
            (pods, unreadable) = self.read();
        }
        self.complain(unreadable);
        v1::Usage {
            monotonic_nanos: at,
            interval_millis: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
            node: Some(node),
            pods,
        }
    }

    fn read(&mut self) -> (Vec<v1::PodSample>, u64) {
        let open = self.open_files();
        let reader = &mut self.reader;
        (reader.open, reader.most_open, reader.cramped, reader.full) = (open, self.room, 0, false);
        match &mut self.source {
            Source::Pods(pods) => pods.read(reader),
            Source::Local { locals, .. } => locals.read(Path::new(PROC), reader),
        }
    }

    fn close(&mut self) {
        match &mut self.source {
            Source::Pods(pods) => pods.close(),
            Source::Local { locals, .. } => locals.close(),
        }
    }

    fn complain(&mut self, unreadable: u64) {
        self.unreadable = self.unreadable.saturating_add(unreadable);
        if unreadable > 0 {
            self.failed.say(|| tracing::warn!(unreadable, "cgroups are there and cannot be read"));
        }
        let cramped = self.reader.cramped;
        if cramped > 0 {
            self.cramped.say(|| {
                tracing::warn!(
                    cgroups = cramped,
                    open_files = self.reader.most_open,
                    "too few files may be open: some cgroups are opened for each round, which takes more CPU"
                );
            });
        }
    }
}

/// The kernel's own, so that it goes on when the agent is started again.
fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(now.tv_nsec))
}
