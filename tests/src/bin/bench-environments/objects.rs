//! The environments and pods of the benchmark, written to the API server.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// Requests under way at once.
const AT_ONCE: usize = 32;
/// Releases that each environment has had: as many as are kept.
const RELEASES: u64 = 20;

/// Makes `projects` namespaces, each with a project of `environments` environments of `pods` ready pods.
pub(crate) async fn make(
    client: &Client,
    projects: usize,
    environments: usize,
    pods: usize,
) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.create(&PostParams::default(), &named("skpr")?).await.context("make a namespace")?;
    for project in 0..projects {
        let namespace = format!("bench-{project}");
        namespaces.create(&PostParams::default(), &named(&namespace)?).await?;
        // Pods are not admitted without it, and the controller that makes it does not run.
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
        accounts.create(&PostParams::default(), &named("default")?).await?;
        let names = (0..environments).map(|environment| format!("e{environment}"));
        stream::iter(names)
            .map(|name| make_one(client, project, name, pods))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .with_context(|| format!("make project {project}"))?;
    }
    Ok(())
}

fn named<K: serde::de::DeserializeOwned>(name: &str) -> anyhow::Result<K> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

async fn make_one(client: &Client, project: usize, name: String, pods: usize) -> anyhow::Result<()> {
    let namespace = format!("bench-{project}");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("skpr.io", "v1alpha1", "Environment"));
    let environments = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &kind);
    let environment = environment(&format!("p{project}"), &name, pods);
    let status = Patch::Merge(json!({"status": {"releases": releases(&environment)}}));
    let environment: DynamicObject = serde_json::from_value(environment)?;
    let made =
        environments.create(&PostParams::default(), &environment).await.context("make an environment")?;
    environments
        .patch_status(&made.name_any(), &PatchParams::default(), &status)
        .await
        .context("write an environment's releases")?;
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    for index in 0..pods {
        let (pod, status) = pod(&format!("p{project}"), &name, index);
        let made =
            api.create(&PostParams::default(), &serde_json::from_value(pod)?).await.context("make a pod")?;
        let status = Patch::Merge(json!({"status": status}));
        api.patch_status(&made.name_any(), &PatchParams::default(), &status)
            .await
            .context("make a pod ready")?;
    }
    Ok(())
}

/// An environment as a site's would be, with most keys in use.
fn environment(project: &str, name: &str, pods: usize) -> Value {
    json!({
        "apiVersion": "skpr.io/v1alpha1",
        "kind": "Environment",
        "metadata": {"name": format!("{project}.{name}")},
        "spec": {
            "project": project, "environment": name, "image": format!("registry.example.com/{project}"), "version": "1.42.0",
            "cpu": {"share": "500m"}, "memory": {"min": "256Mi", "max": "1Gi"},
            "instances": {"min": pods, "max": pods},
            "port": 8080, "health": "/healthz",
            "env": {"APP_ENV": name, "DATABASE_HOST": "db.example.com", "CACHE_HOST": "cache.example.com"},
            "domains": [format!("{name}.{project}.example.com")],
        }
    })
}

/// What the environment runs, deployed again and again.
fn releases(environment: &Value) -> Vec<Value> {
    let key = |key: &str| environment.pointer(&format!("/spec/{key}")).cloned().unwrap_or_default();
    let settings: serde_json::Map<String, Value> =
        ["cpu", "memory", "instances", "port", "health", "env", "domains"]
            .into_iter()
            .map(|name| (name.to_owned(), key(name)))
            .collect();
    let release = |number: u64| {
        json!({
            "number": number, "version": key("version"), "image": key("image"),
            "digest": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "by": "system:serviceaccount:skpr:dana", "began": "2026-11-24T00:00:00Z", "started": "2026-11-24T00:00:01Z",
            "ended": "2026-11-24T00:00:30Z", "state": "succeeded", "timeoutSeconds": 600, "returns": true,
            "settings": settings
        })
    };
    (1..=RELEASES).map(release).collect()
}

fn pod(project: &str, environment: &str, index: usize) -> (Value, Value) {
    let pod = json!({
        "metadata": {
            "name": format!("{project}-{environment}-7d4b9c6f5-{index:05}"),
            "labels": {
                "skpr.io/project": project, "skpr.io/environment": environment, "skpr.io/release": RELEASES.to_string(),
                "app.kubernetes.io/name": project, "app.kubernetes.io/managed-by": "skpr", "pod-template-hash": "7d4b9c6f5"
            }
        },
        "spec": {
            "nodeName": format!("node{}", index + 1), "automountServiceAccountToken": false,
            "containers": [{
                "name": "app", "image": format!("registry.example.com/{project}:1.42.0"),
                "env": [{"name": "APP_ENV", "value": environment}],
                "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
            }]
        }
    });
    let status = json!({
        "phase": "Running",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T00:00:00Z"},
            {"type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-11-24T00:00:00Z"}
        ],
        "containerStatuses": [{
            "name": "app", "ready": true, "started": true, "restartCount": 0,
            "image": format!("registry.example.com/{project}:1.42.0"),
            "imageID": "registry.example.com/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "state": {"running": {"startedAt": "2026-11-24T00:00:00Z"}}
        }]
    });
    (pod, status)
}

/// A token of somebody who may see everything.
pub(crate) async fn token(client: &Client) -> anyhow::Result<String> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "skpr");
    accounts.create(&PostParams::default(), &named("dana")?).await.context("make a service account")?;
    let binding = json!({
        "metadata": {"name": "bench-dana"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "dana", "namespace": "skpr"}]
    });
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    bindings
        .create(&PostParams::default(), &serde_json::from_value(binding)?)
        .await
        .context("bind a role")?;
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec!["skpr".into()],
            expiration_seconds: Some(7200),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request("dana", &PostParams::default(), &request).await;
    Ok(answer.context("make a token")?.status.context("the token's status")?.token)
}
