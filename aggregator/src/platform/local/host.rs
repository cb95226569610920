//! What the environments of one machine share.

use super::cgroup::{Cgroup, Limits, Parents};
use super::checkout::Checkouts;
use super::former::Directories;
use super::ports::Ports;
use super::publish::Publisher;
use crate::environment::EnvironmentKey;
use crate::event;
use sha2::{Digest as _, Sha256};
use skpr_agent::runtime::{self, Spawner};
use skpr_agent::usage;
use skpr_proto::{EnvironmentName, Label, NodeName, PodUid};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Where what each running instance uses can be measured.
pub(super) type Whereabouts = watch::Sender<BTreeMap<PodUid, usage::Local>>;

/// How processes come into each running instance.
pub(super) type Entrances = watch::Sender<runtime::Instances>;

/// Handles and places; nothing here belongs to one environment.
pub(super) struct Host {
    pub(super) namespace: Label,
    pub(super) node: NodeName,
    /// Where the environments' records are.
    pub(super) records: PathBuf,
    pub(super) volumes: PathBuf,
    pub(super) directories: Directories,
    pub(super) checkouts: Checkouts,
    pub(super) publisher: Publisher,
    pub(super) events: event::Sender,
    pub(super) spawner: Spawner,
    pub(super) ports: Ports,
    pub(super) whereabouts: Whereabouts,
    pub(super) entrances: Entrances,
    pub(super) parents: Parents,
    /// One data directory's cgroups, told apart from another's.
    pub(super) cgroup_prefix: String,
    /// The program whose `run-instance` starts instances; without it they have no cgroup and outlive us when we are
    /// killed.
    pub(super) wrapper: Option<PathBuf>,
}

impl Host {
    pub(super) fn key(&self, name: &EnvironmentName) -> EnvironmentKey {
        EnvironmentKey { namespace: self.namespace.clone(), name: name.clone() }
    }

    /// Where the contents of an environment's volumes are.
    pub(super) fn volumes_of(&self, name: &EnvironmentName) -> PathBuf {
        self.volumes.join(name.project.as_str()).join(name.environment.as_str())
    }

    /// Makes an instance's cgroup, limited as asked; whether its memory is. Blocks.
    pub(super) fn cgroup(&self, instance: &str, limits: &Limits) -> (Option<Cgroup>, bool) {
        let cgroup = self.parents.make(&format!("{}{instance}", self.cgroup_prefix));
        let limited = match &cgroup {
            Some(cgroup) => cgroup.limit(limits),
            None => !limits.memory_is_asked(),
        };
        (cgroup, limited)
    }

    /// What is put before an instance's command.
    pub(super) fn wrapper(&self, cgroup: Option<&Cgroup>) -> Vec<OsString> {
        let Some(wrapper) = &self.wrapper else { return vec![] };
        let mut words = vec![wrapper.into(), "run-instance".into()];
        words.extend(["--parent".into(), std::process::id().to_string().into()]);
        for entrance in cgroup.into_iter().flat_map(Cgroup::entrances) {
            words.extend(["--cgroup".into(), entrance.into()]);
        }
        words.push("--".into());
        words
    }
}

/// A name for a data directory's cgroups.
pub(super) fn cgroup_prefix(data: &Path) -> String {
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("skpr-{short}-")
}
