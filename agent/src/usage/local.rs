//! What the instances of this machine use that this very process runs: by the cgroup that each was given, else by the
//! processes of its group.

use super::Local;
use super::cgroup::{Cgroup, Outcome, Reader};
use super::hierarchy::{Directories, Kind};
use super::process::{Counter, groups};
use super::weight::Formula;
use skpr_proto::{PodUid, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The most that is read of a list of processes, in bytes: some hundred thousand of them.
const MOST_LISTED: u64 = 1 << 20;

/// The one container of a local instance.
const CONTAINER: &str = "app";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Locals(BTreeMap<PodUid, Instance>);

#[derive(Debug)]
struct Instance {
    known: Local,
    counted: Counted,
}

#[derive(Debug)]
enum Counted {
    Cgroup(Box<Cgroup>),
    Group(Counter),
}

impl Locals {
    pub(super) fn open_files(&self) -> usize {
        let files = |instance: &Instance| match &instance.counted {
            Counted::Cgroup(cgroup) => cgroup.open_files(),
            Counted::Group(_) => 0,
        };
        self.0.values().map(files).sum()
    }

    /// Lets go of all files.
    pub(super) fn close(&mut self) {
        for instance in self.0.values_mut() {
            match &mut instance.counted {
                Counted::Cgroup(cgroup) => cgroup.close(),
                Counted::Group(_) => {}
            }
        }
    }

    /// Takes in which instances there are.
    pub(super) fn discover(&mut self, claimed: &BTreeSet<PodUid>, locals: &BTreeMap<PodUid, Local>) {
        let wanted = |uid: &PodUid| claimed.contains(uid) && locals.contains_key(uid);
        self.0.retain(|uid, _| wanted(uid));
        for (uid, local) in locals.iter().filter(|(uid, _)| claimed.contains(*uid)) {
            match self.0.get_mut(uid) {
                // The same instance with another process: its counter goes on.
                Some(instance) if instance.known.cgroups == local.cgroups => {
                    instance.known = local.clone();
                }
                _ => {
                    self.0.insert(uid.clone(), Instance::new(local.clone()));
                }
            }
        }
    }

    /// What each instance uses now, and how many cgroups cannot be read.
    pub(super) fn read(&mut self, proc: &Path, reader: &mut Reader) -> (Vec<v1::PodSample>, u64) {
        let without = self.0.values().filter(|instance| matches!(instance.counted, Counted::Group(_)));
        let groups = groups(proc, without.filter_map(|instance| instance.known.group));
        let mut unreadable = 0;
        let mut samples = Vec::with_capacity(self.0.len());
        for (uid, instance) in &mut self.0 {
            let sample = match &mut instance.counted {
                Counted::Cgroup(cgroup) => match cgroup.read(reader) {
                    Outcome::Read => Some(cgroup.values.sample(Formula::Linear)),
                    Outcome::Unreadable => {
                        unreadable += 1;
                        None
                    }
                    Outcome::Ended => None,
                },
                Counted::Group(counter) => instance
                    .known
                    .group
                    .and_then(|group| groups.get(&group))
                    .map(|group| group.sample(counter)),
            };
            samples.extend(sample.map(|mut sample| {
                sample.cpu_share_millicores = instance.known.cpu_share;
                sample.processes = sample.processes.or_else(|| processes(instance.known.cgroups.first()?));
                v1::PodSample {
                    uid: uid.as_str().to_owned(),
                    total: Some(sample),
                    containers: vec![v1::ContainerSample { id: CONTAINER.to_owned(), sample: Some(sample) }],
                    misses_last_kills: false,
                }
            }));
        }
        (samples, unreadable)
    }
}

/// How many processes a cgroup has: on v1 only a hierarchy for it counts them, in which local instances are not.
fn processes(directory: &Path) -> Option<u64> {
    let mut listed = Vec::new();
    let file = File::open(directory.join("cgroup.procs")).ok()?;
    file.take(MOST_LISTED).read_to_end(&mut listed).ok()?;
    u64::try_from(memchr::memchr_iter(b'\n', &listed).count()).ok()
}

impl Instance {
    fn new(known: Local) -> Instance {
        let counted = match Directories::of(&known.cgroups) {
            Some(directories) => Counted::Cgroup(Box::new(Cgroup::new(directories, Kind::Alone, 0))),
            None => Counted::Group(Counter::default()),
        };
        Instance { known, counted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_lists_its_processes() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(processes(directory.path()), None);
        for (listed, count) in [("", 0), ("1\n", 1), ("17\n18\n19\n", 3)] {
            std::fs::write(directory.path().join("cgroup.procs"), listed).unwrap();
            assert_eq!(processes(directory.path()), Some(count));
        }
    }
}
