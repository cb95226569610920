//! Environments as a sysop handles them: kubectl and helm, with and without skpr running.

use super::deploy::Shop;
use super::setup::wait_ready;
use super::shop::{TIMEOUT, manifest};
use skpr_tests::eventually;

const PODS: &str = "skpr.io/environment=dev";

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn environments_are_ordinary_objects_that_outlive_skpr() {
    let shop = Shop::install_with(&["crds.keep=true"]);
    manifest(&shop.user, "  dev: {instances: {min: 1, max: 1}}\n").unwrap();
    shop.user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    let site = &shop.site;

    let table = site.kubectl(&["get", "environments"]).unwrap();
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "VERSION", "READY", "MIN", "MAX", "AGE"], "{table}");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["shop.dev", "v1", "1", "1", "1"], "{table}");

    // An edit takes effect.
    let edit = r#"{"spec":{"instances":{"min":2,"max":2}}}"#;
    site.kubectl(&["patch", "environment", "shop.dev", "--type=merge", "-p", edit]).unwrap();
    wait_ready(site, PODS, 2, TIMEOUT).unwrap();

    // A bad one is refused by the API server, whoever writes it.
    let bad = r#"{"spec":{"instances":{"min":3,"max":2}}}"#;
    let refused = site.kubectl(&["patch", "environment", "shop.dev", "--type=merge", "-p", bad]);
    assert!(format!("{:#}", refused.unwrap_err()).contains("max"), "min > max was accepted");

    // What somebody deletes by hand is back.
    let uid = site.field("deployment/shop-dev", ".metadata.uid").unwrap();
    site.kubectl(&["delete", "deployment", "shop-dev"]).unwrap();
    eventually("the deployment is back", std::time::Duration::from_secs(10), || {
        let now = site.field("deployment/shop-dev", ".metadata.uid")?;
        Ok((!now.is_empty() && now != uid).then_some(()))
    })
    .unwrap();
    wait_ready(site, PODS, 2, TIMEOUT).unwrap();

    // An edit of the version is a release like any other.
    let edit = r#"{"spec":{"version":"v2"}}"#;
    site.kubectl(&["patch", "environment", "shop.dev", "--type=merge", "-p", edit]).unwrap();
    eventually("v2 is released", TIMEOUT, || {
        let releases = shop.user.skpr(&["releases", "dev", "-o", "csv"])?.success()?.stdout;
        Ok(releases.lines().any(|line| line.contains("v2") && line.contains("succeeded")).then_some(()))
    })
    .unwrap();
    wait_ready(site, PODS, 2, TIMEOUT).unwrap();

    // skpr goes and comes back; nothing is started again.
    let before = site.pods(PODS).unwrap();
    shop.skpr.uninstall().unwrap();
    assert_eq!(site.pods(PODS).unwrap(), before);
    wait_ready(site, PODS, 2, TIMEOUT).unwrap();
    shop.skpr.reinstall().unwrap();
    eventually("skpr lists it again", TIMEOUT, || {
        let listed = shop.user.skpr(&["list", "-o", "json"])?.success()?.stdout;
        Ok((listed.contains("\"v2\"") && listed.contains("\"ok\"")).then_some(()))
    })
    .unwrap();
    // It acts again, and on nothing that was right.
    let uid = site.field("service/shop-dev", ".metadata.uid").unwrap();
    site.kubectl(&["delete", "service", "shop-dev"]).unwrap();
    eventually("the service is back", TIMEOUT, || {
        let now = site.field("service/shop-dev", ".metadata.uid")?;
        Ok((!now.is_empty() && now != uid).then_some(()))
    })
    .unwrap();
    assert_eq!(site.pods(PODS).unwrap(), before);
    let releases = shop.user.skpr(&["releases", "dev", "-o", "name"]).unwrap().success().unwrap().stdout;
    assert_eq!(releases.lines().count(), 2, "{releases}");
}
