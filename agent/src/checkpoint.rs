//! The durable positions: where to go on reading after a restart.
//!
//! - The file on disk is always a whole old or a whole new one: temporary file, sync, rename, sync of the directory.
//! - A file that is torn, damaged or of another version is known to be so, and is never half believed.

use anyhow::{Context as _, Result};
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Eight bytes that name the format and its version. Then: crc32c and length of the body, each four bytes, and the body.
const MAGIC: [u8; 8] = *b"skprck01";
const HEADER: usize = 16;
/// How the names of unfinished checkpoints begin.
const TEMPORARY: &str = "checkpoint.new-";
/// Far more than thousands of sources need; a bigger file is not ours.
const MOST_BYTES: u64 = 64 << 20;

/// Everything that the agent remembers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Checkpoint {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sources: Vec<Position>,
}

/// How far one source is acknowledged.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Position {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<skpr_proto::v1::Source>,
    #[prost(uint32, tag = "2")]
    pub(crate) attempt: u32,
    #[prost(fixed64, tag = "3")]
    pub(crate) generation: u64,
    /// Where to go on: the end of the last acknowledged line, or the start of the oldest chunk of an incomplete one.
    #[prost(uint64, tag = "4")]
    pub(crate) offset: u64,
    /// Hash of the bytes just before the offset.
    #[prost(fixed64, tag = "5")]
    pub(crate) marker: u64,
    /// When the last acknowledged record was written.
    #[prost(sint64, optional, tag = "6")]
    pub(crate) time: Option<i64>,
    /// Files that still exist and hold nothing new.
    #[prost(fixed64, repeated, tag = "7")]
    pub(crate) finished: Vec<u64>,
    /// Where incomplete messages were emitted without their end; reading again must do the same there.
    #[prost(message, repeated, tag = "8")]
    pub(crate) cuts: Vec<Cut>,
    /// The last position given out before the offset, where that is beyond the offset.
    #[prost(uint64, tag = "9")]
    pub(crate) position: u64,
}

/// See [`Position::cuts`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Cut {
    #[prost(fixed64, tag = "1")]
    pub(crate) generation: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
}

/// Why a checkpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is not a checkpoint of this version")]
    Version,
    #[error("it is torn")]
    Torn,
    #[error("it is damaged")]
    Damaged,
}

impl Checkpoint {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, Unusable> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Unusable::Torn)?;
        if *magic != MAGIC {
            return Err(Unusable::Version);
        }
        let (crc, rest) = rest.split_first_chunk::<4>().ok_or(Unusable::Torn)?;
        let (length, body) = rest.split_first_chunk::<4>().ok_or(Unusable::Torn)?;
        if usize::try_from(u32::from_le_bytes(*length)) != Ok(body.len()) {
            return Err(Unusable::Torn);
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Unusable::Damaged);
        }
        Checkpoint::decode(body).map_err(|_| Unusable::Damaged)
    }
}

/// The state directory, locked for this agent.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    directory: PathBuf,
    /// Where a checkpoint is written before it has its name. No other agent's: two may run for a while.
    temporary: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl StateDirectory {
    pub(crate) fn open(directory: &Path, wait: Duration) -> Result<StateDirectory> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| format!("open {}", path.display()))?;
        let step = Duration::from_millis(100);
        let mut left = wait;
        let mut locked = true;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if left.is_zero() {
                tracing::warn!(path = %path.display(), "another agent holds the state directory, going on without its lock");
                locked = false;
                break;
            }
            std::thread::sleep(step.min(left));
            left = left.saturating_sub(step);
        }
        if locked {
            remove_temporaries(directory);
        }
        let random = RandomState::new().build_hasher().finish();
        let temporary = directory.join(format!("{TEMPORARY}{}-{random:016x}", std::process::id()));
        Ok(StateDirectory { directory: directory.to_owned(), temporary, _lock: lock })
    }

    /// The checkpoint, or an empty one with the reason in the log.
    pub(crate) fn load(&self) -> Checkpoint {
        let path = self.directory.join("checkpoint");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::info!("no checkpoint yet, reading every file from its start");
                return Checkpoint::default();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the checkpoint, reading every file from its start");
                return Checkpoint::default();
            }
        };
        let mut bytes = Vec::new();
        let read = file.take(MOST_BYTES).read_to_end(&mut bytes);
        match read.map_err(anyhow::Error::from).and_then(|_| Ok(Checkpoint::from_bytes(&bytes)?)) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!(%error, "cannot use the checkpoint, reading every file from its start");
                Checkpoint::default()
            }
        }
    }

    pub(crate) fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        replace(&self.directory.join("checkpoint"), &self.temporary, &checkpoint.to_bytes())?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).context("sync the directory")
    }
}

/// Puts `bytes` into the file, so that after a crash at any point it holds the old or the new content.
fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(temporary).context("create the temporary file")?;
    file.write_all(bytes).context("write the temporary file")?;
    file.sync_all().context("sync the temporary file")?;
    fs::rename(temporary, path).context("rename the temporary file")
}

/// Removes what agents that were killed have left. What one without the lock is writing may go, too: it tries again.
fn remove_temporaries(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "cannot remove an unfinished checkpoint");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> Checkpoint {
        Checkpoint {
            sources: vec![Position {
                source: None,
                attempt: 3,
                generation: u64::MAX,
                offset: 42,
                marker: 7,
                time: Some(-1),
                finished: vec![1, 2],
                cuts: vec![Cut { generation: 9, offset: 10 }],
                position: 44,
            }],
        }
    }

    #[test]
    fn it_comes_back_from_disk() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path(), Duration::ZERO).unwrap();
        assert_eq!(state.load(), Checkpoint::default());
        state.save(&some()).unwrap();
        assert_eq!(state.load(), some());
        state.save(&Checkpoint::default()).unwrap();
        assert_eq!(state.load(), Checkpoint::default());
    }

    #[test]
    fn a_newer_version_is_not_believed() {
        let mut bytes = some().to_bytes();
        bytes[7] = b'2';
        assert_eq!(Checkpoint::from_bytes(&bytes), Err(Unusable::Version));
    }

    #[test]
    fn a_second_agent_waits_for_the_lock_and_then_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path(), Duration::ZERO).unwrap();
        let second = StateDirectory::open(directory.path(), Duration::from_millis(1)).unwrap();
        drop((first, second));
    }

    #[test]
    fn two_agents_do_not_write_the_same_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path(), Duration::ZERO).unwrap();
        let second = StateDirectory::open(directory.path(), Duration::ZERO).unwrap();
        assert_ne!(first.temporary, second.temporary);
        fs::write(&first.temporary, "half").unwrap();
        second.save(&some()).unwrap();
        assert_eq!(first.load(), some());
        drop((first, second));
        // What was left behind goes with the next start.
        let third = StateDirectory::open(directory.path(), Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(third.load(), some());
    }

    proptest! {
        #[test]
        fn no_damage_is_believed(cut in 0_usize..60, flip in 0_usize..60, bit in 0_u8..8) {
            let bytes = some().to_bytes();
            if cut < bytes.len() {
                prop_assert!(Checkpoint::from_bytes(&bytes[..cut]).is_err());
            }
            let mut flipped = bytes.clone();
            if let Some(byte) = flipped.get_mut(flip) {
                *byte ^= 1 << bit;
                prop_assert!(Checkpoint::from_bytes(&flipped).is_err());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Checkpoint::from_bytes(&bytes));
            let mut framed = MAGIC.to_vec();
            framed.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            framed.extend_from_slice(&bytes);
            drop(Checkpoint::from_bytes(&framed));
        }
    }
}
