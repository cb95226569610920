//! The custom resource `environments.skpr.io`: what is asked for in its spec, what is remembered of it in its status.
//!
//! * The settings in the spec are the manifest's own type, and so are the releases' in the status.
//! * `spec.release` is written by skpr alone: it asks for a release with this number. An edit by anybody else leaves it
//!   as it is, and so shows as what it is.
//! * Whoever reads an object takes its releases from [`releases_of`], which counts one that is asked for and not yet begun.

use super::cron::{self, TaskStatuses};
use super::{ENVIRONMENT_LABEL, PROJECT_LABEL};
use crate::environment::EnvironmentKey;
use crate::release::{self, Deploy, Release, State};
use crate::run::Suspension;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skpr_proto::{EnvironmentName, Label, manifest};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const API_VERSION: &str = "skpr.io/v1alpha1";
pub(super) const KIND: &str = "Environment";

/// One running copy of a project.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "skpr.io",
    version = "v1alpha1",
    kind = "Environment",
    namespaced,
    schema = "disabled",
    status = "EnvironmentStatus"
)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvironmentSpec {
    pub(super) project: Label,
    pub(super) environment: Label,
    /// The image's repository; its tags are the versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 512))]
    pub(super) image: Option<String>,
    /// The image's tag, or its digest.
    #[schemars(length(min = 1, max = 128))]
    pub(super) version: String,
    #[serde(flatten)]
    pub(super) settings: manifest::Environment,
    /// Delete: the workloads go with the environment, and the contents of volumes stay. `DeleteAll`: these go, too.
    /// Orphan: the workloads go on running, and skpr does not look after them any more.
    #[serde(default, skip_serializing_if = "DeletionPolicy::is_default")]
    #[schemars(schema_with = "deletion_policies")]
    pub(super) deletion_policy: DeletionPolicy,
    /// Written by skpr, for nobody else to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Asked")]
    pub(super) release: Option<Asked>,
    /// Who scaled it last through skpr, which writes it, for nobody else to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Noted")]
    pub(super) scaled: Option<Noted>,
    /// Who deletes it through skpr, which writes it, for nobody else to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Noted")]
    pub(super) deleted: Option<Noted>,
    /// Tasks that begin nothing by themselves until they are resumed: skpr writes it, and a deploy leaves it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "suspended_schema")]
    pub(super) suspended: BTreeMap<Label, Suspension>,
}

/// What becomes of the workloads when the environment is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DeletionPolicy {
    /// They go, and the contents of volumes stay.
    #[default]
    Delete,
    /// They go, with the contents of volumes.
    DeleteAll,
    /// They go on running, and skpr does not look after them any more.
    Orphan,
}

impl DeletionPolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default(&self) -> bool {
        *self == DeletionPolicy::default()
    }
}

/// The highest number of a release: what every reader of JSON takes for what it is.
pub(super) const MAX_NUMBER: u64 = 1 << 53;
/// The most time that a release may be given, in seconds: a day.
pub(super) const MAX_TIMEOUT: u32 = crate::release::LONGEST_TIMEOUT;

/// A release that skpr was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct Asked {
    #[schemars(range(min = 1, max = MAX_NUMBER))]
    pub(super) number: u64,
    #[schemars(length(max = 256))]
    pub(super) by: String,
    /// When it was asked for, which tells it from one of the same number in an environment that was made again.
    #[schemars(extend("maxLength" = 64))]
    pub(super) began: Timestamp,
    #[schemars(range(min = 1, max = MAX_TIMEOUT))]
    pub(super) timeout_seconds: u32,
    pub(super) returns: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64", range(min = 1, max = MAX_NUMBER))]
    pub(super) restores: Option<u64>,
    /// As it stood when this release was asked for; going back from it brings it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Aside")]
    pub(super) before: Option<Aside>,
}

