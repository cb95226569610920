//! A cgroup for each instance, where this process may make one: it ends with everything that the instance started,
//! also with what left its process group.
//!
//! On v2 `cgroup.kill` does that; on v1 the freezer stands everything still while it is killed. Where no cgroup can be
//! made, the caller is left with the process group, and nothing is limited.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod limits;

pub(super) use limits::Limits;

/// The v1 controllers whose directories an instance gets: one to end it, two to measure it, two to limit it.
const CONTROLLERS: [&str; 4] = ["freezer", "cpuacct", "memory", "cpu"];
/// How long the last process may take to leave before the directory is left for the next start to remove.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);

/// The directories, one per mounted hierarchy, below which this process may make cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parents(Vec<PathBuf>);

/// One instance's cgroup.
#[derive(Clone, Debug)]
pub(super) struct Cgroup(Vec<PathBuf>);

impl Parents {
    /// This process's own place in each hierarchy.
    pub(super) fn find() -> Parents {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Parents(parents(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")))
    }

    /// Makes a cgroup in every hierarchy that allows it; none when no hierarchy does. One in which something still lives is
    /// never made another's: that is an error.
    pub(super) fn make(&self, name: &str) -> io::Result<Option<Cgroup>> {
        let mut made = Cgroup(vec![]);
        for directory in self.0.iter().map(|parent| parent.join(name)) {
            match make_empty(&directory) {
                Ok(()) => made.0.push(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    made.remove();
                    return Err(io::Error::other(format!("something still runs in the cgroup `{name}`")));
                }
                Err(_) => {}
            }
        }
        Ok((!made.0.is_empty()).then_some(made))
    }

    /// Ends and removes every cgroup whose name starts with `prefix`: what a run that was killed has left behind.
    pub(super) fn sweep(&self, prefix: &str) {
        let left: Vec<PathBuf> = self
            .0
            .iter()
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect();
        if !left.is_empty() {
            tracing::info!(cgroups = left.len(), "ending what an earlier run left behind");
            let left = Cgroup(left);
            left.kill();
            left.remove();
        }
    }
}

impl Cgroup {
    /// The files that a process writes `0` to in order to join.
    pub(super) fn entrances(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.0.iter().map(|directory| directory.join("cgroup.procs"))
    }

    /// Its directories, one for each hierarchy that it is in.
    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.0
    }

    /// Sets what it may use; whether its memory is limited as asked.
    pub(super) fn limit(&self, limits: &Limits) -> bool {
        limits.apply(&self.0)
    }

    /// How many of its processes were killed because it used too much memory.
    pub(super) fn out_of_memory_kills(&self) -> u32 {
        limits::kills(&self.0)
    }

    /// Kills everything in it. Blocks for up to a moment.
    pub(super) fn kill(&self) {
        for directory in &self.0 {
            if fs::write(directory.join("cgroup.kill"), "1").is_err() {
                kill_frozen(directory);
            }
        }
    }

    /// Removes it, which needs it to be empty.
    pub(super) fn remove(&self) {
        let deadline = Instant::now() + EMPTY_WITHIN;
        for directory in &self.0 {
            while let Err(error) = fs::remove_dir(directory) {
                if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::debug!(directory = %directory.display(), error = %error, "cgroup stays");
                    }
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Makes a directory, also in the place of one that was left behind. The kernel removes none in which something lives.
fn make_empty(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::remove_dir(directory) {
            Ok(()) => fs::create_dir(directory),
            // It has gone by itself meanwhile.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => fs::create_dir(directory),
            Err(_) => Err(error),
        },
        other => other,
    }
}

/// Kills what is in a v1 cgroup, frozen where it can be frozen: otherwise a process that forks faster than it is
/// listed would get away.
fn kill_frozen(directory: &Path) {
    let state = directory.join("freezer.state");
    let can_freeze = fs::write(&state, "FROZEN").is_ok();
    let deadline = Instant::now() + Duration::from_millis(500);
    while can_freeze
        && Instant::now() < deadline
        && fs::read_to_string(&state).is_ok_and(|state| state.trim() != "FROZEN")
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        // Gone already is as good as killed.
        if let Err(error) = kill_process(pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(error = %error, "a process of an instance cannot be killed");
        }
    }
    if can_freeze && let Err(error) = fs::write(&state, "THAWED") {
        tracing::warn!(directory = %directory.display(), error = %error, "cgroup stays frozen");
    }
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`: the mount of each wanted hierarchy, and the path in it.
fn parents(mountinfo: &str, cgroup: &str) -> Vec<PathBuf> {
    let path_in = |controller: Option<&str>| {
        cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let wanted = match controller {
                Some(controller) => controllers.split(',').any(|name| name == controller),
                None => controllers.is_empty(),
            };
            wanted.then_some(path)
        })
    };
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (mount.next(), mount.next()) else { continue };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next().unwrap_or_default(), filesystem.nth(1).unwrap_or_default());
        let path = match kind {
            "cgroup2" => path_in(None),
            "cgroup" => CONTROLLERS
                .iter()
                .find(|controller| options.split(',').any(|option| option == **controller))
                .and_then(|controller| path_in(Some(controller))),
            _ => None,
        };
        // In a container the mount's root is our own cgroup already; a path outside of it cannot be reached.
        let Some(below) = path.and_then(|path| Path::new(path).strip_prefix(root).ok()) else { continue };
        let directory = Path::new(point).join(below);
        if !found.contains(&directory) {
            found.push(directory);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mountinfo: &str, cgroup: &str, expected: &[&str]) {
        assert_eq!(parents(mountinfo, cgroup), expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn v2_is_one_directory() {
        check(
            "34 24 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/system.slice/skpr.service\n",
            &["/sys/fs/cgroup/system.slice/skpr.service"],
        );
    }

    #[test]
    fn v1_is_one_directory_for_each_wanted_controller() {
        check(
            "30 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:26 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
             32 25 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
             33 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "7:blkio:/\n6:freezer:/a\n2:cpu,cpuacct:/b\n0::/c\n",
            &["/sys/fs/cgroup/cpu,cpuacct/b", "/sys/fs/cgroup/freezer/a", "/sys/fs/cgroup/unified/c"],
        );
    }

    #[test]
    fn a_mount_of_a_part_is_followed_or_left_out() {
        let mount = "34 24 0:29 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        check(mount, "0::/docker/abc/x\n", &["/sys/fs/cgroup/x"]);
        check(mount, "0::/elsewhere\n", &[]);
        check("", "", &[]);
        check("nonsense - \n - cgroup2\n", ":::\n", &[]);
    }

    #[test]
    fn where_nothing_may_be_made_there_is_none() {
        assert!(Parents(vec![PathBuf::from("/proc/nowhere")]).make("x").unwrap().is_none());
        assert!(Parents::default().make("x").unwrap().is_none());
    }

    #[test]
    fn a_cgroup_in_which_something_lives_is_never_made_anothers() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = directories.each_ref().map(|directory| directory.path().join("x"));
        let parents = Parents(directories.iter().map(|directory| directory.path().to_owned()).collect());
        assert_eq!(parents.make("x").unwrap().unwrap().directories(), [&*first, &*second]);
        // Left behind, and empty.
        assert!(parents.make("x").unwrap().is_some());
        fs::remove_dir(&first).unwrap();
        fs::create_dir(second.join("inhabited")).unwrap();
        assert!(
            parents.make("x").unwrap_err().to_string().contains("something still runs in the cgroup `x`")
        );
        assert!(!first.exists() && second.exists());
    }
}
