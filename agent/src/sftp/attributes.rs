//! Attributes of files: size, owner, mode and times, each there or not.

use super::Failed;
use super::packet::{Bad, Fields, Reply};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, futimens, utimensat};
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, fchown, lchown};
use std::path::Path;

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;

/// What a client wants to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    size: Option<u64>,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    /// Of the last access and of the last change.
    times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Attributes, Bad> {
        let flags = fields.number()?;
        let has = |bit| flags & bit != 0;
        let attributes = Attributes {
            size: has(SIZE).then(|| fields.long()).transpose()?,
            owner: has(OWNER).then(|| Ok((fields.number()?, fields.number()?))).transpose()?,
            mode: has(MODE).then(|| fields.number()).transpose()?,
            times: has(TIMES).then(|| Ok((fields.number()?, fields.number()?))).transpose()?,
        };
        if has(EXTENDED) {
            for _ in 0..fields.number()? {
                fields.text()?;
                fields.text()?;
            }
        }
        Ok(attributes)
    }

    pub(super) fn mode(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o7777)
    }

    /// Of what a path leads to.
    pub(super) fn set(&self, path: &Path) -> Result<(), Failed> {
        if let Some(size) = self.size {
            File::options().write(true).open(path)?.set_len(size)?;
        }
        // The owner first: a change of it takes bits of the mode away.
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group))?;
        }
        if let Some(mode) = self.mode() {
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        if let Some(times) = self.timestamps() {
            utimensat(CWD, path, &times, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Of a link itself, which has no size and no mode of its own.
    pub(super) fn set_link(&self, path: &Path) -> Result<(), Failed> {
        if !path.symlink_metadata()?.is_symlink() {
            return self.set(path);
        }
        if self.size.is_some() {
            return Err(Failed::Bad);
        }
        if let Some((user, group)) = self.owner {
            lchown(path, Some(user), Some(group))?;
        }
        if let Some(times) = self.timestamps() {
            utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    pub(super) fn set_open(&self, file: &File) -> Result<(), Failed> {
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        if let Some((user, group)) = self.owner {
            fchown(file, Some(user), Some(group))?;
        }
        if let Some(mode) = self.mode() {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some(times) = self.timestamps() {
            futimens(file, &times)?;
        }
        Ok(())
    }

    fn timestamps(&self) -> Option<Timestamps> {
        let time = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        self.times
            .map(|(access, change)| Timestamps { last_access: time(access), last_modification: time(change) })
    }
}

pub(super) fn make_directory(path: &Path, attributes: &Attributes) -> Result<(), Failed> {
    Ok(DirBuilder::new().mode(attributes.mode().unwrap_or(0o777)).create(path)?)
}

pub(super) fn reply(id: u32, metadata: &Metadata) -> Reply {
    let mut reply = Reply::attributes(id);
    write(&mut reply, metadata);
    reply
}

pub(super) fn write(reply: &mut Reply, metadata: &Metadata) {
    let seconds = |time: i64| u32::try_from(time).unwrap_or(if time < 0 { 0 } else { u32::MAX });
    reply.number(SIZE | OWNER | MODE | TIMES);
    reply.long(metadata.size());
    for number in [
        metadata.uid(),
        metadata.gid(),
        metadata.mode(),
        seconds(metadata.atime()),
        seconds(metadata.mtime()),
    ] {
        reply.number(number);
    }
}
