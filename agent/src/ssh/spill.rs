//! What a client has sent and a process has not read yet.
//!
//! russh gives a channel's window back when bytes arrive, and then waits for whoever reads the channel, with the whole
//! connection. So a channel is always read at once, whatever its process does, and what arrives goes here: some of it into
//! memory, what comes after into a file that has no name, and no more than there is space for.
//!
//! * Bytes come out as they came in. What is in memory is older than what is in the file.
//! * Nobody waits for the reader.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What one channel may hold in memory: two windows, so that only a process that has stopped reading costs a file.
const IN_MEMORY: usize = 4 << 20;
/// What one channel may hold in its file.
pub const IN_FILE: u64 = 1 << 30;
/// What all channels of an agent may hold in memory together; what there is no room for goes into files at once.
const IN_MEMORIES: u64 = 256 << 20;
/// What all channels of an agent may hold in files together.
pub const IN_FILES: u64 = 4 << 30;
/// What is read from the file at once.
const READ: usize = 256 << 10;

/// Where files are made, and how much may be in them. Clones share it.
#[derive(Clone, Debug)]
pub struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    per_channel: u64,
    memory: AtomicU64,
    left: AtomicU64,
    made: AtomicU64,
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum Full {
    #[error("more than {} MiB were sent that the process has not read", limit >> 20)]
    Channel { limit: u64 },
    #[error("what processes have not read fills the space that this node has for it")]
    Node,
    #[error("what the process has not read cannot be kept: {0}")]
    Disk(#[from] io::Error),
}

/// Where bytes go in.
#[derive(Debug)]
pub struct Filler(Arc<Shared>);

/// Where they come out.
#[derive(Debug)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    space: Space,
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<Bytes>,
    in_memory: usize,
    file: Option<Arc<File>>,
    written: u64,
    read: u64,
    /// A write is under way at `written`, so the file cannot begin anew.
    writing: bool,
    ended: bool,
    /// Nobody reads any more: what comes is dropped.
    closed: bool,
}

impl Space {
    /// Files are made in this directory.
    pub fn new(directory: PathBuf) -> Space {
        Space::of(directory, IN_FILE, IN_FILES)
    }

    /// With other limits.
    pub fn of(directory: PathBuf, per_channel: u64, in_all: u64) -> Space {
        let (memory, left) = (AtomicU64::new(IN_MEMORIES), AtomicU64::new(in_all));
        Space(Arc::new(Inner { directory, per_channel, memory, left, made: AtomicU64::new(0) }))
    }

    fn take(&self, bytes: u64) -> bool {
        take(&self.0.left, bytes)
    }

