//! What a client has open.

use super::Failed;
use super::attributes::Attributes;
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Open at once. A client opens one or two.
pub(super) const MOST: usize = 256;
/// What a new file may be, before the umask.
const USUAL_MODE: u32 = 0o666;

/// How a file is opened, by SFTP's bits.
mod flag {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 16;
    pub(super) const NEW: u32 = 32;
}

#[derive(Default)]
pub(super) struct Handles {
    open: BTreeMap<u32, Open>,
    made: u32,
}

enum Open {
    File { file: File, appends: bool },
    Directory(ReadDir),
}

impl Handles {
    pub(super) fn open(&mut self, path: &Path, flags: u32, attributes: &Attributes) -> Result<u32, Failed> {
        let has = |bit| flags & bit != 0;
        let appends = has(flag::APPEND);
        let mut options = OpenOptions::new();
        options.read(has(flag::READ)).write(has(flag::WRITE) && !appends).append(appends);
        options.mode(attributes.mode().unwrap_or(USUAL_MODE) & 0o777);
        if has(flag::WRITE) || appends {
            options.create(has(flag::CREATE)).create_new(has(flag::CREATE) && has(flag::NEW));
            options.truncate(has(flag::TRUNCATE) && !appends);
        }
        // A pipe without a writer, or a line without a modem, would be waited for.
        options.custom_flags(OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed());
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            let message = "it is neither a file nor a directory";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message).into());
        }
        self.keep(Open::File { file, appends })
    }

    pub(super) fn open_directory(&mut self, path: &Path) -> Result<u32, Failed> {
        let directory = std::fs::read_dir(path)?;
        self.keep(Open::Directory(directory))
    }

    fn keep(&mut self, open: Open) -> Result<u32, Failed> {
        if self.open.len() >= MOST {
            return Err(io::Error::other("too many files are open").into());
        }
        // After four billions the first are long closed, or still open and passed over.
        while self.open.contains_key(&self.made) {
            self.made = self.made.wrapping_add(1);
        }
        let handle = self.made;
        self.made = self.made.wrapping_add(1);
        self.open.insert(handle, open);
        Ok(handle)
    }

    pub(super) fn close(&mut self, handle: u32) -> Result<(), Failed> {
        self.open.remove(&handle).map(drop).ok_or(Failed::Bad)
    }

    fn file(&self, handle: u32) -> Result<(&File, bool), Failed> {
        match self.open.get(&handle) {
            Some(Open::File { file, appends }) => Ok((file, *appends)),
            Some(Open::Directory(_)) | None => Err(Failed::Bad),
        }
    }

    pub(super) fn directory(&mut self, handle: u32) -> Result<&mut ReadDir, Failed> {
        match self.open.get_mut(&handle) {
            Some(Open::Directory(directory)) => Ok(directory),
            Some(Open::File { .. }) | None => Err(Failed::Bad),
        }
    }

    /// Appends what is there at `at`, up to `length`, to `bytes`.
    pub(super) fn read(
        &self,
        handle: u32,
        at: u64,
        length: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let (file, _) = self.file(handle)?;
        let before = bytes.len();
        bytes.resize(before + length, 0);
        let read = match bytes.get_mut(before..) {
            Some(place) => read_at(file, place, at)?,
            None => 0,
        };
        bytes.truncate(before + read);
        if read == 0 && length > 0 { Err(Failed::End) } else { Ok(()) }
    }

    pub(super) fn write(&self, handle: u32, at: u64, bytes: &[u8]) -> Result<(), Failed> {
        let (file, appends) = self.file(handle)?;
        if appends {
            // Where a client thinks that the end is does not count.
            io::Write::write_all(&mut { file }, bytes)?;
        } else {
            file.write_all_at(bytes, at)?;
        }
        Ok(())
    }

    pub(super) fn metadata(&self, handle: u32) -> Result<Metadata, Failed> {
        Ok(self.file(handle)?.0.metadata()?)
    }

    pub(super) fn set(&self, handle: u32, attributes: &Attributes) -> Result<(), Failed> {
        attributes.set_open(self.file(handle)?.0)
    }

    pub(super) fn sync(&self, handle: u32) -> Result<(), Failed> {
        Ok(self.file(handle)?.0.sync_all()?)
    }
}

/// Reads until the place is full or the file is at its end.
fn read_at(file: &File, place: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest @ [_, ..]) = place.get_mut(done..) {
        match file.read_at(rest, at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What was read is an answer; the next request has the error.
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
