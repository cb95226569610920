//! The pods that ran before, whose last lines may not have been read yet.
//!
//! A note beside the logs says which environment each pod belonged to, and of which task it was a run. A former pod is
//! claimed for as long as its directory exists, and directories go by age, by size, and by their number.

use super::{CONTAINER, NODE};
use crate::environment::EnvironmentKey;
use crate::inventory::{Pod, Presence};
use serde::{Deserialize, Serialize};
use skpr_proto::{Label, NodeName, PodUid, Source};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long after its last line a former pod's directory is kept, and how much all of them may hold.
const KEEP_AGE: Duration = Duration::from_secs(86_400);
const KEEP_BYTES: u64 = 1 << 30;
/// How many are kept: tasks leave one with each run, and the agent looks at all of them. It has read one within moments
/// unless it never will.
const KEEP_MOST: usize = 2000;

/// Whose output a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    #[serde(flatten)]
    pub(super) environment: EnvironmentKey,
    /// Of which it was a run; none of an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<Label>,
}

/// Where the pods' logs and the notes are.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    pub(super) pods: PathBuf,
    pub(super) notes: PathBuf,
}

impl Directories {
    pub(super) fn of(data: &Path) -> Directories {
        Directories { pods: data.join("pods"), notes: data.join("instances") }
    }

    /// Makes the directory that a pod's container logs to, and its note.
    pub(super) fn make(&self, source: &Source, about: &Note) -> io::Result<PathBuf> {
        let (pod, container) = source.directories();
        fs::create_dir_all(&self.notes)?;
        let (note, temporary) =
            (self.notes.join(format!("{pod}.json")), self.notes.join(format!("{pod}.tmp")));
        // Durable before there is a line: without its note, what a pod wrote before a crash would never be read.
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(about)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &note)?;
        File::open(&self.notes)?.sync_all()?;
        let logs = self.pods.join(pod).join(container);
        fs::create_dir_all(&logs)?;
        Ok(logs)
    }

    /// The pods that have a directory and a note and are not `current`.
    pub(super) fn former(&self, current: &HashSet<PodUid>) -> HashMap<PodUid, Pod> {
        self.sources()
            .into_iter()
            .filter(|source| !current.contains(&source.uid))
            .filter_map(|source| {
                let note = fs::read(self.notes.join(format!("{}.json", source.directories().0))).ok()?;
                let note: Note = serde_json::from_slice(&note).ok()?;
                let pod = Pod {
                    environment: note.environment,
                    node: NodeName::parse(NODE).ok(),
                    instance: source.pod,
                    main_container: source.container,
                    task: note.task,
                    labels: Default::default(),
                    containers: Default::default(),
                    version: "".into(),
                    ready: false,
                    production: false,
                    presence: Presence::Gone,
                    detail: Default::default(),
                };
                Some((source.uid, pod))
            })
            .collect()
    }

    /// Removes the directories that are too old, then the oldest until the rest is small enough and not too many. Whether
    /// any went.
    pub(super) fn prune(&self, current: &HashSet<PodUid>, now: SystemTime) -> bool {
        let mut former: Vec<_> = self
            .sources()
            .into_iter()
            .filter(|source| !current.contains(&source.uid))
            .map(|source| source.directories().0)
            .map(|name| (measure(&self.pods.join(&name)), name))
            .collect();
        former.sort_by_key(|((newest, _), _)| std::cmp::Reverse(*newest));
        let (mut total, mut removed) = (0, false);
        for (number, ((newest, bytes), name)) in former.into_iter().enumerate() {
            total += bytes;
            let is_old = now.duration_since(newest).is_ok_and(|age| age > KEEP_AGE);
            if total > KEEP_BYTES || number >= KEEP_MOST || is_old {
                removed = true;
                for result in [
                    fs::remove_dir_all(self.pods.join(&name)),
                    fs::remove_file(self.notes.join(format!("{name}.json"))),
                ] {
                    if let Err(error) = result {
                        tracing::warn!(pod = name, error = %error, "a former pod's output cannot be removed");
                    }
                }
            }
        }
        removed
    }

    fn sources(&self) -> Vec<Source> {
        fs::read_dir(&self.pods)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter_map(|entry| Source::from_directories(entry.file_name().to_str()?, CONTAINER).ok())
            .filter(|source| {
                Label::parse("namespace", super::NAMESPACE).is_ok_and(|local| source.namespace == local)
            })
            .collect()
    }
}

