//! What the pods of an environment are made from: an instance, and what a run of a task has in common with one. Pure.

use crate::environment::EnvironmentKey;
use crate::platform::kubernetes::resource::{bounds, labels, workload_name};
use crate::platform::kubernetes::{PRODUCTION_LABEL, RELEASE_LABEL};
use crate::release::Release;
use serde_json::{Map, Value, json};
use skpr_proto::manifest::{self, MemoryQuantity};
use std::collections::BTreeMap;

/// What a manifest leaves out.
const CPU_SHARE: &str = "100m";
const MEMORY_MIN: &str = "128Mi";
const MEMORY_MAX: &str = "512Mi";

/// By this an instance is told from a run.
const COMPONENT: &str = "app.kubernetes.io/component";

/// What tells one kind of pods of an environment from another.
pub(in crate::platform::kubernetes) struct Part<'a> {
    pub(in crate::platform::kubernetes) component: &'static str,
    pub(in crate::platform::kubernetes) labels: Vec<(&'static str, String)>,
    pub(in crate::platform::kubernetes) variables: Vec<(&'a str, String)>,
    /// What its container has besides.
    pub(in crate::platform::kubernetes) container: Map<String, Value>,
    /// What its pod has besides.
    pub(in crate::platform::kubernetes) spec: Map<String, Value>,
}

/// What an instance is, by its release.
pub(super) fn template(key: &EnvironmentKey, release: &Release) -> Value {
    let settings = &release.settings;
    let (mut container, mut spec) = (Map::new(), Map::new());
    if let Some(command) = &settings.command {
        container.insert("command".into(), json!([literal(command.program())]));
        container.insert("args".into(), command.arguments().iter().map(|word| literal(word)).collect());
    }
    let mut variables = vec![];
    if let Some(port) = settings.port {
        variables.push(("PORT", port.to_string()));
        container.insert("ports".into(), json!([{"name": "http", "containerPort": port, "protocol": "TCP"}]));
        // Requests still come while the news that it ends goes round.
        container.insert("lifecycle".into(), json!({"preStop": {"sleep": {"seconds": 5}}}));
        let probe = match &settings.health {
            Some(path) => {
                let get = json!({"path": path.as_str(), "port": "http"});
                json!({"httpGet": get, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2})
            }
            // An old instance does not go before the new one listens.
            None => json!({"tcpSocket": {"port": "http"}, "periodSeconds": 2, "failureThreshold": 2}),
        };
        container.insert("readinessProbe".into(), probe);
    }
    if has_volumes(settings) && bounds(settings).1 == 1 {
        // A volume that one node mounts is only there for the new instance while it is beside the old one.
        spec.insert("affinity".into(), beside(key, &[]));
    }
    pod(key, release, Part { component: "app", labels: vec![], variables, container, spec })
}

/// Preferably on the node where other pods of the environment are, those with these labels besides.
pub(in crate::platform::kubernetes) fn beside(key: &EnvironmentKey, labels: &[(&str, &str)]) -> Value {
    let mut all = Map::new();
    all.insert("skpr.io/project".into(), json!(key.name.project));
    all.insert("skpr.io/environment".into(), json!(key.name.environment));
    all.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": all}});
    json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": term}]}})
}

/// Preferably on the node where an instance is.
pub(in crate::platform::kubernetes) fn beside_instances(key: &EnvironmentKey) -> Value {
    beside(key, &[(COMPONENT, "app")])
}

pub(in crate::platform::kubernetes) fn has_volumes(settings: &manifest::Environment) -> bool {
    settings.volumes.as_ref().is_some_and(|volumes| !volumes.is_empty())
}

/// A pod of a release: its image, variables, resources and volumes, and what this part of it is besides.
pub(in crate::platform::kubernetes) fn pod(
    key: &EnvironmentKey,
    release: &Release,
    mut part: Part<'_>,
) -> Value {
    let settings = &release.settings;
    let name = &key.name;
    let mut labels = labels(name);
    labels.insert(RELEASE_LABEL.into(), release.number.to_string());
    labels.insert(COMPONENT.into(), part.component.into());
    if settings.production == Some(true) {
        labels.insert(PRODUCTION_LABEL.into(), "true".into());
    }
    labels.extend(part.labels.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let mut container = json!({
        "name": "app",
        "image": image(release),
        "env": variables(key, release, part.variables),
        "resources": resources(settings),
        "securityContext": {"allowPrivilegeEscalation": false}
    });
    let volumes = settings.volumes.iter().flatten();
    let mounts: Vec<Value> = volumes
        .clone()
        .map(|(volume, settings)| json!({"name": volume, "mountPath": settings.path.as_str()}))
        .collect();
    let claims: Vec<Value> = volumes
        .map(|(volume, _)| {
            json!({"name": volume, "persistentVolumeClaim": {"claimName": format!("{}-{volume}", workload_name(name))}})
        })
        .collect();
    if !mounts.is_empty() {
        part.container.insert("volumeMounts".into(), mounts.into());
        part.spec.insert("volumes".into(), claims.into());
    }
    if let Some(container) = container.as_object_mut() {
        container.append(&mut part.container);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 35,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container]
    });
    if let Some(spec) = spec.as_object_mut() {
        spec.append(&mut part.spec);
    }
    json!({
        "metadata": {"labels": labels, "annotations": {"kubectl.kubernetes.io/default-container": "app"}},
        "spec": spec
    })
}

