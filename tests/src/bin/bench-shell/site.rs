//! skpr on the cluster, and one instance of `shop/dev` whose container runs sshd: the place that all ways lead to.
//!
//! Nothing of this program is between a client and the cluster: skpr and sshd are both reached by a port of the node that
//! they are on.

use crate::guard::{Client, check, eventually};
use crate::sshd::{self, Sshd};
use crate::ways::{ALL, Input, Way};
use anyhow::{Context as _, Result};
use skpr_tests::cli::User;
use skpr_tests::cluster::{Cluster, Namespace, Release};
use skpr_tests::image::root;
use skpr_tests::ssh::Ssh;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The pod, whose only container all ways lead into.
pub(crate) const CONTAINER: &str = "dev-1";
/// How long whatever takes a moment may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);
/// A user may have 32.
const SESSIONS_OF_A_USER: usize = 30;
const TRIES_OF_KUBECTL: usize = 3;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: dev-1, namespace: $NAMESPACE, labels: {skpr.io/project: shop, skpr.io/environment: dev}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $IMAGE
      imagePullPolicy: Never
      command: [/usr/sbin/sshd, -D, -e, -f, /ssh/sshd_config]
      workingDir: /root
      volumeMounts:
        - {name: ssh, mountPath: /ssh, readOnly: true}
        - {name: data, mountPath: /data}
  volumes:
    - {name: ssh, secret: {secretName: ssh, defaultMode: 256}}
    - {name: data, emptyDir: {medium: Memory}}
---
apiVersion: v1
kind: Service
metadata: {name: ssh, namespace: $NAMESPACE}
spec: {type: NodePort, selector: {skpr.io/environment: dev}, ports: [{port: 22}]}
"#;

/// In the order that they end in: clients, the instance, skpr.
pub(crate) struct Site {
    pub(crate) sshd: Sshd,
    /// Of `ssh` through skpr, for the first user.
    pub(crate) ssh_config: PathBuf,
    users: Vec<User>,
    /// The words that run it.
    pub(crate) kubectl: Vec<String>,
    pub(crate) sites: Namespace,
    pub(crate) release: Release,
    /// What is to be trusted.
    _ca: TempDir,
}

impl Site {
    /// With as many users as so many sessions at once take.
    pub(crate) fn start(sessions: usize) -> Result<Site> {
        let cluster = Cluster::connect()?;
        load_images(&cluster)?;
        check()?;
        let release = install(&cluster)?;
        check()?;
        let sites = cluster.namespace("bench-sites")?;
        let keys = Sshd::prepare(&sites)?;
        sites.apply(&POD.replace("$IMAGE", sshd::IMAGE))?;
        sites.kubectl(&["wait", "--for=condition=Ready", "pod", CONTAINER, "--timeout=120s"])?;
        let sshd = Sshd::at(reached(&sites, "ssh", "skpr.io/environment=dev")?, keys)?;

        let ca = tempfile::tempdir()?;
        let certificate = ca.path().join("ca.crt");
        let path = r#"go-template={{index .data "ca.crt" | base64decode}}"#;
        std::fs::write(&certificate, release.namespace().kubectl(&["get", "secret/skpr-ca", "-o", path])?)?;
        let aggregator = aggregator(&release)?;
        let mut users = vec![];
        for number in 0..=sessions / SESSIONS_OF_A_USER {
            let user = User::new()?
                .with("SKPR_CLUSTER", aggregator.to_string())
                .with("SKPR_CA", certificate.display().to_string())
                .with("SKPR_PROJECT", "shop");
            users.push(user.with("SKPR_TOKEN", token(&sites, &format!("user{number}"))?));
        }
        let first = users.first().context("there is a user")?;
        let ssh_config = Ssh::install(first)?.config;
        let kubectl = vec!["kubectl".to_owned()];
        let mut site = Site { sshd, ssh_config, users, kubectl, sites, release, _ca: ca };
        site.kubectl = site.fastest_kubectl(&cluster)?;
        for way in ALL {
            eventually(&format!("{} leads into the container", way.name()), TIMEOUT, || {
                site.inside(way, &["true"]).map(Some)
            })?;
        }
        Ok(site)
    }

    pub(crate) fn user(&self, number: usize) -> Result<&User> {
        self.users.get(number % self.users.len()).context("there is a user")
    }

    /// Runs a program by one of the ways.
    pub(crate) fn inside(&self, way: Way, words: &[&str]) -> Result<()> {
        let mut command = way.exec(self, Input::Nothing, words)?;
        Client::start(command.stdout(Stdio::null()), TIMEOUT)?.success()
    }

