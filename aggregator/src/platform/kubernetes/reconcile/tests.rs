//! Rounds of the controller against an API server that a test scripts.

mod crashes;
mod tasks;

use super::*;
use crate::inventory::tests::key;
use crate::inventory::{Detail, Managed};
use crate::platform::kubernetes::desired::Kind;
use crate::platform::kubernetes::fake::{Fake, options, path};
use crate::platform::kubernetes::objects::{Environments, Objects};
use serde_json::Value;

const OBJECT: &str = "/apis/skpr.io/v1alpha1/namespaces/sites/environments/shop.dev";

struct Site {
    fake: Fake,
    key: EnvironmentKey,
    /// Other environments.
    others: Objects,
    instances: BTreeMap<Arc<str>, InstanceState>,
    seen: Option<Arc<Vec<Seen>>>,
    scope: Scope,
}

impl Site {
    fn of(fake: Fake) -> Site {
        Site {
            fake,
            key: key("sites", "shop", "dev"),
            others: Objects::new(),
            instances: BTreeMap::new(),
            seen: None,
            scope: Scope::Whole,
        }
    }
}

fn site(change: Value) -> Site {
    let fake = Fake::default();
    let mut object = json!({"apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
        "spec": {"project": "shop", "environment": "dev", "image": "shop", "version": "v1"}});
    set(&mut object, change);
    fake.put(OBJECT, "kubectl", object);
    Site::of(fake)
}

