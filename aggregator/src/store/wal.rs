//! The write-ahead log: numbered files of checksummed entries.
//!
//! - A file is only ever appended to, and never again once a write or a sync of it failed: what a failed sync left on
//!   the disk cannot be known. The next file's header says how much of it counts.
//! - Checksums are salted per file, so that bytes in a message can never be taken for an entry.

use bytes::Bytes;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"skprWAL\n";
const VERSION: u32 = 1;
/// The header is there twice, so that a damaged block does not cost the whole file.
const HEADER: usize = 64;
const HEADERS: usize = 2 * HEADER;
/// Begins each entry, for finding the next one after a damaged place.
const MARKER: [u8; 4] = *b"\xf5rec";
/// Marker, length, checksum, kind.
const ENTRY_HEADER: usize = 13;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Append,
    Claim,
}

impl EntryKind {
    fn code(self) -> u8 {
        match self {
            EntryKind::Append => 1,
            EntryKind::Claim => 2,
        }
    }

    fn from_code(code: u8) -> Option<EntryKind> {
        match code {
            1 => Some(EntryKind::Append),
            2 => Some(EntryKind::Claim),
            _ => None,
        }
    }
}

/// The log being written.
pub(super) struct Wal {
    disk: Disk,
    directory: PathBuf,
    file: Option<Open>,
    next_number: u64,
    /// The file before the next one, and how much of it counts.
    previous: (u64, u64),
}

struct Open {
    file: DiskFile,
    number: u64,
    salt: u32,
    length: u64,
}

/// Entries that become durable together.
#[derive(Default)]
pub(super) struct Group {
    bytes: Vec<u8>,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // One giant batch must not stay in memory for ever.
        self.bytes.shrink_to(4 << 20);
    }

    /// Adds an entry; its checksum is put in by [`Wal::commit`], which knows the file.
    pub(super) fn add(&mut self, kind: EntryKind, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&MARKER);
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.push(kind.code());
        payload(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start - ENTRY_HEADER).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(start + 4..start + 8) {
            field.copy_from_slice(&length.to_le_bytes());
        }
    }

    fn seal(&mut self, salt: u32) {
        let mut rest = self.bytes.as_mut_slice();
        while let Some((header, after)) = rest.split_at_mut_checked(ENTRY_HEADER) {
            let length = number(header.get(4..8)) as usize;
            let Some((payload, after)) = after.split_at_mut_checked(length) else { return };
            let checksum = checksum(salt, header, payload);
            if let Some(field) = header.get_mut(8..12) {
                field.copy_from_slice(&checksum.to_le_bytes());
            }
            rest = after;
        }
    }
}

