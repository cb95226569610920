//! Which objects an environment is made into. Pure.
//!
//! * What instances run comes from the release alone, so that neither an edit that is no release nor a newer skpr starts
//!   anything again: **a change of what [`template`] makes of the same release restarts every site**, and a test holds it.
//! * The number of instances is not among it: see [`replicas`].
//! * Contents of volumes belong to the environment only when its deletion is to take them along.

use super::resource::{API_VERSION, DeletionPolicy, KIND, bounds, labels, object_name, workload_name};
use super::{PRODUCTION_LABEL, RELEASE_LABEL};
use crate::environment::EnvironmentKey;
use crate::release::Release;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use skpr_proto::manifest::{self, MemoryQuantity};
use std::collections::BTreeMap;

/// What a manifest leaves out.
const CPU_SHARE: &str = "100m";
const MEMORY_MIN: &str = "128Mi";
const MEMORY_MAX: &str = "512Mi";
const TARGET_CPU_PERCENT: u8 = 70;

/// How this cluster serves domains and keeps volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    pub ingress_class: Option<String>,
    pub ingress_annotations: BTreeMap<String, String>,
    pub ingress_tls: bool,
    pub storage_class: Option<String>,
    pub volume_access_mode: String,
}

/// The kinds of objects that an environment is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Deployment,
    Service,
    Autoscaler,
    Budget,
    Ingress,
    Claim,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::Deployment, Kind::Service, Kind::Autoscaler, Kind::Budget, Kind::Ingress, Kind::Claim];

    /// Whether what comes after it in [`desired`] names it: where it is somebody else's, instances would write into their
    /// volume, their deployment would be scaled, their service would get a domain.
    pub(super) fn is_leant_on(self) -> bool {
        matches!(self, Kind::Claim | Kind::Service | Kind::Deployment)
    }

    /// Group, version, kind and plural.
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Kind::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Kind::Service => ("", "v1", "Service", "services"),
            Kind::Autoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
            Kind::Budget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Kind::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Kind::Claim => ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
        }
    }
}

/// An environment as it is to be.
pub(super) struct Site<'a> {
    pub(super) key: &'a EnvironmentKey,
    pub(super) uid: &'a str,
    pub(super) deletion: DeletionPolicy,
    /// As it is asked for now: the number of instances, domains.
    pub(super) settings: &'a manifest::Environment,
    /// What instances run.
    pub(super) release: &'a Release,
    /// How many of them: as many as there were, within the limits.
    pub(super) target: u32,
    /// Domains that it asks for and another environment has.
    pub(super) taken: &'a [manifest::Domain],
    pub(super) options: &'a ClusterOptions,
}

/// An object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) object: Value,
}

