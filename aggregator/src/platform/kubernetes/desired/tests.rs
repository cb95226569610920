//! Which objects environments are made into.

use super::template::resources;
use super::*;
use crate::inventory::tests::key;
use crate::release::{self, Deploy, TIMEOUT};
use jiff::Timestamp;

pub(in crate::platform::kubernetes) fn settings(value: Value) -> manifest::Environment {
    serde_json::from_value(value).unwrap()
}

pub(in crate::platform::kubernetes) fn release(settings: manifest::Environment) -> Release {
    let deploy = Deploy {
        version: "v1".into(),
        image: Some("r.example.com/shop".into()),
        settings,
        by: "ann".into(),
        timeout: TIMEOUT,
        returns: true,
        restores: None,
    };
    let mut releases = vec![];
    release::begin(&mut releases, 7, deploy, Timestamp::UNIX_EPOCH);
    releases.pop().unwrap()
}

fn options() -> ClusterOptions {
    ClusterOptions { volume_access_mode: "ReadWriteOnce".into(), ..ClusterOptions::default() }
}

fn make(value: Value, change: impl FnOnce(&mut Site<'_>)) -> BTreeMap<(Kind, String), Value> {
    let (key, options, settings) = (key("sites", "shop", "dev"), options(), settings(value));
    let release = release(settings.clone());
    let mut site = Site {
        key: &key,
        uid: "u1",
        deletion: DeletionPolicy::Delete,
        settings: &settings,
        release: &release,
        target: 1,
        taken: &[],
        stopped: &BTreeSet::new(),
        options: &options,
    };
    change(&mut site);
    desired(&site).into_iter().map(|wanted| ((wanted.kind, wanted.name), wanted.object)).collect()
}

fn kinds(value: Value) -> Vec<Kind> {
    make(value, |_| ()).into_keys().map(|(kind, _)| kind).collect()
}

/// **Changing this restarts every site of every cluster at the next upgrade of skpr.** Do it for a reason that is worth
/// that, and say so in the changelog.
#[test]
fn the_template_of_a_release_is_what_it_always_was() {
    let release = release(settings(json!({
        "port": 8080, "health": "/healthz", "cpu": {"share": "500m", "limit": "2"}, "memory": {"min": "256Mi", "max": "1Gi"},
        "env": {"APP_ENV": "pro$(X)d", "PORT": "1"}, "command": ["./serve", "--price", "$5"], "production": true,
        "volumes": {"files": {"path": "/data", "size": "5Gi"}}, "instances": {"min": 1, "max": 1}
    })));
    let expected = json!({
        "metadata": {
            "annotations": {"kubectl.kubernetes.io/default-container": "app"},
            "labels": {
                "app.kubernetes.io/component": "app", "app.kubernetes.io/instance": "shop-dev",
                "app.kubernetes.io/managed-by": "skpr", "app.kubernetes.io/name": "shop",
                "skpr.io/environment": "dev", "skpr.io/production": "true", "skpr.io/project": "shop",
                "skpr.io/release": "7"
            }
        },
        "spec": {
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                "podAffinityTerm": {
                    "labelSelector": {"matchLabels": {"skpr.io/environment": "dev", "skpr.io/project": "shop"}},
                    "topologyKey": "kubernetes.io/hostname"
                },
                "weight": 100
            }]}},
            "automountServiceAccountToken": false,
            "containers": [{
                "args": ["--price", "$$5"],
                "command": ["./serve"],
                "env": [
                    {"name": "APP_ENV", "value": "pro$$(X)d"}, {"name": "PORT", "value": "8080"},
                    {"name": "SKPR_ENVIRONMENT", "value": "dev"}, {"name": "SKPR_PROJECT", "value": "shop"},
                    {"name": "SKPR_VERSION", "value": "v1"}
                ],
                "image": "r.example.com/shop:v1",
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "name": "app",
                "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                "readinessProbe": {
                    "failureThreshold": 2, "httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 2,
                    "timeoutSeconds": 2
                },
                "resources": {
                    "limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "256Mi"}
                },
                "securityContext": {"allowPrivilegeEscalation": false},
                "volumeMounts": [{"mountPath": "/data", "name": "files"}]
            }],
            "enableServiceLinks": false,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 35,
            "volumes": [{"name": "files", "persistentVolumeClaim": {"claimName": "shop-dev-files"}}]
        }
    });
    assert_eq!(template(&key("sites", "shop", "dev"), &release), expected);
}

