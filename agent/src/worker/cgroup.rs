//! The way into a process's cgroups: what is used and written there counts as the container's, and is held to its limits.
//!
//! The node's hierarchies are mounted for the moment that it takes, and at no place: a container of the agent's sees only
//! its own part of them, read-only.

use procfs::{FromRead as _, ProcessCGroups};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, write};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// What each hierarchy names as "nothing of Linux's": systemd's own, which limits and counts nothing.
const NAMED: &str = "name=";

/// Makes the calling thread a member of every cgroup that `process` is in; `node` is the node's first process, for which all of
/// them have their names. Both are directories of the node's `/proc`.
pub(super) fn join(node: &OwnedFd, process: &OwnedFd) -> io::Result<()> {
    let open = |of: &OwnedFd, path: &str| openat(of, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    move_into_link_name_space(open(node, "ns/cgroup")?.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    let groups = ProcessCGroups::from_read(File::from(open(process, "cgroup")?)).map_err(io::Error::other)?;
    for group in groups.0 {
        if group.controllers.iter().any(|controller| controller.starts_with(NAMED)) {
            continue;
        }
        let root = hierarchy(&group.controllers)?;
        let members = format!("{}/cgroup.procs", group.pathname.trim_matches('/'));
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let members = openat(&root, members.trim_start_matches('/'), flags, Mode::empty())?;
        // "0" is whoever writes it.
        if write(&members, b"0")? != 1 {
            return Err(Errno::IO.into());
        }
    }
    Ok(())
}

/// The root of the hierarchy that has these controllers: the one of v2 where there are none.
fn hierarchy(controllers: &[String]) -> io::Result<OwnedFd> {
    let of_v2 = controllers.iter().all(String::is_empty);
    let context = fsopen(if of_v2 { "cgroup2" } else { "cgroup" }, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for controller in controllers.iter().filter(|_| !of_v2) {
        fsconfig_set_flag(context.as_fd(), controller.as_str())?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