/// Everything that is to be there, volumes first and the deployment after what it needs; whatever else of these kinds
/// is ours is to go, except volumes.
pub(super) fn desired(site: &Site<'_>) -> Vec<Wanted> {
    let mut wanted = claims(site);
    let name = workload_name(&site.key.name);
    let owner = (site.deletion != DeletionPolicy::Orphan).then(|| owner(site.key, site.uid));
    let mut add = |kind: Kind, spec: Value| {
        wanted.push(Wanted {
            kind,
            name: name.clone(),
            object: object(site, kind, &name, owner.as_ref(), spec),
        });
    };
    let settings = &site.release.settings;
    let selector = selector(site);
    if let Some(port) = settings.port {
        let ports = json!([{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP"}]);
        add(Kind::Service, json!({"type": "ClusterIP", "selector": selector, "ports": ports}));
    }
    add(Kind::Deployment, deployment(site, &selector));
    let (min, max) = bounds(site.settings);
    if min != max {
        let percent = site.settings.instances.as_ref().and_then(|instances| instances.cpu);
        let target = json!({"type": "Utilization", "averageUtilization": percent.map_or(TARGET_CPU_PERCENT, |p| p.get())});
        add(
            Kind::Autoscaler,
            json!({
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": min, "maxReplicas": max,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
            }),
        );
    }
    if min > 1 {
        let spec = json!({"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector}});
        add(Kind::Budget, spec);
    }
    let domains = own_domains(site);
    if !domains.is_empty() && settings.port.is_some() {
        add(Kind::Ingress, ingress(site, &domains, &name));
    }
    wanted
}

/// The domains that are to lead to it.
pub(super) fn own_domains(site: &Site<'_>) -> Vec<manifest::Domain> {
    let asked = site.settings.domains.iter().flatten();
    asked.filter(|domain| !site.taken.contains(domain)).cloned().collect()
}

/// Whom its volumes belong to: nobody, unless their contents are to go with the environment.
pub(super) fn claim_owner(site: &Site<'_>) -> Option<OwnerReference> {
    (site.deletion == DeletionPolicy::DeleteAll).then(|| owner(site.key, site.uid))
}

/// How many instances the deployment is told to run, when it runs `current`: nothing to be told when that is right.
///
/// With an autoscaler the number is its own as long as it is within the bounds. Nobody gives up the field before another
/// has taken it: a field without an owner falls back to 1, which would end instances.
pub(super) fn replicas(current: u32, (min, max): (u32, u32)) -> Option<u32> {
    let wanted = current.clamp(min, max.max(min));
    (wanted != current).then_some(wanted)
}

fn object(site: &Site<'_>, kind: Kind, name: &str, owner: Option<&OwnerReference>, spec: Value) -> Value {
    let (group, version, kind_name, _) = kind.names();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut object = json!({
        "apiVersion": api_version,
        "kind": kind_name,
        "metadata": {"name": name, "namespace": site.key.namespace, "labels": labels(&site.key.name)},
        "spec": spec
    });
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(owner) = owner {
            metadata.insert("ownerReferences".into(), json!([owner]));
        }
        if kind == Kind::Ingress && !site.options.ingress_annotations.is_empty() {
            metadata.insert("annotations".into(), json!(site.options.ingress_annotations));
        }
    }
    object
}

/// The environment as what goes with it names it.
pub(super) fn owner(key: &EnvironmentKey, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        name: object_name(&key.name),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Never changes: a deployment's selector cannot.
fn selector(site: &Site<'_>) -> Value {
    json!({"skpr.io/project": site.key.name.project, "skpr.io/environment": site.key.name.environment,
        "app.kubernetes.io/component": "app"})
}

fn deployment(site: &Site<'_>, selector: &Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "template": template(site.key, site.release)
    });
    // Without a port to ask, that it has not ended is all there is to go by.
    let steady = if site.release.settings.port.is_some() { 0 } else { 5 };
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("minReadySeconds".into(), json!(steady));
    }
    spec
}

/// What an instance is, by its release.
fn template(key: &EnvironmentKey, release: &Release) -> Value {
    let settings = &release.settings;
    let name = &key.name;
    let mut labels = labels(name);
    labels.insert(RELEASE_LABEL.into(), release.number.to_string());
    labels.insert("app.kubernetes.io/component".into(), "app".into());
    if settings.production == Some(true) {
        labels.insert(PRODUCTION_LABEL.into(), "true".into());
    }
    let mut container = json!({
        "name": "app",
        "image": image(release),
        "env": variables(key, release),
        "resources": resources(settings),
        "securityContext": {"allowPrivilegeEscalation": false}
    });
    let mut more = serde_json::Map::new();
    if let Some(command) = &settings.command {
        more.insert("command".into(), json!([literal(command.program())]));
        more.insert("args".into(), command.arguments().iter().map(|word| literal(word)).collect());
    }
    if let Some(port) = settings.port {
        more.insert("ports".into(), json!([{"name": "http", "containerPort": port, "protocol": "TCP"}]));
        // Requests still come while the news that it ends goes round.
        more.insert("lifecycle".into(), json!({"preStop": {"sleep": {"seconds": 5}}}));
        let probe = match &settings.health {
            Some(path) => {
                let get = json!({"path": path.as_str(), "port": "http"});
                json!({"httpGet": get, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2})
            }
            // An old instance does not go before the new one listens.
            None => json!({"tcpSocket": {"port": "http"}, "periodSeconds": 2, "failureThreshold": 2}),
        };
        more.insert("readinessProbe".into(), probe);
    }
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
        more.insert("volumeMounts".into(), mounts.into());
    }
    if let Some(container) = container.as_object_mut() {
        container.append(&mut more);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 35,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container]
    });
    if let (false, Some(spec)) = (claims.is_empty(), spec.as_object_mut()) {
        spec.insert("volumes".into(), claims.into());
        if bounds(settings).1 == 1 {
            // A volume that one node mounts is only there for the new instance while it is beside the old one.
            let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {
                "skpr.io/project": name.project, "skpr.io/environment": name.environment}}});
            let affinity = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": term}]}});
            spec.insert("affinity".into(), affinity);
        }
    }
    json!({
        "metadata": {"labels": labels, "annotations": {"kubectl.kubernetes.io/default-container": "app"}},
        "spec": spec
    })
}

