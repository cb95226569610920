//! Something of the cluster that has to agree to what skpr does is not there.

use super::deploy::{Shop, ended, release};
use super::shop::{TIMEOUT, manifest};
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;

const NAME: &str = "skpr-test-away";

/// A webhook about a namespace's deployments behind which nobody listens; gone when dropped.
struct Webhook(Cluster);

impl Webhook {
    fn put_before(site: &Namespace) -> Webhook {
        let cluster = Cluster::connect().unwrap();
        let webhook = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: skpr-test-away}
webhooks:
  - name: away.skpr.io
    clientConfig: {url: "https://127.0.0.1:1/"}
    rules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NAMESPACE}}
    failurePolicy: Fail
    sideEffects: None
    timeoutSeconds: 5
    admissionReviewVersions: [v1]
"#;
        site.apply(webhook).unwrap();
        Webhook(cluster)
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.0.kubectl(&["delete", "validatingwebhookconfiguration", NAME]).ok();
    }
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_webhook_that_is_away_is_told_and_keeps_the_lock_no_longer_than_a_release_has() {
    let shop = Shop::together();
    let (user, site) = (&shop.user, &shop.site);
    manifest(user, "  dev: {}\n").unwrap();
    user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    let webhook = Webhook::put_before(site);
    let deploy = user.start("skpr", &["deploy", "dev", "v2", "--timeout", "50s"]).unwrap();
    eventually("the trouble is told", TIMEOUT, || {
        for path in [".status.trouble", ".status.waitingFor"] {
            let said = site.field("environment/shop.dev", path)?;
            anyhow::ensure!(said.contains("failed calling webhook"), "{path} is `{said}`");
        }
        Ok(Some(()))
    })
    .unwrap();
    let failed = deploy.wait(TIMEOUT).unwrap();
    assert!(matches!(failed.status.code(), Some(6 | 7)), "{failed:?}");
    assert!(failed.stderr.contains("away.skpr.io"), "{}", failed.stderr);
    drop(webhook);
    ended(user, release(2, "v2", "rolled-back"));
    user.skpr(&["deploy", "dev", "v2"]).unwrap().success().unwrap();
}
