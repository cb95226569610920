//! The claimed pods of a node: where their cgroups are, and what they use.
//!
//! * Only claimed pods are held. Which there are is found by a walk when the claims change and now and then, and between by
//!   the kernel's notifications of new cgroups.
//! * The end of a container is seen by reading it, and what it had counted of OOM kills stays with its pod.

use super::cgroup::{Cgroup, Outcome, Reader};
use super::hierarchy::{Directories, Kind};
use super::identity::{Identity, identify};
use super::inotify::Watch;
use super::parse::amount;
use super::walk::{Bounds, Found, walk};
use super::weight::Formula;
use super::{Limits, Once};
use skpr_proto::{PodUid, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often everything is looked through, and how often where not everything can be watched.
const WALK_EVERY: Duration = Duration::from_secs(60);
const WALK_OFTEN: Duration = Duration::from_secs(15);
/// After the claims have changed, a pod that has no cgroup yet is looked for in so many rounds.
const EAGER_ROUNDS: u32 = 6;

/// See the module.
#[derive(Debug)]
pub(super) struct Pods {
    root: PathBuf,
    limits: Limits,
    directories: Option<Directories>,
    watch: Watch,
    /// To look through in the next round: watched since the last one, and a cgroup may have been made just before.
    suspect: BTreeSet<PathBuf>,
    claimed: BTreeSet<PodUid>,
    pods: BTreeMap<PodUid, Pod>,
    walked: Option<Instant>,
    eager: u32,
    phase: u32,
    kubelet: Formula,
    none: Once,
    cut: Once,
}

#[derive(Debug, Default)]
struct Pod {
    cgroup: Option<Cgroup>,
    containers: BTreeMap<Box<str>, Container>,
    /// Of containers that have ended.
    kills: u64,
}

#[derive(Debug)]
struct Container {
    cgroup: Cgroup,
    kills: u64,
}

impl Pods {
    pub(super) fn new(root: PathBuf, limits: Limits) -> Pods {
        Pods {
            root,
            limits,
            directories: None,
            watch: Watch::new(),
            suspect: BTreeSet::new(),
            claimed: BTreeSet::new(),
            pods: BTreeMap::new(),
            walked: None,
            eager: 0,
            phase: 0,
            kubelet: Formula::default(),
            none: Once::default(),
            cut: Once::default(),
        }
    }

    pub(super) fn open_files(&self) -> usize {
        let files = |pod: &Pod| {
            let own = pod.cgroup.as_ref().map_or(0, Cgroup::open_files);
            own + pod.containers.values().map(|container| container.cgroup.open_files()).sum::<usize>()
        };
        self.pods.values().map(files).sum()
    }

    /// Lets go of all files.
    pub(super) fn close(&mut self) {
        for pod in self.pods.values_mut() {
            pod.cgroup.iter_mut().for_each(Cgroup::close);
            pod.containers.values_mut().for_each(|container| container.cgroup.close());
        }
    }

    /// Finds what has come and gone. `cores` are the node's.
    pub(super) fn discover(&mut self, claimed: &BTreeSet<PodUid>, now: Instant, cores: u32) {
        let changed = self.claimed != *claimed;
        if changed {
            self.claimed.clone_from(claimed);
            self.pods.retain(|uid, _| claimed.contains(uid));
            self.eager = EAGER_ROUNDS;
        }
        let changes = self.watch.take();
        let every = if self.watch.is_complete() { WALK_EVERY } else { WALK_OFTEN };
        let due = self.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= every);
        let missing = self.eager > 0 && self.pods.len() < self.claimed.len();
        self.eager = self.eager.saturating_sub(1);
        let mut parts = std::mem::take(&mut self.suspect);
        if changed || changes.everything || due || missing {
            self.walked = Some(now);
            self.look_through(cores);
        } else {
            parts.extend(changes.made);
            for part in parts {
                self.look_at(&part);
            }
        }
    }

    /// Everything, so that what is not there has gone.
    fn look_through(&mut self, cores: u32) {
        self.directories = Directories::find(&self.root);
        let Some(directories) = &self.directories else {
            self.pods.clear();
            self.none.say(|| {
                tracing::warn!(directory = %self.root.display(), "no cgroups are here, so the use of pods is unknown");
            });
            return;
        };
        let Some(main) = directories.main() else { return };
        let found = walk(main, Path::new(""), &self.claimed, self.bounds());
        self.kubelet = formula(directories, &found, cores);
        // What was not looked at may be there all the same: its end is seen by reading it.
        if found.is_complete() {
            for (uid, pod) in &mut self.pods {
                let Some(seen) = found.pods.get(uid) else { continue };
                let gone = pod.containers.extract_if(.., |id, _| !seen.containers.contains_key(id));
                pod.kills =
                    gone.fold(pod.kills, |kills, (_, container)| kills.saturating_add(container.kills));
            }
            self.watch.keep(&found.parents);
            self.pods.retain(|uid, _| found.pods.contains_key(uid));
        }
        self.merge(found);
    }

    fn look_at(&mut self, part: &Path) {
        let Some(main) = self.directories.as_ref().and_then(Directories::main) else { return };
        let found = walk(main, part, &self.claimed, self.bounds());
        self.merge(found);
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            depth: self.limits.depth,
            directories: self.limits.directories,
            containers: self.limits.containers,
        }
    }

    fn merge(&mut self, found: Found) {
        let Some(directories) = &self.directories else { return };
        let mut room = self
            .limits
            .containers
            .saturating_sub(self.pods.values().map(|pod| pod.containers.len()).sum::<usize>());
        let mut cut = found.cut;
        let mut open = |path: &Path, kind| {
            self.phase = self.phase.wrapping_add(1);
            Cgroup::new(directories.below(path), kind, self.phase)
        };
        for (uid, seen) in found.pods {
            let pod = self.pods.entry(uid).or_default();
            if pod.cgroup.is_none() {
                pod.cgroup = seen.directory.map(|path| open(&path, Kind::Pod));
            }
            // Some runtimes make no cgroup of the pod.
            let kind = if pod.cgroup.is_some() { Kind::Container } else { Kind::Alone };
            for (id, path) in seen.containers {
                if pod.containers.contains_key(&id) {
                    continue;
                }
                if room == 0 {
                    cut = true;
                    break;
                }
                room -= 1;
                pod.containers.insert(id, Container { cgroup: open(&path, kind), kills: 0 });
            }
        }
        if cut {
            self.cut.say(|| {
                tracing::warn!(
                    containers = self.limits.containers,
                    directories = self.limits.directories,
                    "there are too many cgroups here: the use of some instances is unknown"
                );
            });
        }
        let Some(main) = directories.main() else { return };
        for parent in found.parents {
            if self.watch.add(main, &parent) {
                self.suspect.insert(parent);
            }
        }
    }

    /// What each pod uses now, and how many cgroups cannot be read.
    pub(super) fn read(&mut self, reader: &mut Reader) -> (Vec<v1::PodSample>, u64) {
        let mut samples = Vec::with_capacity(self.pods.len());
        let mut unreadable = 0;
        self.pods.retain(|uid, pod| {
            let there = pod.read(reader, &mut unreadable);
            if there {
                samples.push(pod.sample(uid, self.kubelet));
            }
            there
        });
        (samples, unreadable)
    }
}