#[test]
fn an_instance_counts_once_it_answers_as_far_as_it_can_be_asked() {
    let check = |value: Value, steady: u64, probe: Value| {
        let made = make(value, |_| ());
        let spec = &made[&(Kind::Deployment, "shop-dev".to_owned())]["spec"];
        assert_eq!(spec["minReadySeconds"], steady);
        assert_eq!(spec["template"]["spec"]["containers"][0]["readinessProbe"], probe);
    };
    let get = json!({"path": "/", "port": "http"});
    check(
        json!({"port": 80, "health": "/"}),
        0,
        json!({"httpGet": get, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2}),
    );
    let connect = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 2, "failureThreshold": 2});
    check(json!({"port": 80}), 0, connect);
    check(json!({}), 5, Value::Null);
}

#[test]
fn there_is_what_is_asked_for_and_nothing_else() {
    assert_eq!(kinds(json!({})), [Kind::Deployment]);
    assert_eq!(kinds(json!({"port": 80})), [Kind::Deployment, Kind::Service]);
    assert_eq!(
        kinds(json!({"port": 80, "instances": {"min": 1, "max": 3}})),
        [Kind::Deployment, Kind::Service, Kind::Autoscaler]
    );
    assert_eq!(kinds(json!({"instances": {"min": 2, "max": 2}})), [Kind::Deployment, Kind::Budget]);
    assert_eq!(kinds(json!({"domains": ["a.example.com"]})), [Kind::Deployment]);
    assert_eq!(
        kinds(
            json!({"port": 80, "domains": ["a.example.com"], "volumes": {"f": {"path": "/f", "size": "1Gi"}}})
        ),
        [Kind::Deployment, Kind::Service, Kind::Ingress, Kind::Claim]
    );
}

#[test]
fn a_domain_that_another_has_is_left_out_and_no_other() {
    let hosts = |taken: &[&str]| -> Vec<Value> {
        let taken: Vec<manifest::Domain> =
            taken.iter().map(|domain| manifest::Domain::parse(domain).unwrap()).collect();
        let value = json!({"port": 80, "domains": ["a.example.com", "b.example.com"]});
        let made = make(value, |site| site.taken = taken.leak());
        let ingress = made.get(&(Kind::Ingress, "shop-dev".to_owned()));
        let rules = ingress.and_then(|ingress| ingress["spec"]["rules"].as_array());
        rules.into_iter().flatten().map(|rule| rule["host"].clone()).collect()
    };
    assert_eq!(hosts(&[]), ["a.example.com", "b.example.com"]);
    assert_eq!(hosts(&["a.example.com"]), ["b.example.com"]);
    assert_eq!(hosts(&["a.example.com", "b.example.com"]), [""; 0]);
}

#[test]
fn what_others_name_comes_before_them() {
    let (key, options) = (key("sites", "shop", "dev"), options());
    let settings =
        settings(json!({"port": 80, "domains": ["a.example.com"], "instances": {"min": 2, "max": 3},
        "volumes": {"f": {"path": "/f", "size": "1Gi"}}}));
    let release = release(settings.clone());
    let site = Site {
        key: &key,
        uid: "u1",
        deletion: DeletionPolicy::Delete,
        settings: &settings,
        release: &release,
        target: 1,
        taken: &[],
        stopped: &BTreeSet::new(),
        options: &options,
    };
    let kinds: Vec<Kind> = desired(&site).iter().map(|wanted| wanted.kind).collect();
    let (leant_on, others) = kinds.split_at(3);
    assert_eq!(leant_on, [Kind::Claim, Kind::Service, Kind::Deployment]);
    assert!(leant_on.iter().all(|kind| kind.is_leant_on()) && others.len() == 3);
    assert!(!others.iter().any(|kind| kind.is_leant_on()));
}

