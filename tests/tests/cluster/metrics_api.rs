//! Who may ask skpr for `metrics.k8s.io`, and whose it is in a cluster.

use super::deploy::Shop;
use super::setup::Skpr;
use super::shop::{TIMEOUT, manifest};
use super::turn::Turn;
use anyhow::{Context as _, Result};
use serde_json::Value;
use skpr_tests::cluster::Cluster;
use skpr_tests::eventually;
use std::path::{Path, PathBuf};
use std::process::Command;

const SERVICE: &str = "apiservice/v1beta1.metrics.k8s.io";
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/pods";

/// An answer of the aggregator to somebody who goes past the API server.
struct Answer {
    code: u16,
    body: String,
}

/// Asks the aggregator's pod itself. `as_whom`: the name of a certificate in the cluster's folder.
fn ask(skpr: &Skpr, path: &str, as_whom: Option<&Path>, headers: &[&str]) -> Result<Answer> {
    let (pod, _) = skpr.aggregator()?;
    let host = format!("skpr-aggregator-metrics.{}.svc", skpr.namespace().name());
    let ip = skpr.namespace().field(&format!("pod/{pod}"), ".status.podIP")?;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code}"]);
    command.arg("--cacert").arg(skpr.ca_file()).args(["--connect-to", &format!("{host}:443:{ip}:8444")]);
    if let Some(certificate) = as_whom {
        command.arg("--cert").arg(certificate.with_extension("crt"));
        command.arg("--key").arg(certificate.with_extension("key"));
    }
    for header in headers {
        command.args(["--header", header]);
    }
    let output = command.arg(format!("https://{host}{path}")).output().context("run curl")?;
    anyhow::ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout)?;
    let (body, code) = stdout.rsplit_once('\n').context("find the code")?;
    Ok(Answer { code: code.parse()?, body: body.to_owned() })
}

fn certificates() -> PathBuf {
    let home = std::env::var("CLUSTER_DIR").unwrap_or_else(|_| "/var/tmp/skpr-cluster".into());
    Path::new(&home).join("pki")
}