    /// What a program in the container says.
    pub(crate) fn said(&self, words: &[&str]) -> Result<String> {
        let mut command = Way::Kubectl.exec(self, Input::Nothing, words)?;
        let mut client = Client::start(command.stdout(Stdio::piped()), TIMEOUT)?;
        let mut said = String::new();
        client.stdout()?.read_to_string(&mut said).context("read what a program says")?;
        client.success()?;
        Ok(said)
    }

    /// The one of the machine or the one that the cluster is built with, whichever is quicker: one that drives more than
    /// this starts slower.
    fn fastest_kubectl(&mut self, cluster: &Cluster) -> Result<Vec<String>> {
        let mut known = vec![vec!["kubectl".to_owned()]];
        if cluster.breakable().is_some() {
            let script = std::env::var("SKPR_TEST_CLUSTER").context("find the cluster's script")?;
            let which = Command::new(script).args(["which", "kubectl"]).output().context("find kubectl")?;
            let words = String::from_utf8(which.stdout)?;
            known.push(words.split_whitespace().map(str::to_owned).collect());
        }
        let mut best: Option<(Duration, Vec<String>)> = None;
        for words in known {
            self.kubectl = words.clone();
            for _ in 0..TRIES_OF_KUBECTL {
                let begun = Instant::now();
                let works = self.inside(Way::Kubectl, &["true"]).is_ok();
                let took = begun.elapsed();
                if works && best.as_ref().is_none_or(|(before, _)| took < *before) {
                    best = Some((took, words.clone()));
                }
            }
        }
        check()?;
        best.map(|(_, words)| words).context("no kubectl works here")
    }
}

fn load_images(cluster: &Cluster) -> Result<()> {
    if let Some(own) = cluster.breakable() {
        for name in ["skpr-agent", "skpr-aggregator"] {
            own.load(&root().join("target/images").join(format!("{name}.tar")))?;
        }
    }
    sshd::load_image(cluster)
}

/// skpr as it is installed; its certificate is good for the addresses of the nodes.
fn install(cluster: &Cluster) -> Result<Release> {
    let addresses = r#"jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}"#;
    let nodes = cluster.kubectl(&["get", "nodes", "-o", addresses])?;
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    let namespace = cluster.namespace("bench-skpr")?;
    let mut values = vec![
        "image.pullPolicy=Never".to_owned(),
        "service.type=NodePort".to_owned(),
        "persistence.size=1Gi".to_owned(),
        "crds.keep=false".to_owned(),
        "sessions.enabled=true".to_owned(),
        format!("tls.names={{{}}}", nodes.join(",")),
        format!("agent.statePath=/var/lib/skpr-agent/{}", namespace.name()),
        format!("sessions.pipesPath=/run/skpr-test/{}", namespace.name()),
    ];
    values.extend(std::env::var("BENCH_VALUES").iter().flat_map(|more| more.split(' ')).map(str::to_owned));
    namespace.install("skpr", &root().join("charts/skpr"), &values, INSTALL_TIMEOUT)
}

/// The token of an account that may do everything in this namespace.
fn token(sites: &Namespace, name: &str) -> Result<String> {
    sites.kubectl(&["create", "serviceaccount", name])?;
    let account = format!("--serviceaccount={}:{name}", sites.name());
    sites.kubectl(&["create", "rolebinding", name, "--clusterrole=admin", &account])?;
    let token = sites.kubectl(&["create", "token", name, "--audience", "skpr", "--duration", "4h"])?;
    Ok(token.trim().to_owned())
}

/// Where it takes connections.
pub(crate) fn aggregator(release: &Release) -> Result<SocketAddr> {
    reached(release.namespace(), "skpr-aggregator", "app.kubernetes.io/name=skpr-aggregator")
}

/// The port of a Service on the node of its pod, once it takes connections.
fn reached(namespace: &Namespace, service: &str, selector: &str) -> Result<SocketAddr> {
    let host = ["get", "pods", "-l", selector, "-o", "jsonpath={.items[0].status.hostIP}"];
    let host = namespace.kubectl(&host)?;
    let port = namespace.field(&format!("service/{service}"), ".spec.ports[0].nodePort")?;
    let address: SocketAddr = format!("{host}:{port}").parse().context("read a node's address")?;
    eventually(&format!("{service} takes connections"), TIMEOUT, || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).context("connect")?;
        Ok(Some(address))
    })
}
