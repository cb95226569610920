//! Which hierarchies of cgroups a node has, and where a cgroup lies in them.
//!
//! v2 is one tree. v1 has one for each controller or pair of them, below a directory of their names; where v2 is mounted
//! beside it (hybrid), v1 has the controllers and v2 counts no more than pressure.

use super::files::{Controller, Spec, V1_CONTAINER, V1_POD, V2_ALONE, V2_CONTAINER, V2_POD};
use std::path::{Path, PathBuf};

/// The v1 controllers that have something to say, with the name of each.
const CONTROLLERS: [(Controller, &str); 4] = [
    (Controller::Memory, "memory"),
    (Controller::Cpuacct, "cpuacct"),
    (Controller::Cpu, "cpu"),
    (Controller::Pids, "pids"),
];
/// A file that each v2 cgroup has, also the root's.
const IS_V2: &str = "cgroup.controllers";
/// Where systemd mounts v2 beside v1.
const BESIDE: &str = "unified";

/// What a node, or one cgroup, has: v1 and v2 differ in what is where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Directories {
    V1(Vec<(Controller, PathBuf)>),
    V2(PathBuf),
}

/// Of what the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pod,
    Container,
    /// A cgroup without a pod above it, which counts its own kills.
    Alone,
}

impl Directories {
    /// Looks at what is mounted at or below `root`; none when that is no place for cgroups.
    pub(super) fn find(root: &Path) -> Option<Directories> {
        if root.join(IS_V2).is_file() {
            return Some(Directories::V2(root.to_owned()));
        }
        let mut found: Vec<_> = CONTROLLERS
            .iter()
            .filter_map(|(controller, name)| Some((*controller, mount(root, name)?)))
            .collect();
        if found.is_empty() {
            return None;
        }
        let beside = root.join(BESIDE);
        if beside.join(IS_V2).is_file() {
            found.push((Controller::Unified, beside));
        }
        Some(Directories::V1(found))
    }

    /// The directories of one cgroup, one for each hierarchy that it is in; none when they do not count both CPU and
    /// memory.
    pub(super) fn of(directories: &[PathBuf]) -> Option<Directories> {
        let with = |file: &str| directories.iter().find(|directory| directory.join(file).is_file());
        if let Some(directory) = with("memory.current") {
            return directory.join("cpu.stat").is_file().then(|| Directories::V2(directory.clone()));
        }
        let files = [
            (Controller::Memory, "memory.usage_in_bytes"),
            (Controller::Cpuacct, "cpuacct.usage"),
            (Controller::Cpu, "cpu.shares"),
            (Controller::Pids, "pids.current"),
            (Controller::Unified, "cpu.pressure"),
        ];
        let found: Vec<_> =
            files.iter().filter_map(|(controller, file)| Some((*controller, with(file)?.clone()))).collect();
        let counts = |wanted| found.iter().any(|(controller, _)| *controller == wanted);
        (counts(Controller::Memory) && counts(Controller::Cpuacct)).then_some(Directories::V1(found))
    }

    /// The tree in which pods are looked for.
    pub(super) fn main(&self) -> Option<&Path> {
        match self {
            Directories::V2(directory) => Some(directory),
            Directories::V1(all) => all.first().map(|(_, directory)| directory.as_path()),
        }
    }

    /// The same path in each hierarchy.
    pub(super) fn below(&self, path: &Path) -> Directories {
        match self {
            Directories::V2(directory) => Directories::V2(directory.join(path)),
            Directories::V1(all) => {
                Directories::V1(all.iter().map(|(controller, all)| (*controller, all.join(path))).collect())
            }
        }
    }

    /// Where files of a controller are.
    pub(super) fn of_controller(&self, wanted: Controller) -> Option<&Path> {
        match self {
            Directories::V2(directory) => (wanted == Controller::Unified).then_some(directory),
            Directories::V1(all) => all
                .iter()
                .find(|(controller, _)| *controller == wanted)
                .map(|(_, directory)| directory.as_path()),
        }
    }

    /// The files that there are to read.
    pub(super) fn files(&self, kind: Kind) -> &'static [Spec] {
        match (self, kind) {
            (Directories::V1(_), Kind::Pod) => &V1_POD,
            (Directories::V1(_), Kind::Container | Kind::Alone) => &V1_CONTAINER,
            (Directories::V2(_), Kind::Pod) => &V2_POD,
            (Directories::V2(_), Kind::Container) => &V2_CONTAINER,
            (Directories::V2(_), Kind::Alone) => &V2_ALONE,
        }
    }

    /// v1 counts the OOM kills of a cgroup without those below.
    pub(super) fn counts_kills_below(&self) -> bool {
        match self {
            Directories::V1(_) => false,
            Directories::V2(_) => true,
        }
    }
}

