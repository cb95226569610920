//! Which CronJobs and Jobs tasks are made into.

use super::*;
use crate::inventory::tests::key;
use crate::platform::kubernetes::desired::tests::{release, settings};
use crate::platform::kubernetes::desired::{ClusterOptions, Kind, desired};
use crate::platform::kubernetes::resource::DeletionPolicy;
use std::collections::BTreeSet;

fn task(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

/// The CronJobs of an environment that runs `running` and asks for the tasks of `asked`.
fn made(running: Value, asked: Value, stopped: &[&str], deletion: DeletionPolicy) -> Vec<Value> {
    let (key, asked, running) = (key("sites", "shop", "dev"), settings(asked), settings(running));
    let options = ClusterOptions { volume_access_mode: "ReadWriteOnce".into(), ..ClusterOptions::default() };
    let stopped: BTreeSet<Label> = stopped.iter().map(|name| task(name)).collect();
    let site = Site {
        key: &key,
        uid: "u1",
        deletion,
        settings: &asked,
        release: &release(running),
        target: 1,
        taken: &[],
        stopped: &stopped,
        options: &options,
    };
    desired(&site).into_iter().filter(|it| it.kind == Kind::CronJob).map(|it| it.object).collect()
}

fn one(asked: Value) -> Value {
    made(json!({}), asked, &[], DeletionPolicy::Delete).pop().unwrap()
}

#[test]
fn a_task_is_a_cron_job_of_what_instances_run() {
    let running = json!({"port": 8080, "health": "/", "env": {"A": "$b"}, "memory": {"min": "64Mi", "max": "1Gi"},
        "volumes": {"f": {"path": "/f", "size": "1Gi"}}, "command": ["./serve"], "production": true});
    let asked = json!({"cron": {"drush-cron": {"schedule": "*/15 * * * *", "command": "drush cron $X",
        "timezone": "Australia/Sydney", "timeout": "10m", "overlap": "replace"}}});
    let made = made(running, asked, &[], DeletionPolicy::Delete);
    let labels = json!({"app.kubernetes.io/instance": "shop-dev", "app.kubernetes.io/managed-by": "skpr",
        "app.kubernetes.io/name": "shop", "skpr.io/environment": "dev", "skpr.io/project": "shop", "skpr.io/task": "drush-cron"});
    let mut of_pod = labels.clone();
    of_pod["app.kubernetes.io/component"] = json!("task");
    of_pod["skpr.io/production"] = json!("true");
    of_pod["skpr.io/release"] = json!("7");
    let owner = json!({"apiVersion": "skpr.io/v1alpha1", "kind": "Environment", "name": "shop.dev", "uid": "u1",
        "controller": true, "blockOwnerDeletion": true});
    let beside = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
        "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {
            "app.kubernetes.io/component": "app", "skpr.io/environment": "dev", "skpr.io/project": "shop"}}}}]}});
    let expected = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "shop-dev--drush-cron", "namespace": "sites", "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "schedule": "*/15 * * * *", "timeZone": "Australia/Sydney", "concurrencyPolicy": "Replace", "suspend": false,
            "startingDeadlineSeconds": 200, "successfulJobsHistoryLimit": 10, "failedJobsHistoryLimit": 10,
            "jobTemplate": {
                "metadata": {"labels": labels, "annotations": {"skpr.io/version": "v1"}},
                "spec": {"backoffLimit": 0, "activeDeadlineSeconds": 600, "template": {
                    "metadata": {"labels": of_pod, "annotations": {"kubectl.kubernetes.io/default-container": "app"}},
                    "spec": {
                        "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                        "terminationGracePeriodSeconds": 35, "affinity": beside,
                        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                        "volumes": [{"name": "f", "persistentVolumeClaim": {"claimName": "shop-dev-f"}}],
                        "containers": [{
                            "name": "app", "image": "r.example.com/shop:v1",
                            "command": ["/bin/sh", "-c", "drush cron $$X"],
                            "env": [
                                {"name": "A", "value": "$$b"}, {"name": "SKPR_ENVIRONMENT", "value": "dev"},
                                {"name": "SKPR_PROJECT", "value": "shop"}, {"name": "SKPR_TASK", "value": "drush-cron"},
                                {"name": "SKPR_VERSION", "value": "v1"}
                            ],
                            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
                            "securityContext": {"allowPrivilegeEscalation": false},
                            "volumeMounts": [{"name": "f", "mountPath": "/f"}]
                        }]
                    }
                }}
            }
        }
    });
    assert_eq!(made, [expected]);
}

