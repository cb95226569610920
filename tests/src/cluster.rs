//! A Kubernetes cluster to test on: the one of `KUBECONFIG`, driven by kubectl and helm.
//!
//! * Each test works in namespaces of its own, which are deleted at its end, also when it fails; set
//!   `SKPR_KEEP_NAMESPACE=1` to look at them afterwards.
//! * A test that fails shows the state, the events and the last log lines of every pod in its namespaces.
//! * What only our own cluster can do (a link cut, a process killed on a node) needs `SKPR_TEST_CLUSTER`, the path of
//!   `tests/cluster/cluster`; `scripts/test-kubernetes` sets both.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// What is wrong with the nodes: one that is full or cannot keep up takes no pods.
const NODES: [&str; 4] = [
    "get",
    "nodes",
    "-o",
    "custom-columns=NODE:.metadata.name,TAINTS:.spec.taints[*].key,CONDITIONS:.status.conditions[*].reason",
];

/// A cluster and the programs that drive it.
#[derive(Clone, Debug)]
pub struct Cluster {
    own: Option<PathBuf>,
}

/// A namespace that ends with its test.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
    dumped: AtomicBool,
}

/// One chart's installation; it is uninstalled when this is dropped.
#[derive(Debug)]
pub struct Release {
    namespace: Namespace,
    name: String,
    /// What installs it, for helm.
    arguments: Vec<String>,
}

impl Cluster {
    /// The cluster that the environment names.
    pub fn connect() -> Result<Self> {
        if std::env::var_os("KUBECONFIG").is_none() {
            bail!("KUBECONFIG is not set\nhint: make test-kubernetes");
        }
        let cluster = Cluster { own: std::env::var_os("SKPR_TEST_CLUSTER").map(PathBuf::from) };
        cluster.kubectl(&["version"]).context("reach the cluster")?;
        Ok(cluster)
    }

    /// Our own cluster, whose nodes can be broken; none when the tests run on another.
    pub fn breakable(&self) -> Option<Breakable<'_>> {
        self.own.as_deref().map(|script| Breakable { script })
    }

    /// The same for what is tested only there: elsewhere it says that this is left out, which `scripts/test` shows and counts.
    #[expect(clippy::print_stderr, reason = "what a test leaves out is test output")]
    pub fn breakable_for(&self, what: &str) -> Option<Breakable<'_>> {
        let own = self.breakable();
        if own.is_none() {
            // On a line of its own, whatever the harness has begun.
            eprintln!(
                "\nLEFT OUT: {what}: only a cluster that scripts/test-kubernetes starts itself is broken"
            );
        }
        own
    }

    /// Runs kubectl; what it printed.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        run(self.command("kubectl").args(arguments))
    }

    /// Runs helm; what it printed.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        run(self.command("helm").args(arguments))
    }

    /// A kubectl or helm command, for what runs beside the test.
    pub fn command(&self, program: &str) -> Command {
        match &self.own {
            Some(script) => {
                let mut command = Command::new(script);
                command.arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let mut command = self.command("kubectl");
        command
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifest.as_bytes()).context("hand the manifest to kubectl")?;
        }
        finished(&command, child.wait_with_output().context("run kubectl")?)
    }

    /// A namespace whose name begins with `prefix`.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name])?;
        Ok(Namespace { cluster: self.clone(), name, dumped: AtomicBool::new(false) })
    }
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = self.cluster.command("kubectl");
        run(command.args(["--namespace", &self.name]).args(arguments))
    }

    /// Applies a manifest to this namespace.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let in_namespace = manifest.replace("$NAMESPACE", &self.name);
        self.cluster.apply(&in_namespace)
    }

    /// Installs a chart here, waits until it is ready.
    pub fn install(self, name: &str, chart: &Path, values: &[String], timeout: Duration) -> Result<Release> {
        let mut arguments =
            vec!["upgrade".to_owned(), "--install".to_owned(), name.to_owned(), chart.display().to_string()];
        arguments.extend(["--namespace".to_owned(), self.name.clone()]);
        // The custom resource outlives an uninstall, and still names the installation before.
        arguments.push("--take-ownership".to_owned());
        for value in values {
            arguments.extend(["--set".to_owned(), value.clone()]);
        }
        arguments.extend(["--wait".to_owned(), "--timeout".to_owned(), format!("{}s", timeout.as_secs())]);
        // Built before it is known whether this works, so that what there is of it goes again.
        let release = Release { namespace: self, name: name.to_owned(), arguments };
        release.install().inspect_err(|_| release.namespace.dump())?;
        Ok(release)
    }

    /// The names of the pods with these labels, sorted.
    pub fn pods(&self, selector: &str) -> Result<Vec<String>> {
        let names =
            self.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].metadata.name}"])?;
        let mut names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// One field of an object, by JSONPath.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Shows, once, what a test that fails has left here.
    #[expect(clippy::print_stderr, reason = "what a failed test leaves to look at is test output")]
    pub fn dump(&self) {
        if self.dumped.swap(true, Ordering::Relaxed) {
            return;
        }
        eprintln!("\n== pods of {} as the test left them", self.name);
        for arguments in
            [["get", "pods", "-o", "wide"].as_slice(), &["get", "events", "--sort-by=.lastTimestamp"], &NODES]
        {
            eprintln!("{}", self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}")));
        }
        for pod in self.pods("app.kubernetes.io/part-of=skpr").unwrap_or_default() {
            for previous in ["--previous=true", "--previous=false"] {
                if let Ok(text) = self.kubectl(&["logs", &pod, "--tail=60", previous]) {
                    eprintln!("-- {pod} ({previous})\n{text}");
                }
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
        if std::env::var_os("SKPR_KEEP_NAMESPACE").is_none() {
            // Not waited for: a pod in it has half a minute to end, and Kubernetes looks again only then.
            self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]).ok();
        }
    }
}

