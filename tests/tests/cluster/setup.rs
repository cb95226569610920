//! What every test on Kubernetes begins with: skpr installed in a namespace, a site in another, a user with rights.

use super::turn::{Turn, lock};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use skpr_tests::cli::User;
use skpr_tests::cluster::{Breakable, Cluster, Namespace, Release};
use skpr_tests::eventually;
use skpr_tests::fault::Link;
pub(crate) use skpr_tests::image::{busybox_root, pack, root};
use skpr_tests::scrape::Scraper;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What the image of the test's sites is called.
pub(crate) const SITE_IMAGE: &str = "skpr-test-site:1";
const AGGREGATOR: &str = "service/skpr-aggregator";
const MONITORING: &str = "service/skpr-aggregator-metrics";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);

/// An installation as a test has it: its own, or one that others have as well. It goes with the last who has it.
pub(crate) struct Skpr {
    installation: Option<Arc<Installation>>,
    turn: Turn,
}

/// An installation, and the way to its aggregator.
pub(crate) struct Installation {
    pub(crate) cluster: Cluster,
    pub(crate) release: Release,
    link: Link,
    /// To where monitoring reads.
    monitoring: Link,
    ca: tempfile::NamedTempFile,
}

/// A log record as `skpr logs -o json` prints it.
#[derive(Debug, Deserialize)]
pub(crate) struct Record {
    pub(crate) instance: String,
    pub(crate) message: String,
}

/// The installation that tests have together, as long as one of them has it.
static TOGETHER: Mutex<Weak<Installation>> = Mutex::new(Weak::new());

impl Skpr {
    /// One of the test's own, with these values, which it may change and break.
    pub(crate) fn install(values: &[&str]) -> Result<Skpr> {
        Skpr::install_in(Turn::alone(), values)
    }

    /// The same for who has the cluster already.
    pub(crate) fn install_in(turn: Turn, values: &[&str]) -> Result<Skpr> {
        Ok(Skpr { installation: Some(Arc::new(Installation::install(values)?)), turn })
    }

    /// One that others have as well, for a test that leaves it as it is, has namespaces of its own and goes in this lane.
    pub(crate) fn together(lane: &'static Mutex<()>) -> Result<Skpr> {
        let mut skpr = Skpr::beside()?;
        // With the installation in hand, so that it is there for all who wait.
        skpr.turn = std::mem::take(&mut skpr.turn).in_lane(lane);
        Ok(skpr)
    }

    /// The same for a test that waits most of its time.
    pub(crate) fn beside() -> Result<Skpr> {
        let turn = Turn::together();
        let mut together = lock(&TOGETHER);
        let installation = match together.upgrade() {
            Some(installation) => installation,
            None => Arc::new(Installation::install(&[])?),
        };
        *together = Arc::downgrade(&installation);
        Ok(Skpr { installation: Some(installation), turn })
    }
}

impl Deref for Skpr {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        self.installation.as_deref().unwrap()
    }
}

impl Drop for Skpr {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.namespace().dump();
        }
        // Nobody installs the next one while this one goes.
        let _together = lock(&TOGETHER);
        drop(self.installation.take());
    }
}

impl Installation {
    /// Installs the chart with the images of this checkout, and these values besides.
    fn install(values: &[&str]) -> Result<Installation> {
        let cluster = Cluster::connect()?;
        load_images(&cluster)?;
        let namespace = cluster.namespace("skpr")?;
        let mut all = vec![
            "image.pullPolicy=Never".to_owned(),
            "service.type=NodePort".to_owned(),
            "persistence.size=1Gi".to_owned(),
            "aggregator.log=info".to_owned(),
            "crds.keep=false".to_owned(),
            format!("test.image={SITE_IMAGE}"),
            format!("agent.statePath=/var/lib/skpr-agent/{}", namespace.name()),
            format!("sessions.pipesPath=/run/skpr-test/{}", namespace.name()),
        ];
        all.extend(values.iter().map(|value| (*value).to_owned()));
        let release = namespace.install("skpr", &root().join("charts/skpr"), &all, INSTALL_TIMEOUT)?;
        let link = Link::to(entrance(release.namespace(), AGGREGATOR)?)?;
        // The chart gives it no port on the nodes: nobody outside of a cluster reads it.
        let nodes = r#"{"spec": {"type": "NodePort"}}"#;
        release.namespace().kubectl(&["patch", MONITORING, "--patch", nodes])?;
        let monitoring = Link::to(entrance(release.namespace(), MONITORING)?)?;
        let ca = tempfile::NamedTempFile::new()?;
        let encoded = release.namespace().field("secret/skpr-ca", r".data.ca\.crt")?;
        fs::write(ca.path(), decode_base64(&encoded)?)?;
        Ok(Installation { cluster, release, link, monitoring, ca })
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.release.namespace()
    }

    /// A user who knows where the aggregator is and what to trust, and has no token.
    pub(crate) fn stranger(&self) -> Result<User> {
        let port = self.link.address().port();
        Ok(User::new()?
            .with("SKPR_CLUSTER", format!("localhost:{port}"))
            .with("SKPR_CA", self.ca.path().display().to_string())
            .with("SKPR_PROJECT", "shop"))
    }

    /// A user with the token of a ServiceAccount, for an audience.
    pub(crate) fn user(&self, namespace: &Namespace, account: &str, audience: &str) -> Result<User> {
        let token =
            namespace.kubectl(&["create", "token", account, "--audience", audience, "--duration", "2h"])?;
        Ok(self.stranger()?.with("SKPR_TOKEN", token.trim()))
    }

