//! Deploys on a real cluster, as a developer makes them and as a sysop sees them.

use super::setup::Skpr;
use super::shop::{Client, TIMEOUT, editor, load_images, manifest};
use super::turn::{SHOPS, Turn};
use anyhow::Result;
use serde_json::Value;
use skpr_tests::cli::User;
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

fn json(user: &User, arguments: &[&str]) -> Value {
    let stdout = user.skpr(&[arguments, &["-o", "json"]].concat()).unwrap().success().unwrap().stdout;
    serde_json::from_str(&stdout).unwrap()
}

#[track_caller]
fn field(namespace: &Namespace, object: &str, path: &str, expected: &str) {
    let wait = eventually(&format!("{object} {path} is {expected}"), TIMEOUT, || {
        let found = namespace.field(object, path)?;
        anyhow::ensure!(found == expected, "it is `{found}`");
        Ok(Some(()))
    });
    wait.unwrap();
}

fn states(user: &User, environment: &str) -> Vec<(u64, String, String)> {
    let releases = json(user, &["releases", environment]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |release: &Value| {
        (release["number"].as_u64().unwrap(), text(&release["version"]), text(&release["state"]))
    };
    releases.as_array().unwrap().iter().map(of).collect()
}

/// Waits until the newest release is this one, in this state.
#[track_caller]
pub(crate) fn ended(user: &User, expected: (u64, String, String)) {
    eventually(&format!("{expected:?}"), TIMEOUT, || {
        let newest = states(user, "dev").into_iter().next();
        anyhow::ensure!(newest.as_ref() == Some(&expected), "it is {newest:?}");
        Ok(Some(()))
    })
    .unwrap();
}

pub(crate) fn release(number: u64, version: &str, state: &str) -> (u64, String, String) {
    (number, version.to_owned(), state.to_owned())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_site_is_deployed_updated_rolled_back_and_scaled_without_a_failed_request() {
    let shop = Shop::together();
    let (user, site) = (&shop.user, &shop.site);
    manifest(user, "  dev: {instances: {min: 2, max: 2}}\n").unwrap();

    user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    field(site, "deployment/shop-dev", ".status.readyReplicas", "2");
    field(
        site,
        "deployment/shop-dev",
        ".spec.template.spec.containers[0].image",
        "docker.io/library/skpr-test-shop:v1",
    );
    field(site, "service/shop-dev", ".spec.ports[0].port", "8080");
    let listed = json(user, &["list"]);
    assert_eq!(listed[0]["versions"][0], "v1", "{listed}");
    assert_eq!(
        (listed[0]["ready"].as_u64(), listed[0]["health"].as_str()),
        (Some(2), Some("ok")),
        "{listed}"
    );

    let client = Client::start(site, "shop-dev").unwrap();
    user.skpr(&["deploy", "dev", "v2"]).unwrap().success().unwrap();
    client.answered_by("v2").unwrap();
    assert_eq!(states(user, "dev"), [release(2, "v2", "succeeded"), release(1, "v1", "succeeded")]);
    user.skpr(&["rollback", "dev"]).unwrap().success().unwrap();
    client.answered_by("v1").unwrap();
    assert_eq!(states(user, "dev")[0], release(3, "v1", "succeeded"));
    assert_eq!(json(user, &["releases", "dev"])[0]["restores"], 1);

    let counted = Counted::start("shop-dev", site.name());
    user.skpr(&["scale", "dev", "--min", "3", "--max", "5"]).unwrap().success().unwrap();
    field(site, "hpa/shop-dev", ".spec.minReplicas", "3");
    field(site, "hpa/shop-dev", ".spec.maxReplicas", "5");
    field(site, "deployment/shop-dev", ".status.readyReplicas", "3");
    // Back to a fixed number: the autoscaler goes.
    user.skpr(&["scale", "dev", "--min", "2", "--max", "2"]).unwrap().success().unwrap();
    field(site, "deployment/shop-dev", ".status.readyReplicas", "2");
    eventually("the autoscaler is gone", TIMEOUT, || {
        Ok(site.kubectl(&["get", "hpa", "-o", "name"])?.is_empty().then_some(()))
    })
    .unwrap();
    // The next deploy brings back what the manifest says.
    manifest(user, "  dev: {instances: {min: 2, max: 4, cpu: 60%}}\n").unwrap();
    user.skpr(&["deploy", "dev", "v2"]).unwrap().success().unwrap();
    field(site, "hpa/shop-dev", ".spec.maxReplicas", "4");
    field(site, "hpa/shop-dev", ".spec.metrics[0].resource.target.averageUtilization", "60");
    // Whoever has the number of instances, it never passed through less than two.
    let (looks, least) = counted.stop();
    assert!(looks > 5 && least == 2, "{looks} looks found at least {least} instances wanted");
    client.answered_by("v2").unwrap();
    let asked = client.no_request_failed();
    assert!(asked > 100, "the client asked only {asked} times");

    let events = user.skpr(&["events", "dev", "--since", "1h"]).unwrap().success().unwrap().stdout;
    assert!(events.contains("v2") && events.contains("rollback") | events.contains("restore"), "{events}");
    assert_eq!(events.matches("instances were set to 3–5").count(), 1, "{events}");
    user.skpr(&["delete", "dev", "-y"]).unwrap().success().unwrap();
    eventually("nothing of it runs", TIMEOUT, || {
        let left =
            site.kubectl(&["get", "deploy,svc,pods", "-l", "skpr.io/environment=dev", "-o", "name"])?;
        anyhow::ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_broken_version_is_told_at_once_and_the_old_one_goes_on() {
    let shop = Shop::together();
    let (user, site) = (&shop.user, &shop.site);
    manifest(user, "  dev: {instances: {min: 2, max: 2}}\n").unwrap();
    user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    let client = Client::start(site, "shop-dev").unwrap();

    let began = Instant::now();
    let deploy = user.start("skpr", &["deploy", "dev", "broken"]).unwrap();
    let (deploying, shown) = (AtomicBool::new(true), Mutex::new(None));
    let (cluster, namespace) = (Cluster::connect().unwrap(), site.name());
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let waiting = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
            while deploying.load(Ordering::Relaxed) {
                let pods = ["get", "pods", "-n", namespace, "-l", "skpr.io/environment=dev", "-o", waiting];
                let reasons = cluster.kubectl(&pods);
                if reasons.is_ok_and(|reasons| reasons.contains("CrashLoopBackOff")) {
                    shown.lock().unwrap().replace(Instant::now());
                    return;
                }
            }
        });
        let failed = deploy.wait(TIMEOUT).and_then(|finished| finished.exit(6));
        deploying.store(false, Ordering::Relaxed);
        failed.unwrap()
    });
    // skpr may be told by two restarts, before there is a crash loop to be seen.
    let told = shown.into_inner().unwrap().map(|shown: Instant| shown.elapsed()).unwrap_or_default();
    eprintln!("a broken version: exit 6 {told:.1?} after the crash loop showed up");
    assert!(told < Duration::from_secs(5), "{told:?}");
    assert!(failed.stderr.contains("exit code 3"), "{}", failed.stderr);
    assert!(failed.stderr.contains("cannot find the database"), "{}", failed.stderr);
    // The container ends twice before Kubernetes calls it a crash loop, and what replaced nothing is taken back.
    let whole = began.elapsed();
    eprintln!("a broken version: exit 6 after {whole:.1?}");
    assert!(whole.as_secs() < 60, "{whole:?}");
    ended(user, release(2, "broken", "rolled-back"));

    // What is put back has the lock: who waits is next.
    let absent = user.skpr(&["deploy", "dev", "v9", "--lock-wait", "1m"]).unwrap().exit(6).unwrap();
    assert!(absent.stderr.contains("skpr-test-shop:v9"), "{}", absent.stderr);
    let deaf = user.skpr(&["deploy", "dev", "deaf", "--timeout", "20s", "--lock-wait", "1m"]).unwrap();
    assert!(matches!(deaf.status.code(), Some(6 | 7)), "{deaf:?}");
    let hungry = user.skpr(&["deploy", "dev", "hungry", "--lock-wait", "1m"]).unwrap().exit(6).unwrap();
    assert!(hungry.stderr.contains("memory"), "{}", hungry.stderr);

    site.kubectl(&["create", "quota", "tight", "--hard=pods=4"]).unwrap();
    manifest(user, "  dev: {instances: {min: 6, max: 6}}\n").unwrap();
    let quota = user.skpr(&["deploy", "dev", "v2", "--lock-wait", "1m"]).unwrap().exit(6).unwrap();
    assert!(quota.stderr.contains("quota"), "{}", quota.stderr);

    ended(user, release(6, "v2", "rolled-back"));
    let all: Vec<String> = states(user, "dev").into_iter().map(|release| release.2).collect();
    assert_eq!(all[..5], ["rolled-back"; 5], "{all:?}");
    client.answered_by("v1").unwrap();
    client.no_request_failed();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn one_deploys_at_a_time_and_the_other_is_told_who() {
    let shop = Shop::together();
    let user = &shop.user;
    manifest(user, "  dev: {}\n").unwrap();
    user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    // What a sysop sees of an environment that names no number.
    let columns = ["get", "environments", "--no-headers"];
    let row = shop.site.kubectl(&columns).unwrap();
    assert_eq!(
        row.split_whitespace().take(5).collect::<Vec<_>>(),
        ["shop.dev", "v1", "1", "1", "1"],
        "{row}"
    );
    let begun =
        user.skpr(&["deploy", "dev", "deaf", "--no-wait", "--timeout", "30s"]).unwrap().success().unwrap();
    assert!(begun.stderr.contains("shop/dev/2") || begun.stdout.contains("shop/dev/2"), "{begun:?}");
    let locked = user.skpr(&["deploy", "dev", "v2"]).unwrap().exit(8).unwrap();
    assert!(locked.stderr.contains("editor") && locked.stderr.contains("deaf"), "{}", locked.stderr);
    // The lock ends with the release, and whoever waits is next.
    user.skpr(&["deploy", "dev", "v2", "--lock-wait", "2m"]).unwrap().success().unwrap();
    let followed = user.skpr(&["deploy", "--follow", "shop/dev/2"]).unwrap();
    assert!(matches!(followed.status.code(), Some(6 | 7)), "{followed:?}");
    assert_eq!(states(user, "dev")[0], release(3, "v2", "succeeded"));
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_deploy_outlasts_the_api_server_being_away_for_a_minute() {
    let shop = Shop::install();
    let (user, site) = (&shop.user, &shop.site);
    let cluster = Cluster::connect().unwrap();
    let what = "a deploy while the API server is away";
    let Some(breakable) = cluster.breakable_for(what) else { return };
    manifest(user, "  dev: {}\n").unwrap();
    user.skpr(&["deploy", "dev", "v1"]).unwrap().success().unwrap();
    let client = Client::start(site, "shop-dev").unwrap();

    let deploy = user.start("skpr", &["deploy", "dev", "v2"]).unwrap();
    eventually("the release has begun", TIMEOUT, || Ok((states(user, "dev").len() == 2).then_some(())))
        .unwrap();
    let away = breakable.api_server_away().unwrap();
    // Not a wait for anything: how long it is away is what is tested.
    std::thread::sleep(Duration::from_secs(60));
    let listed = user.skpr(&["list"]).unwrap();
    assert!(listed.stdout.contains("stale") || listed.stderr.contains("Kubernetes"), "{listed:?}");
    // When it is back, kube-proxy hears of it in its own time, and leads to pods that have ended meanwhile.
    client.no_request_failed();
    drop(away);

    let finished = deploy.wait(TIMEOUT).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    // Nodes that were not heard from for so long count as not ready, and their pods get no new connections for a while.
    eventually("the aggregator answers", TIMEOUT, || user.skpr(&["list"])?.success().map(Some)).unwrap();
    ended(user, release(2, "v2", "succeeded"));
    client.answered_by("v2").unwrap();
}

/// How many instances a Deployment was asked to have, over a while.
struct Counted {
    stop: Arc<AtomicBool>,
    looks: JoinHandle<(u32, u32)>,
}

impl Counted {
    fn start(deployment: &str, namespace: &str) -> Counted {
        let object = format!("deployment/{deployment}");
        let arguments = ["get", &object, "-n", namespace, "-o", "jsonpath={.spec.replicas}"];
        let arguments = arguments.map(str::to_owned);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looks = std::thread::spawn(move || {
            let cluster = Cluster::connect().unwrap();
            let (mut looks, mut least) = (0, u32::MAX);
            while !stopped.load(Ordering::Relaxed) {
                let found = cluster.kubectl(&arguments).unwrap();
                least = least.min(found.parse().unwrap());
                looks += 1;
            }
            (looks, least)
        });
        Counted { stop, looks }
    }

    /// How often it was looked at, and the least that was found.
    fn stop(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.looks.join().unwrap()
    }
}

/// skpr, a namespace for the site, and a developer.
pub(crate) struct Shop {
    pub(crate) user: User,
    pub(crate) site: Namespace,
    pub(crate) skpr: Skpr,
}

impl Shop {
    /// With skpr of its own.
    pub(crate) fn install() -> Shop {
        Shop::install_with(&[])
    }

    pub(crate) fn install_with(values: &[&str]) -> Shop {
        let turn = Turn::alone();
        let site = Cluster::connect().unwrap().namespace("shop").unwrap();
        let namespace = format!("environments.namespace={}", site.name());
        let skpr = Skpr::install_in(turn, &[values, &[namespace.as_str()]].concat()).unwrap();
        Shop::of(skpr, site)
    }

    /// With skpr as others have it, too.
    pub(crate) fn together() -> Shop {
        Shop::with(Skpr::together(&SHOPS))
    }

    /// The same, for a test that waits most of its time.
    pub(crate) fn beside() -> Shop {
        Shop::with(Skpr::beside())
    }

    fn with(skpr: Result<Skpr>) -> Shop {
        let skpr = skpr.unwrap();
        let site = skpr.cluster.namespace("shop").unwrap();
        let namespace = site.name().to_owned();
        let shop = Shop::of(skpr, site);
        // Where a new environment goes: each of these shops has its own place.
        Shop { user: shop.user.with("SKPR_NAMESPACE", namespace), ..shop }
    }

    fn of(skpr: Skpr, site: Namespace) -> Shop {
        load_images(&skpr.cluster).unwrap();
        let user = editor(&skpr, &site).unwrap();
        Shop { user, site, skpr }
    }
}