/// Where a controller is mounted: under its name, or under several names joined by commas.
fn mount(root: &Path, controller: &str) -> Option<PathBuf> {
    // Resolved once: the name is often a link, and every file below it is opened by its path.
    let plain = std::fs::canonicalize(root.join(controller)).ok();
    if plain.as_ref().is_some_and(|plain| plain.is_dir()) {
        return plain;
    }
    let is_joined = |name: &str| name.contains(',') && name.split(',').any(|part| part == controller);
    let entries = std::fs::read_dir(root).ok()?.filter_map(Result::ok);
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_joined)).map(|entry| entry.path()).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use tempfile::TempDir;

    fn tree(directories: &[&str], files: &[&str]) -> TempDir {
        let root = TempDir::new().unwrap();
        for directory in directories {
            create_dir_all(root.path().join(directory)).unwrap();
        }
        for file in files {
            write(root.path().join(file), "").unwrap();
        }
        root
    }

    fn v1(root: &TempDir, expected: &[(Controller, &str)]) -> Directories {
        let root = root.path().canonicalize().unwrap();
        Directories::V1(expected.iter().map(|(controller, at)| (*controller, root.join(at))).collect())
    }

    #[test]
    fn v2_is_one_tree() {
        let root = tree(&["kubepods.slice"], &["cgroup.controllers"]);
        let found = Directories::find(root.path()).unwrap();
        assert_eq!(found, Directories::V2(root.path().to_owned()));
        assert_eq!(found.below(Path::new("a/b")), Directories::V2(root.path().join("a/b")));
        assert_eq!(found.of_controller(Controller::Memory), None);
    }

    #[test]
    fn v1_controllers_are_alone_or_joined() {
        let root = tree(&["memory", "cpu,cpuacct", "pids", "net_cls,net_prio", "systemd"], &[]);
        let expected = [
            (Controller::Memory, "memory"),
            (Controller::Cpuacct, "cpu,cpuacct"),
            (Controller::Cpu, "cpu,cpuacct"),
            (Controller::Pids, "pids"),
        ];
        assert_eq!(Directories::find(root.path()), Some(v1(&root, &expected)));

        let root = tree(&["memory", "cpu", "cpuacct"], &[]);
        let expected =
            [(Controller::Memory, "memory"), (Controller::Cpuacct, "cpuacct"), (Controller::Cpu, "cpu")];
        assert_eq!(Directories::find(root.path()), Some(v1(&root, &expected)));

        // As systemd has it.
        let root = tree(&["memory", "cpu,cpuacct"], &[]);
        for name in ["cpu", "cpuacct"] {
            std::os::unix::fs::symlink("cpu,cpuacct", root.path().join(name)).unwrap();
        }
        let expected = [
            (Controller::Memory, "memory"),
            (Controller::Cpuacct, "cpu,cpuacct"),
            (Controller::Cpu, "cpu,cpuacct"),
        ];
        assert_eq!(Directories::find(root.path()), Some(v1(&root, &expected)));
    }

    #[test]
    fn a_hybrid_counts_with_v1() {
        let root = tree(&["memory", "cpuacct", "unified"], &["unified/cgroup.controllers"]);
        let expected = [
            (Controller::Memory, "memory"),
            (Controller::Cpuacct, "cpuacct"),
            (Controller::Unified, "unified"),
        ];
        assert_eq!(Directories::find(root.path()), Some(v1(&root, &expected)));
    }

    #[test]
    fn where_no_cgroups_are_there_is_nothing() {
        assert_eq!(Directories::find(tree(&["etc", "usr"], &[]).path()), None);
        assert_eq!(Directories::find(Path::new("/nowhere")), None);
    }

    #[test]
    fn one_cgroup_is_known_by_its_files() {
        let root = tree(
            &["freezer", "memory", "cpuacct", "unified"],
            &[
                "memory/memory.usage_in_bytes",
                "cpuacct/cpuacct.usage",
                "unified/cpu.pressure",
                "unified/cpu.stat",
            ],
        );
        let all = ["freezer", "unified", "cpuacct", "memory"].map(|name| root.path().join(name));
        let expected = [
            (Controller::Memory, "memory"),
            (Controller::Cpuacct, "cpuacct"),
            (Controller::Unified, "unified"),
        ];
        assert_eq!(Directories::of(&all), Some(v1(&root, &expected)));
        assert_eq!(Directories::of(&all[..3]), None);

        let root = tree(&["x"], &["x/memory.current", "x/cpu.stat"]);
        let directory = root.path().join("x");
        assert_eq!(Directories::of(std::slice::from_ref(&directory)), Some(Directories::V2(directory)));
        assert_eq!(Directories::of(&[]), None);
    }
}
