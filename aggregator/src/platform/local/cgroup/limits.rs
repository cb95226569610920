//! What an instance may use, as files of its cgroups: v1 and v2 have the same wishes and other names for them.
//!
//! A file that is not there or refuses leaves that resource unlimited: the site runs all the same.

use skpr_proto::manifest::Environment;
use std::fs;
use std::path::{Path, PathBuf};

/// How long the kernel counts CPU before a limit bites, in microseconds: its default.
const PERIOD: u64 = 100_000;

/// What an environment's settings ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Limits {
    /// In bytes.
    memory: Option<u64>,
    /// In thousandths of a CPU: the share when all is used, and the most ever.
    pub(in super::super) cpu_share: Option<u64>,
    cpu_limit: Option<u64>,
}

impl Limits {
    pub(in super::super) fn of(settings: &Environment) -> Limits {
        let memory = settings.memory.as_ref().and_then(|memory| memory.max.as_ref());
        let cpu = settings.cpu.as_ref();
        Limits {
            memory: memory.map(|memory| memory.bytes()),
            cpu_share: cpu.map(|cpu| cpu.share.millicores()),
            cpu_limit: cpu.and_then(|cpu| cpu.limit.as_ref()).map(|limit| limit.millicores()),
        }
    }

    pub(in super::super) fn memory_is_asked(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether the memory is limited, if that is asked.
    pub(super) fn apply(&self, directories: &[PathBuf]) -> bool {
        for parent in directories.iter().filter_map(|directory| directory.parent()) {
            // On v2 a parent has to pass its controllers on; one that holds processes itself, as ours may, cannot.
            drop(fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu"));
        }
        let set = |file: &str, value: &str| {
            directories.iter().map(|directory| directory.join(file)).any(|file| write(&file, value))
        };
        if let Some(share) = self.cpu_share {
            let shares = shares(share);
            let _ = set("cpu.shares", &shares.to_string()) || set("cpu.weight", &weight(shares).to_string());
        }
        if let Some(limit) = self.cpu_limit {
            let quota = limit.saturating_mul(PERIOD) / 1000;
            let _ =
                set("cpu.cfs_quota_us", &quota.to_string()) || set("cpu.max", &format!("{quota} {PERIOD}"));
        }
        let Some(memory) = self.memory else { return true };
        let bytes = memory.to_string();
        let limited = set("memory.limit_in_bytes", &bytes) || set("memory.max", &bytes);
        // Swap would make it slow instead of ending it, and all of it ends rather than a part.
        let _ = set("memory.memsw.limit_in_bytes", &bytes) || set("memory.swap.max", "0");
        let _ = set("memory.oom.group", "1");
        limited
    }
}

/// How many processes were killed for memory, as v1 and v2 count them.
pub(super) fn kills(directories: &[PathBuf]) -> u32 {
    let counts = |directory: &PathBuf| {
        let read = |file| fs::read_to_string(directory.join(file)).ok();
        let text = read("memory.events").or_else(|| read("memory.oom_control"))?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u32>().ok())
    };
    directories.iter().filter_map(counts).max().unwrap_or(0)
}

/// Never makes a file where the kernel has none.
fn write(file: &Path, value: &str) -> bool {
    file.exists() && fs::write(file, value).is_ok()
}

/// As Kubernetes turns CPUs into shares, and shares into weights.
fn shares(millicores: u64) -> u64 {
    (millicores.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

fn weight(shares: u64) -> u64 {
    1 + shares.saturating_sub(2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[&str], expected: &[(&str, &str)], limited: bool) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let limits = Limits { memory: Some(1 << 28), cpu_share: Some(500), cpu_limit: Some(2000) };
        assert_eq!(limits.apply(&[directory.path().to_owned()]), limited);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), files.len());
        for (file, value) in expected {
            assert_eq!(fs::read_to_string(directory.path().join(file)).unwrap(), *value, "{file}");
        }
    }

    #[test]
    fn the_kernels_files_get_what_is_asked() {
        check(
            &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us"],
            &[
                ("memory.limit_in_bytes", "268435456"),
                ("memory.memsw.limit_in_bytes", "268435456"),
                ("cpu.shares", "512"),
                ("cpu.cfs_quota_us", "200000"),
            ],
            true,
        );
        check(
            &["memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight", "cpu.max"],
            &[
                ("memory.max", "268435456"),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
                ("cpu.weight", "20"),
                ("cpu.max", "200000 100000"),
            ],
            true,
        );
        check(&["cpu.weight"], &[("cpu.weight", "20")], false);
    }

    #[test]
    fn kills_are_read_from_either_version() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        assert_eq!(kills(&directories), 0);
        fs::write(directory.path().join("memory.oom_control"), "under_oom 0\noom_kill 2\n").unwrap();
        assert_eq!(kills(&directories), 2);
        fs::write(directory.path().join("memory.events"), "oom 3\noom_kill 3\n").unwrap();
        assert_eq!(kills(&directories), 3);
    }
}