fn number(bytes: Option<&[u8]>) -> u32 {
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn checksum(salt: u32, header: &[u8], payload: &[u8]) -> u32 {
    let lengths = crc32c::crc32c_append(salt, header.get(4..8).unwrap_or_default());
    let kind = crc32c::crc32c_append(lengths, header.get(12..).unwrap_or_default());
    crc32c::crc32c_append(kind, payload)
}

impl Wal {
    /// Goes on after `previous`: the number of the last file that is there, and how much of it counts.
    pub(super) fn new(disk: Disk, directory: PathBuf, previous: (u64, u64)) -> Wal {
        Wal { disk, directory, file: None, next_number: previous.0 + 1, previous }
    }

    /// Makes a group durable, or fails and leaves nothing of it.
    pub(super) fn commit(&mut self, group: &mut Group) -> io::Result<()> {
        let mut open = match self.file.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        group.seal(open.salt);
        let done = open.file.append(&group.bytes).and_then(|()| open.file.sync());
        match done {
            Ok(()) => {
                open.length += group.bytes.len() as u64;
                self.file = Some(open);
                Ok(())
            }
            Err(error) => {
                self.previous = (open.number, open.length);
                // Only to give the space back; the next file's header is what makes the rest not count.
                drop(open.file.cut(open.length));
                Err(error)
            }
        }
    }

    /// Ends the current file. Returns the number that every entry so far is in or below.
    pub(super) fn rotate(&mut self) -> u64 {
        if let Some(open) = self.file.take() {
            self.previous = (open.number, open.length);
        }
        self.next_number - 1
    }

    fn begin(&mut self) -> io::Result<Open> {
        let number = self.next_number;
        let path = file_path(&self.directory, number);
        let salt = u32::from_le_bytes(random());
        let begun = self.disk.create(&path).and_then(|mut file| {
            file.append(&header(salt, number, self.previous).repeat(2))?;
            file.sync()?;
            self.disk.sync_directory(&self.directory)?;
            Ok(file)
        });
        match begun {
            Ok(file) => {
                self.next_number += 1;
                Ok(Open { file, number, salt, length: HEADERS as u64 })
            }
            Err(error) => {
                drop(self.disk.remove(&path));
                Err(error)
            }
        }
    }
}

/// Unguessable from outside, which is all that a salt has to be.
fn random() -> [u8; 4] {
    let hash = std::hash::RandomState::new().build_hasher().finish().to_le_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

pub(super) fn file_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.wal"))
}

/// The number in a file's name.
pub(super) fn file_number(path: &Path) -> Option<u64> {
    path.extension().filter(|extension| *extension == "wal")?;
    path.file_stem()?.to_str()?.parse().ok()
}

fn header(salt: u32, number: u64, previous: (u64, u64)) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    for value in [number, previous.0, previous.1] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.resize(HEADER - 4, 0);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// A file of the log, read.
pub(super) struct WalFile {
    bytes: Bytes,
    salt: u32,
    /// The file before it, and how much of that counts.
    pub(super) previous: (u64, u64),
}

impl WalFile {
    /// Reads a file. `None`: it was begun and not finished, so that it holds nothing.
    pub(super) fn read(path: &Path) -> io::Result<Option<WalFile>> {
        let bytes = std::fs::read(path)?;
        let begun_only = bytes.len() <= HEADERS;
        match WalFile::open(bytes) {
            None if !begun_only => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "both copies of its header are damaged"))
            }
            file => Ok(file),
        }
    }

    /// Reads a header; a file that has none holds nothing that was acknowledged, or is damaged beyond use.
    pub(super) fn open(bytes: Vec<u8>) -> Option<WalFile> {
        let (salt, previous) = (0..2).find_map(|copy| {
            let header = bytes.get(copy * HEADER..(copy + 1) * HEADER)?;
            let (content, checksum) = header.split_at_checked(HEADER - 4)?;
            let fits = crc32c::crc32c(content).to_le_bytes() == checksum;
            let known = content.starts_with(MAGIC) && number(content.get(8..12)) == VERSION;
            let long = |at: usize| content.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            (fits && known).then_some((number(content.get(12..16)), (long(24)?, long(32)?)))
        })?;
        Some(WalFile { bytes: bytes.into(), salt, previous })
    }

    /// Gives every entry in the first `limit` bytes to `each`. Returns what could not be read.
    pub(super) fn replay(&self, limit: Option<u64>, mut each: impl FnMut(EntryKind, Bytes)) -> Replayed {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let bytes = self.bytes.slice(..self.bytes.len().min(limit));
        let mut replayed = Replayed { length: HEADERS as u64, ..Replayed::default() };
        let mut at = HEADERS;
        let mut bad_from = None;
        while at < bytes.len() {
            match self.entry(&bytes, at) {
                Some((kind, payload)) => {
                    if let Some(from) = bad_from.take() {
                        replayed.damaged += (at - from) as u64;
                    }
                    at += ENTRY_HEADER + payload.len();
                    replayed.length = at as u64;
                    each(kind, payload);
                }
                None => {
                    bad_from.get_or_insert(at);
                    at = next_marker(&bytes, at + 1);
                }
            }
        }
        replayed.torn = bad_from.map_or(0, |from| bytes.len().saturating_sub(from)) as u64;
        replayed
    }

    fn entry(&self, bytes: &Bytes, at: usize) -> Option<(EntryKind, Bytes)> {
        let header = bytes.get(at..at + ENTRY_HEADER)?;
        if !header.starts_with(&MARKER) {
            return None;
        }
        let start = at + ENTRY_HEADER;
        let end = start.checked_add(number(header.get(4..8)) as usize)?;
        let payload = bytes.get(start..end)?;
        let fits = number(header.get(8..12)) == checksum(self.salt, header, payload);
        fits.then_some((EntryKind::from_code(*header.get(12)?)?, bytes.slice(start..end)))
    }
}

fn next_marker(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    memchr::memmem::find(rest, &MARKER).map_or(bytes.len(), |found| from + found)
}

/// What a file's replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Up to the end of the last good entry.
    pub(super) length: u64,
    /// Bytes between good entries that are not one.
    pub(super) damaged: u64,
    /// Bytes after the last good entry: a write that was cut off before it was acknowledged.
    pub(super) torn: u64,
}

/// A file's headers, to be given to [`WalFile::open`].
pub(super) fn read_headers(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::with_capacity(HEADERS);
    std::fs::File::open(path).ok()?.take(HEADERS as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
