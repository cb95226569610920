//! The sampler on cgroups that the tests make on this machine, against what the kernel says itself. Where none can be
//! made, there is nothing to test.

use super::hierarchy::Directories;
use super::{INTERVAL, Limits, Sampler, Sources};
use skpr_proto::{PodUid, v1};
use std::collections::BTreeSet;
use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

const CONTROLLERS: [&str; 4] = ["memory", "cpuacct", "cpu", "pids"];

fn uid(n: usize) -> PodUid {
    PodUid::parse(&format!("0f2a7f34-5c1d-4f4e-9d55-{n:012x}")).unwrap()
}

/// A hierarchy of our own, as a node's would be: `root/CONTROLLER` are links to cgroups made for this test.
struct Node {
    root: tempfile::TempDir,
    name: String,
    made: Vec<PathBuf>,
}

impl Node {
    /// None where this process may make no cgroups.
    fn make(of: &str) -> Option<Node> {
        let name = format!("skpr-test-{}-{of}", std::process::id());
        let mut node = Node { root: tempfile::tempdir().unwrap(), name, made: Vec::new() };
        match Directories::find(Path::new("/sys/fs/cgroup"))? {
            Directories::V1(_) => {
                for controller in CONTROLLERS {
                    let cgroup = Path::new("/sys/fs/cgroup").join(controller).join(&node.name);
                    create_dir(&cgroup).ok()?;
                    node.made.push(cgroup.clone());
                    std::os::unix::fs::symlink(&cgroup, node.root.path().join(controller)).unwrap();
                }
                Some(node)
            }
            // A cgroup of v2 that holds us can have no others with controllers beside us.
            Directories::V2(_) => None,
        }
    }

    fn cgroup(&mut self, path: &str) {
        for controller in CONTROLLERS {
            let directory = self.root.path().join(controller).join(path);
            create_dir(&directory).unwrap();
            self.made.push(directory);
        }
    }

    fn container(&mut self, pod: usize, id: usize) -> String {
        let path = format!("pod{}/{id:064x}", uid(pod));
        if !self.root.path().join("memory").join(format!("pod{}", uid(pod))).exists() {
            self.cgroup(&format!("pod{}", uid(pod)));
        }
        self.cgroup(&path);
        path
    }

    fn remove(&self, path: &str) {
        for controller in CONTROLLERS {
            remove(&self.root.path().join(controller).join(path));
        }
    }

    fn file(&self, controller: &str, path: &str, file: &str) -> PathBuf {
        self.root.path().join(controller).join(path).join(file)
    }

    fn number(&self, controller: &str, path: &str, file: &str) -> u64 {
        read_to_string(self.file(controller, path, file)).unwrap().trim().parse().unwrap()
    }

    /// A shell that has joined the cgroup before it runs `script`.
    fn run(&self, path: &str, script: &str) -> Child {
        let joins = CONTROLLERS.map(|controller| {
            format!("echo $$ > {};", self.file(controller, path, "cgroup.procs").display())
        });
        Command::new("sh").arg("-c").arg(format!("{}{script}", joins.concat())).spawn().unwrap()
    }

    fn sampler(&self) -> Sampler {
        Sampler::new(Sources::Cgroups(self.root.path().to_owned()), Limits::of_this_process())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            remove(directory);
        }
    }
}