impl Release {
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Installs it as it was; waits until it is ready.
    pub fn install(&self) -> Result<()> {
        self.namespace.cluster.helm(&self.arguments).map(drop)
    }

    /// Installs it with these values besides; waits until it is ready.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        let values = values.iter().flat_map(|value| ["--set", *value]);
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).chain(values).collect();
        self.namespace.cluster.helm(&arguments).map(drop)
    }

    /// Uninstalls it, and waits until its pods are gone.
    pub fn uninstall(&self) -> Result<()> {
        let arguments = ["uninstall", &self.name, "--namespace", &self.namespace.name, "--wait"];
        self.namespace.cluster.helm(&arguments)?;
        self.namespace.kubectl(&["wait", "--for=delete", "pods", "--all", "--timeout=120s"]).map(drop)
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if std::env::var_os("SKPR_KEEP_NAMESPACE").is_none() {
            if std::thread::panicking() {
                self.namespace.dump();
            }
            // Before the namespace goes: what the chart made outside of it.
            let arguments = ["uninstall", &self.name, "--namespace", &self.namespace.name, "--wait=false"];
            self.namespace.cluster.helm(&arguments).ok();
            // The next installation's pods are to be the only ones of skpr on their nodes.
            self.namespace.kubectl(&["delete", "pods", "--all", "--timeout=60s"]).ok();
            // Kept on purpose when the chart goes, and in the way of the next test, which installs in another namespace.
            let crd = ["delete", "crd", "environments.skpr.io", "--ignore-not-found", "--timeout=60s"];
            self.namespace.cluster.kubectl(&crd).ok();
        }
    }
}

/// What can be broken in our own cluster. Nodes are numbered from 1 and named `node1`, `node2`.
#[derive(Clone, Copy, Debug)]
pub struct Breakable<'a> {
    script: &'a Path,
}

/// A node's link that is cut; it heals when this is dropped.
#[derive(Debug)]
pub struct CutLink<'a> {
    cluster: Breakable<'a>,
    node: String,
}

/// An API server that is away; it comes back when this is dropped.
#[derive(Debug)]
pub struct Away<'a>(Breakable<'a>);

impl<'a> Breakable<'a> {
    /// Kills the API server.
    pub fn api_server_away(self) -> Result<Away<'a>> {
        run(Command::new(self.script).arg("away"))?;
        Ok(Away(self))
    }

    /// Imports an image archive on every node.
    pub fn load(&self, image: &Path) -> Result<()> {
        run(Command::new(self.script).arg("load").arg(image)).map(drop)
    }

    /// Takes a node's network link down.
    pub fn cut(self, node: &str) -> Result<CutLink<'a>> {
        run(Command::new(self.script).args(["cut", number(node)]))?;
        Ok(CutLink { cluster: self, node: node.to_owned() })
    }

    /// Kills every process of this name on a node, without warning.
    pub fn kill(&self, node: &str, process: &str) -> Result<()> {
        self.enter(node, &["pkill", "-KILL", "-x", process]).map(drop)
    }

    /// Runs a command in a node's namespaces.
    pub fn enter(&self, node: &str, command: &[&str]) -> Result<String> {
        run(Command::new(self.script).args(["enter", number(node)]).args(command))
    }
}

impl Drop for CutLink<'_> {
    fn drop(&mut self) {
        run(Command::new(self.cluster.script).args(["heal", number(&self.node)])).ok();
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        run(Command::new(self.0.script).arg("back")).ok();
    }
}

fn number(node: &str) -> &str {
    node.strip_prefix("node").unwrap_or(node)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    finished(command, output)
}

fn finished(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
