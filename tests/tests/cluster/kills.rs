//! The aggregator is killed while it deploys, again and again: what was begun comes to its end.
//!
//! It runs as a process of this machine against the cluster's API server, so that it is back at once and the kubelet's
//! back-off between restarts is not what is measured.

use super::shop::{TIMEOUT, load_images, manifest};
use super::turn::Turn;
use anyhow::{Context as _, Result};
use serde_json::Value;
use skpr_tests::cli::{Running, User};
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use skpr_tests::numbers::Numbers;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

const MOMENTS: u64 = 20;
/// A deploy that goes well takes some six seconds here: the kill falls anywhere in it, or into the call that begins it.
const WITHIN_MILLISECONDS: u64 = 6000;
const SEED: u64 = 4;

/// The aggregator as a process, and a developer.
struct Host {
    operator: User,
    developer: User,
    arguments: Vec<String>,
}

impl Host {
    fn prepare(cluster: &Cluster, own: &Namespace, site: &Namespace, data: &std::path::Path) -> Result<Host> {
        apply_definition(cluster)?;
        site.apply(
            r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: dana, namespace: $NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: dana, namespace: $NAMESPACE}
rules:
  - {apiGroups: [skpr.io], resources: [environments, environments/deploy, environments/logs], verbs: [get, list, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dana, namespace: $NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: dana}
subjects: [{kind: ServiceAccount, name: dana, namespace: $NAMESPACE}]
"#,
        )?;
        let token = site.kubectl(&["create", "token", "dana", "--audience", "skpr", "--duration", "2h"])?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let operator = User::new()?.with("KUBECONFIG", std::env::var("KUBECONFIG")?);
        let developer = User::new()?
            .with("SKPR_CLUSTER", format!("localhost:{port}"))
            .with("SKPR_CA", operator.home().join("ca.crt").display().to_string())
            .with("SKPR_TOKEN", token.trim());
        let arguments = [
            "serve",
            "--namespace",
            own.name(),
            "--environment-namespace",
            site.name(),
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--http-listen",
            "127.0.0.1:0",
            "--monitoring-listen",
            "127.0.0.1:0",
            "--data",
            &data.display().to_string(),
            "--seal-bytes",
            "4Mi",
        ];
        Ok(Host { operator, developer, arguments: arguments.map(str::to_owned).to_vec() })
    }

    /// Starts it, and returns once it answers.
    fn start(&self, own: &Namespace) -> Result<Running> {
        let running = self.operator.start("skpr-aggregator", &self.arguments)?;
        eventually("the aggregator answers", TIMEOUT, || {
            let encoded = own.field("secret/skpr-ca", r".data.ca\.crt")?;
            fs::write(self.operator.home().join("ca.crt"), super::setup::decode_base64(&encoded)?)?;
            self.developer.skpr(&["list"])?.success()?;
            Ok(Some(()))
        })
        .with_context(|| format!("the aggregator says: {}", running.stderr()))?;
        Ok(running)
    }

    fn releases(&self) -> Result<Vec<Value>> {
        let stdout = self.developer.skpr(&["releases", "dev", "-o", "json"])?.success()?.stdout;
        serde_json::from_str(&stdout).with_context(|| format!("read `{stdout}`"))
    }
}

/// The custom resource alone, out of the chart.
fn apply_definition(cluster: &Cluster) -> Result<()> {
    let chart = super::setup::root().join("charts/skpr").display().to_string();
    let definition =
        cluster.helm(&["template", "skpr", chart.as_str(), "--show-only", "templates/crds.yaml"])?;
    cluster.apply(&definition)?;
    cluster
        .kubectl(&["wait", "--for=condition=Established", "crd/environments.skpr.io", "--timeout=30s"])
        .map(drop)
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_deploy_survives_the_aggregator_being_killed_at_any_moment() {
    let _turn = Turn::alone();
    let cluster = Cluster::connect().unwrap();
    load_images(&cluster).unwrap();
    let (own, site) = (cluster.namespace("skpr").unwrap(), cluster.namespace("shop").unwrap());
    let data = tempfile::tempdir().unwrap();
    let host = Host::prepare(&cluster, &own, &site, data.path()).unwrap();
    let mut aggregator = host.start(&own).unwrap();
    manifest(&host.developer, "  dev: {}\n").unwrap();
    host.developer.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();

    let mut numbers = Numbers::new(SEED);
    let mut good = "v1".to_owned();
    let mut known = 1;
    let (mut carried, mut never_begun) = (0, 0);
    for moment in 0..MOMENTS {
        let version = ["v2", "v1", "broken"][usize::try_from(moment % 3).unwrap()];
        let deploy = host.developer.start("skpr", &["deploy", "dev", version, "--no-wait"]).unwrap();
        // Not a wait for anything: the moment of the kill is what the test varies.
        std::thread::sleep(Duration::from_millis(numbers.below(WITHIN_MILLISECONDS)));
        aggregator.end("KILL", TIMEOUT).unwrap();
        drop(deploy);
        aggregator = host.start(&own).unwrap();

        let newest = eventually("the newest release has ended", TIMEOUT, || {
            let newest = host.releases()?.first().cloned().context("there are releases")?;
            let open = matches!(newest["state"].as_str(), Some("deploying" | "rolling-back"));
            anyhow::ensure!(!open, "it is {newest}");
            Ok(Some(newest))
        })
        .unwrap_or_else(|error| panic!("moment {moment}: {error:#}\n{}", aggregator.stderr()));
        let number = newest["number"].as_u64().unwrap();
        if number == known {
            never_begun += 1;
            continue;
        }
        carried += 1;
        assert_eq!(number, known + 1, "moment {moment}: {newest}");
        known = number;
        assert_eq!(newest["version"], version, "moment {moment}: {newest}");
        assert_eq!(newest["by"], format!("system:serviceaccount:{}:dana", site.name()), "{newest}");
        let expected = if version == "broken" { "rolled-back" } else { "succeeded" };
        assert_eq!(newest["state"], expected, "moment {moment}: {newest}");
        if version != "broken" {
            good = version.to_owned();
        }
        let image = format!("{}:{good}", super::shop::IMAGE);
        let path = ".spec.template.spec.containers[0].image";
        assert_eq!(site.field("deployment/shop-dev", path).unwrap(), image, "moment {moment}");
        eventually("all of it runs the good version", TIMEOUT, || {
            let images =
                "jsonpath={range .items[*]}{.spec.containers[0].image}{.metadata.deletionTimestamp} {end}";
            let images = site.kubectl(&["get", "pods", "-l", "skpr.io/environment=dev", "-o", images])?;
            anyhow::ensure!(images.trim() == image, "pods run {images}");
            Ok(Some(()))
        })
        .unwrap_or_else(|error| panic!("moment {moment}: {error:#}"));
    }
    // Each release once, none left open, numbered without a hole.
    let numbers: Vec<u64> =
        host.releases().unwrap().iter().map(|release| release["number"].as_u64().unwrap()).collect();
    let first = known.saturating_sub(19).max(1);
    assert_eq!(numbers, (first..=known).rev().collect::<Vec<_>>());
    eprintln!("{carried} deploys were carried to their end, {never_begun} had not begun");
    assert!(carried >= MOMENTS / 2, "only {carried} deploys had begun when they were cut off");
    aggregator.end("TERM", TIMEOUT).unwrap();
    cluster.kubectl(&["delete", "environments", "--all", "-n", site.name(), "--timeout=60s"]).unwrap();
    cluster.kubectl(&["delete", "crd", "environments.skpr.io", "--timeout=60s"]).unwrap();
}
