//! For tests: a node's log directory written as the kubelet and the runtime write it, and a store that applies the
//! rule by which records are dropped.

use super::{ClaimChange, Limits, Tail};
use flate2::Compression;
use flate2::write::GzEncoder;
use skpr_proto::ids::PodUid;
use skpr_proto::v1;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) container: String,
    pub(super) uid: String,
    pub(super) stderr: bool,
    pub(super) kind: u8,
    pub(super) time: i64,
    pub(super) message: Vec<u8>,
}

impl Stored {
    pub(super) fn is_gap(&self) -> bool {
        self.kind == 2
    }
    pub(super) fn is_truncated(&self) -> bool {
        self.kind == 1
    }
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

/// Drops a record whose position is not beyond what is committed of its source and generation.
#[derive(Debug, Default)]
pub(super) struct Store {
    committed: HashMap<(String, String, u64), u64>,
    pub(super) records: Vec<Stored>,
    pub(super) dropped: usize,
    /// How many records there were when a container said that there are no more.
    pub(super) ends: Vec<(String, usize)>,
}

impl Store {
    pub(super) fn append(&mut self, batch: &v1::Batch) {
        let source = batch.source.as_ref().unwrap();
        let count = batch.length.len();
        if batch.end {
            assert_eq!((count, batch.messages.len()), (0, 0));
            return self.ends.push((source.container.clone(), self.records.len()));
        }
        assert!(count > 0, "an empty batch");
        assert!(batch.position.len() == count && batch.time.len() == count && batch.flags.len() == count);
        assert_eq!(batch.length.iter().map(|length| *length as usize).sum::<usize>(), batch.messages.len());
        assert!(
            batch.messages.len() <= skpr_proto::MAX_BATCH || count == 1,
            "too big: {}",
            batch.messages.len()
        );
        assert!(count <= skpr_proto::MAX_BATCH_RECORDS);
        let (mut position, mut time, mut at) = (0_u64, 0_i64, 0);
        let key = (source.uid.clone(), source.container.clone(), batch.generation);
        let mut committed = self.committed.get(&key).copied();
        for index in 0..count {
            assert!(index == 0 || batch.position[index] > 0, "positions increase");
            position += batch.position[index];
            time += batch.time[index];
            let length = batch.length[index] as usize;
            assert!(length <= skpr_proto::MAX_MESSAGE);
            let message = batch.messages[at..at + length].to_vec();
            at += length;
            if committed.is_some_and(|committed| position <= committed) {
                self.dropped += 1;
                continue;
            }
            committed = Some(position);
            let flags = batch.flags[index];
            self.records.push(Stored {
                container: source.container.clone(),
                uid: source.uid.clone(),
                stderr: flags & 1 == 1,
                kind: (flags >> 1) & 3,
                time,
                message,
            });
        }
        if let Some(committed) = committed {
            self.committed.insert(key, committed);
        }
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.records.iter().map(Stored::text).collect()
    }

    pub(super) fn of(&self, stderr: bool) -> Vec<String> {
        self.records.iter().filter(|record| record.stderr == stderr).map(Stored::text).collect()
    }

    pub(super) fn gaps(&self) -> Vec<String> {
        self.records.iter().filter(|record| record.is_gap()).map(Stored::text).collect()
    }
}

/// A container's log directory and its writer.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) directory: PathBuf,
    attempt: u32,
    file: File,
    stamp: u64,
    nanos: u64,
}

impl Log {
    pub(super) fn new(logs: &Path, uid: &str, container: &str) -> Log {
        let directory = logs.join(format!("default_web_{uid}")).join(container);
        fs::create_dir_all(&directory).unwrap();
        let file = append_to(&directory.join("0.log"));
        Log { directory, attempt: 0, file, stamp: 0, nanos: 0 }
    }

