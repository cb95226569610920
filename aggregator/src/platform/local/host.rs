//! What the environments of one machine share.

use super::cgroup::{Cgroup, Limits, Parents};
use super::checkout::Checkouts;
use super::clock::Clock;
use super::former::{Directories, Note};
use super::ports::Ports;
use super::project::{Recipe, recipe, volume_variable};
use super::publish::Publisher;
use crate::environment::EnvironmentKey;
use crate::event;
use crate::release::Release;
use sha2::{Digest as _, Sha256};
use skpr_agent::runtime::{self, Spawner};
use skpr_agent::usage;
use skpr_proto::{EnvironmentName, Label, NodeName, PodUid, Source};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Where what each running instance uses can be measured.
pub(super) type Whereabouts = watch::Sender<BTreeMap<PodUid, usage::Local>>;

/// How processes come into each running instance.
pub(super) type Entrances = watch::Sender<runtime::Instances>;

/// What a process of a release is given.
pub(super) struct Equipment {
    pub(super) recipe: Recipe,
    /// The path at which `.skpr.yml` puts each of its volumes, and where it is.
    pub(super) volumes: Vec<(PathBuf, PathBuf)>,
}

/// Where a process writes, and what ends and limits it.
pub(super) struct Made {
    pub(super) logs: PathBuf,
    pub(super) cgroup: Option<Cgroup>,
    /// Whether its memory is limited, if that is asked.
    pub(super) limited: bool,
}

/// Handles and places; nothing here belongs to one environment.
pub(super) struct Host {
    pub(super) namespace: Label,
    pub(super) node: NodeName,
    /// By which tasks are due.
    pub(super) clock: Clock,
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

    /// What a process of a release gets that is called `instance`; none where the release has no command.
    pub(super) fn equip(
        &self,
        environment: &EnvironmentName,
        release: &Release,
        instance: &str,
    ) -> Option<Equipment> {
        let settings = &release.settings;
        let mut recipe = recipe(environment, &release.version, release.number, settings)?;
        recipe.variables.push(("SKPR_INSTANCE".to_owned(), instance.to_owned()));
        let mut volumes = Vec::new();
        for (name, volume) in settings.volumes.iter().flatten() {
            let place = self.volumes_of(environment).join(name.as_str());
            recipe.variables.push((volume_variable(name.as_str()), place.display().to_string()));
            volumes.push((PathBuf::from(volume.path.as_str()), place));
        }
        Some(Equipment { recipe, volumes })
    }

    /// Makes the directories of a process, its note, and its cgroup, limited as asked. Blocks.
    pub(super) fn make(
        &self,
        source: &Source,
        note: &Note,
        limits: &Limits,
        volumes: &[(PathBuf, PathBuf)],
    ) -> std::io::Result<Made> {
        let logs = self.directories.make(source, note)?;
        volumes.iter().try_for_each(|(_, place)| std::fs::create_dir_all(place))?;
        let cgroup = self.parents.make(&format!("{}{}", self.cgroup_prefix, source.pod))?;
        let limited = match &cgroup {
            Some(cgroup) => cgroup.limit(limits),
            None => !limits.memory_is_asked(),
        };
        Ok(Made { logs, cgroup, limited })
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
