//! What a client has sent and a process has not read yet.
//!
//! russh gives a channel's window back when bytes arrive, and then waits for whoever reads the channel, with the whole
//! connection. So a channel is always read at once, whatever its process does, and what arrives goes here: some of it into
//! memory, what comes after into a file that has no name, and no more than there is space for.
//!
//! * Bytes come out as they came in. What is in memory is older than what is in the file.
//! * Nobody waits for the reader.
//! * What has been read takes no space any more: however much passes, only what is unread counts.

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What one channel may hold in memory: two windows, and more than a client of ours is ever [ahead](skpr_proto::ssh::MOST_UNTAKEN), so
/// that only a process that has stopped reading costs a file.
const IN_MEMORY: usize = 5 << 20;
/// What one channel may hold in its file.
pub const IN_FILE: u64 = 1 << 30;
/// What all channels of an agent may hold in memory together; what there is no room for goes into files at once.
const IN_MEMORIES: u64 = 128 << 20;
/// What a piece costs beside its bytes: what it is kept in. Clients may send them one by one.
const EACH: usize = 160;
/// What all channels of an agent may hold in files together.
pub const IN_FILES: u64 = 4 << 30;
/// What is read from the file at once.
const READ: usize = 256 << 10;
/// What file systems give back at least.
const BLOCK: u64 = 4096;

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
    #[error("what processes have not read fills the space that there is for it")]
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
    /// That is being written.
    pending: u64,
    read: u64,
    /// Of what was read, what takes no space any more.
    freed: u64,
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

fn cost(bytes: &Bytes) -> usize {
    bytes.len().saturating_add(EACH)
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
            let in_file = state.written > state.read || state.pending > 0;
            let fits = state.in_memory.saturating_add(cost(&bytes)) <= IN_MEMORY;
            if !in_file && fits && self.0.space.take_memory(cost(&bytes)) {
                state.in_memory += cost(&bytes);
                state.memory.push_back(bytes);
                drop(state);
                self.0.more.notify_one();
                return Ok(());
            }
            let limit = self.0.space.0.per_channel;
            if (state.written - state.freed).saturating_add(length) > limit {
                return Err(Full::Channel { limit });
            }
            if !self.0.space.take(length) {
                return Err(Full::Node);
            }
            // Whoever stops waiting for this leaves it to the end of both.
            state.pending = length;
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
        state.pending = 0;
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
        let kept = {
            let state = self.lock();
            state.written - state.freed + state.pending
        };
        self.space.give(kept);
    }
}

impl Drain {
    /// The next bytes; none at the end. Cancel-safe but for the bytes that are being read from the disk.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let read = {
                let mut state = self.0.lock();
                if let Some(bytes) = state.memory.pop_front() {
                    state.in_memory -= cost(&bytes);
                    self.0.space.give_memory(cost(&bytes));
                    return Ok(Some(bytes));
                }
                let length = state.written.saturating_sub(state.read);
                match &state.file {
                    Some(file) if length > 0 => {
                        let length = usize::try_from(length).unwrap_or(READ).min(READ);
                        Some((Arc::clone(file), state.read, length))
                    }
                    Some(_) | None if state.ended && state.pending == 0 => return Ok(None),
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
                Ok::<_, io::Error>((bytes, free(&file, at + length as u64)))
            });
            let (bytes, freed) = bytes.await.map_err(io::Error::other)??;
            self.caught_up(bytes.len() as u64, freed);
            return Ok(Some(bytes.into()));
        }
    }

    /// So much was read from the file, and so much of it takes no space any more; when that was all, it begins anew.
    fn caught_up(&self, length: u64, freed: u64) {
        let mut state = self.0.lock();
        state.read += length;
        let mut given = freed.saturating_sub(state.freed);
        state.freed += given;
        if state.read == state.written && state.pending == 0 {
            given += state.written - state.freed;
            (state.written, state.read, state.freed) = (0, 0, 0);
            state.file = None;
        }
        drop(state);
        self.0.space.give(given);
    }
}

/// Gives back the blocks of a file before this place. Where that begins which still takes space; 0 where the file system
/// cannot do it.
fn free(file: &File, end: u64) -> u64 {
    let end = end / BLOCK * BLOCK;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if end > 0 && fallocate(file, flags, 0, end).is_ok() { end } else { 0 }
}

#[cfg(test)]
mod tests;
