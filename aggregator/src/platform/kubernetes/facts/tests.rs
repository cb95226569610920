//! Pods as Kubernetes describes them, and what is kept of each.

use super::*;
use serde_json::json;

fn pod(change: impl FnOnce(&mut serde_json::Value)) -> core::Pod {
    let mut value = json!({
        "metadata": {
            "name": "web-1", "namespace": "sites", "uid": "0a1b2c3d-aaaa-bbbb-cccc-0123456789ab",
            "labels": {"skpr.io/project": "shop", "skpr.io/environment": "prod"}, "annotations": {}
        },
        "spec": {"nodeName": "n1", "containers": [
            {"name": "php", "image": "r.example.com:5000/shop:1.2.3"}, {"name": "proxy", "image": "envoy:9"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_pod_gives_its_facts() {
    let facts = facts_of(&pod(|_| ())).unwrap();
    assert_eq!(facts.environment.to_string(), "sites:shop/prod");
    assert_eq!((&*facts.instance, facts.main_container.as_str(), &*facts.version), ("web-1", "php", "1.2.3"));
    assert_eq!((facts.ready, facts.presence, facts.production), (true, Presence::Present, false));
    assert_eq!(facts.labels.get(PROJECT_LABEL).map(String::as_str), Some("shop"));
    let many = facts_of(&pod(|pod| pod["metadata"]["labels"]["x"] = json!("y".repeat(9000)))).unwrap();
    assert!(many.labels.is_empty());
}

#[test]
fn the_annotation_names_the_main_container() {
    let annotated = |name: &str| {
        facts_of(&pod(|pod| pod["metadata"]["annotations"][DEFAULT_CONTAINER] = json!(name))).unwrap()
    };
    assert_eq!((annotated("proxy").main_container.as_str(), &*annotated("proxy").version), ("proxy", "9"));
    assert_eq!(annotated("nonsense").main_container.as_str(), "php");
}

#[test]
fn states_are_told_apart() {
    assert!(!facts_of(&pod(|pod| pod["status"]["conditions"][0]["status"] = json!("False"))).unwrap().ready);
    let finished = facts_of(&pod(|pod| pod["status"]["phase"] = json!("Succeeded"))).unwrap();
    assert_eq!(finished.presence, Presence::Finished);
    let pending = pod(|pod| {
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
        pod.as_object_mut().unwrap().remove("status");
    });
    assert_eq!(facts_of(&pending).unwrap().node, None);
    assert!(
        facts_of(&pod(|pod| pod["metadata"]["labels"][PRODUCTION_LABEL] = json!("true"))).unwrap().production
    );
}

#[test]
fn the_detail_says_how_the_main_container_is() {
    let told = pod(|pod| {
        pod["metadata"]["labels"][RELEASE_LABEL] = json!("7");
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        pod["status"]["containerStatuses"] = json!([
            {"name": "proxy", "ready": true, "restartCount": 9, "image": "", "imageID": ""},
            {"name": "php", "ready": false, "restartCount": 2, "image": "shop:1", "imageID": "r/shop@sha256:abc",
             "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off\u{1b}[2J"}},
             "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-24T00:00:09Z"}}}
        ]);
    });
    let detail = facts_of(&told).unwrap().detail;
    assert_eq!((detail.release, detail.restarts, detail.leaving), (Some(7), 2, true));
    assert_eq!(detail.waiting.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(detail.message.as_deref(), Some("back-off [2J"));
    assert_eq!(detail.digest.as_deref(), Some("sha256:abc"));
    let end = detail.end.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("OOMKilled")));
    assert_eq!((detail.out_of_memory_kills, ends_of(&told, "php")), (1, 2));
}

#[test]
fn containers_are_named_by_the_runtime_s_id() {
    let told = pod(|pod| {
        let status = |name: &str, id: Option<&str>| {
            json!({"name": name, "ready": true, "restartCount": 0,
            "image": "", "imageID": "", "containerID": id, "state": {"running": {}}})
        };
        pod["status"]["containerStatuses"] = json!([
            status("php", Some("containerd://aa")),
            status("proxy", None),
            status("odd", Some("bb")),
            status("ended", Some("containerd://dd"))
        ]);
        pod["status"]["containerStatuses"][3]["state"] = json!({"terminated": {"exitCode": 0}});
        pod["status"]["initContainerStatuses"] = json!([status("mesh", Some("cri-o://cc"))]);
    });
    let containers = facts_of(&told).unwrap().containers;
    let found: Vec<_> =
        containers.iter().map(|(id, known)| (&**id, known.name.as_str(), known.running)).collect();
    assert_eq!(found, [("aa", "php", true), ("cc", "mesh", true), ("dd", "ended", false)]);
}

#[test]
fn a_pod_without_a_place_says_why() {
    let told = pod(|pod| {
        pod["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}]});
    });
    let detail = facts_of(&told).unwrap().detail;
    assert_eq!(detail.waiting.as_deref(), Some("Unschedulable"));
    assert_eq!(detail.message.as_deref(), Some("0/2 nodes are available"));
}

#[test]
fn of_a_pull_that_failed_the_cause_is_kept() {
    let message =
        "Back-off pulling image \"x:9\": ErrImagePull: rpc error: code = NotFound desc = failed: not found";
    let told = pod(|pod| {
        pod["status"]["containerStatuses"] = json!([{"name": "php", "ready": false, "restartCount": 0, "image": "x:9",
            "imageID": "", "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}}}]);
    });
    let detail = facts_of(&told).unwrap().detail;
    assert_eq!((detail.message.as_deref(), detail.digest), (Some("not found"), None));
}

#[test]
fn wrong_pods_are_left_out_with_the_reason() {
    for (change, reason) in [
        (json!({"metadata": {"labels": {"skpr.io/project": "Shop"}}}), "`Shop`"),
        (json!({"metadata": {"labels": {"skpr.io/environment": "a.b"}}}), "`a.b`"),
        (json!({"metadata": {"labels": {"skpr.io/environment": null}}}), "is missing"),
        (json!({"spec": {"containers": []}}), "no container"),
    ] {
        let pod = pod(|pod| json_merge(pod, &change));
        let error = facts_of(&pod).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

fn json_merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    json_merge(into.entry(key).or_insert(json!(null)), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[test]
fn a_version_is_the_tag_or_a_short_digest() {
    let digest = "sha256:0123456789abcdef0123456789abcdef";
    for (image, expected) in [
        ("shop:1.2", "1.2"),
        ("r:5000/a/shop:v1-3-gabc", "v1-3-gabc"),
        ("r:5000/a/shop", "latest"),
        (&format!("r:5000/a/shop@{digest}"), "sha256:0123456789ab"),
        (&format!("shop:1.2@{digest}"), "1.2"),
        ("", "latest"),
        ("a@b:é", "b:é"),
    ] {
        assert_eq!(&*version_of(image), expected, "{image}");
    }
}

#[test]
fn a_static_pod_is_known_by_its_hash_and_nobody_can_pose_as_another_pod() {
    let uid = |value: &str, kind: &str, owner: &str| {
        let pod = pod(|pod| {
            pod["metadata"]["annotations"][MIRROR] = json!(value);
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "n"}]);
        });
        uid_of(&pod.metadata, Some("n1")).unwrap().to_string()
    };
    let (hash, own) = ("0123456789abcdef0123456789abcdef", "0a1b2c3d-aaaa-bbbb-cccc-0123456789ab");
    assert_eq!(uid(hash, "Node", "n1"), hash);
    assert_eq!(uid("ffffffff-aaaa-bbbb-cccc-0123456789ab", "Node", "n1"), own);
    // The annotation alone, and one on a pod of something else or of another node, is a user's.
    for (kind, owner) in [("ReplicaSet", "n1"), ("Node", "n2")] {
        assert_eq!(uid(hash, kind, owner), own, "{kind} {owner}");
    }
    let bare = pod(|pod| pod["metadata"]["annotations"][MIRROR] = json!(hash));
    assert_eq!(uid_of(&bare.metadata, Some("n1")).unwrap().to_string(), own);
}

#[test]
fn the_pod_of_a_run_names_its_task_and_says_how_its_one_container_went() {
    let run = |component: &str, status: serde_json::Value| {
        facts_of(&pod(|pod| {
            pod["metadata"]["labels"]["skpr.io/task"] = json!("drush");
            pod["metadata"]["labels"]["app.kubernetes.io/component"] = json!(component);
            json_merge(&mut pod["status"], &status);
        }))
        .unwrap()
    };
    let ended = |started: &str, reason: &str, message: &str| {
        let terminated = json!({"exitCode": 3, "reason": reason, "message": message, "startedAt": started,
            "finishedAt": "2026-11-24T00:00:09Z"});
        json!({"phase": "Failed", "containerStatuses": [{"name": "php", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": terminated}}]})
    };
    // An instance that somebody gave the label is one all the same.
    assert_eq!(run("app", json!({})).task, None);
    let facts = run("task", ended("2026-11-24T00:00:05Z", "Error", ""));
    assert_eq!(facts.task.as_ref().map(Label::as_str), Some("drush"));
    assert_eq!(facts.detail.started, "2026-11-24T00:00:05Z".parse().ok());
    assert_eq!((facts.detail.waiting, facts.presence), (None, Presence::Finished));
    // The kubelet gives a container that it could not start the beginning of time.
    let detail = run("task", ended("1970-01-01T00:00:00Z", "StartError", "no such file")).detail;
    assert_eq!((detail.started, detail.waiting.as_deref()), (None, Some("StartError")));
    assert_eq!(detail.message.as_deref(), Some("no such file"));
    let detail = run("task", ended("1970-01-01T00:00:00Z", "ContainerStatusUnknown", "not located")).detail;
    assert_eq!((detail.started, detail.waiting), (None, None));
    let mut evicted = ended("2026-11-24T00:00:05Z", "Error", "");
    (evicted["reason"], evicted["message"]) = (json!("Evicted"), json!("low on memory"));
    let detail = run("task", evicted).detail;
    assert_eq!(
        (detail.waiting.as_deref(), detail.message.as_deref()),
        (Some("Evicted"), Some("low on memory"))
    );
    assert!(detail.started.is_some());
    let mut lost = ended("2026-11-24T00:00:05Z", "Error", "");
    lost["conditions"] =
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]);
    assert_eq!(run("task", lost).detail.waiting.as_deref(), Some("DeletionByTaintManager"));
}