/// `repository:tag`, or `repository@digest`.
pub(super) fn image(release: &Release) -> String {
    let image = release.image.as_deref().unwrap_or_default();
    let sign = if release.version.starts_with("sha256:") { '@' } else { ':' };
    format!("{image}{sign}{}", release.version)
}

fn variables(key: &EnvironmentKey, release: &Release) -> Vec<Value> {
    let mut variables: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in release.settings.env.iter().flatten() {
        variables.insert(name.as_str(), literal(value.as_str()));
    }
    variables.insert("SKPR_PROJECT", key.name.project.to_string());
    variables.insert("SKPR_ENVIRONMENT", key.name.environment.to_string());
    variables.insert("SKPR_VERSION", literal(&release.version));
    if let Some(port) = release.settings.port {
        variables.insert("PORT", port.to_string());
    }
    variables.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// Kubernetes replaces `$(NAME)` in variables and arguments; a manifest means what it says.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn resources(settings: &manifest::Environment) -> Value {
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
pub(super) fn quantity(quantity: &MemoryQuantity) -> String {
    let text = quantity.to_string();
    text.strip_suffix('K').map_or_else(|| text.clone(), |number| format!("{number}k"))
}

fn ingress(site: &Site<'_>, domains: &[manifest::Domain], service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
    let rules: Vec<Value> = domains
        .iter()
        .map(|domain| {
            let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
            json!({"host": domain.as_str(), "http": {"paths": paths}})
        })
        .collect();
    let mut spec = json!({ "rules": rules });
    if let Some(spec) = spec.as_object_mut() {
        if let Some(class) = &site.options.ingress_class {
            spec.insert("ingressClassName".into(), json!(class));
        }
        if site.options.ingress_tls {
            let hosts: Vec<&str> = domains.iter().map(manifest::Domain::as_str).collect();
            spec.insert("tls".into(), json!([{"hosts": hosts, "secretName": format!("{service}-tls")}]));
        }
    }
    spec
}

fn claims(site: &Site<'_>) -> Vec<Wanted> {
    let owner = claim_owner(site);
    let volumes = site.release.settings.volumes.iter().flatten();
    let claim = |(volume, settings): (&skpr_proto::Label, &manifest::Volume)| {
        let name = format!("{}-{volume}", workload_name(&site.key.name));
        let mut spec = json!({"accessModes": [site.options.volume_access_mode],
            "resources": {"requests": {"storage": quantity(&settings.size)}}});
        if let (Some(class), Some(spec)) = (&site.options.storage_class, spec.as_object_mut()) {
            spec.insert("storageClassName".into(), json!(class));
        }
        let object = object(site, Kind::Claim, &name, owner.as_ref(), spec);
        Wanted { kind: Kind::Claim, name, object }
    };
    volumes.map(claim).collect()
}

#[cfg(test)]
mod tests;
