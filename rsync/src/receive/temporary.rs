//! A file that is being written, beside the one it will replace. Nobody sees it under its name before it is whole.
//!
//! It is locked for as long as it is written, so that what a killed process has left can be told from what another
//! one is still writing. Its name says which file it is of.

use crate::content::is_zero;
use crate::entry::Kind;
use crate::file::errno;
use crate::name::{Name, PARTIAL, TEMPORARY};
use crate::place;
use crate::receive::compare;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How often another name is tried.
const MOST_TRIES: usize = 16;
/// What of zeros is left out of a sparse file.
const SPARSE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Temporary {
    directory: Arc<OwnedFd>,
    name: Name,
    pub(super) file: File,
    sparse: bool,
    written: u64,
    placed: bool,
}

/// What of a name is in the names of its unfinished files.
fn label(name: &Name) -> String {
    let hash = blake3::hash(name.as_bytes());
    hash.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What an interrupted transfer keeps of a file.
pub(super) fn partial_name(name: &Name) -> Name {
    Name::ours(PARTIAL, &label(name))
}

/// A name for something that is made beside what it replaces.
pub(super) fn temporary_name(name: &Name) -> Name {
    let random = RandomState::new().build_hasher().finish();
    Name::ours(TEMPORARY, &format!("{}.{random:016x}", label(name)))
}

impl Temporary {
    pub(super) fn create(directory: Arc<OwnedFd>, name: &Name, sparse: bool) -> Result<Temporary, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..MOST_TRIES {
            let temporary = temporary_name(name);
            match openat(&directory, temporary.as_bytes(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    // A file system without locks only loses the way of telling who still writes.
                    let _unlocked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
                    return Ok(Temporary {
                        directory,
                        name: temporary,
                        file: file.into(),
                        sparse,
                        written: 0,
                        placed: false,
                    });
                }
                Err(Errno::EXIST | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.written += bytes.len() as u64;
        if !self.sparse {
            return self.file.write_all(bytes).map_err(|error| errno(&error));
        }
        let mut written = 0;
        for page in bytes.chunks(SPARSE).map(<[u8]>::len).scan(0, |end, length| {
            *end += length;
            Some(*end - length..*end)
        }) {
            let (start, end) = (page.start, page.end);
            if bytes.get(page).is_some_and(is_zero) {
                self.file
                    .write_all(bytes.get(written..start).unwrap_or_default())
                    .map_err(|error| errno(&error))?;
                self.hole((end - start) as u64)?;
                written = end;
            }
        }
        self.file.write_all(bytes.get(written..).unwrap_or_default()).map_err(|error| errno(&error))
    }

    fn hole(&mut self, length: u64) -> Result<(), Errno> {
        let length = i64::try_from(length).map_err(|_| Errno::FBIG)?;
        self.file.seek(SeekFrom::Current(length)).map(drop).map_err(|error| errno(&error))
    }

    pub(super) fn zeros(&mut self, length: u64) -> Result<(), Errno> {
        self.written += length;
        if self.sparse {
            return self.hole(length);
        }
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut left = length;
        while left > 0 {
            let some = left.min(ZEROS.len() as u64) as usize;
            self.file.write_all(ZEROS.get(..some).unwrap_or_default()).map_err(|error| errno(&error))?;
            left -= some as u64;
        }
        Ok(())
    }

    /// All is written: a hole at the end counts as well.
    pub(super) fn end(&mut self) -> Result<(), Errno> {
        if self.sparse { self.file.set_len(self.written).map_err(|error| errno(&error)) } else { Ok(()) }
    }

    /// Gives it its name. What has the name now is replaced; but if nothing should have it, nothing is.
    pub(super) fn place(mut self, name: &Name, nothing_there: bool) -> Result<(), Errno> {
        let result = place::give_name(self.directory.as_fd(), &self.name, name, nothing_there);
        self.placed = result.is_ok();
        result
    }

    /// Keeps what is written for the next transfer, if that is anything.
    pub(super) fn keep(mut self, of: &Name) {
        if self.written > 0 && self.end().is_ok() {
            let partial = partial_name(of);
            if kept_before(self.directory.as_fd(), &partial) >= self.written {
                return;
            }
            self.placed =
                renameat(&self.directory, self.name.as_bytes(), &self.directory, partial.as_bytes()).is_ok();
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // If it cannot be removed, the next transfer does it.
            place::discard(self.directory.as_fd(), &self.name);
        }
    }
}

/// How much of a file is kept already, of a transfer that came further.
fn kept_before(directory: BorrowedFd<'_>, partial: &Name) -> u64 {
    let stat = place::stat(directory, partial).ok().flatten();
    stat.filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File)).map_or(0, |stat| compare::size(&stat))
}

/// Removes a file that a transfer has left, unless one is still writing it; with `keep` it goes on from there.
pub(super) fn clean(directory: BorrowedFd<'_>, name: &Name, keep: bool) -> Result<(), Errno> {
    // Of what only begins as our names do, nobody knows whose it is.
    if !name.is_temporary() && (keep || !name.is_partial()) {
        return Ok(());
    }
    if let Ok((file, stat)) = place::open_file(directory, name) {
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Ok(());
        }
        let label =
            name.as_bytes().strip_prefix(TEMPORARY).and_then(|rest| rest.split(|byte| *byte == b'.').next());
        if let Some(label) = label.filter(|label| keep && stat.st_size > 0 && label.len() == 16) {
            let partial = Name::new(&[PARTIAL, label].concat()).map_err(|_| Errno::INVAL)?;
            if kept_before(directory, &partial) >= u64::try_from(stat.st_size).unwrap_or(0) {
                return unlinkat(directory, name.as_bytes(), AtFlags::empty());
            }
            return renameat(directory, name.as_bytes(), directory, partial.as_bytes());
        }
    }
    unlinkat(directory, name.as_bytes(), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::DIRECTORY;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;

    fn temporary(root: &std::path::Path, sparse: bool) -> Temporary {
        let directory = rustix::fs::open(root, DIRECTORY, Mode::empty()).unwrap();
        Temporary::create(Arc::new(directory), &Name::new(b"file").unwrap(), sparse).unwrap()
    }

    #[test]
    fn a_name_that_stands_for_another_file_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        // The file system says that the name is there, though the list of the directory has not had it.
        fs::write(root.path().join("file"), b"other").unwrap();
        let name = Name::new(b"file").unwrap();
        assert_eq!(temporary(root.path(), false).place(&name, true), Err(Errno::EXIST));
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"other");
        temporary(root.path(), false).place(&name, false).unwrap();
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_two_interrupted_transfers_the_one_that_came_further_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let name = Name::new(b"file").unwrap();
        for (written, kept) in [(1000, 1000), (10, 1000), (2000, 2000)] {
            let mut file = temporary(root.path(), false);
            file.write(&vec![7; written]).unwrap();
            file.keep(&name);
            let partial = fs::metadata(root.path().join(OsStr::from_bytes(partial_name(&name).as_bytes())));
            assert_eq!(partial.unwrap().len(), kept);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_sparse_file_has_its_holes_and_its_bytes() {
        let root = tempfile::tempdir().unwrap();
        let mut file = temporary(root.path(), true);
        let mut expected = vec![1; 10_000];
        expected.resize(60_000, 0);
        expected.extend([2; 5000]);
        file.write(&expected).unwrap();
        file.zeros(100_000).unwrap();
        expected.resize(165_000, 0);
        file.end().unwrap();
        let name = Name::new(b"file").unwrap();
        file.place(&name, true).unwrap();
        assert!(fs::read(root.path().join("file")).unwrap() == expected);
    }
}
