//! The way into a container: into the cgroups and namespaces of its first process, below its root, and down to its user.
//!
//! What is on the other side is hostile, so the order counts: everything of outside that is needed is opened first, then
//! what makes us part of the container, and last what takes the powers away with which we came.

use super::cgroup;
use clap::Args as ClapArgs;
use procfs::FromRead as _;
use procfs::process::Stat;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, chdir, chroot, fchdir, setsid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, clear_ambient_capability_set,
    move_into_link_name_space, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Where to, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, ClapArgs)]
pub(crate) struct Way {
    /// The node's /proc.
    #[arg(long)]
    pub proc: PathBuf,
    /// The container's first process, by its number on the node.
    #[arg(long)]
    pub pid: u32,
    /// When that was started, in the node's ticks: its number may have become another's.
    #[arg(long)]
    pub since: u64,
    #[arg(long)]
    pub uid: u32,
    #[arg(long)]
    pub gid: u32,
    #[arg(long = "group")]
    pub groups: Vec<u32>,
    /// The capabilities to keep, as bits.
    #[arg(long, default_value_t = 0)]
    pub capabilities: u64,
    /// Where to begin.
    #[arg(long, default_value = "/")]
    pub directory: PathBuf,
}

/// The node's first process.
const NODE: u32 = 1;

/// Capabilities that are about files: all that is ever kept.
const OF_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Names of [`OF_FILES`] as a container's specification has them.
const NAMES: [(&str, CapabilitySet); 4] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_FSETID", CapabilitySet::FSETID),
];

/// The bits of those of these capabilities that are about files.
pub(crate) fn of_files<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let known = names.filter_map(|name| NAMES.iter().find(|(known, _)| *known == name));
    known.fold(CapabilitySet::empty(), |all, (_, one)| all | *one).bits()
}

/// When a process was started, in ticks since the node's.
pub(crate) fn started(process: &OwnedFd) -> io::Result<u64> {
    let file = File::from(openat(process, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    Ok(Stat::from_read(file).map_err(io::Error::other)?.starttime)
}

/// A directory of `/proc`, which goes on to mean this process and never another.
pub(crate) fn process(proc: &Path, pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, proc.join(pid.to_string()), flags, Mode::empty())?)
}

impl Way {
    /// What a worker is told of it.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Way { proc, pid, since, uid, gid, groups, capabilities, directory } = self;
        let option = |name: &str, value: &dyn Display| OsString::from(format!("--{name}={value}"));
        let path = |name: &str, path: &Path| {
            let mut option = OsString::from(format!("--{name}="));
            option.push(path);
            option
        };
        let mut all = vec![path("proc", proc), path("directory", directory)];
        all.extend([option("pid", pid), option("since", since), option("uid", uid), option("gid", gid)]);
        all.push(option("capabilities", capabilities));
        all.extend(groups.iter().map(|group| option("group", group)));
        all
    }

    /// Makes the calling process, which must have one thread, one of the container's.
    pub(super) fn enter(&self) -> io::Result<()> {
        let node = process(&self.proc, NODE)?;
        let process = process(&self.proc, self.pid)?;
        if started(&process)? != self.since {
            return Err(Errno::SRCH.into());
        }
        let open = |path: &str| openat(&process, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let (user, network, mounts) = (open("ns/user")?, open("ns/net")?, open("ns/mnt")?);
        let root =
            openat(&process, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let ours = openat(CWD, "/proc/self/ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;

        // A session of its own, so that no signal is meant for two.
        setsid().ok();
        cgroup::join(&node, &process).map_err(|error| {
            io::Error::new(error.kind(), format!("its cgroups cannot be joined: {error}"))
        })?;
        // One that has its own users has its own powers, too; one that has ours may not be entered again.
        if (fstat(&user)?.st_dev, fstat(&user)?.st_ino) != (fstat(&ours)?.st_dev, fstat(&ours)?.st_ino) {
            move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
        }
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        fchdir(&root)?;
        chroot(".")?;

        set_no_new_privs(true)?;
        let groups: Vec<Gid> = self.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // Of another user than root nothing is left by now.
        let kept = CapabilitySet::from_bits_retain(self.capabilities) & OF_FILES;
        let kept = if uid.is_root() { kept } else { CapabilitySet::empty() };
        clear_ambient_capability_set()?;
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
        )?;
        umask(Mode::WGRP | Mode::WOTH);
        // As the user: it may not be allowed to be there, and then begins where everything does.
        if chdir(&self.directory).is_err() {
            chdir("/")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Told {
        #[command(flatten)]
        way: Way,
    }

    #[test]
    fn of_capabilities_only_those_of_files_are_kept() {
        let names = ["CAP_SYS_ADMIN", "CAP_CHOWN", "chown", "CAP_FSETID", "CAP_CHOWN"];
        assert_eq!(of_files(names.into_iter()), (CapabilitySet::CHOWN | CapabilitySet::FSETID).bits());
        assert_eq!(of_files([].into_iter()), 0);
    }

    #[test]
    fn a_number_that_has_become_another_s_is_not_entered() {
        let own = std::process::id();
        let since = started(&process(Path::new("/proc"), own).unwrap()).unwrap();
        let way = way(own, since + 1);
        let refused = way.enter().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::SRCH.raw_os_error()));
        assert!(process(Path::new("/proc"), u32::MAX).is_err());
    }

    #[test]
    fn a_worker_is_told_the_whole_way() {
        let way =
            Way { groups: vec![5, 6], capabilities: u64::MAX, directory: "/a b/--c".into(), ..way(7, 8) };
        let told = Told::try_parse_from([vec!["worker".into()], way.arguments()].concat()).unwrap();
        assert_eq!(told.way, way);
    }

    fn way(pid: u32, since: u64) -> Way {
        Way {
            proc: "/proc".into(),
            pid,
            since,
            uid: 0,
            gid: 0,
            groups: vec![],
            capabilities: 0,
            directory: "/".into(),
        }
    }
}
