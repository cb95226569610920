//! Instances of a manifest with no repository, from start to stop, with real processes.

use super::*;
use crate::inventory::Managed;
use crate::release::{Deploy, TIMEOUT};
use skpr_proto::{PodUid, Source};
use std::fs;

/// A deploy of this version with the settings as they are.
pub(super) fn deploy_of(version: &str, managed: &Managed) -> Deploy {
    Deploy {
        version: version.into(),
        image: None,
        settings: managed.settings.clone(),
        by: "ann".into(),
        timeout: TIMEOUT,
        returns: true,
        restores: None,
    }
}

async fn until(
    inventories: &mut watch::Receiver<Arc<Inventory>>,
    wanted: impl FnMut(&Arc<Inventory>) -> bool,
) -> Arc<Inventory> {
    let found = tokio::time::timeout(Duration::from_secs(20), inventories.wait_for(wanted)).await;
    found.unwrap().unwrap().clone()
}

type Started = (watch::Receiver<Arc<Inventory>>, CancellationToken, JoinSet<anyhow::Result<()>>);

fn start(config: LocalConfig) -> Started {
    let (out, inventories) = watch::channel(Arc::default());
    let (tell, _) = event::queue();
    let machine = Machine::open(config, out, tell).unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(machine.run(stop.clone()));
    (inventories, stop, tasks)
}

/// What is in the instances' first files, as far as they are there.
fn logs(data: &Path) -> Vec<String> {
    fs::read_dir(data.join("pods"))
        .unwrap()
        .filter_map(|pod| fs::read_to_string(pod.unwrap().path().join("app/0.log")).ok())
        .collect()
}

#[tokio::test]
async fn environments_run_and_are_published() {
    let directory = tempfile::tempdir().unwrap();
    let site = directory.path().join("site");
    fs::create_dir(&site).unwrap();
    let manifest = site.join(".skpr.yml");
    fs::write(
        &manifest,
        "project: shop\ndefaults: {command: [sh, -c, 'echo $SKPR_INSTANCE; exec sleep 100']}\n\
         environments: {dev: {}, prod: {production: true, instances: {min: 2, max: 2}}}\n",
    )
    .unwrap();
    let data = directory.path().join("data");

    let mut earlier = None;
    for _ in 0..2 {
        let config = LocalConfig::load(std::slice::from_ref(&manifest), &data, None).unwrap();
        let (mut inventories, stop, mut tasks) = start(config);
        let all_ready = |inventory: &Arc<Inventory>| {
            inventory.environments.values().map(|state| state.ready()).sum::<usize>() == 3
        };
        let inventory = until(&mut inventories, all_ready).await;
        assert!(inventory.heard);
        let node = NodeName::parse(NODE).unwrap();
        // A source that an earlier run wrote is still claimed, and is no instance.
        let count = if earlier.is_some() { 6 } else { 3 };
        let inventory = until(&mut inventories, |inventory| inventory.claims_of(&node).len() == count).await;
        let claims = inventory.claims_of(&node);
        let (uid, pod) = inventory.pods.iter().find(|(_, pod)| &*pod.instance == "shop-prod-r1-1").unwrap();
        assert_eq!(pod.environment.to_string(), "local:shop/prod");
        let production: Vec<_> =
            inventory.environments.values().map(|state| state.wanted.production).collect();
        assert_eq!(production, [false, true]);
        assert!(
            inventory.environments.values().all(|state| state.versions().iter().all(|v| &**v == UNVERSIONED))
        );
        if let Some(earlier) = &earlier {
            let source: &Source = earlier;
            assert!(inventory.claim(source).is_some());
        }
        earlier = Some(Source::parse(NAMESPACE, &pod.instance, uid.as_str(), CONTAINER).unwrap());

        // Ready without a probe means started; only what has also said something is of use here.
        let spoken = async {
            while logs(&data).iter().filter(|text| text.contains(" stdout F ")).count() != claims.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), spoken).await.unwrap();
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), tasks.join_next()).await.unwrap();
        ended.unwrap().unwrap().unwrap();
    }

    let mut logs: Vec<_> =
        logs(&data).iter().map(|text| text.split_once(" stdout F ").unwrap().1.trim().to_owned()).collect();
    logs.sort();
    assert_eq!(
        logs,
        [
            "shop-dev-r1-0",
            "shop-dev-r1-0",
            "shop-prod-r1-0",
            "shop-prod-r1-0",
            "shop-prod-r1-1",
            "shop-prod-r1-1"
        ]
    );
}

#[tokio::test]
async fn nothing_to_run_is_published_too() {
    let directory = tempfile::tempdir().unwrap();
    let config = LocalConfig::load(&[], directory.path(), None).unwrap();
    let (mut inventories, stop, mut tasks) = start(config);
    assert!(until(&mut inventories, |inventory| inventory.heard).await.environments.is_empty());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_environment_is_not_served_beside_one_that_is_kept_and_is_called_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join(".skpr.yml");
    fs::write(&manifest, "project: shop-dev\nenvironments: {x: {command: [sleep, '100']}}\n").unwrap();
    let records = directory.path().join("environments");
    fs::create_dir(&records).unwrap();
    fs::write(records.join("shop.dev-x.json"), "").unwrap();
    let config = LocalConfig::load(&[manifest], directory.path(), None).unwrap();
    let (_inventories, _stop, mut tasks) = start(config);
    let error = tasks.join_next().await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("would both be called `shop-dev-x`"), "{error}");
    assert!(error.contains("`shop/dev-x`") && error.contains("`shop-dev/x`"), "{error}");
}

#[test]
fn a_uid_is_a_random_uuid() {
    let (a, b) = (random_uid().unwrap(), random_uid().unwrap());
    assert_ne!(a, b);
    assert_eq!((a.len(), a.as_bytes()[14]), (36, b'4'));
    assert!("89ab".contains(char::from(a.as_bytes()[19])), "{a}");
    PodUid::parse(&a).unwrap();
}

#[test]
fn a_manifest_that_is_wrong_is_said_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let error = LocalConfig::load(&[directory.path().join("none.yml")], directory.path(), None).unwrap_err();
    assert_eq!(error.kind, skpr_proto::ErrorKind::InvalidConfiguration);
    assert!(error.message.contains("none.yml"), "{error}");
}
