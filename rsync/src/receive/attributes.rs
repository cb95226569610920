//! Makes what needs no content, and gives attributes to what is there: by descriptor, so that no
//! swapped name gets them. Only times go by name, where the kernel knows no other way.

use super::Setting;
use super::temporary::temporary_name;
use crate::change::Differs;
use crate::entry::{Entry, Kind, Time};
use crate::file::Identity;
use crate::name::Name;
use crate::place;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
    fchown, fstat, futimens, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A link or a special file, made under another name first, so that what it replaces is there until it is.
pub(super) fn make(
    setting: &Setting<'_>,
    directory: BorrowedFd<'_>,
    entry: &Entry,
    nothing_there: bool,
) -> Result<(), Errno> {
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
        .and_then(|()| place::give_name(directory, &temporary, &entry.name, nothing_there));
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
    let handle = handle(directory, name)?;
    // What somebody has put there meanwhile is not given away.
    if Kind::of(fstat(&handle)?.st_mode) != Some(entry.kind) {
        return Err(Errno::STALE);
    }
    let (user, group) = owners(setting, entry);
    if user.is_some() || group.is_some() {
        chownat(&handle, "", user, group, AtFlags::EMPTY_PATH)?;
    }
    if entry.kind == Kind::Fifo {
        // Whatever the umask has left out. Sockets and devices cannot be opened for it, and keep what the umask allows.
        let opened = open_same(directory, name, OFlags::RDONLY, &fstat(&handle)?)?;
        fchmod(opened, new_mode(setting, entry.mode))?;
    }
    if setting.compared.times {
        set_time(directory, &handle, name, entry.modified)?;
    }
    Ok(())
}

/// A thing itself, whatever it is, and whatever its name stands for from now on.
fn handle(directory: BorrowedFd<'_>, name: &Name) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name.as_bytes(), flags, Mode::empty())
}

/// Opens what was looked at before, and nothing that has its name meanwhile.
fn open_same(
    directory: BorrowedFd<'_>,
    name: &Name,
    flags: OFlags,
    looked_at: &Stat,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(directory, name.as_bytes(), flags, Mode::empty())?;
    let now = fstat(&opened)?;
    let same = (now.st_dev, now.st_ino) == (looked_at.st_dev, looked_at.st_ino);
    if same { Ok(opened) } else { Err(Errno::STALE) }
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

/// Gives a file or directory that is there what differs, and nothing else: to the one that `found` was seen of, and to
/// none that somebody has given its name meanwhile.
pub(super) fn adjust(
    setting: &Setting<'_>,
    directory: BorrowedFd<'_>,
    entry: &Entry,
    differs: Differs,
    found: &Identity,
) -> Result<(), Errno> {
    let handle = handle(directory, &entry.name)?;
    if !found.is_of(&fstat(&handle)?) {
        return Err(Errno::STALE);
    }
    let (user, group) = owners(setting, entry);
    if differs.owner || differs.group {
        chownat(&handle, "", user, group, AtFlags::EMPTY_PATH)?;
    }
    // A new owner may have taken bits away.
    if entry.kind != Kind::Symlink
        && (differs.perms || (differs.owner || differs.group) && setting.compared.perms)
    {
        // A file system of layers makes another file of it when its owner changes.
        let file = open_to_adjust(directory, entry, &fstat(&handle)?)?;
        fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    }
    if differs.time {
        set_time(directory, &handle, &entry.name, entry.modified)?;
    }
    Ok(())
}

fn set_time(directory: BorrowedFd<'_>, handle: &OwnedFd, name: &Name, modified: Time) -> Result<(), Errno> {
    match utimensat(handle, "", &times(modified), AtFlags::EMPTY_PATH) {
        // Kernels before 5.8 know no other way to it than its name.
        Err(Errno::INVAL | Errno::NOENT) => {
            utimensat(directory, name.as_bytes(), &times(modified), AtFlags::SYMLINK_NOFOLLOW)
        }
        result => result,
    }
}

fn open_to_adjust(directory: BorrowedFd<'_>, entry: &Entry, found: &Stat) -> Result<OwnedFd, Errno> {
    match open_same(directory, &entry.name, OFlags::RDONLY, found) {
        // What its owner may not read, its owner may perhaps write.
        Err(Errno::ACCESS) if entry.kind == Kind::File => {
            open_same(directory, &entry.name, OFlags::WRONLY, found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Outbox;
    use crate::options::Options;
    use crate::receive::flights::Flights;
    use crate::session::Session;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_has_taken_the_name_meanwhile_gets_no_attributes() {
        let root = tempfile::tempdir().unwrap();
        let (file, secret) = (root.path().join("file"), root.path().join("secret"));
        for (path, mode) in [(&file, 0o600), (&secret, 0o640)] {
            fs::write(path, b"x").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let options = Options::archive();
        let session = Session::new(Outbox::new(Box::new(std::io::sink()), 3, None).unwrap(), &|_| {});
        let setting = Setting {
            session: &session,
            options: &options,
            compared: crate::send::compared(&options, false, false),
            umask: 0o22,
            keeps_partials: false,
            flights: Flights::default(),
            received: std::sync::Mutex::default(),
        };
        let entry = Entry { mode: 0o666, ..crate::tests::peer::file("file", 1) };
        let directory = File::open(root.path()).unwrap();
        let found = Identity::of(&place::stat(directory.as_fd(), &entry.name).unwrap().unwrap());
        let differs = Differs { perms: true, time: true, ..Differs::default() };
        let adjust = || adjust(&setting, directory.as_fd(), &entry, differs, &found);

        // Another name of the secret in the place of the file that was looked at.
        fs::rename(&file, root.path().join("away")).unwrap();
        fs::hard_link(&secret, &file).unwrap();
        let before = fs::metadata(&secret).unwrap();
        assert_eq!(adjust(), Err(Errno::STALE));
        let after = fs::metadata(&secret).unwrap();
        assert_eq!(
            (after.permissions(), after.modified().unwrap()),
            (before.permissions(), before.modified().unwrap())
        );
        // Back in its place it gets them.
        fs::rename(root.path().join("away"), &file).unwrap();
        adjust().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o666);
        assert_eq!(Time::of(&rustix::fs::stat(&file).unwrap()), entry.modified);
    }
}