/// The time of the newest file and the bytes of all.
fn measure(pod: &Path) -> (SystemTime, u64) {
    let files = fs::read_dir(pod.join(CONTAINER)).into_iter().flatten().filter_map(Result::ok);
    let measured = files.filter_map(|file| file.metadata().ok());
    let own = fs::metadata(pod).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    measured.fold((own, 0), |(newest, bytes), metadata| {
        (metadata.modified().map_or(newest, |modified| modified.max(newest)), bytes + metadata.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;

    fn source(uid: &str) -> Source {
        Source::parse("local", "shop-dev-r1-0", uid, CONTAINER).unwrap()
    }

    fn note(task: Option<&str>) -> Note {
        let task = task.map(|task| Label::parse("task", task).unwrap());
        Note { environment: key("local", "shop", "dev"), task }
    }

    #[test]
    fn a_former_pod_is_known_until_its_directory_is_old() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::of(data.path());
        for uid in ["u1", "u2"] {
            let logs = directories.make(&source(uid), &note(None)).unwrap();
            fs::write(logs.join("0.log"), "x").unwrap();
        }
        fs::create_dir_all(directories.pods.join("local_unknown_u3/app")).unwrap();
        fs::create_dir_all(directories.pods.join("nonsense")).unwrap();
        let current = HashSet::from([PodUid::parse("u2").unwrap()]);
        let former = directories.former(&current);
        assert_eq!(former.keys().map(PodUid::as_str).collect::<Vec<_>>(), ["u1"]);
        assert_eq!(former.values().next().unwrap().environment, key("local", "shop", "dev"));

        assert!(!directories.prune(&current, SystemTime::now()));
        assert!(directories.prune(&current, SystemTime::now() + KEEP_AGE * 2));
        assert!(directories.former(&current).is_empty());
        assert!(directories.pods.join("local_shop-dev-r1-0_u2/app/0.log").exists());
        assert_eq!(fs::read_dir(&directories.notes).unwrap().count(), 1);
    }

    #[test]
    fn the_oldest_go_when_all_are_too_large() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::of(data.path());
        for (uid, age) in [("u1", 300), ("u2", 200), ("u3", 100)] {
            let logs = directories.make(&source(uid), &note(None)).unwrap();
            let file = fs::File::create(logs.join("0.log")).unwrap();
            file.set_len(KEEP_BYTES / 2).unwrap();
            let then = SystemTime::now() + Duration::from_secs(1000 - age);
            file.set_modified(then).unwrap();
        }
        assert!(directories.prune(&HashSet::new(), SystemTime::now()));
        assert_eq!(directories.former(&HashSet::new()).len(), 2);
        assert!(!directories.pods.join("local_shop-dev-r1-0_u1").exists());
    }

    #[test]
    fn a_former_run_is_known_by_its_task_and_so_is_a_note_of_an_earlier_version() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::of(data.path());
        directories.make(&source("u1"), &note(Some("drush"))).unwrap();
        directories.make(&source("u2"), &note(None)).unwrap();
        let old = serde_json::to_vec(&key("local", "shop", "dev")).unwrap();
        fs::write(directories.notes.join("local_shop-dev-r1-0_u2.json"), old).unwrap();
        let mut former: Vec<_> = directories.former(&HashSet::new()).into_values().collect();
        former.sort_by_key(|pod| pod.task.is_none());
        assert_eq!(former[0].task.as_ref().map(Label::as_str), Some("drush"));
        assert_eq!((&former[1].task, &former[1].environment), (&None, &key("local", "shop", "dev")));
        let claim = |uid: &str| {
            let pods = directories.former(&HashSet::new());
            crate::inventory::Inventory::of(pods, &Default::default()).claim(&source(uid)).unwrap()
        };
        assert_eq!((&*claim("u1").stream_prefix, &*claim("u2").stream_prefix), ("cron.drush.", ""));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::of(data.path());
        for number in 0..=KEEP_MOST {
            let pod = directories.pods.join(format!("local_shop-dev--drush-{number}_u{number}"));
            fs::create_dir_all(pod.join(CONTAINER)).unwrap();
            let age = Duration::from_secs(number as u64);
            fs::File::open(&pod).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(directories.prune(&HashSet::new(), SystemTime::now()));
        assert!(!directories.pods.join(format!("local_shop-dev--drush-{KEEP_MOST}_u{KEEP_MOST}")).exists());
        assert_eq!(fs::read_dir(&directories.pods).unwrap().count(), KEEP_MOST);
    }
}
