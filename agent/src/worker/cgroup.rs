//! The way into a process's cgroups: what is used and written there counts as the container's, and is held to its limits.
//!
//! The node's hierarchies are entered where the node itself has them mounted, through its first process: our own container
//! sees no more than its own part of them, and a mount of our own would change what the node has asked of its.

use procfs::process::MountInfo;
use procfs::{FromRead as _, ProcessCGroup, ProcessCGroups};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, write};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// What a hierarchy of v1 is called that has no controller, such as systemd's own: it limits and counts nothing.
const NAMED: &str = "name=";

/// Makes the calling process a member of every cgroup that `process` is in; `node` is the node's first process, for which all of
/// them have their names. Both are directories of the node's `/proc`. The calling thread keeps the node's cgroup namespace.
pub(super) fn join(node: &OwnedFd, process: &OwnedFd) -> io::Result<()> {
    let open = |of: &OwnedFd, path: &str| openat(of, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    move_into_link_name_space(open(node, "ns/cgroup")?.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    let groups = ProcessCGroups::from_read(File::from(open(process, "cgroup")?)).map_err(io::Error::other)?;
    let mounts = io::read_to_string(File::from(open(node, "mountinfo")?))?;
    // Of a kind of mounts that we do not know, none is meant.
    let mounts: Vec<MountInfo> = mounts.lines().filter_map(|line| MountInfo::from_line(line).ok()).collect();
    let root = openat(node, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let members: Vec<PathBuf> = groups.0.iter().filter_map(|group| members(&mounts, group)).collect();
    if members.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    for members in members {
        let members = openat(&root, members, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // "0" is whoever writes it.
        if write(&members, b"0")? != 1 {
            return Err(Errno::IO.into());
        }
    }
    Ok(())
}

/// The file that lists a cgroup's members, below the node's root. None of a hierarchy that the node has not mounted: nothing
/// is limited or counted by that.
fn members(mounts: &[MountInfo], group: &ProcessCGroup) -> Option<PathBuf> {
    let controllers: Vec<&str> =
        group.controllers.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if !controllers.is_empty() && controllers.iter().all(|name| name.starts_with(NAMED)) {
        return None;
    }
    let has = |mount: &MountInfo, controller: &&str| mount.super_options.contains_key(*controller);
    let meant = |mount: &&MountInfo| match &*controllers {
        [] => mount.fs_type == "cgroup2",
        some => mount.fs_type == "cgroup" && some.iter().all(|controller| has(mount, controller)),
    };
    let mount = mounts.iter().filter(meant).find(|mount| mount.root == "/")?;
    let below = |path: &Path| path.strip_prefix("/").map(Path::to_owned).ok();
    Some(below(&mount.mount_point)?.join(below(Path::new(&group.pathname))?).join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str, cgroup: &str) -> Vec<Option<String>> {
        let mounts: Vec<_> = mountinfo.lines().map(|line| MountInfo::from_line(line).unwrap()).collect();
        let groups = ProcessCGroups::from_read(cgroup.as_bytes()).unwrap();
        let found = groups.0.iter().map(|group| members(&mounts, group));
        found.map(|path| path.map(|path| path.display().to_string())).collect()
    }

    #[test]
    fn a_cgroup_is_found_where_the_node_has_it_mounted() {
        let v2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let pod = "/kubepods.slice/pod1/cri-2.scope";
        let file = format!("sys/fs/cgroup{pod}/cgroup.procs");
        assert_eq!(found(v2, &format!("0::{pod}\n")), [Some(file)]);

        let v1 = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                  32 25 0:28 /elsewhere /mnt/memory rw - cgroup cgroup rw,memory\n\
                  33 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  34 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let groups =
            format!("9:pids:{pod}\n8:cpu,cpuacct:{pod}\n7:memory:{pod}\n1:name=systemd:{pod}\n0::{pod}\n");
        let file = |place: &str| Some(format!("sys/fs/cgroup/{place}{pod}/cgroup.procs"));
        let expected = [None, file("cpu,cpuacct"), file("memory"), None, file("unified")];
        assert_eq!(found(v1, &groups), expected);
    }
}
