//! The memory of the processes of a pod, where its node is on this machine: a node that shares the kernel shows them.

use crate::site::{CONTAINER, Site};
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

/// The programs of skpr that serve the instance, by their names.
pub(crate) fn of_skpr(site: &Site) -> Result<[(&'static str, Processes); 3]> {
    let skpr = site.release.namespace();
    let node = site.sites.field(&format!("pod/{CONTAINER}"), ".spec.nodeName")?;
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let agent =
        skpr.kubectl(&["get", "pods", &on_node, "-l", "app.kubernetes.io/name=skpr-agent", "-o", "name"])?;
    let agent = agent.trim().trim_start_matches("pod/");
    let aggregator = skpr.pods("app.kubernetes.io/name=skpr-aggregator")?;
    let aggregator = aggregator.first().context("find the aggregator's pod")?;
    // A health check is a process of the same name for a moment.
    Ok([
        ("aggregator", Processes::of(skpr, aggregator, "skpr-aggregator", |first| first != "health")?),
        ("agent", Processes::of(skpr, agent, "skpr-agent", |first| first.starts_with("--"))?),
        ("sessions", Processes::of(skpr, agent, "skpr-agent", |first| first == "sessions")?),
    ])
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
