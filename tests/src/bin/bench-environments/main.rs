//! `make bench-environments`: what many environments cost one aggregator, on a real API server.
//!
//! `bench-environments [PROJECTS]` — projects of 200 environments with five pods each (default 10: 2,000 environments and
//! 10,000 pods). Nobody but the aggregator acts on the objects: the pods, and that they are ready, are written here.
//! Prints a table and writes `target/bench/environments.json`.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

mod objects;

use anyhow::{Context as _, ensure};
use kube::Client;
use skpr_tests::report::{Better, Figure, publish};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Environments of one project: what `skpr list` of a project is measured on.
const ENVIRONMENTS: usize = 200;
const PODS: usize = 5;
/// How often a command is timed.
const ROUNDS: usize = 21;
/// How long the aggregator may take to have seen everything and come to rest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(900);
/// At rest is a tenth of a second of CPU in ten seconds, twice.
const QUIET_SECONDS: u64 = 10;
const QUIET_CPU: f64 = 0.1;

fn main() -> anyhow::Result<()> {
    let projects = std::env::args().nth(1).map_or(Ok(10), |text| text.parse()).context("read PROJECTS")?;
    // A second one is installed already when a library was quicker; either way there is one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let token = runtime.block_on(async {
        let client = Client::try_default().await.context("find the API server")?;
        let begun = Instant::now();
        objects::make(&client, projects, ENVIRONMENTS, PODS).await?;
        println!(
            "{} environments and {} pods made in {} s",
            projects * ENVIRONMENTS,
            projects * ENVIRONMENTS * PODS,
            begun.elapsed().as_secs()
        );
        objects::token(&client).await
    })?;
    drop(runtime);

    let work = tempfile::tempdir().context("make a work directory")?;
    let aggregator = Aggregator::start(work.path())?;
    let user = User {
        address: aggregator.address.clone(),
        ca: work.path().join("ca.crt"),
        token,
        home: work.path().into(),
    };
    let took = aggregator.settle(&user, projects * ENVIRONMENTS)?;

    let mut figures = vec![
        Figure::new("aggregator RSS at rest", aggregator.memory("VmRSS")?, "MiB", Better::Lower)
            .target(200.0),
        Figure::new("aggregator RSS at most", aggregator.memory("VmHWM")?, "MiB", Better::Lower),
        Figure::new("until everything was reconciled", took.as_secs_f64(), "s", Better::Lower),
        Figure::new("CPU until then", aggregator.cpu()?, "s", Better::Lower),
    ];
    let kubectl =
        std::env::var("SKPR_TEST_CLUSTER").context("SKPR_TEST_CLUSTER names the cluster's script")?;
    let peer = median(|| {
        let mut command = Command::new(&kubectl);
        command.args(["kubectl", "get", "environments", "-n", "bench-0"]);
        command
    })?;
    let listed = median(|| user.skpr(&["list", "-p", "p0"]))?;
    figures.push(
        Figure::new("skpr list, 200 environments", listed, "ms", Better::Lower)
            .against("kubectl get environments", peer)
            .target(150.0),
    );
    let all = median(|| user.skpr(&["list", "--all"]))?;
    figures.push(Figure::new("skpr list, all of them", all, "ms", Better::Lower));
    publish(&figures, Path::new("target/bench/environments.json"))
}

/// Milliseconds from start to end, its output read.
fn median(command: impl Fn() -> Command) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = command();
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("run a command")?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.stdout.iter().filter(|byte| **byte == b'\n').count() > ENVIRONMENTS,
            "{command:?} lists too little"
        );
    }
    times.sort_by(f64::total_cmp);
    times.get(ROUNDS / 2).copied().context("a median")
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe().context("find this program")?.with_file_name(name))
}

struct User {
    address: String,
    ca: PathBuf,
    token: String,
    home: PathBuf,
}

impl User {
    fn skpr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("skpr").unwrap_or_default());
        command.args(arguments).current_dir(&self.home);
        command.env("SKPR_CLUSTER", &self.address).env("SKPR_CA", &self.ca).env("SKPR_TOKEN", &self.token);
        command.env("SKPR_CONFIG_DIR", self.home.join("config"));
        command
    }
}

/// A process; killed when dropped.
struct Aggregator {
    process: Child,
    address: String,
    ca: PathBuf,
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Aggregator {
    fn start(work: &Path) -> anyhow::Result<Aggregator> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new(program("skpr-aggregator")?)
            .args([
                "serve",
                "--namespace",
                "skpr",
                "--http-listen",
                "127.0.0.1:0",
                "--monitoring-listen",
                "127.0.0.1:0",
            ])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(work.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(work.join("aggregator.log")).context("open the log")?)
            .spawn()
            .context("start the aggregator")?;
        Ok(Aggregator { process, address: format!("localhost:{port}"), ca: work.join("ca.crt") })
    }

    /// Waits until it lists everything and has nothing more to do.
    fn settle(&self, user: &User, environments: usize) -> anyhow::Result<Duration> {
        let kubectl =
            std::env::var("SKPR_TEST_CLUSTER").context("SKPR_TEST_CLUSTER names the cluster's script")?;
        let begun = Instant::now();
        loop {
            let path = "go-template={{index .data \"ca.crt\" | base64decode}}";
            let ca = Command::new(&kubectl)
                .args(["kubectl", "-n", "skpr", "get", "secret", "skpr-ca", "-o", path])
                .output()?;
            if ca.status.success() {
                std::fs::write(&self.ca, ca.stdout)?;
                let listed = user.skpr(&["list", "--all", "-o", "name"]).output()?;
                if listed.stdout.iter().filter(|byte| **byte == b'\n').count() == environments {
                    break;
                }
            }
            ensure!(
                begun.elapsed() < SETTLE_TIMEOUT,
                "the aggregator does not list {environments} environments"
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        let (mut quiet, mut before) = (0, self.cpu()?);
        while quiet < 2 {
            ensure!(begun.elapsed() < SETTLE_TIMEOUT, "the aggregator does not come to rest");
            std::thread::sleep(Duration::from_secs(QUIET_SECONDS));
            let now = self.cpu()?;
            quiet = if now - before < QUIET_CPU { quiet + 1 } else { 0 };
            before = now;
        }
        Ok(begun.elapsed().saturating_sub(Duration::from_secs(2 * QUIET_SECONDS)))
    }

    /// A line of `/proc/PID/status`, in MiB.
    fn memory(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).context("find the memory line")?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// CPU seconds so far. A tick is a hundredth of a second on every Linux that Rust supports.
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("parse /proc stat")?;
        let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
        Ok(fields.get(11..13).context("find the CPU fields")?.iter().sum::<f64>() / 100.0)
    }
}
