//! Which objects an environment is made into. Pure.
//!
//! * What instances run comes from the release alone, so that neither an edit that is no release nor a newer skpr starts
//!   anything again: **a change of what [`template`] makes of the same release restarts every site**, and a test holds it.
//! * The number of instances is not among it: see [`replicas`].
//! * Contents of volumes belong to the environment only when its deletion is to take them along.

mod template;

pub(super) use template::{Part, beside_instances, has_volumes, literal, pod, quantity};

use super::cron::{self, cron_job};
use super::resource::{API_VERSION, DeletionPolicy, KIND, bounds, labels, object_name, workload_name};
use crate::environment::EnvironmentKey;
use crate::release::Release;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use skpr_proto::{Label, manifest};
use std::collections::{BTreeMap, BTreeSet};
use template::template;

/// What a manifest leaves out.
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
    CronJob,
}

impl Kind {
    pub(super) const ALL: [Kind; 7] = [
        Kind::Deployment,
        Kind::Service,
        Kind::Autoscaler,
        Kind::Budget,
        Kind::Ingress,
        Kind::Claim,
        Kind::CronJob,
    ];

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
            Kind::CronJob => ("batch", "v1", "CronJob", "cronjobs"),
        }
    }
}

/// An environment as it is to be.
pub(super) struct Site<'a> {
    pub(super) key: &'a EnvironmentKey,
    pub(super) uid: &'a str,
    pub(super) deletion: DeletionPolicy,
    /// As it is asked for now: the number of instances, domains, tasks.
    pub(super) settings: &'a manifest::Environment,
    /// What instances run.
    pub(super) release: &'a Release,
    /// How many of them: as many as there were, within the limits.
    pub(super) target: u32,
    /// Domains that it asks for and another environment has.
    pub(super) taken: &'a [manifest::Domain],
    /// Tasks of which nothing is to begin by itself.
    pub(super) stopped: &'a BTreeSet<Label>,
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
    for (task, settings) in site.settings.cron.iter().flatten() {
        let name = cron::name(&site.key.name, task);
        let spec = cron_job(site, task, settings);
        let mut object = object(site, Kind::CronJob, &name, owner.as_ref(), spec);
        if let Some(labels) = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.insert(cron::TASK_LABEL.into(), json!(task));
        }
        wanted.push(Wanted { kind: Kind::CronJob, name, object });
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
pub(super) mod tests;
