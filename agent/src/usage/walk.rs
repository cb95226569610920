//! Finds the claimed pods below one directory of a hierarchy. Reads directories, and changes nothing.
//!
//! Bounded in depth and number: whoever may make cgroups on a node must not be able to keep the agent busy.

use super::identity::{Identity, identify};
use rustix::io::Errno;
use skpr_proto::PodUid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Below the root of the hierarchy. The deepest known shape has ten levels.
    pub(super) depth: usize,
    pub(super) directories: usize,
    pub(super) containers: usize,
}

/// What is there. Paths are below the root of the hierarchy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pods: BTreeMap<PodUid, FoundPod>,
    /// Where pods and their containers come and go: the directories above any pod, and those of claimed pods.
    pub(super) parents: BTreeSet<PathBuf>,
    /// A bound was met.
    pub(super) cut: bool,
    /// A directory could not be listed for want of a file.
    pub(super) unlisted: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FoundPod {
    /// Its own cgroup; some runtimes make none.
    pub(super) directory: Option<PathBuf>,
    pub(super) containers: BTreeMap<Box<str>, PathBuf>,
}

impl Found {
    /// Whether there is nothing else.
    pub(super) fn is_complete(&self) -> bool {
        !self.cut && !self.unlisted
    }
}

/// Looks through `from`, a path below `root`, and everything in it.
pub(super) fn walk(root: &Path, from: &Path, claimed: &BTreeSet<PodUid>, bounds: Bounds) -> Found {
    let mut found = Found::default();
    let (mut containers, mut directories) = (0, 0);
    let mut waiting = vec![from.to_owned()];
    while let Some(path) = waiting.pop() {
        directories += 1;
        let depth = path.iter().count();
        if directories > bounds.directories || containers >= bounds.containers || depth > bounds.depth {
            found.cut = true;
            continue;
        }
        let descend = match identify(&path) {
            Identity::Monitor => false,
            Identity::Other => true,
            Identity::Pod(uid) => {
                found.parents.extend(path.ancestors().skip(1).map(Path::to_owned));
                if claimed.contains(&uid) {
                    found.parents.insert(path.clone());
                    found.pods.entry(uid).or_default().directory = Some(path.clone());
                }
                true
            }
            Identity::Container { pod, id } if claimed.contains(&pod) => {
                containers += 1;
                // Its pod may have no directory of its own.
                found.parents.extend(path.parent().map(Path::to_owned));
                found.pods.entry(pod).or_default().containers.insert(id, path.clone());
                false
            }
            // A cluster may run in a container of another.
            Identity::Container { .. } => true,
        };
        let absolute = root.join(&path);
        if descend && may_have_children(&absolute) {
            match children(&absolute) {
                Ok(names) => waiting.extend(names.map(|name| path.join(name))),
                // Any other is gone, or not ours to see.
                Err(error) => {
                    let full = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
                    found.unlisted |= Errno::from_io_error(&error).is_some_and(|errno| full.contains(&errno));
                }
            }
        }
    }
    found
}

/// The kernel counts the directories in one as links to it. A file system that does not says 1.
fn may_have_children(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|metadata| metadata.nlink() != 2)
}