fn set(object: &mut Value, change: Value) {
    for (name, value) in change.as_object().unwrap() {
        object["spec"][name] = value.clone();
    }
    object["spec"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
}

impl Site {
    fn path(&self, kind: Kind) -> String {
        path(&self.key, kind, "shop-dev")
    }

    fn edit(&self, change: Value) {
        self.fake.change(OBJECT, |object| {
            set(object, change);
            object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
        });
    }

    async fn round(&self) -> Done {
        self.try_round().await.unwrap().unwrap()
    }

    async fn try_round(&self) -> Result<Option<Done>, Hindrance> {
        self.round_with(self.fake.children(&self.key)).await
    }

    async fn round_with(
        &self,
        children: BTreeMap<(Kind, String), String>,
    ) -> Result<Option<Done>, Hindrance> {
        let round = Round {
            client: self.fake.client(),
            options: Arc::new(options()),
            key: self.key.clone(),
            objects: Arc::new(self.others.clone()),
            instances: self.instances.clone(),
            children,
            seen: self.seen.clone(),
            scope: self.scope.clone(),
            watching_since: Timestamp::UNIX_EPOCH,
        };
        round.run().await
    }

    /// As if one instance of a release ran, and nothing else.
    fn runs(&mut self, number: u64) {
        let detail = Detail { release: Some(number), ..Detail::default() };
        let instance =
            InstanceState { version: format!("v{number}").into(), ready: true, node: None, detail };
        self.instances = BTreeMap::from([("a".into(), instance)]);
        self.fake.change(&self.path(Kind::Deployment), |deployment| {
            let generation = deployment["metadata"]["generation"].clone();
            deployment["status"] =
                json!({"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1});
        });
    }

    fn exists(&self, kind: Kind) -> bool {
        !self.fake.get(&self.path(kind)).is_null()
    }

    fn hosts(&self) -> Vec<String> {
        let ingress = self.fake.get(&self.path(Kind::Ingress));
        let rules = ingress["spec"]["rules"].as_array().cloned().unwrap_or_default();
        rules.iter().map(|rule| rule["host"].as_str().unwrap().to_owned()).collect()
    }

    fn other(&mut self, name: &str, created: i64, serves: bool) {
        let mut environments = Environments::default();
        let object = json!({"apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
            "metadata": {"name": format!("shop.{name}"), "namespace": "sites", "uid": name},
            "spec": {"project": "shop", "environment": name, "version": "v1", "domains": ["a.example.com"]}});
        environments.take(kube::runtime::watcher::Event::Apply(serde_json::from_value(object).unwrap()));
        for (key, object) in environments.objects() {
            let mut object = (*object).clone();
            let mut managed = Managed::clone(&object.managed);
            managed.created = Timestamp::from_second(created).ok();
            managed.serves = if serves { managed.settings.domains.clone().unwrap() } else { vec![] };
            object.managed = Arc::new(managed);
            self.others.insert(key, Arc::new(object));
        }
    }
}

#[tokio::test]
async fn a_release_goes_from_its_object_to_instances() {
    let mut site = site(json!({"port": 80, "instances": {"min": 1, "max": 3}}));
    let done = site.round().await;
    assert_eq!(
        (done.status.state.as_deref(), done.rolled_out, done.hindrance),
        (Some("deploying"), false, None)
    );
    assert!([Kind::Deployment, Kind::Service, Kind::Autoscaler].iter().all(|kind| site.exists(*kind)));
    site.runs(1);
    assert_eq!(site.round().await.status.state.as_deref(), Some("succeeded"));
    site.fake.writes();
    let before = site.fake.get(OBJECT);
    site.round().await;
    assert_eq!(site.fake.get(OBJECT), before, "a round in which nothing is new writes no status");
}

#[tokio::test]
async fn a_volume_that_is_somebody_elses_is_mounted_by_nobody() {
    let site = site(json!({"port": 80, "volumes": {"f": {"path": "/f", "size": "1Gi"}}}));
    let claim = path(&site.key, Kind::Claim, "shop-dev-f");
    site.fake.put(&claim, "kubectl", json!({"spec": {"resources": {"requests": {"storage": "1Mi"}}}}));
    let before = site.fake.get(&claim);
    let done = site.round().await;
    let reason = "there is a PersistentVolumeClaim `shop-dev-f` already that skpr did not make";
    assert_eq!((done.hindrance.as_deref(), done.status.trouble.as_deref()), (Some(reason), Some(reason)));
    assert_eq!(done.status.state.as_deref(), Some("failed"));
    assert!(!site.exists(Kind::Deployment) && !site.exists(Kind::Service));
    assert_eq!(site.fake.get(&claim), before);
}

#[tokio::test]
async fn nothing_is_put_onto_what_somebody_else_made() {
    for (kind, left_out) in [
        (Kind::Service, &[Kind::Deployment, Kind::Ingress, Kind::Autoscaler][..]),
        (Kind::Deployment, &[Kind::Ingress, Kind::Autoscaler, Kind::Budget]),
    ] {
        let settings = json!({"port": 80, "domains": ["a.example.com"], "instances": {"min": 2, "max": 3}});
        let site = site(settings);
        site.fake.put(&site.path(kind), "helm", json!({"spec": {"replicas": 9}}));
        let before = site.fake.get(&site.path(kind));
        let done = site.round().await;
        assert!(done.hindrance.unwrap().ends_with("`shop-dev` already that skpr did not make"), "{kind:?}");
        assert!(!left_out.iter().any(|kind| site.exists(*kind)), "{kind:?}");
        assert_eq!(site.fake.get(&site.path(kind)), before);
    }
}

#[tokio::test]
async fn volumes_follow_the_deletion_policy_also_when_it_is_edited_later() {
    let volume = |path: &str| json!({"path": path, "size": "1Gi"});
    let site = site(json!({"volumes": {"f": volume("/f"), "g": volume("/g")}}));
    site.round().await;
    let claims = ["f", "g"].map(|name| path(&site.key, Kind::Claim, &format!("shop-dev-{name}")));
    let owners =
        || claims.each_ref().map(|claim| site.fake.get(claim)["metadata"]["ownerReferences"].clone());
    let specs = || claims.each_ref().map(|claim| site.fake.get(claim)["spec"].clone());
    let before = specs();
    assert_eq!(owners(), [Value::Null, Value::Null]);
    // One that nothing mounts any more goes or stays with the others.
    site.edit(json!({"deletionPolicy": "DeleteAll", "volumes": {"f": volume("/f")}}));
    site.round().await;
    let uid = site.fake.get(OBJECT)["metadata"]["uid"].clone();
    for owners in owners() {
        assert_eq!((&owners[0]["uid"], &owners[0]["name"]), (&uid, &json!("shop.dev")), "{owners}");
    }
    site.fake.writes();
    site.round().await;
    let writes = site.fake.writes();
    assert!(!writes.iter().any(|write| write.contains("persistentvolumeclaims")), "{writes:?}");
    site.edit(json!({"deletionPolicy": "Delete"}));
    site.round().await;
    assert_eq!((owners(), specs()), ([json!([]), json!([])], before));
}

#[tokio::test]
async fn a_volume_that_cannot_grow_is_said_and_stops_nothing() {
    let site = site(json!({"volumes": {"f": {"path": "/f", "size": "1Gi"}}}));
    site.round().await;
    site.fake.forbid("PATCH persistentvolumeclaims/shop-dev-f");
    site.edit(json!({"volumes": {"f": {"path": "/f", "size": "2Gi"}}}));
    let done = site.round().await;
    assert!(done.hindrance.unwrap().contains("forbidden") && done.deployment.is_some());
}

#[tokio::test]
async fn whoever_a_domain_leads_to_keeps_it_and_only_what_is_contested_is_left_out() {
    let domains = json!({"port": 80, "domains": ["a.example.com", "b.example.com"]});
    let mut first = site(domains.clone());
    let served = first.round().await.status.domains;
    assert_eq!((first.hosts().len(), served.len()), (2, 2));
    // An older one comes to ask for what leads here.
    first.other("old", 1, false);
    assert_eq!(first.round().await.trouble, None);
    assert_eq!(first.hosts(), ["a.example.com", "b.example.com"]);

    let mut second = site(domains);
    second.other("young", 4_000_000_000, true);
    let done = second.round().await;
    assert_eq!(done.trouble.as_deref(), Some("the domain `a.example.com` belongs to another environment"));
    assert_eq!(second.hosts(), ["b.example.com"]);
    assert_eq!(
        done.status.domains.iter().map(|domain| domain.as_str()).collect::<Vec<_>>(),
        ["b.example.com"]
    );
    second.others.clear();
    assert_eq!((second.round().await.trouble, second.hosts().len()), (None, 2));
}

#[tokio::test]
async fn old_instances_are_reached_until_the_last_of_them_is_gone() {
    let mut site = site(json!({"port": 80, "domains": ["a.example.com"]}));
    site.round().await;
    site.runs(1);
    site.round().await;
    site.edit(json!({"version": "v2", "port": null, "domains": null}));
    let reached = |site: &Site| (site.exists(Kind::Service), site.exists(Kind::Ingress));
    let done = site.round().await;
    assert_eq!((done.status.state.as_deref(), done.status.domains.len()), (Some("deploying"), 1));
    assert_eq!(reached(&site), (true, true));
    site.runs(2);
    let done = site.round().await;
    assert_eq!((done.status.state.as_deref(), done.status.domains.len()), (Some("succeeded"), 0));
    assert_eq!(reached(&site), (false, false));
}

/// A site whose release 2, asked for by skpr, is being taken back.
async fn taken_back() -> Site {
    let mut site = site(json!({}));
    site.round().await;
    site.runs(1);
    site.round().await;
    let release = json!({"number": 2, "by": "ann", "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60,
        "returns": true});
    site.edit(json!({"version": "v2", "release": release}));
    site.round().await;
    site.runs(2);
    for instance in site.instances.values_mut() {
        (instance.ready, instance.detail.restarts) = (false, 9);
    }
    assert_eq!(site.round().await.status.state.as_deref(), Some("rolling-back"));
    site
}

#[tokio::test]
async fn a_release_is_put_back_also_when_its_object_cannot_be() {
    for code in [403, 500] {
        let mut site = taken_back().await;
        site.fake.refuse("PUT environments/shop.dev", code, "webhook \"policy\" says no");
        let done = site.round().await;
        let trouble = done.status.trouble.unwrap();
        assert!(
            trouble.starts_with("the object still asks for the release that failed: webhook"),
            "{trouble}"
        );
        let image = |site: &Site| {
            let deployment = site.fake.get(&site.path(Kind::Deployment));
            deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone()
        };
        assert_eq!(image(&site), "shop:v1");
        site.runs(1);
        let states = |done: Done| {
            let states = done.status.releases.iter().map(|release| release.state.name());
            states.collect::<Vec<_>>()
        };
        for _ in 0..3 {
            assert_eq!(states(site.round().await), ["succeeded", "rolled-back"], "it is not begun again");
        }
        site.fake.mend();
        assert_eq!(states(site.round().await), ["succeeded", "rolled-back"]);
        assert_eq!(site.fake.get(OBJECT)["spec"]["version"], "v1");
    }
}

#[tokio::test]
async fn what_kubernetes_refuses_is_said_and_ends_no_round() {
    let scaled = json!({"port": 80, "instances": {"min": 2, "max": 3}, "volumes": {"f": {"path": "/f", "size": "1Gi"}}});
    for (refused, edit) in [
        ("DELETE horizontalpodautoscalers/shop-dev", json!({"instances": null})),
        ("PATCH persistentvolumeclaims/shop-dev-f", json!({"deletionPolicy": "DeleteAll"})),
        ("PATCH persistentvolumeclaims/shop-dev-f", json!({"deletionPolicy": "DeleteAll", "volumes": null})),
        ("PATCH deployments/shop-dev skpr-replicas", json!({"instances": {"min": 5, "max": 5}})),
    ] {
        let site = site(scaled.clone());
        site.round().await;
        site.fake.forbid(refused);
        site.edit(edit);
        let done = site.round().await;
        let trouble = done.status.trouble.clone().unwrap();
        assert!(trouble.contains("is forbidden"), "{refused}: {trouble}");
        assert_eq!(done.status.observed_generation, 2, "{refused}");
        assert_eq!(done.target, site.fake.get(OBJECT)["status"]["target"].as_u64().unwrap() as u32);
        site.fake.mend();
        assert_eq!(site.round().await.status.trouble, None, "{refused}");
    }
}

#[tokio::test]
async fn the_status_says_which_deletion_policy_is_followed() {
    let site = site(json!({"port": 80, "domains": ["a.example.com"]}));
    let followed = |done: Done| format!("{:?}", done.status.deletion_policy);
    assert_eq!(followed(site.round().await), "Some(Delete)");
    site.edit(json!({"deletionPolicy": "Orphan"}));
    site.fake.forbid("PATCH ingresses/shop-dev");
    assert_eq!(followed(site.round().await), "Some(Delete)", "the ingress would go");
    site.fake.mend();
    assert_eq!(followed(site.round().await), "Some(Orphan)");
}

#[tokio::test]
async fn a_webhook_that_is_down_is_no_refusal_and_no_absent_server() {
    let site = site(json!({}));
    let said = "Internal error occurred: failed calling webhook \"w\": connection refused";
    site.fake.refuse("PATCH deployments/shop-dev", 500, said);
    let hindrance = site.try_round().await.unwrap_err();
    assert!(matches!(&hindrance, Hindrance::Blocked(reason) if reason == said) && !hindrance.is_away());
}

#[tokio::test]
async fn a_release_waits_for_no_ingress() {
    let mut site = site(json!({"port": 80, "domains": ["a.example.com"]}));
    let said = "Internal error occurred: failed calling webhook \"ingress\": connection refused";
    site.fake.refuse("PATCH ingresses/shop-dev", 500, said);
    assert_eq!(site.round().await.status.trouble.as_deref(), Some(said));
    site.runs(1);
    assert_eq!(site.round().await.status.state.as_deref(), Some("succeeded"));
    site.fake.mend();
    assert_eq!(site.round().await.status.trouble, None);
}

#[tokio::test]
async fn a_deployment_that_somebody_deleted_comes_back_with_as_many_instances() {
    let site = site(json!({"instances": {"min": 1, "max": 9}}));
    site.round().await;
    // As an autoscaler does.
    let deployment = site.path(Kind::Deployment);
    site.fake.change(&deployment, |deployment| deployment["spec"]["replicas"] = json!(4));
    assert_eq!(site.round().await.status.target, 4);
    let known = site.fake.children(&site.key);
    for stale in [false, true] {
        site.fake.forget(&deployment);
        site.fake.writes();
        let done = match stale {
            false => site.round().await,
            true => site.round_with(known.clone()).await.unwrap().unwrap(),
        };
        assert_eq!((done.target, &site.fake.get(&deployment)["spec"]["replicas"]), (4, &json!(4)), "{stale}");
    }
    assert_eq!(site.round().await.target, 4);
    site.edit(json!({"instances": {"min": 1, "max": 3}}));
    site.fake.forget(&deployment);
    assert_eq!(site.round().await.target, 3);
}

#[tokio::test]
async fn a_volume_that_is_to_be_smaller_is_said_and_stays() {
    let size = |size: &str| json!({"volumes": {"f": {"path": "/f", "size": size}}});
    let site = site(size("5Gi"));
    site.round().await;
    site.edit(size("1Gi"));
    let done = site.round().await;
    let trouble = "the volume `f` keeps its 5Gi: volumes only grow, and 1Gi is less";
    assert_eq!((done.status.trouble.as_deref(), done.hindrance), (Some(trouble), None));
    site.edit(size("5Gi"));
    assert_eq!(site.round().await.status.trouble, None);
}

#[tokio::test]
async fn two_environments_whose_objects_would_have_one_name_are_told_so() {
    let site = site(json!({}));
    let labels = json!({"skpr.io/project": "shop-dev", "skpr.io/environment": "x"});
    let other = json!({"metadata": {"labels": labels}, "spec": {"replicas": 1}});
    site.fake.put(&site.path(Kind::Deployment), access::CONTROLLER, other);
    // What carries another's labels is not among what is known to be ours.
    let hindrance = site.round_with(BTreeMap::new()).await.unwrap().unwrap().hindrance.unwrap();
    let said =
        "there is a Deployment `shop-dev` already that belongs to another environment, which its labels name";
    assert_eq!(hindrance, said);
}

#[tokio::test]
async fn the_limits_of_instances_show_in_the_status_whoever_sets_them() {
    let site = site(json!({}));
    let limits = |done: Done| (done.status.min, done.status.max);
    assert_eq!(limits(site.round().await), (1, 1));
    site.edit(json!({"instances": {"min": 2, "max": 4}}));
    assert_eq!(limits(site.round().await), (2, 4));
    site.edit(json!({"instances": {"min": 2, "max": 5}, "image": "Shop"}));
    let refused = site.round().await;
    assert!(refused.refusal.is_some());
    assert_eq!(limits(refused), (2, 5));
}