#[test]
fn what_a_task_leaves_out_is_what_it_means() {
    let spec = one(json!({"cron": {"a": {"schedule": "@daily", "command": "x"}}}))["spec"].clone();
    let said =
        ["schedule", "timeZone", "concurrencyPolicy"].map(|key| spec[key].as_str().unwrap().to_owned());
    assert_eq!(said, ["0 0 * * *", "UTC", "Forbid"]);
    assert!(spec["jobTemplate"]["spec"]["activeDeadlineSeconds"].is_null());
    let spec =
        one(json!({"cron": {"a": {"schedule": "* * * * *", "command": "x", "overlap": "allow"}}}))["spec"]
            .clone();
    assert_eq!((&spec["concurrencyPolicy"], &spec["startingDeadlineSeconds"]), (&json!("Allow"), &json!(30)));
}

#[test]
fn a_task_that_is_stopped_begins_nothing_and_one_of_an_orphan_goes_on_without_it() {
    let asked = json!({"cron": {"a": {"schedule": "@daily", "command": "x"}, "b": {"schedule": "@daily", "command": "y"}}});
    let made = made(json!({}), asked, &["b"], DeletionPolicy::Orphan);
    let suspended: Vec<&Value> = made.iter().map(|it| &it["spec"]["suspend"]).collect();
    assert_eq!(suspended, [&json!(false), &json!(true)]);
    assert!(made.iter().all(|it| it["metadata"]["ownerReferences"].is_null()));
}

#[test]
fn a_run_that_is_asked_for_has_its_id_and_its_arguments() {
    let (key, settings) = (key("sites", "shop", "dev"), settings(json!({"env": {"A": "b"}})));
    let drush: Task =
        serde_json::from_value(json!({"schedule": "@daily", "command": "drush \"$1\"", "timeout": "90s"}))
            .unwrap();
    let (release, task) = (release(settings), task("drush"));
    let made =
        Made { key: &key, release: &release, task: &task, settings: &drush, access_mode: "ReadWriteOnce" };
    let arguments = vec!["a b".to_owned(), "$HOME".to_owned(), String::new()];
    let wanted = RunNow { task: task.clone(), arguments, by: "ann\n".into() };
    let id = RunId::asked(&task, 7);
    let job = made.job(&wanted, &id, "c1");
    assert_eq!(job["metadata"]["name"], format!("shop-dev--drush-{}", id.suffix()));
    assert_eq!(job["metadata"]["annotations"], json!({"skpr.io/by": "ann", "skpr.io/version": "v1"}));
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "shop-dev--drush", "uid": "c1", "controller": true}]);
    assert_eq!(job["metadata"]["ownerReferences"], owner);
    let spec = &job["spec"];
    assert_eq!(
        [
            &spec["suspend"],
            &spec["ttlSecondsAfterFinished"],
            &spec["activeDeadlineSeconds"],
            &spec["backoffLimit"]
        ],
        [&json!(true), &json!(3600), &json!(90), &json!(0)]
    );
    let container = &spec["template"]["spec"]["containers"][0];
    let command = json!(["/bin/sh", "-c", "drush \"$$1\" \"$$@\"", "skpr", "a b", "$$HOME", ""]);
    assert_eq!(container["command"], command);
    let env = container["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "SKPR_RUN", "value": id.as_str()})), "{env:?}");
    assert!(spec["template"]["spec"]["affinity"].is_null());
}