fn served(skpr: &Skpr) {
    eventually("metrics.k8s.io is served from here", TIMEOUT, || {
        let path = ".spec.service.namespace} {.status.conditions[?(@.type=='Available')].status";
        let found = skpr.namespace().field(SERVICE, path)?;
        anyhow::ensure!(found == format!("{} True", skpr.namespace().name()), "it is `{found}`");
        Ok(Some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn metrics_are_told_to_whom_the_api_server_vouches_for_and_an_uninstall_leaves_nothing() {
    let shop = Shop::install();
    let (skpr, site) = (&shop.skpr, &shop.site);
    let cluster = Cluster::connect().unwrap();
    manifest(&shop.user, "  dev: {instances: {min: 2, max: 2}}\n").unwrap();
    shop.user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    served(skpr);
    let raw = |path: &str| -> Result<Value> {
        Ok(serde_json::from_str(&cluster.kubectl(&["get", "--raw", path])?)?)
    };

    // The same selector as the autoscaler's, and others.
    let base = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", site.name());
    let found = eventually("both pods have metrics", TIMEOUT, || {
        let selector =
            "skpr.io%2Fproject%3Dshop%2Cskpr.io%2Fenvironment%3Ddev%2Capp.kubernetes.io%2Fcomponent%3Dapp";
        let list = raw(&format!("{base}?labelSelector={selector}"))?;
        anyhow::ensure!(list["items"].as_array().is_some_and(|all| all.len() == 2), "{list}");
        Ok(Some(list["items"][0].clone()))
    })
    .unwrap();
    assert_eq!(found["containers"][0]["name"], "app", "{found}");
    let pods = site.pods("skpr.io/environment=dev").unwrap();
    assert_eq!(raw(&format!("{base}/{}", pods[0])).unwrap()["kind"], "PodMetrics");
    assert_eq!(
        raw(&format!("{base}?labelSelector=app%21%3Dx%2C%21skpr.io%2Fproject")).unwrap()["items"],
        serde_json::json!([])
    );
    let missing = raw(&format!("{base}/nobody")).unwrap_err().to_string();
    assert!(missing.contains("NotFound"), "{missing}");
    let nodes = raw("/apis/metrics.k8s.io/v1beta1/nodes").unwrap();
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(2), "{nodes}");
    let top = cluster.kubectl(&["top", "nodes"]).unwrap();
    assert!(top.contains("node1") && top.contains("node2"), "{top}");
    let named = cluster.kubectl(&["api-resources", "--api-group=metrics.k8s.io"]).unwrap();
    assert!(named.contains("PodMetrics"), "{named}");
    let object = site.kubectl(&["get", "pods.metrics.k8s.io", "-o", "name"]).unwrap();
    assert!(object.contains(&pods[0]), "{object}");

    // Kubernetes asks RBAC, and so does the aggregator of whom the API server passes on.
    let stranger = format!("--as=system:serviceaccount:{}:nobody", site.name());
    assert!(site.kubectl(&["top", "pods", &stranger]).unwrap_err().to_string().contains("forbidden"));
    site.kubectl(&[
        "create",
        "rolebinding",
        "v",
        "--clusterrole=view",
        &format!("--serviceaccount={}:sam", site.name()),
    ])
    .unwrap();
    let sam = format!("--as=system:serviceaccount:{}:sam", site.name());
    assert!(site.kubectl(&["top", "pods", &sam]).unwrap().contains(&pods[0]));

    // Past the API server nobody gets anything, whatever headers and certificates they have.
    let masters = ["X-Remote-User: admin", "X-Remote-Group: system:masters"];
    let refused = |as_whom: Option<&Path>, headers: &[&str], code: u16, reason: &str| {
        for path in ["/apis", PODS, "/apis/nothing"] {
            let answer = ask(skpr, path, as_whom, headers).unwrap();
            let status: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let found = (answer.code, status["kind"].as_str(), status["reason"].as_str());
            assert_eq!(found, (code, Some("Status"), Some(reason)), "{path}: {}", answer.body);
        }
    };
    refused(None, &masters, 401, "Unauthorized");
    let token = site.kubectl(&["create", "token", "editor", "--audience", "skpr"]).unwrap();
    refused(None, &[&format!("Authorization: Bearer {}", token.trim())], 401, "Unauthorized");
    if cluster.breakable_for("what the API server's front proxy may").is_some() {
        let pki = certificates();
        // Of the same CA, and not the front proxy's.
        refused(Some(&pki.join("admin.x")), &masters, 401, "Unauthorized");
        let proxy = pki.join("front-proxy.x");
        refused(Some(&proxy), &[], 401, "Unauthorized");
        let forbidden = ask(skpr, PODS, Some(&proxy), &["X-Remote-User: nobody"]).unwrap();
        assert_eq!(forbidden.code, 403, "{}", forbidden.body);
        assert!(forbidden.body.contains("cannot list resource"), "{}", forbidden.body);
        assert_eq!(ask(skpr, PODS, Some(&proxy), &masters).unwrap().code, 200);
    }

    // It goes with the chart, and with it what would keep namespaces from being deleted.
    skpr.uninstall().unwrap();
    eventually("the registration is gone", TIMEOUT, || {
        Ok(cluster.kubectl(&["get", SERVICE, "--ignore-not-found", "-o", "name"])?.is_empty().then_some(()))
    })
    .unwrap();
    let namespace = cluster.namespace("after").unwrap();
    cluster.kubectl(&["delete", "namespace", namespace.name(), "--timeout=60s"]).unwrap();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn what_somebody_else_serves_is_left_alone() {
    let turn = Turn::alone();
    let cluster = Cluster::connect().unwrap();
    let theirs = cluster.namespace("theirs").unwrap();
    let object = format!(
        "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: v1beta1.metrics.k8s.io}}\nspec: {{group: metrics.k8s.io, \
         version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {{namespace: {}, name: \
         metrics-server}}}}\n",
        theirs.name()
    );
    cluster.apply(&object).unwrap();
    let gone = Gone(cluster.clone());
    let at = || {
        cluster.kubectl(&[
            "get",
            SERVICE,
            "-o",
            "jsonpath={.metadata.resourceVersion} {.spec.service.namespace}",
        ])
    };
    let owner = || cluster.kubectl(&["get", SERVICE, "-o", "jsonpath={.spec.service.namespace}"]);
    let skpr = Skpr::install_in(turn, &[]).unwrap();
    let said = |what: &str| {
        eventually(what, TIMEOUT, || {
            let log = skpr.namespace().kubectl(&["logs", "deployment/skpr-aggregator"])?;
            Ok(log.contains(what).then_some(()))
        })
        .unwrap();
    };
    said("somebody else serves metrics.k8s.io");
    assert!(at().unwrap().ends_with(theirs.name()));

    // Asked for, it is taken; not wanted any more, it is gone.
    skpr.upgrade(&["metricsApi.enabled=true"]).unwrap();
    eventually("it is taken", TIMEOUT, || Ok((owner()? == skpr.namespace().name()).then_some(()))).unwrap();
    served(&skpr);
    skpr.upgrade(&["metricsApi.enabled=false"]).unwrap();
    eventually("it is gone", TIMEOUT, || {
        Ok(cluster.kubectl(&["get", SERVICE, "--ignore-not-found", "-o", "name"])?.is_empty().then_some(()))
    })
    .unwrap();
    skpr.upgrade(&["metricsApi.enabled=auto"]).unwrap();
    served(&skpr);
    // Somebody comes later and takes it.
    cluster.kubectl(&["delete", SERVICE]).unwrap();
    cluster.apply(&object).unwrap();
    said("somebody else serves metrics.k8s.io");
    assert_eq!(owner().unwrap(), theirs.name());
    // Before any namespace is to go.
    drop(gone);
}

/// Deletes the registration, which blocks the deletion of every namespace.
struct Gone(Cluster);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.kubectl(&["delete", SERVICE, "--ignore-not-found"]).ok();
    }
}