#[test]
fn what_runs_is_the_releases_and_how_many_is_todays() {
    let today =
        settings(json!({"port": 81, "instances": {"min": 3, "max": 9, "cpu": "55%"}, "production": true}));
    let made = make(json!({"port": 80}), |site| site.settings = Box::leak(Box::new(today)));
    let of = |kind: Kind| &made[&(kind, "shop-dev".to_owned())];
    assert_eq!(of(Kind::Service)["spec"]["ports"][0]["port"], 80);
    assert_eq!(of(Kind::Autoscaler)["spec"]["minReplicas"], 3);
    let percent = &of(Kind::Autoscaler)["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"];
    assert_eq!(percent, 55);
    let deployment = of(Kind::Deployment);
    assert!(deployment["spec"]["replicas"].is_null());
    assert!(deployment["spec"]["template"]["metadata"]["labels"]["skpr.io/production"].is_null());
    assert_eq!(deployment["spec"]["minReadySeconds"], 0);
    assert_eq!(
        deployment["spec"]["strategy"]["rollingUpdate"],
        json!({"maxUnavailable": 0, "maxSurge": "25%"})
    );
}

#[test]
fn what_goes_with_the_environment_follows_the_policy() {
    let owned = |policy: DeletionPolicy| {
        let value = json!({"volumes": {"f": {"path": "/f", "size": "1Gi"}}});
        let made = make(value, |site| site.deletion = policy);
        let owned =
            |kind: Kind, name: &str| !made[&(kind, name.to_owned())]["metadata"]["ownerReferences"].is_null();
        (owned(Kind::Deployment, "shop-dev"), owned(Kind::Claim, "shop-dev-f"))
    };
    assert_eq!(owned(DeletionPolicy::Delete), (true, false));
    assert_eq!(owned(DeletionPolicy::DeleteAll), (true, true));
    assert_eq!(owned(DeletionPolicy::Orphan), (false, false));
}

#[test]
fn the_number_of_instances_is_handed_over_without_a_dip() {
    for (current, bounds, expected) in [
        (1, (2, 2), Some(2)),
        (2, (2, 2), None),
        (5, (2, 2), Some(2)),
        // An autoscaler's count is left alone within its bounds, and pulled into them at once.
        (5, (2, 8), None),
        (1, (2, 8), Some(2)),
        (9, (2, 8), Some(8)),
    ] {
        assert_eq!(replicas(current, bounds), expected, "{current} {bounds:?}");
    }
}

#[test]
fn one_bound_of_memory_moves_the_default_of_the_other() {
    let memory = |value: Value| {
        let resources = resources(&settings(json!({ "memory": value })));
        let part = |part: &str| resources[part]["memory"].as_str().unwrap().to_owned();
        (part("requests"), part("limits"))
    };
    let expect = |min: &str, max: &str| (min.to_owned(), max.to_owned());
    assert_eq!(memory(json!({})), expect("128Mi", "512Mi"));
    assert_eq!(memory(json!({"max": "64Mi"})), expect("64Mi", "64Mi"));
    assert_eq!(memory(json!({"min": "1Gi"})), expect("1Gi", "1Gi"));
    assert_eq!(memory(json!({"min": "200M", "max": "900000K"})), expect("200M", "900000k"));
}

#[test]
fn a_domain_is_served_as_the_cluster_does_it() {
    let options = ClusterOptions {
        ingress_class: Some("nginx".into()),
        ingress_annotations: BTreeMap::from([("a/b".into(), "c".into())]),
        ingress_tls: true,
        ..options()
    };
    let value = json!({"port": 80, "domains": ["a.example.com"]});
    let made = make(value, |site| site.options = Box::leak(Box::new(options)));
    let ingress = &made[&(Kind::Ingress, "shop-dev".to_owned())];
    assert_eq!(ingress["metadata"]["annotations"], json!({"a/b": "c"}));
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(ingress["spec"]["tls"], json!([{"hosts": ["a.example.com"], "secretName": "shop-dev-tls"}]));
    let backend = json!({"service": {"name": "shop-dev", "port": {"name": "http"}}});
    assert_eq!(ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"], backend);
}
