//! The content of a file as it is read: data and holes, up to the size it had when it was opened.

use crate::content::{ContentHash, ContentHasher, PIECE};
use crate::name::Name;
use crate::place;
use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much is usually read at once.
const READ: usize = 2 * PIECE;

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Data(&'a [u8]),
    /// Whole pieces of which nothing is stored.
    Hole(u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) file: File,
    pub(crate) size: u64,
    at: u64,
    end: u64,
    /// Up to where data is known to be; none if holes are not looked for.
    data_until: Option<u64>,
    /// How much is read at once.
    step: usize,
    buffer: Vec<u8>,
}

impl Content {
    pub(crate) fn new(file: File, stat: &Stat) -> Content {
        let size = stat.st_size.max(0) as u64;
        // Only a file that takes less room than its size is asked for holes.
        let sparse = (stat.st_blocks as u64).saturating_mul(512) < size;
        Content { file, size, at: 0, end: size, data_until: sparse.then_some(0), step: READ, buffer: vec![] }
    }

    /// The same from its beginning, for another thread.
    pub(crate) fn again(&self) -> Result<Content, Errno> {
        let file = self.file.try_clone().map_err(|error| errno(&error))?;
        let data_until = self.data_until.map(|_| 0);
        Ok(Content { file, size: self.size, at: 0, end: self.size, data_until, step: READ, buffer: vec![] })
    }

    /// Up to there only.
    pub(crate) fn until(mut self, end: u64) -> Content {
        self.end = end.min(self.size);
        self
    }

    /// So much at once, in place of the usual.
    pub(crate) fn by(mut self, step: usize) -> Content {
        self.step = step;
        self
    }

    /// None at the end. A file that has become shorter is an error.
    pub(crate) fn next(&mut self) -> Result<Option<Part<'_>>, Errno> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.data_until.is_some_and(|until| self.at >= until)
            && let Some(length) = self.hole()?
        {
            self.at += length;
            return Ok(Some(Part::Hole(length)));
        }
        let until = self.data_until.unwrap_or(self.end).clamp(self.at + 1, self.end);
        let length = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(self.step);
        self.buffer.resize(length, 0);
        read_exact(&self.file, &mut self.buffer, self.at)?;
        self.at += length as u64;
        Ok(Some(Part::Data(&self.buffer)))
    }

    /// Hashes what is left; an error once it is `over` and nobody wants to know any more.
    pub(crate) fn hash(&mut self, hasher: &mut ContentHasher, over: &AtomicBool) -> Result<(), Errno> {
        while let Some(part) = self.next()? {
            if over.load(Ordering::Acquire) {
                return Err(Errno::CANCELED);
            }
            match part {
                Part::Data(bytes) => hasher.update(bytes),
                Part::Hole(length) => hasher.zeros(length),
            }
        }
        Ok(())
    }

    /// The whole pieces from here on that are a hole; if there is none, where the data ends is known now.
    fn hole(&mut self) -> Result<Option<u64>, Errno> {
        let piece = PIECE as u64;
        let data = match seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data.min(self.end),
            Err(Errno::NXIO) => self.end,
            // The file system knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.data_until = None;
                return Ok(None);
            }
            Err(errno) => return Err(errno),
        };
        let whole = data / piece * piece;
        if self.at.is_multiple_of(piece) && whole > self.at {
            return Ok(Some(whole - self.at));
        }
        let from = data.max(self.at).min(self.end.saturating_sub(1));
        let until = match seek(&self.file, SeekFrom::Hole(from)) {
            Ok(hole) => hole.div_ceil(piece).saturating_mul(piece),
            Err(Errno::NXIO) => self.end,
            Err(errno) => return Err(errno),
        };
        self.data_until = Some(until.clamp(self.at + 1, self.end.max(self.at + 1)));
        Ok(None)
    }
}

/// The content hash of a file.
pub(crate) fn hash(directory: BorrowedFd<'_>, name: &Name, over: &AtomicBool) -> Result<ContentHash, Errno> {
    let (file, stat) = place::open_file(directory, name)?;
    let mut hasher = ContentHasher::new();
    Content::new(file.into(), &stat).hash(&mut hasher, over)?;
    Ok(hasher.finish())
}

/// What is looked at of the beginning of a file to guess whether another one begins like it: some of it all over, and all of the
/// end, where what was inserted before shows.
const SAMPLES: u64 = 16;
const SAMPLE: u64 = 4 << 10;

/// A hash of samples of the first `length` bytes of a file.
pub(crate) fn mark(file: &File, length: u64) -> Result<ContentHash, Errno> {
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![];
    let end = length.saturating_sub(PIECE as u64);
    let samples = (0..SAMPLES).map(|sample| (end / SAMPLES * sample, SAMPLE.min(length)));
    for (at, some) in samples.chain([(end, length - end)]) {
        buffer.resize(usize::try_from(some.min(length - at)).unwrap_or(0), 0);
        read_exact(file, &mut buffer, at)?;
        hasher.update(&buffer);
    }
    Ok(hasher.finish())
}

/// A file that ends before has changed while it was read.
pub(crate) fn read_exact(file: &File, buffer: &mut [u8], at: u64) -> Result<(), Errno> {
    file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Errno::STALE,
        _ => errno(&error),
    })
}

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What tells whether a file is still the one that was looked at, with what was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Identity {
    /// Whether it is the same file at all, whatever has become of it.
    pub(crate) fn is_of(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }

    pub(crate) fn of(stat: &Stat) -> Identity {
        Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    fn parts(file: File) -> (Vec<u8>, u64) {
        let stat = fstat(&file).unwrap();
        let (mut bytes, mut holes) = (vec![], 0);
        let mut content = Content::new(file, &stat);
        while let Some(part) = content.next().unwrap() {
            match part {
                Part::Data(data) => bytes.extend_from_slice(data),
                Part::Hole(length) => {
                    holes += length;
                    bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0);
                }
            }
        }
        (bytes, holes)
    }

    #[test]
    fn holes_are_found_and_data_is_whole() {
        for layout in [
            vec![(0_u64, 10_usize)],
            vec![(1 << 20, 5)],
            vec![(100, 5), (300_000, 100_000), (2_000_000, 1)],
            vec![],
        ] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(3 << 20).unwrap();
            let mut expected = vec![0; 3 << 20];
            for (at, length) in layout {
                let at_byte = usize::try_from(at).unwrap();
                expected[at_byte..at_byte + length].fill(1);
                file.write_all_at(&vec![1; length], at).unwrap();
            }
            let (bytes, holes) = parts(file);
            assert!(bytes == expected);
            assert!(holes >= 1 << 20, "{holes}");
        }
    }

    #[test]
    fn a_tebibyte_of_hole_is_read_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(&[1; 4096], 1 << 39).unwrap();
        let stat = fstat(&file).unwrap();
        let (mut content, mut hasher, mut data) = (Content::new(file, &stat), ContentHasher::new(), 0);
        while let Some(part) = content.next().unwrap() {
            match part {
                Part::Data(bytes) => {
                    data += bytes.len();
                    hasher.update(bytes);
                }
                Part::Hole(length) => hasher.zeros(length),
            }
        }
        assert_eq!(hasher.length(), 1 << 40);
        assert!(data <= 1 << 20, "{data}");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_no_crash() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        let stat = fstat(&file).unwrap();
        let mut content = Content::new(file.try_clone().unwrap(), &stat);
        content.next().unwrap();
        file.set_len(10).unwrap();
        assert_eq!(content.next(), Err(Errno::STALE));
    }
}