impl Pod {
    /// Reads its files; false when it has ended.
    fn read(&mut self, reader: &mut Reader, unreadable: &mut u64) -> bool {
        let own = self.cgroup.as_mut().map(|cgroup| cgroup.read(reader));
        let mut ended = 0_u64;
        self.containers.retain(|_, container| {
            match container.cgroup.read(reader) {
                Outcome::Read => {}
                Outcome::Unreadable => *unreadable += 1,
                Outcome::Ended => {
                    ended = ended.saturating_add(container.kills);
                    return false;
                }
            }
            container.kills = container.cgroup.values.oom_kills.unwrap_or(container.kills);
            true
        });
        self.kills = self.kills.saturating_add(ended);
        match own {
            Some(Outcome::Read) => true,
            Some(Outcome::Unreadable) => {
                *unreadable += 1;
                true
            }
            Some(Outcome::Ended) => false,
            None => !self.containers.is_empty(),
        }
    }

    fn sample(&self, uid: &PodUid, kubelet: Formula) -> v1::PodSample {
        let weight = self.cgroup.as_ref().and_then(|cgroup| cgroup.values.cpu.weight);
        let weights = self.containers.values().filter_map(|container| container.cgroup.values.cpu.weight);
        let runtime = weight.map_or(kubelet, |weight| Formula::of_containers(kubelet, weight, weights));
        v1::PodSample {
            uid: uid.as_str().to_owned(),
            total: self.cgroup.as_ref().map(|cgroup| self.total(cgroup, kubelet)),
            containers: self.containers.iter().map(|(id, container)| container.sample(id, runtime)).collect(),
            misses_last_kills: self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.counts_kills_below()),
        }
    }

    fn total(&self, cgroup: &Cgroup, kubelet: Formula) -> v1::Sample {
        let mut total = cgroup.values.sample(kubelet);
        if !cgroup.counts_kills_below() {
            let below = self.containers.values().map(|container| container.kills);
            total.oom_kills = total.oom_kills.map(|own| below.fold(own + self.kills, u64::saturating_add));
        }
        total
    }
}

impl Container {
    fn sample(&self, id: &str, runtime: Formula) -> v1::ContainerSample {
        v1::ContainerSample { id: id.to_owned(), sample: Some(self.cgroup.values.sample(runtime)) }
    }
}

/// How the kubelet weighs: by the cgroup of all pods, the highest above any that somebody has given a weight.
fn formula(directories: &Directories, found: &Found, cores: u32) -> Formula {
    let Directories::V2(root) = directories else { return Formula::default() };
    let above = |path: &&PathBuf| !path.as_os_str().is_empty() && identify(path) == Identity::Other;
    let weight = |path: &PathBuf| amount(&std::fs::read(root.join(path).join("cpu.weight")).ok()?);
    let weights = found.parents.iter().filter(above).filter_map(weight);
    let formulas = weights.map(|weight| Formula::of_all_pods(weight, cores.into()));
    formulas.max_by_key(|formula| *formula == Formula::Quadratic).unwrap_or_default()
}