/// A process that has just ended may still be in it.
fn remove(directory: &Path) {
    for _ in 0..200 {
        match remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// Set in a process that this test has started again with few files.
const FEW_FILES: &str = "SKPR_TEST_FEW_FILES";

#[test]
fn all_containers_are_sampled_when_the_kernel_refuses_more_files() {
    if std::env::var_os(FEW_FILES).is_none() {
        // The limit is the process's, in which other tests run.
        let own = std::env::current_exe().unwrap();
        let name = "usage::kernel::all_containers_are_sampled_when_the_kernel_refuses_more_files";
        let mut again = Command::new("sh");
        again.args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"]).arg(own).arg(name);
        let output = again.env(FEW_FILES, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let Some(mut node) = Node::make("few") else { return };
    let claimed: BTreeSet<PodUid> = (0..40).map(uid).collect();
    (0..40).for_each(|n| _ = node.container(n, n));
    // It believes that it may open as many as it likes.
    let limits = Limits { open_files: usize::MAX, ..Limits::of_this_process() };
    let mut sampler = Sampler::new(Sources::Cgroups(node.root.path().to_owned()), limits);
    for _ in 0..3 {
        let pods = round(&mut sampler, &claimed);
        let complete = pods.iter().filter(|pod| {
            let sample = pod.containers[0].sample.unwrap();
            sample.cpu_nanos.is_some() && sample.memory_working_set_bytes.is_some()
        });
        assert_eq!(complete.count(), 40);
        assert!((20..64).contains(&sampler.open_files()), "{}", sampler.open_files());
    }
    assert_eq!(sampler.unreadable(), 0);
}

fn round(sampler: &mut Sampler, claimed: &BTreeSet<PodUid>) -> Vec<v1::PodSample> {
    sampler.round(claimed, INTERVAL).pods
}

#[test]
fn counters_are_the_kernels() {
    let Some(mut node) = Node::make("counters") else { return };
    let container = node.container(1, 1);
    write(node.file("memory", &container, "memory.limit_in_bytes"), "67108864").unwrap();
    write(node.file("cpu", &container, "cpu.cfs_quota_us"), "50000").unwrap();
    write(node.file("cpu", &container, "cpu.shares"), "512").unwrap();
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; x=$(head -c 4000000 /dev/zero | tr '\\0' x); true";
    assert!(node.run(&container, burn).wait().unwrap().success());

    // Nothing runs in it any more, so the kernel's counters stand still, but for charges that it gives back in its own time.
    let mut sampler = node.sampler();
    let pods = round(&mut sampler, &[uid(1)].into());
    let sample = pods[0].containers[0].sample.unwrap();
    assert_eq!(sample.cpu_nanos, Some(node.number("cpuacct", &container, "cpuacct.usage")));
    assert!(sample.cpu_nanos.unwrap() > 10_000_000);
    assert_eq!(pods[0].total.unwrap().cpu_nanos, sample.cpu_nanos);
    assert!(sample.periods.unwrap() > 0);
    assert_eq!((sample.cpu_limit_millicores, sample.cpu_share_millicores), (Some(500), Some(500)));
    assert_eq!(sample.memory_limit_bytes, Some(64 << 20));
    assert_eq!(
        sample.memory_peak_bytes,
        Some(node.number("memory", &container, "memory.max_usage_in_bytes"))
    );
    assert!(sample.memory_peak_bytes.unwrap() >= 4_000_000);
    assert_eq!(sample.processes, Some(0));
    assert_eq!(sample.oom_kills, Some(0));
    let user = sample.cpu_user_nanos.unwrap() + sample.cpu_system_nanos.unwrap();
    assert!(user.abs_diff(sample.cpu_nanos.unwrap()) < 50_000_000, "{sample:?}");
}

#[test]
fn a_cgroup_that_vanishes_is_dropped_at_once() {
    let Some(mut node) = Node::make("vanishing") else { return };
    let (gone, stays) = (node.container(1, 1), node.container(1, 2));
    node.container(2, 3);
    let claimed = [uid(1), uid(2)].into();
    let mut sampler = node.sampler();
    assert_eq!(round(&mut sampler, &claimed).iter().map(|pod| pod.containers.len()).sum::<usize>(), 3);
    node.remove(&gone);
    let pods = round(&mut sampler, &claimed);
    assert_eq!((pods.len(), pods[0].containers.len()), (2, 1));
    assert!(stays.ends_with(&pods[0].containers[0].id));
    // A container's successor is found by the kernel's notification, not by the walk of each minute.
    node.container(1, 4);
    assert_eq!(round(&mut sampler, &claimed)[0].containers.len(), 2);
    node.remove(&stays);
    node.remove(&format!("pod{}/{:064x}", uid(1), 4));
    node.remove(&format!("pod{}", uid(1)));
    let pods = round(&mut sampler, &claimed);
    assert_eq!(pods.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), [uid(2).as_str()]);
    assert_eq!(sampler.unreadable(), 0);
}

#[test]
fn a_cgroup_that_vanishes_between_two_reads_is_dropped() {
    let Some(mut node) = Node::make("between") else { return };
    for gone in CONTROLLERS {
        let n = CONTROLLERS.iter().position(|controller| *controller == gone).unwrap() + 1;
        let (container, claimed) = (node.container(n, n), [uid(n)].into());
        let mut sampler = node.sampler();
        assert_eq!(round(&mut sampler, &claimed)[0].containers.len(), 1);
        // Hierarchies are removed one after the other, and a round may fall between.
        remove(&node.root.path().join(gone).join(&container));
        let left = round(&mut sampler, &claimed);
        let counts_on = ["pids"].contains(&gone);
        assert_eq!(left[0].containers.len(), usize::from(counts_on), "{gone}: {left:?}");
        assert_eq!(sampler.unreadable(), 0);
    }
}

#[test]
fn three_oom_kills_count_three_across_a_restart() {
    let Some(mut node) = Node::make("kills") else { return };
    let mut sampler = node.sampler();
    let claimed = [uid(1)].into();
    for (restart, expected) in [(1, 2), (2, 3)] {
        let container = node.container(1, restart);
        write(node.file("memory", &container, "memory.limit_in_bytes"), "8388608").unwrap();
        for _ in 0..(3 - restart) {
            // A line that never ends is held in memory. One process alone: of several, the kernel may kill more than one.
            let status = node.run(&container, "exec tail /dev/zero").wait().unwrap();
            assert!(!status.success());
        }
        let pods = round(&mut sampler, &claimed);
        assert_eq!(pods[0].total.unwrap().oom_kills, Some(expected), "{pods:?}");
        node.remove(&container);
        assert_eq!(round(&mut sampler, &claimed)[0].total.unwrap().oom_kills, Some(expected));
    }
}
