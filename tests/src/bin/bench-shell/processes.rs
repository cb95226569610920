//! The memory of the processes of a pod, where its node is on this machine: a node that shares the kernel shows them.

use anyhow::{Context as _, Result};
use skpr_tests::cluster::Namespace;
use std::fs;
use std::path::PathBuf;

/// Which processes of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    uid: String,
    /// As the kernel has it, and the first argument where that tells two apart.
    name: &'static str,
    argument: fn(&str) -> bool,
}

/// What of a process is memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    /// All that is mapped and there.
    Resident,
    /// Each page divided by how many processes have it: of processes that are copies of each other.
    Proportional,
}

impl Processes {
    pub(crate) fn of(
        namespace: &Namespace,
        pod: &str,
        name: &'static str,
        argument: fn(&str) -> bool,
    ) -> Result<Self> {
        let uid = namespace.field(&format!("pod/{pod}"), ".metadata.uid")?;
        Ok(Processes { uid, name, argument })
    }

    /// Where they are in `/proc`.
    fn found(&self) -> Vec<PathBuf> {
        let all =
            fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        all.filter(|process| {
            let words = read(process.join("cmdline"));
            // A driver of cgroups writes it with `_`.
            read(process.join("comm")).trim_end() == self.name
                && (self.argument)(words.split('\0').nth(1).unwrap_or_default())
                && read(process.join("cgroup")).replace('_', "-").contains(&self.uid)
        })
        .collect()
    }

    /// MiB of all of them together; none where there is none on this machine.
    pub(crate) fn mib(&self, memory: Memory) -> Result<Option<f64>> {
        let found = self.found();
        if found.is_empty() {
            return Ok(None);
        }
        let (file, field) = match memory {
            Memory::Resident => ("status", "VmRSS:"),
            Memory::Proportional => ("smaps_rollup", "Pss:"),
        };
        let mut kib = 0.0;
        for process in found {
            // One that has ended since takes nothing.
            let Ok(text) = fs::read_to_string(process.join(file)) else { continue };
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
            kib += number.with_context(|| format!("read {field} of `{}`", process.display()))?;
        }
        Ok(Some(kib / 1024.0))
    }
}