    fn give(&self, bytes: u64) {
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take_memory(&self, bytes: usize) -> bool {
        take(&self.0.memory, bytes as u64)
    }

    fn give_memory(&self, bytes: usize) {
        self.0.memory.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn make(&self) -> io::Result<File> {
        let number = self.0.made.fetch_add(1, Ordering::Relaxed);
        unnamed(&self.0.directory, &format!("unread-{}-{number}", std::process::id()))
    }
}

/// Takes so much of what is left, if there is so much.
fn take(left: &AtomicU64, bytes: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

/// A file of our own without a name: it is gone with us.
fn unnamed(directory: &Path, name: &str) -> io::Result<File> {
    let path = directory.join(name);
    // What is in the way was left by a crash between the two steps below.
    drop(std::fs::remove_file(&path));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// The two ends of one channel's bytes.
pub fn pair(space: &Space) -> (Filler, Drain) {
    let shared = Arc::new(Shared { space: space.clone(), state: Mutex::default(), more: Notify::new() });
    (Filler(Arc::clone(&shared)), Drain(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filler {
    /// Takes bytes in. May wait for the disk, never for the reader.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), Full> {
        let length = bytes.len() as u64;
        let (file, at) = {
            let mut state = self.0.lock();
            if state.closed || bytes.is_empty() {
                return Ok(());
            }
            let in_file = state.written > state.read || state.writing;
            let fits = state.in_memory.saturating_add(bytes.len()) <= IN_MEMORY;
            if !in_file && fits && self.0.space.take_memory(bytes.len()) {
                state.in_memory += bytes.len();
                state.memory.push_back(bytes);
                drop(state);
                self.0.more.notify_one();
                return Ok(());
            }
            let limit = self.0.space.0.per_channel;
            if state.written.saturating_add(length) > limit {
                return Err(Full::Channel { limit });
            }
            if !self.0.space.take(length) {
                return Err(Full::Node);
            }
            state.writing = true;
            (state.file.clone(), state.written)
        };
        let space = self.0.space.clone();
        let write = move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(space.make()?),
            };
            file.write_all_at(&bytes, at)?;
            Ok::<_, io::Error>(file)
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten();
        let mut state = self.0.lock();
        state.writing = false;
        match written {
            Ok(file) => {
                state.file = Some(file);
                state.written += length;
                drop(state);
                self.0.more.notify_one();
                Ok(())
            }
            Err(error) => {
                drop(state);
                self.0.space.give(length);
                Err(error.into())
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        self.0.lock().ended = true;
        self.0.more.notify_one();
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.memory.clear();
        self.0.space.give_memory(std::mem::take(&mut state.in_memory));
        state.file = None;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let written = self.lock().written;
        self.space.give(written);
    }
}

impl Drain {
    /// The next bytes; none at the end. Cancel-safe but for the bytes that are being read from the disk.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let read = {
                let mut state = self.0.lock();
                if let Some(bytes) = state.memory.pop_front() {
                    state.in_memory -= bytes.len();
                    self.0.space.give_memory(bytes.len());
                    return Ok(Some(bytes));
                }
                let length = state.written.saturating_sub(state.read);
                match &state.file {
                    Some(file) if length > 0 => {
                        let length = usize::try_from(length).unwrap_or(READ).min(READ);
                        Some((Arc::clone(file), state.read, length))
                    }
                    Some(_) | None if state.ended && !state.writing => return Ok(None),
                    Some(_) | None => None,
                }
            };
            let Some((file, at, length)) = read else {
                self.0.more.notified().await;
                continue;
            };
            let bytes = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at)?;
                Ok::<_, io::Error>(bytes)
            });
            let bytes = bytes.await.map_err(io::Error::other)??;
            self.caught_up(bytes.len() as u64);
            return Ok(Some(bytes.into()));
        }
    }

    /// So much was read from the file; when that was all, it begins anew.
    fn caught_up(&self, length: u64) {
        let mut state = self.0.lock();
        state.read += length;
        if state.read == state.written && !state.writing {
            let written = std::mem::take(&mut state.written);
            state.read = 0;
            state.file = None;
            drop(state);
            self.0.space.give(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(length: usize, seed: u8) -> Bytes {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<_>>().into()
    }

    #[tokio::test]
    async fn what_nobody_reads_goes_to_a_file_without_a_name_and_comes_back_whole() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(directory.path().to_owned());
        let (mut filler, mut drain) = pair(&space);
        let chunk = bytes(32 << 10, 7);
        for _ in 0..1024 {
            filler.push(chunk.clone()).await.unwrap();
        }
        filler.end();
        assert!(filler.0.lock().in_memory <= IN_MEMORY);
        assert_eq!(space.0.left.load(Ordering::Relaxed), IN_FILES - (28 << 20));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        (0..1024).for_each(|_| expected.extend_from_slice(&chunk));
        while let Some(bytes) = drain.next().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        assert!(got == expected);
        assert_eq!(space.0.left.load(Ordering::Relaxed), IN_FILES);
    }

    #[tokio::test]
    async fn a_channel_has_a_limit_and_so_have_all_together() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::of(directory.path().to_owned(), 3 << 20, 4 << 20);
        let fill = async |filler: &mut Filler| {
            for sent in 0.. {
                if let Err(full) = filler.push(bytes(1 << 20, 0)).await {
                    return (sent, full.to_string());
                }
            }
            unreachable!("it is never full")
        };
        let (mut first, drain) = pair(&space);
        let (sent, why) = fill(&mut first).await;
        assert_eq!((sent, why.contains("3 MiB")), (7, true), "{why}");
        let (mut second, other) = pair(&space);
        let (sent, why) = fill(&mut second).await;
        assert_eq!((sent, why.contains("node")), (5, true), "{why}");
        // Whoever goes gives back what it had.
        assert!(space.0.memory.load(Ordering::Relaxed) < IN_MEMORIES);
        drop((first, drain));
        second.push(bytes(1 << 20, 0)).await.unwrap();
        drop((second, other));
        assert_eq!(space.0.memory.load(Ordering::Relaxed), IN_MEMORIES);
        assert_eq!(space.0.left.load(Ordering::Relaxed), 4 << 20);
    }

    #[tokio::test]
    async fn where_all_memory_is_taken_bytes_go_into_files() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(directory.path().to_owned());
        assert!(space.take_memory(IN_MEMORIES as usize - 5));
        let (mut filler, mut drain) = pair(&space);
        for part in [&b"12345"[..], b"678", b"9"] {
            filler.push(Bytes::from_static(part)).await.unwrap();
        }
        filler.end();
        assert_eq!(space.0.left.load(Ordering::Relaxed), IN_FILES - 4);
        let mut got = Vec::new();
        while let Some(bytes) = drain.next().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, b"123456789");
        assert_eq!(space.0.memory.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn what_comes_after_the_reader_has_gone_is_dropped() {
        let space = Space::new(PathBuf::from("/nowhere"));
        let (mut filler, drain) = pair(&space);
        drop(drain);
        for _ in 0..100 {
            filler.push(bytes(1 << 20, 0)).await.unwrap();
        }
        let (mut filler, _drain) = pair(&space);
        filler.push(bytes(IN_MEMORY, 0)).await.unwrap();
        assert!(matches!(filler.push(bytes(1, 0)).await, Err(Full::Disk(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bytes_come_out_as_they_came_in(steps in prop::collection::vec((any::<bool>(), 1_usize..2_000_000), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let (mut filler, mut drain) = pair(&Space::new(directory.path().to_owned()));
                let (mut expected, mut got) = (Vec::new(), Vec::new());
                for (seed, (push, length)) in steps.into_iter().enumerate() {
                    if push || got.len() == expected.len() {
                        let sent = bytes(length, seed as u8);
                        expected.extend_from_slice(&sent);
                        filler.push(sent).await.unwrap();
                    } else {
                        got.extend_from_slice(&drain.next().await.unwrap().unwrap());
                    }
                }
                filler.end();
                while let Some(bytes) = drain.next().await.unwrap() {
                    got.extend_from_slice(&bytes);
                }
                assert!(got == expected);
            });
        }
    }
}