/// `repository:tag`, or `repository@digest`.
pub(in crate::platform::kubernetes) fn image(release: &Release) -> String {
    let image = release.image.as_deref().unwrap_or_default();
    let sign = if release.version.starts_with("sha256:") { '@' } else { ':' };
    format!("{image}{sign}{}", release.version)
}

/// What its processes find; `more` is stronger than what the settings say.
fn variables<'a>(
    key: &EnvironmentKey,
    release: &'a Release,
    more: impl IntoIterator<Item = (&'a str, String)>,
) -> Vec<Value> {
    let mut variables: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in release.settings.env.iter().flatten() {
        variables.insert(name.as_str(), literal(value.as_str()));
    }
    variables.insert("SKPR_PROJECT", key.name.project.to_string());
    variables.insert("SKPR_ENVIRONMENT", key.name.environment.to_string());
    variables.insert("SKPR_VERSION", literal(&release.version));
    variables.extend(more);
    variables.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// Kubernetes replaces `$(NAME)` in variables and arguments; a manifest means what it says.
pub(in crate::platform::kubernetes) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

pub(super) fn resources(settings: &manifest::Environment) -> Value {
    let share = settings.cpu.as_ref().map_or_else(|| CPU_SHARE.to_owned(), |cpu| cpu.share.to_string());
    let memory = settings.memory.as_ref();
    let (min, max) = (memory.and_then(|m| m.min.as_ref()), memory.and_then(|m| m.max.as_ref()));
    // One that is given bounds the default of the other.
    let default = |default: &str, other: Option<&MemoryQuantity>, beyond: fn(u64, u64) -> bool| {
        let plain = MemoryQuantity::parse(default).map(|quantity| quantity.bytes()).unwrap_or_default();
        other.filter(|other| beyond(plain, other.bytes())).map_or_else(|| default.to_owned(), quantity)
    };
    let request = min.map_or_else(|| default(MEMORY_MIN, max, |plain, max| plain > max), quantity);
    let limit = max.map_or_else(|| default(MEMORY_MAX, min, |plain, min| plain < min), quantity);
    let mut limits = json!({"memory": limit});
    if let (Some(cpu), Some(limits)) =
        (settings.cpu.as_ref().and_then(|cpu| cpu.limit.as_ref()), limits.as_object_mut())
    {
        limits.insert("cpu".into(), json!(cpu.to_string()));
    }
    json!({"requests": {"cpu": share, "memory": request}, "limits": limits})
}

/// People write `512K`, Kubernetes `512k`.
pub(in crate::platform::kubernetes) fn quantity(quantity: &MemoryQuantity) -> String {
    let text = quantity.to_string();
    text.strip_suffix('K').map_or_else(|| text.clone(), |number| format!("{number}k"))
}
