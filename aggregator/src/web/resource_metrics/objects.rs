//! Pods and nodes as `metrics.k8s.io` shows them, and what there is. Pure.

use super::quantity;
use super::request::{GROUP, VERSION};
use crate::inventory::Labels;
use crate::usage::{NodeUsage, PodResources};
use serde::Serialize;
use serde_json::{Value, json};

const API_VERSION: &str = "metrics.k8s.io/v1beta1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Vec<Object>,
}

#[derive(Serialize)]
struct Empty {}

/// A pod or a node. Within a list its kind is the list's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    metadata: Metadata,
    timestamp: String,
    window: String,
    #[serde(flatten)]
    used: Used,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    creation_timestamp: String,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Used {
    Usage(Amounts),
    Containers(Vec<Container>),
}

#[derive(Serialize)]
struct Container {
    name: String,
    usage: Amounts,
}

#[derive(Serialize)]
struct Amounts {
    cpu: String,
    memory: String,
}

fn amounts(nanocores: u64, bytes: u64) -> Amounts {
    Amounts { cpu: quantity::cores(nanocores), memory: quantity::bytes(bytes) }
}

pub(super) fn pod(pod: &PodResources) -> Object {
    let timestamp = quantity::time(pod.time);
    let containers = pod.containers.iter().map(|container| Container {
        name: container.container.to_string(),
        usage: amounts(container.cpu_nanocores, container.memory_bytes),
    });
    Object {
        kind: None,
        api_version: None,
        metadata: Metadata {
            name: pod.instance.to_string(),
            namespace: Some(pod.environment.namespace.to_string()),
            creation_timestamp: timestamp.clone(),
            labels: (*pod.labels).clone(),
        },
        timestamp,
        window: quantity::duration(pod.window),
        used: Used::Containers(containers.collect()),
    }
}

/// None while something of it is not known, or nothing new.
pub(super) fn node(node: &NodeUsage) -> Option<Object> {
    if node.stale {
        return None;
    }
    let timestamp = quantity::time(node.time);
    Some(Object {
        kind: None,
        api_version: None,
        metadata: Metadata {
            name: node.node.to_string(),
            namespace: None,
            creation_timestamp: timestamp.clone(),
            labels: Labels::new(),
        },
        timestamp,
        window: quantity::duration(node.window?),
        used: Used::Usage(amounts(node.cpu_nanocores?, node.sample.memory_working_set_bytes?)),
    })
}

impl Object {
    /// As it is shown by itself.
    pub(super) fn alone(self, kind: &'static str) -> Object {
        Object { kind: Some(kind), api_version: Some(API_VERSION), ..self }
    }
}

impl List {
    pub(super) fn new(kind: &'static str, items: Vec<Object>) -> List {
        List { kind, api_version: API_VERSION, metadata: Empty {}, items }
    }
}

/// The groups of this API.
pub(super) fn groups() -> Value {
    let mut only = group();
    if let Some(only) = only.as_object_mut() {
        only.retain(|key, _| !matches!(key.as_str(), "kind" | "apiVersion"));
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [only]})
}

pub(super) fn group() -> Value {
    let version = json!({"groupVersion": API_VERSION, "version": VERSION});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
}

pub(super) fn kinds() -> Value {
    let kind = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
        "resources": [kind("nodes", "NodeMetrics", false), kind("pods", "PodMetrics", true)]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use crate::usage::ContainerResources;
    use skpr_proto::v1::NodeSample;
    use skpr_proto::{Label, NodeName};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_pod_is_shown_by_its_containers() {
        let container = |name: &str, cpu_nanocores, memory_bytes| ContainerResources {
            container: Label::parse("container", name).unwrap(),
            cpu_nanocores,
            memory_bytes,
        };
        let used = PodResources {
            environment: key("sites", "shop", "prod"),
            instance: "shop-prod-1".into(),
            labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
            time: 1_700_000_000_123,
            window: Duration::from_millis(5002),
            containers: vec![container("app", 12_345_678, 70_164 << 10), container("proxy", 0, 1000)],
        };
        let metadata = json!({"name": "shop-prod-1", "namespace": "sites", "labels": {"app": "web"},
            "creationTimestamp": "2023-11-14T22:13:20Z"});
        let containers = json!([
            {"name": "app", "usage": {"cpu": "12345678n", "memory": "70164Ki"}},
            {"name": "proxy", "usage": {"cpu": "0", "memory": "1000"}}]);
        let expected = json!({"metadata": metadata, "timestamp": "2023-11-14T22:13:20Z", "window": "5.002s",
            "containers": containers});
        let list = serde_json::to_value(List::new("PodMetricsList", vec![pod(&used)])).unwrap();
        assert_eq!(
            list,
            json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": [expected]})
        );
        let alone = serde_json::to_value(pod(&used).alone("PodMetrics")).unwrap();
        assert_eq!((&alone["kind"], &alone["window"]), (&json!("PodMetrics"), &json!("5.002s")));
    }

    #[test]
    fn a_node_is_shown_while_all_is_known_and_new() {
        let usage = NodeUsage {
            node: NodeName::parse("n1").unwrap(),
            sample: NodeSample { memory_working_set_bytes: Some(1 << 30), ..NodeSample::default() },
            cpu_nanocores: Some(250_000_000),
            window: Some(Duration::from_secs(5)),
            time: 0,
            age: Duration::ZERO,
            stale: false,
        };
        let shown = serde_json::to_value(node(&usage).unwrap()).unwrap();
        assert_eq!(shown["usage"], json!({"cpu": "250m", "memory": "1Gi"}));
        for hidden in [
            NodeUsage { stale: true, ..usage.clone() },
            NodeUsage { cpu_nanocores: None, ..usage.clone() },
            NodeUsage { window: None, ..usage.clone() },
            NodeUsage { sample: NodeSample::default(), ..usage },
        ] {
            assert!(node(&hidden).is_none());
        }
    }

    #[test]
    fn what_there_is_is_said_as_discovery_asks() {
        assert_eq!(groups()["groups"][0]["preferredVersion"]["groupVersion"], API_VERSION);
        assert!(groups()["groups"][0]["kind"].is_null() && group()["kind"] == "APIGroup");
        assert_eq!(kinds()["resources"][1]["kind"], "PodMetrics");
    }
}
