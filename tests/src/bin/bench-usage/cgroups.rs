//! The cgroups of this benchmark, removed with it: those of made-up pods, laid out as a node's, and one for each program
//! that is measured.

use anyhow::Context as _;
use skpr_tests::cli::{Running, program};
use skpr_tests::fleet::{container_id, uid};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpuacct", "cpu", "pids"];
/// What the sampler reads in each round: of a container, and of its pod.
const V1: [&[(&str, &str)]; 2] = [
    &[
        ("cpuacct", "cpuacct.usage"),
        ("memory", "memory.usage_in_bytes"),
        ("memory", "memory.stat"),
        ("cpu", "cpu.stat"),
        ("memory", "memory.oom_control"),
        ("memory", "memory.kmem.usage_in_bytes"),
    ],
    &[("cpuacct", "cpuacct.usage")],
];
const V2: [&[(&str, &str)]; 2] = [
    &[
        ("", "cpu.stat"),
        ("", "memory.current"),
        ("", "memory.stat"),
        ("", "cpu.pressure"),
        ("", "memory.pressure"),
        ("", "io.pressure"),
    ],
    &[("", "cpu.stat"), ("", "memory.events")],
];

fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").is_file()
}

/// The hierarchies that count; on v2 the one of all.
fn hierarchies() -> &'static [&'static str] {
    if is_v2() { &[""] } else { &V1_CONTROLLERS }
}

fn name(of: &str) -> String {
    format!("skpr-bench-{}-{of}", std::process::id())
}

fn make(path: &Path) -> anyhow::Result<()> {
    fs::create_dir(path).with_context(|| format!("make the cgroup `{}` (as root)", path.display()))
}

/// A process that has just ended may still be in it.
fn remove(path: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// Pods of one container each.
pub(crate) struct Pods {
    /// Laid out as what is mounted on a node, but of these cgroups alone.
    root: tempfile::TempDir,
    pods: Vec<usize>,
    made: Vec<PathBuf>,
}

impl Pods {
    pub(crate) fn make(numbers: impl Iterator<Item = usize>) -> anyhow::Result<Pods> {
        let mut pods = Pods { root: tempfile::tempdir()?, pods: numbers.collect(), made: Vec::new() };
        for hierarchy in hierarchies() {
            let cgroup = Path::new(ROOT).join(hierarchy).join(name("pods"));
            pods.directory(&cgroup)?;
            std::os::unix::fs::symlink(&cgroup, pods.mounted(hierarchy))?;
            for pod in pods.pods.clone() {
                let directory = cgroup.join(format!("pod{}", uid(pod)?));
                pods.directory(&directory)?;
                pods.directory(&directory.join(container_id(pod)))?;
            }
        }
        Ok(pods)
    }

    fn directory(&mut self, path: &Path) -> anyhow::Result<()> {
        make(path)?;
        self.made.push(path.to_owned());
        if is_v2() {
            // The last one has nothing below that could use them.
            fs::write(path.join("cgroup.subtree_control"), "+cpu +memory +pids").ok();
        }
        Ok(())
    }

    fn mounted(&self, hierarchy: &str) -> PathBuf {
        self.root.path().join(if hierarchy.is_empty() { "cgroup" } else { hierarchy })
    }

    /// What an agent takes for the place where cgroups are mounted.
    pub(crate) fn root(&self) -> PathBuf {
        if is_v2() { self.mounted("") } else { self.root.path().to_owned() }
    }

    /// How the paths of these cgroups begin in each hierarchy.
    pub(crate) fn prefix(&self) -> String {
        format!("/{}", name("pods"))
    }

    fn container(&self, hierarchy: &str, pod: usize) -> anyhow::Result<PathBuf> {
        Ok(self.mounted(hierarchy).join(format!("pod{}", uid(pod)?)).join(container_id(pod)))
    }

    /// The files that the sampler reads in each round, open.
    pub(crate) fn files(&self) -> anyhow::Result<Vec<File>> {
        let [of_container, of_pod] = if is_v2() { V2 } else { V1 };
        let mut files = Vec::new();
        for pod in &self.pods {
            for (hierarchy, file) in of_pod {
                let container = self.container(hierarchy, *pod)?;
                files.push(open(&container.parent().unwrap_or(&container).join(file))?);
            }
            for (hierarchy, file) in of_container {
                files.push(open(&self.container(hierarchy, *pod)?.join(file))?);
            }
        }
        Ok(files)
    }

    /// Uses a little CPU in each container: this process goes through all of them.
    pub(crate) fn stir(&self) -> anyhow::Result<()> {
        let hierarchy = if is_v2() { "" } else { "cpuacct" };
        for pod in &self.pods {
            fs::write(self.container(hierarchy, *pod)?.join("cgroup.procs"), "0").context("join a cgroup")?;
            // The kernel charges what was used to where it is when it looks, which this makes it do.
            std::thread::yield_now();
        }
        let back = Path::new(ROOT).join(hierarchy).join("cgroup.procs");
        fs::write(back, "0").context("leave a cgroup")
    }

    /// How many containers have used CPU.
    pub(crate) fn used(&self) -> anyhow::Result<usize> {
        let (hierarchy, file) = if is_v2() { ("", "cpu.stat") } else { ("cpuacct", "cpuacct.usage") };
        let mut used = 0;
        for pod in &self.pods {
            let text =
                fs::read_to_string(self.container(hierarchy, *pod)?.join(file)).context("read a counter")?;
            let number = text.trim_start_matches("usage_usec ").lines().next().unwrap_or_default();
            used += usize::from(number.trim() != "0");
        }
        Ok(used)
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("open `{}`", path.display()))
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.made.iter().rev().for_each(|directory| remove(directory));
    }
}

/// A program in a cgroup of its own, which counts what it uses.
pub(crate) struct Metered {
    running: Option<Running>,
    cgroup: PathBuf,
}

impl Metered {
    /// Runs it, and says nothing of what it says.
    pub(crate) fn start(of: &str, command: &Path, arguments: &[String]) -> anyhow::Result<Metered> {
        let hierarchy = if is_v2() { "" } else { "cpuacct" };
        let cgroup = Path::new(ROOT).join(hierarchy).join(name(of));
        make(&cgroup)?;
        let mut metered = Metered { running: None, cgroup };
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(metered.cgroup.join("cgroup.procs"));
        shell.arg(command).args(arguments).env("SKPR_LOG", "warn");
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        metered.running = Some(Running::start(shell).with_context(|| format!("start {of}"))?);
        Ok(metered)
    }

    pub(crate) fn start_own(of: &str, program_name: &str, arguments: &[String]) -> anyhow::Result<Metered> {
        Metered::start(of, &program(program_name)?, arguments)
    }

    /// Seconds of CPU so far, by the kernel's counter of the cgroup.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        if !is_v2() {
            let text = fs::read_to_string(self.cgroup.join("cpuacct.usage")).context("read cpuacct.usage")?;
            return Ok(text.trim().parse::<f64>()? / 1e9);
        }
        let text = fs::read_to_string(self.cgroup.join("cpu.stat")).context("read cpu.stat")?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("find usage_usec")?;
        Ok(line.trim().parse::<f64>()? / 1e6)
    }

    /// MiB of it in memory.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let running = self.running.as_ref().context("it runs")?;
        memory(running.id(), "VmRSS:").with_context(|| format!("it said: {}", running.stderr()))
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.running.take();
        remove(&self.cgroup);
    }
}

/// A line of `/proc/PID/status`, in MiB.
pub(crate) fn memory(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("find the memory line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