    /// What scrapes, with the token of a ServiceAccount of skpr's namespace.
    pub(crate) fn scraper(&self, account: &str) -> Result<Scraper> {
        let token = self.namespace().kubectl(&[
            "create",
            "token",
            account,
            "--audience",
            "skpr",
            "--duration",
            "2h",
        ])?;
        let address = self.monitoring.address();
        Ok(Scraper { address, ca: self.ca.path().to_owned(), token: token.trim().to_owned() })
    }

    /// A user who may view everything in a namespace, by Kubernetes' own role.
    pub(crate) fn viewer(&self, namespace: &Namespace) -> Result<User> {
        namespace.kubectl(&["create", "serviceaccount", "viewer"])?;
        let account = format!("{}:viewer", namespace.name());
        namespace.kubectl(&[
            "create",
            "rolebinding",
            "viewer",
            "--clusterrole=view",
            "--serviceaccount",
            &account,
        ])?;
        self.user(namespace, "viewer", "skpr")
    }

    /// The aggregator's pod and the node it is on.
    pub(crate) fn aggregator(&self) -> Result<(String, String)> {
        let pod = self.namespace().pods("app.kubernetes.io/name=skpr-aggregator")?;
        let pod = pod.first().context("find the aggregator's pod")?.clone();
        let node = self.namespace().field(&format!("pod/{pod}"), ".spec.nodeName")?;
        Ok((pod, node))
    }

    /// What to trust.
    pub(crate) fn ca_file(&self) -> &Path {
        self.ca.path()
    }

    /// Installs it anew with these values besides.
    pub(crate) fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.release.upgrade(values)?;
        self.find_aggregator()
    }

    /// Takes skpr away, as `helm uninstall` does.
    pub(crate) fn uninstall(&self) -> Result<()> {
        self.release.uninstall()
    }

    /// Brings it back where it was.
    pub(crate) fn reinstall(&self) -> Result<()> {
        self.release.install()?;
        self.find_aggregator()
    }

    /// Connects the user's end to wherever the aggregator is now.
    pub(crate) fn find_aggregator(&self) -> Result<()> {
        self.link.retarget(entrance(self.namespace(), AGGREGATOR)?);
        Ok(())
    }
}

/// The aggregator's address, once it takes connections there: a pod that is ready gets them when its node has heard of it.
fn entrance(namespace: &Namespace, service: &str) -> Result<std::net::SocketAddr> {
    let address = address(namespace, service)?;
    eventually("the aggregator takes connections", INSTALL_TIMEOUT, || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).context("connect")?;
        Ok(Some(address))
    })
}

/// The node that the aggregator is on, and the port of its Service there: another node's link may be cut.
fn address(namespace: &Namespace, service: &str) -> Result<std::net::SocketAddr> {
    let pods = [
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/name=skpr-aggregator",
        "--field-selector=status.phase=Running",
    ];
    let host =
        namespace.kubectl(&[pods.as_slice(), &["-o", "jsonpath={.items[0].status.hostIP}"]].concat())?;
    let port = namespace.field(service, ".spec.ports[0].nodePort")?;
    format!("{host}:{port}").parse().with_context(|| format!("read `{host}:{port}` as an address"))
}

/// The records of a finished `skpr logs -o json`.
pub(crate) fn records(stdout: &str) -> Result<Vec<Record>> {
    stdout.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read `{line}`"))).collect()
}

/// The messages of each instance, in the order they came.
pub(crate) fn by_instance(records: Vec<Record>) -> BTreeMap<String, Vec<String>> {
    let mut messages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        messages.entry(record.instance).or_default().push(record.message);
    }
    messages
}

/// Waits until every pod with the selector is ready and there are as many as wanted.
pub(crate) fn wait_ready(
    namespace: &Namespace,
    selector: &str,
    count: usize,
    timeout: Duration,
) -> Result<()> {
    let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status}{.metadata.deletionTimestamp} {end}";
    eventually(&format!("{count} pods {selector} are ready"), timeout, || {
        let ready = namespace.kubectl(&["get", "pods", "-l", selector, "-o", path])?;
        let ready: Vec<&str> = ready.split_whitespace().collect();
        Ok((ready.len() == count && ready.iter().all(|status| *status == "True")).then_some(()))
    })
}

pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>> {
    let mut child = Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("open a pipe")?, text.as_bytes())?;
    Ok(child.wait_with_output()?.stdout)
}

/// Puts the images of this checkout and the site's on the nodes.
fn load_images(cluster: &Cluster) -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    once(cluster, &LOADED, |own| {
        let images = root().join("target/images");
        for image in [images.join("skpr-agent.tar"), images.join("skpr-aggregator.tar"), pack_site()?] {
            own.load(&image)?;
        }
        Ok(())
    })
}

/// Loads images once, for every test that needs them. A cluster that is not ours has them.
pub(crate) fn once(
    cluster: &Cluster,
    loaded: &Mutex<bool>,
    load: impl FnOnce(Breakable<'_>) -> Result<()>,
) -> Result<()> {
    let Some(own) = cluster.breakable() else { return Ok(()) };
    let mut loaded = lock(loaded);
    if !*loaded {
        load(own)?;
        *loaded = true;
    }
    Ok(())
}

/// A site is a shell.
fn pack_site() -> Result<PathBuf> {
    pack(&busybox_root()?, &format!("docker.io/library/{SITE_IMAGE}"), r#"["/bin/sh"]"#)
}
