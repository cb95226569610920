//! From a Kubernetes pod to the facts that are kept of it. Pure.

use super::{ENVIRONMENT_LABEL, PROJECT_LABEL};
use crate::environment::EnvironmentKey;
use crate::inventory::{Pod, Presence};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skpr_proto::{EnvironmentName, InvalidId, Label, NodeName, PodUid};
use std::sync::Arc;

/// The annotation by which kubectl, too, chooses a pod's main container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// On the API's picture of a static pod: the hash that the kubelet uses as the pod's UID.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a pod of an environment that must not be broken lightly.
const PRODUCTION_LABEL: &str = "skpr.io/production";
/// As much of a digest as tells images apart.
const DIGEST_DIGITS: usize = 12;

/// Why a pod is left out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unusable {
    #[error("the label `{0}` is missing")]
    NoLabel(&'static str),
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    #[error("it has no container")]
    NoContainer,
}

/// The UID that the node's directories name, which the pod's own metadata has to give. `node` is where it runs; none
/// when that cannot be read.
pub(super) fn uid_of(metadata: &ObjectMeta, node: Option<&str>) -> Result<PodUid, InvalidId> {
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    // Anybody may write this annotation on a pod, and with it take the place of a static pod. What the kubelet makes
    // belongs to its node's object, and is deleted at once if that does not exist.
    let owned = node.is_some_and(|node| {
        let mut owners = metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.api_version == "v1" && owner.kind == "Node" && owner.name == node)
    });
    // A hash has no hyphens and so never names someone else's real pod.
    let hash = annotation
        .filter(|hash| owned && hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    PodUid::parse(hash.or(metadata.uid.as_ref()).map_or("", String::as_str))
}

/// The pod's facts.
pub(super) fn facts_of(pod: &core::Pod) -> Result<Pod, Unusable> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref().ok_or(Unusable::NoContainer)?;
    let status = pod.status.as_ref();
    let environment = EnvironmentKey {
        namespace: Label::parse("namespace", metadata.namespace.as_deref().unwrap_or_default())?,
        name: EnvironmentName {
            project: label(metadata, PROJECT_LABEL)?,
            environment: label(metadata, ENVIRONMENT_LABEL)?,
        },
    };
    let named = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
    let main = spec
        .containers
        .iter()
        .find(|container| named == Some(&container.name))
        .or(spec.containers.first())
        .ok_or(Unusable::NoContainer)?;
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let phase = status.and_then(|status| status.phase.as_deref());
    let production = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(PRODUCTION_LABEL))
        .is_some_and(|value| value == "true");
    Ok(Pod {
        environment,
        node: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(NodeName::parse).transpose()?,
        instance: metadata.name.as_deref().unwrap_or_default().into(),
        main_container: Label::parse("container", &main.name)?,
        version: version_of(main.image.as_deref().unwrap_or_default()),
        ready,
        production,
        presence: if matches!(phase, Some("Succeeded" | "Failed")) {
            Presence::Finished
        } else {
            Presence::Present
        },
    })
}

fn label(metadata: &ObjectMeta, name: &'static str) -> Result<Label, Unusable> {
    let value =
        metadata.labels.as_ref().and_then(|labels| labels.get(name)).ok_or(Unusable::NoLabel(name))?;
    Ok(Label::parse(name, value)?)
}

/// An image's tag; with only a digest, as much of it as tells images apart.
fn version_of(image: &str) -> Arc<str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) if !tag.is_empty() => tag.into(),
        (_, Some(digest)) => {
            let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
            let short: String = hex.chars().take(DIGEST_DIGITS).collect();
            format!("{algorithm}:{short}").into()
        }
        (_, None) => "latest".into(),
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (&*facts.instance, facts.main_container.as_str(), &*facts.version),
            ("web-1", "php", "1.2.3")
        );
        assert_eq!((facts.ready, facts.presence, facts.production), (true, Presence::Present, false));
    }

    #[test]
    fn the_annotation_names_the_main_container() {
        let annotated = |name: &str| {
            facts_of(&pod(|pod| pod["metadata"]["annotations"][DEFAULT_CONTAINER] = json!(name))).unwrap()
        };
        assert_eq!(
            (annotated("proxy").main_container.as_str(), &*annotated("proxy").version),
            ("proxy", "9")
        );
        assert_eq!(annotated("nonsense").main_container.as_str(), "php");
    }

    #[test]
    fn states_are_told_apart() {
        assert!(
            !facts_of(&pod(|pod| pod["status"]["conditions"][0]["status"] = json!("False"))).unwrap().ready
        );
        let finished = facts_of(&pod(|pod| pod["status"]["phase"] = json!("Succeeded"))).unwrap();
        assert_eq!(finished.presence, Presence::Finished);
        let pending = pod(|pod| {
            pod["spec"].as_object_mut().unwrap().remove("nodeName");
            pod.as_object_mut().unwrap().remove("status");
        });
        assert_eq!(facts_of(&pending).unwrap().node, None);
        assert!(
            facts_of(&pod(|pod| pod["metadata"]["labels"][PRODUCTION_LABEL] = json!("true")))
                .unwrap()
                .production
        );
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
}