/// Who changed something that is no release, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Noted {
    #[schemars(length(max = 256))]
    pub(super) by: String,
    #[schemars(extend("maxLength" = 64))]
    pub(super) at: Timestamp,
}

impl Noted {
    pub(super) fn now(by: &str) -> Noted {
        Noted { by: name(by), at: Timestamp::now() }
    }
}

/// Who asks for something, as it can be written into an object.
pub(super) fn name(by: &str) -> String {
    by.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// What is changed without a release, as `skpr scale` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Aside {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    production: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "manifest::Instances")]
    instances: Option<manifest::Instances>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<manifest::Domain>", extend("maxItems" = 100))]
    domains: Option<Vec<manifest::Domain>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BTreeMap<String, manifest::Task>", extend("maxProperties" = 100))]
    cron: Option<BTreeMap<Label, manifest::Task>>,
}

impl Aside {
    pub(super) fn of(settings: &manifest::Environment) -> Aside {
        let manifest::Environment { production, instances, domains, cron, .. } = settings.clone();
        Aside { production, instances, domains, cron }
    }

    fn put_into(self, settings: &mut manifest::Environment) {
        let Aside { production, instances, domains, cron } = self;
        (settings.production, settings.instances) = (production, instances);
        (settings.domains, settings.cron) = (domains, cron);
    }
}

/// What skpr says about an environment, and remembers of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvironmentStatus {
    #[serde(default)]
    pub(super) observed_generation: i64,
    /// Instances that exist, that are to run, that are ready, and that are of the release that is to run.
    #[serde(default)]
    pub(super) instances: u32,
    #[serde(default)]
    pub(super) target: u32,
    /// Fewest and most that may run.
    #[serde(default)]
    pub(super) min: u32,
    #[serde(default)]
    pub(super) max: u32,
    #[serde(default)]
    pub(super) ready: u32,
    #[serde(default)]
    pub(super) updated: u32,
    /// The newest release's number, where it is and who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) release: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) by: Option<String>,
    /// What the release that is under way waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) waiting_for: Option<String>,
    /// Why skpr does not do what is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) trouble: Option<String>,
    /// Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "releases_schema")]
    pub(super) releases: Vec<Release>,
    /// Domains that lead here: whoever has one keeps it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 100))]
    pub(super) domains: Vec<manifest::Domain>,
    /// The deletion policy that what is there follows now: Kubernetes goes by it, whatever the spec says meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "deletion_policies")]
    pub(super) deletion_policy: Option<DeletionPolicy>,
    /// What is remembered of its tasks and their runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "cron::readable")]
    #[schemars(schema_with = "tasks_schema")]
    pub(super) tasks: TaskStatuses,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub(super) conditions: Vec<Condition>,
}

fn deletion_policies(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": ["Delete", "DeleteAll", "Orphan"]})
}

/// What is remembered is read by skpr alone, and an older API server schema must not prune what a newer skpr writes.
fn releases_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array", "maxItems": release::KEPT,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    })
}

/// The same of tasks, whose newest runs are in it: 100 of the settings, and as many that are not there any more.
fn tasks_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 200,
        "additionalProperties": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    })
}

fn suspended_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 100,
        "description": "Tasks that begin nothing by themselves until they are resumed: skpr writes it, and a deploy leaves it.",
        "additionalProperties": {
            "type": "object", "required": ["by", "since"],
            "properties": {
                "by": {"type": "string", "maxLength": 256}, "since": {"type": "string", "maxLength": 64}
            }
        }
    })
}

fn conditions_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object", "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64"},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {"type": "string"}, "message": {"type": "string"}
            }
        }
    })
}

impl EnvironmentSpec {
    pub(super) fn name(&self) -> EnvironmentName {
        EnvironmentName { project: self.project.clone(), environment: self.environment.clone() }
    }

    /// Fewest and most instances.
    pub(super) fn bounds(&self) -> (u32, u32) {
        bounds(&self.settings)
    }

