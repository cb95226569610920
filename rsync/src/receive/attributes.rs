//! Makes what needs no content, and gives attributes to what is there: always by descriptor or by name in a held directory.

use super::Setting;
use super::temporary::temporary_name;
use crate::change::Differs;
use crate::entry::{Entry, Kind, Time};
use crate::name::Name;
use crate::place;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
    fstat, futimens, mknodat, openat, renameat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// A link or a special file, made under another name first, so that what it replaces is there until it is.
pub(super) fn make(setting: &Setting<'_>, directory: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let temporary = temporary_name(&entry.name);
    let path = temporary.as_bytes();
    match entry.kind {
        Kind::Symlink => symlinkat(&entry.target[..], directory, path)?,
        Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
            let kind = match entry.kind {
                Kind::Fifo => FileType::Fifo,
                Kind::Socket => FileType::Socket,
                Kind::BlockDevice => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            mknodat(directory, path, kind, new_mode(setting, entry.mode), entry.device)?;
        }
        Kind::File | Kind::Directory => return Err(Errno::INVAL),
    }
    let placed = attributes_by_name(setting, directory, &temporary, entry)
        .and_then(|()| renameat(directory, path, directory, entry.name.as_bytes()));
    if placed.is_err() {
        place::discard(directory, &temporary);
    }
    placed
}

/// The mode of something that was not there before.
pub(super) fn new_mode(setting: &Setting<'_>, wanted: u32) -> Mode {
    Mode::from_raw_mode(if setting.compared.perms { wanted } else { wanted & 0o777 & !setting.umask })
}

fn times(modified: Time) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let modified = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanos.into() };
    Timestamps { last_access: omit, last_modification: modified }
}

fn owners(setting: &Setting<'_>, entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // The number that means "leave it" is nobody's.
    let user = Some(entry.user).filter(|user| setting.compared.owner && *user != u32::MAX).map(Uid::from_raw);
    let group =
        Some(entry.group).filter(|group| setting.compared.group && *group != u32::MAX).map(Gid::from_raw);
    (user, group)
}

/// For what cannot be opened: links and special files. Their mode was given when they were made.
fn attributes_by_name(
    setting: &Setting<'_>,
    directory: BorrowedFd<'_>,
    name: &Name,
    entry: &Entry,
) -> Result<(), Errno> {
    let (user, group) = owners(setting, entry);
    if user.is_some() || group.is_some() {
        chownat(directory, name.as_bytes(), user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if entry.kind == Kind::Fifo {
        // Whatever the umask has left out. Sockets and devices cannot be opened for it, and keep what the umask allows.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fchmod(openat(directory, name.as_bytes(), flags, Mode::empty())?, new_mode(setting, entry.mode))?;
    }
    if setting.compared.times {
        utimensat(directory, name.as_bytes(), &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Whose it is after its attributes were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owned {
    AsTold,
    /// Root may not give files away here.
    ByUs(Errno),
}

/// Owner, then mode, since a new owner takes the set-user-id bit away, then time. Without the owner there are no set-id bits.
pub(super) fn attributes_of_open(
    setting: &Setting<'_>,
    file: BorrowedFd<'_>,
    entry: &Entry,
    mode: Option<Mode>,
) -> Result<Owned, Errno> {
    let (user, group) = owners(setting, entry);
    let mut owned = Owned::AsTold;
    // Most are root's and are made by root; a change of nothing still costs the file system a write.
    let stat = fstat(file)?;
    let differs = user.is_some_and(|user| user.as_raw() != stat.st_uid)
        || group.is_some_and(|group| group.as_raw() != stat.st_gid);
    if differs {
        match fchown(file, user, group) {
            Ok(()) => {}
            // Without the capability, or a number that is none in this user namespace.
            Err(errno @ (Errno::PERM | Errno::INVAL)) => owned = Owned::ByUs(errno),
            Err(errno) => return Err(errno),
        }
    }
    if let Some(mode) = mode {
        let kept = if owned == Owned::AsTold { 0o7777 } else { 0o1777 };
        fchmod(file, Mode::from_raw_mode(mode.as_raw_mode() & kept))?;
    }
    if setting.compared.times {
        futimens(file, &times(entry.modified))?;
    }
    Ok(owned)
}

/// Gives a file or directory that is there what differs, and nothing else.
pub(super) fn adjust(
    setting: &Setting<'_>,
    directory: BorrowedFd<'_>,
    entry: &Entry,
    differs: Differs,
) -> Result<(), Errno> {
    let name = entry.name.as_bytes();
    let (user, group) = owners(setting, entry);
    if differs.owner || differs.group {
        chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    // A new owner may have taken bits away.
    if entry.kind != Kind::Symlink
        && (differs.perms || (differs.owner || differs.group) && setting.compared.perms)
    {
        let file = open_to_adjust(directory, entry)?;
        fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    }
    if differs.time {
        utimensat(directory, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn open_to_adjust(directory: BorrowedFd<'_>, entry: &Entry) -> Result<rustix::fd::OwnedFd, Errno> {
    let common = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(directory, entry.name.as_bytes(), OFlags::RDONLY | common, Mode::empty()) {
        // What its owner may not read, its owner may perhaps write.
        Err(Errno::ACCESS) if entry.kind == Kind::File => {
            openat(directory, entry.name.as_bytes(), OFlags::WRONLY | common, Mode::empty())
        }
        result => result,
    }
}

/// The last attributes of a directory, when nothing more is written into it.
pub(super) fn finish_directory(
    directory: BorrowedFd<'_>,
    mode: Option<u32>,
    modified: Option<Time>,
) -> Result<(), Errno> {
    if let Some(mode) = mode {
        fchmod(directory.as_fd(), Mode::from_raw_mode(mode))?;
    }
    if let Some(modified) = modified {
        futimens(directory.as_fd(), &times(modified))?;
    }
    Ok(())
}
