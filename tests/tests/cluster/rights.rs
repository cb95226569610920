//! Kubernetes RBAC decides what a user sees, and nothing but the aggregator listens.

use super::setup::{Skpr, wait_ready};
use super::turn::SITES;
use skpr_tests::cluster::Namespace;
use skpr_tests::eventually;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

fn start(sites: &Namespace, environment: &str) {
    sites
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {environment}-1, namespace: $NAMESPACE, labels: {{skpr.io/project: shop, skpr.io/environment: {environment}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: skpr-test-site:1, imagePullPolicy: Never, command: [sh, -c, "echo secret of {environment}; while :; do sleep 1; done"]}}]
"#
        ))
        .unwrap();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_user_sees_what_kubernetes_lets_them_see() {
    let skpr = Skpr::together(&SITES).unwrap();
    let sites = skpr.cluster.namespace("sites").unwrap();
    start(&sites, "dev");
    start(&sites, "prod");
    wait_ready(&sites, "skpr.io/project=shop", 2, TIMEOUT).unwrap();

    sites
        .apply(
            r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: dev, namespace: $NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: dev, namespace: $NAMESPACE}
rules:
  - {apiGroups: [skpr.io], resources: [environments, environments/logs], resourceNames: [shop.dev], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dev, namespace: $NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: dev}
subjects: [{kind: ServiceAccount, name: dev, namespace: $NAMESPACE}]
"#,
        )
        .unwrap();

    let viewer = skpr.viewer(&sites).unwrap();
    eventually("the viewer sees both environments", TIMEOUT, || {
        let listed = viewer.skpr(&["list", "-o", "json"])?.success()?.stdout;
        Ok((listed.contains("\"dev\"") && listed.contains("\"prod\"")).then_some(()))
    })
    .unwrap();
    eventually("the viewer reads prod", TIMEOUT, || {
        let read = viewer.skpr(&["logs", "prod", "--since", "1h"])?.success()?.stdout;
        Ok(read.contains("secret of prod").then_some(()))
    })
    .unwrap();

    let dev = skpr.user(&sites, "dev", "skpr").unwrap();
    let listed = dev.skpr(&["list", "-o", "json"]).unwrap().success().unwrap().stdout;
    assert!(listed.contains("\"dev\"") && !listed.contains("\"prod\""), "{listed}");
    let read = dev.skpr(&["logs", "dev", "--since", "1h"]).unwrap().success().unwrap().stdout;
    assert!(read.contains("secret of dev"), "{read}");

    // The one that is forbidden and the one that does not exist are told apart by nothing but the name asked for.
    let forbidden = dev.skpr(&["logs", "prod", "--since", "1h"]).unwrap().exit(4).unwrap();
    let unknown = dev.skpr(&["logs", "what", "--since", "1h"]).unwrap().exit(4).unwrap();
    assert!(forbidden.stdout.is_empty(), "{}", forbidden.stdout);
    let error = |stderr: &str, name| stderr[stderr.find("error:").unwrap()..].replace(name, "NAME");
    assert_eq!(error(&forbidden.stderr, "prod"), error(&unknown.stderr, "what"));

    let none = skpr.stranger().unwrap().skpr(&["list"]).unwrap().exit(4).unwrap();
    assert!(none.stderr.contains("hint:"), "{}", none.stderr);
    let foreign = skpr.user(&sites, "dev", "skpr-aggregator").unwrap();
    foreign.skpr(&["list"]).unwrap().exit(4).unwrap();

    let tested = skpr.cluster.helm(&["test", "skpr", "--namespace", skpr.namespace().name()]).unwrap();
    assert!(tested.contains("Succeeded"), "{tested}");
    agents_are_bare(&skpr);
}

/// Each agent has no capability, no token of the API server, and listens on nothing. What serves sessions beside it has
/// the same network and no token either; what else it has, the tests of sessions look at.
fn agents_are_bare(skpr: &Skpr) {
    const LOOK: &str = "for p in $(pgrep -x skpr-agent); do ls /proc/$p/root/var/run/secrets 2>/dev/null; \
        tr '\\0' '\\n' </proc/$p/cmdline | grep -qx sessions && continue; \
        grep CapEff /proc/$p/status; cat /proc/$p/net/tcp /proc/$p/net/tcp6; echo looked; done";
    let what = "what agents may, as their nodes see it";
    let Some(own) = skpr.cluster.breakable_for(what) else { return };
    for node in ["node1", "node2"] {
        let seen = own.enter(node, &["sh", "-c", LOOK]).unwrap();
        assert_eq!(seen.matches("looked").count(), 1, "{seen}");
        assert!(seen.contains("CapEff:\t0000000000000000"), "{seen}");
        assert!(!seen.contains("kubernetes.io"), "{seen}");
        // The fourth field of /proc/net/tcp is the state; 0A is LISTEN.
        let listening = seen.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count();
        assert_eq!(listening, 0, "{seen}");
    }
}