    /// The release that is asked for, if it is newer than all of these.
    pub(super) fn asked(&self, releases: &[Release]) -> Option<(u64, Deploy, Timestamp)> {
        let asked = self.release.as_ref().filter(|asked| asked.number >= release::next_number(releases))?;
        let deploy = Deploy {
            version: self.version.clone(),
            image: self.image.clone(),
            settings: self.settings.clone(),
            by: asked.by.clone(),
            timeout: Duration::from_secs(asked.timeout_seconds.into()),
            returns: asked.returns,
            restores: asked.restores,
        };
        Some((asked.number, deploy, asked.began))
    }

    /// What going back from a release that is asked for now is to bring back.
    pub(super) fn aside(&self, releases: &[Release]) -> Aside {
        // After a failure that was left, what counts is what was there before it.
        let failed = releases.last().filter(|newest| newest.state == State::Failed);
        let asked =
            self.release.as_ref().filter(|asked| failed.is_some_and(|one| one.number == asked.number));
        let before = asked.and_then(|asked| asked.before.clone());
        before.unwrap_or_else(|| Aside::of(&self.settings))
    }

    /// What is to stand here when release `failed` is gone back from to `good`.
    pub(super) fn put_back(&self, failed: &Release, good: &Release) -> EnvironmentSpec {
        let mut back = self.clone();
        (back.version, back.image) = (good.version.clone(), good.image.clone());
        back.settings = good.settings.clone();
        let asked = self.release.as_ref().filter(|asked| asked.number == failed.number);
        if let Some(before) = asked.and_then(|asked| asked.before.clone()) {
            before.put_into(&mut back.settings);
        }
        back
    }

    /// The number for the next release: one more than any that exists or is asked for.
    pub(super) fn next_number(&self, releases: &[Release]) -> u64 {
        let asked = self.release.as_ref().map_or(0, |asked| asked.number.saturating_add(1));
        release::next_number(releases).max(asked)
    }
}

/// One instance unless something else is asked for.
pub(super) fn bounds(settings: &manifest::Environment) -> (u32, u32) {
    settings.instances.as_ref().map_or((1, 1), |instances| (instances.min, instances.max))
}

/// An object's releases, oldest first, with the one that is asked for and not yet begun.
pub(super) fn releases_of(spec: &EnvironmentSpec, status: &EnvironmentStatus) -> Vec<Release> {
    let mut releases = status.releases.clone();
    if let Some((number, deploy, began)) = spec.asked(&releases) {
        release::begin(&mut releases, number, deploy, began);
    }
    releases
}

/// The environment that an object stands for, if its name is the one it has to have.
pub(super) fn key_of(object: &Environment) -> Result<EnvironmentKey, String> {
    let name = object.spec.name();
    let expected = object_name(&name);
    let actual = object.metadata.name.as_deref().unwrap_or_default();
    if actual != expected {
        return Err(format!("its name is not `{expected}`"));
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let namespace = Label::parse("namespace", namespace).map_err(|error| error.to_string())?;
    Ok(EnvironmentKey { namespace, name })
}

/// `PROJECT.ENVIRONMENT`: what rights name, too.
pub(super) fn object_name(name: &EnvironmentName) -> String {
    format!("{}.{}", name.project, name.environment)
}

/// `PROJECT-ENVIRONMENT`: what its workloads are called.
pub(super) fn workload_name(name: &EnvironmentName) -> String {
    format!("{}-{}", name.project, name.environment)
}

/// The labels by which everything of an environment is found, and known to be ours.
pub(super) fn labels(name: &EnvironmentName) -> BTreeMap<String, String> {
    [
        (PROJECT_LABEL, name.project.to_string()),
        (ENVIRONMENT_LABEL, name.environment.to_string()),
        ("app.kubernetes.io/name", name.project.to_string()),
        ("app.kubernetes.io/instance", workload_name(name)),
        (MANAGED_BY, MANAGER.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "skpr";