    pub(super) fn live(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.attempt))
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
    }

    fn stamp_line(&mut self) -> String {
        self.nanos += 1_000_003;
        format!(
            "2026-11-22T{:02}:{:02}:{:02}.{:09}Z",
            10 + self.nanos / 3_600_000_000_000,
            (self.nanos / 60_000_000_000) % 60,
            (self.nanos / 1_000_000_000) % 60,
            self.nanos % 1_000_000_000
        )
    }

    pub(super) fn chunk(&mut self, stderr: bool, tag: &str, message: &[u8]) {
        let mut line =
            format!("{} {} {tag} ", self.stamp_line(), if stderr { "stderr" } else { "stdout" }).into_bytes();
        line.extend_from_slice(message);
        line.push(b'\n');
        self.raw(&line);
    }

    pub(super) fn line(&mut self, message: &str) {
        self.chunk(false, "F", message.as_bytes());
    }

    pub(super) fn lines(&mut self, from: usize, to: usize) {
        for number in from..to {
            self.line(&format!("line {number}"));
        }
    }

    fn next_stamp(&mut self) -> String {
        self.stamp += 1;
        format!("20261122-{:06}", 100_000 + self.stamp)
    }

    /// The kubelet's first step: the runtime goes on writing to the renamed file.
    pub(super) fn rename(&mut self) -> PathBuf {
        let stamp = self.next_stamp();
        let to = self.directory.join(format!("{}.log.{stamp}", self.attempt));
        fs::rename(self.live(), &to).unwrap();
        to
    }

    /// The last step. Returns the old file's writer.
    pub(super) fn reopen(&mut self) -> File {
        let file = append_to(&self.live());
        std::mem::replace(&mut self.file, file)
    }

    fn rotated(&self, compressed: bool) -> Vec<PathBuf> {
        let prefix = format!("{}.log.2", self.attempt);
        let mut found: Vec<PathBuf> =
            fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&prefix) && name.ends_with(".gz") == compressed && !name.ends_with(".tmp")
        });
        found.sort();
        found
    }

    pub(super) fn gzip(path: &Path) {
        let temporary = PathBuf::from(format!("{}.tmp", path.display()));
        let mut encoder = GzEncoder::new(File::create(&temporary).unwrap(), Compression::fast());
        encoder.write_all(&fs::read(path).unwrap()).unwrap();
        encoder.finish().unwrap();
        fs::rename(&temporary, format!("{}.gz", path.display())).unwrap();
        fs::remove_file(path).unwrap();
    }

    /// One whole rotation, in the kubelet's order. Returns whether a file was removed.
    pub(super) fn rotate(&mut self, most_files: usize) -> Option<PathBuf> {
        let mut all = self.rotated(true);
        all.extend(self.rotated(false));
        all.sort();
        let excess = (all.len() + 2).saturating_sub(most_files);
        let mut removed = None;
        for path in all.drain(..excess) {
            fs::remove_file(&path).unwrap();
            removed = Some(path);
        }
        for path in self.rotated(false) {
            Log::gzip(&path);
        }
        self.rename();
        drop(self.reopen());
        removed
    }

    pub(super) fn restart(&mut self) {
        self.attempt += 1;
        drop(self.reopen());
    }

    pub(super) fn truncate(&mut self) {
        self.file.set_len(0).unwrap();
    }

    pub(super) fn delete_pod(&self) {
        fs::remove_dir_all(self.directory.parent().unwrap()).unwrap();
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// A node: its directories, the engine, and the store that it ships to.
pub(super) struct Node {
    _directory: tempfile::TempDir,
    pub(super) logs: PathBuf,
    pub(super) state: PathBuf,
    pub(super) limits: Limits,
    pub(super) tail: Option<Tail>,
    pub(super) store: Store,
    pub(super) now: Instant,
    pub(super) claimed: BTreeSet<PodUid>,
}

impl Node {
    pub(super) fn new() -> Node {
        let limits = Limits { watch: false, ..Limits::default() };
        Node::with(limits)
    }

    pub(super) fn with(limits: Limits) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let (logs, state) = (directory.path().join("pods"), directory.path().join("state"));
        fs::create_dir_all(&logs).unwrap();
        Node {
            _directory: directory,
            logs,
            state,
            limits,
            tail: None,
            store: Store::default(),
            now: Instant::now(),
            claimed: BTreeSet::from([PodUid::parse(UID).unwrap()]),
        }
    }

    pub(super) fn log(&self, container: &str) -> Log {
        Log::new(&self.logs, UID, container)
    }

    pub(super) fn tail(&mut self) -> &mut Tail {
        if self.tail.is_none() {
            let mut tail = Tail::open(&self.logs, &self.state, self.limits.clone()).unwrap();
            tail.claim(ClaimChange::Complete(self.claimed.clone()), self.now);
            self.tail = Some(tail);
        }
        self.tail.as_mut().unwrap()
    }

    /// As SIGKILL: nothing more is written.
    pub(super) fn kill(&mut self) {
        self.tail = None;
    }

    pub(super) fn look(&mut self) {
        let now = self.now;
        self.tail().reconcile(now);
        self.tail().tick(now);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(super) fn next(&mut self) -> Option<v1::Batch> {
        let now = self.now;
        self.tail().next_batch(now)
    }

    /// Ships what there is, without letting time pass.
    pub(super) fn ship(&mut self) {
        while let Some(batch) = self.next() {
            self.store.append(&batch);
            self.tail().acknowledged(batch.id);
        }
    }

    /// Lets time pass and ships until all is quiet.
    pub(super) fn drain(&mut self) {
        for _ in 0..6 {
            self.look();
            self.ship();
            self.pass(Duration::from_millis(700));
        }
        self.tail().save().unwrap();
    }
}

pub(super) fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("line {number}")).collect()
}