fn children(directory: &Path) -> std::io::Result<impl Iterator<Item = std::ffi::OsString>> {
    let entries = std::fs::read_dir(directory)?.filter_map(Result::ok);
    // Links lead elsewhere or nowhere: a hierarchy has none but beside its root.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| entry.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::create_dir_all;
    use tempfile::TempDir;

    const BOUNDS: Bounds = Bounds { depth: 16, directories: 1000, containers: 100 };

    fn uid(n: u32) -> PodUid {
        PodUid::parse(&format!("0f2a7f34-5c1d-4f4e-9d55-{n:012x}")).unwrap()
    }

    fn id(n: u32) -> Box<str> {
        format!("{n:064x}").into()
    }

    fn tree(paths: &[String]) -> TempDir {
        let root = TempDir::new().unwrap();
        for path in paths {
            create_dir_all(root.path().join(path)).unwrap();
        }
        root
    }

    #[test]
    fn claimed_pods_are_found_with_their_containers() {
        let root = tree(&[
            format!("kubepods/burstable/pod{}/{}/inner", uid(1), id(1)),
            format!("kubepods/burstable/pod{}/{}", uid(1), id(2)),
            format!("kubepods/burstable/pod{}/crio-conmon-{}", uid(1), id(3)),
            format!("kubepods/pod{}/{}", uid(2), id(4)),
            format!("kubepods/besteffort/pod{}", uid(3)),
            "system.slice/ssh.service".to_owned(),
        ]);
        let found = walk(root.path(), Path::new(""), &[uid(1), uid(3)].into(), BOUNDS);
        assert!(!found.cut);
        let pod = &found.pods[&uid(1)];
        assert_eq!(pod.directory, Some(format!("kubepods/burstable/pod{}", uid(1)).into()));
        assert_eq!(pod.containers.keys().collect::<Vec<_>>(), [&id(1), &id(2)]);
        assert!(found.pods[&uid(3)].containers.is_empty());
        assert_eq!(found.pods.len(), 2);
        let parents: Vec<PathBuf> = [
            String::new(),
            "kubepods".into(),
            "kubepods/besteffort".into(),
            format!("kubepods/besteffort/pod{}", uid(3)),
            "kubepods/burstable".into(),
            format!("kubepods/burstable/pod{}", uid(1)),
        ]
        .map(PathBuf::from)
        .into();
        assert_eq!(found.parents.into_iter().collect::<Vec<_>>(), parents);
    }

    #[test]
    fn a_cluster_within_a_cluster_is_found() {
        let inner = format!("kubepods/pod{}/{}/kubelet/kubepods/pod{}", uid(9), id(9), uid(1));
        let root = tree(&[format!("{inner}/{}", id(1))]);
        let found = walk(root.path(), Path::new(""), &[uid(1)].into(), BOUNDS);
        assert_eq!(found.pods[&uid(1)].directory, Some(inner.into()));
    }

    #[test]
    fn a_part_of_the_tree_is_walked_alone() {
        let root = tree(&[format!("a/pod{}/{}", uid(1), id(1)), format!("b/pod{}/{}", uid(2), id(2))]);
        let found = walk(root.path(), Path::new("b"), &[uid(1), uid(2)].into(), BOUNDS);
        assert_eq!(found.pods.keys().collect::<Vec<_>>(), [&uid(2)]);
        assert_eq!(walk(root.path(), Path::new("c"), &[uid(1)].into(), BOUNDS), Found::default());
    }

    #[test]
    fn a_walk_ends_at_its_bounds() {
        let deep = "x/".repeat(30);
        let root = tree(&[format!("{deep}pod{}/{}", uid(1), id(1))]);
        let found = walk(root.path(), Path::new(""), &[uid(1)].into(), BOUNDS);
        assert!(found.cut && found.pods.is_empty());

        let many: Vec<_> = (0..50).map(|n| format!("pod{}/{}", uid(n), id(n))).collect();
        let root = tree(&many);
        let claimed = (0..50).map(uid).collect();
        let found = walk(root.path(), Path::new(""), &claimed, Bounds { containers: 20, ..BOUNDS });
        let containers: usize = found.pods.values().map(|pod| pod.containers.len()).sum();
        assert!(found.cut);
        assert_eq!(containers, 20);
        assert!(walk(root.path(), Path::new(""), &claimed, Bounds { directories: 10, ..BOUNDS }).cut);
        assert!(!walk(root.path(), Path::new(""), &claimed, BOUNDS).cut);
    }

    #[test]
    fn links_are_not_followed() {
        let root = tree(&["a".to_owned(), format!("b/pod{}/{}", uid(1), id(1))]);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).unwrap();
        let found = walk(root.path(), Path::new("a"), &[uid(1)].into(), BOUNDS);
        assert_eq!(found, Found::default());
    }
}
