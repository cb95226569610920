//! The API server as the controller uses it: each kind of workload by name, and what its errors mean.

use super::desired::Kind;
use super::resource::{API_VERSION, Environment, KIND, object_name};
use super::{ENVIRONMENT_LABEL, PROJECT_LABEL};
use crate::environment::EnvironmentKey;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{DeserializeGuard, ObjectMeta, PartialObjectMeta};
use serde::Serialize;
use std::fmt::Debug;

/// One name for each concern whose fields nobody else of skpr writes.
pub(super) const CONTROLLER: &str = "skpr-controller";
pub(super) const REPLICAS: &str = "skpr-replicas";
pub(super) const DEPLOY: &str = "skpr-deploy";
pub(super) const STATUS: &str = "skpr-status";

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hindrance {
    /// It will not be done however often it is tried, until somebody changes something: one sentence.
    #[error("{0}")]
    Refused(String),
    /// Something that has to agree to it does not answer, such as a webhook. That may pass: one sentence.
    #[error("{0}")]
    Blocked(String),
    /// Somebody else wrote first, or the API server did not answer: it is tried again.
    #[error("try again later")]
    Later(#[source] kube::Error),
}

impl Hindrance {
    /// Why, in one sentence.
    pub(super) fn reason(&self) -> String {
        match self {
            Hindrance::Refused(reason) | Hindrance::Blocked(reason) => reason.clone(),
            Hindrance::Later(error) => super::failures::sentence(error),
        }
    }

    /// Whether the API server itself was not to be had, so that nobody could have helped a release meanwhile.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Hindrance::Refused(_) | Hindrance::Blocked(_) => false,
            Hindrance::Later(kube::Error::Api(status)) => !matches!(status.code, 404 | 409 | 410),
            Hindrance::Later(_) => true,
        }
    }
}

impl From<kube::Error> for Hindrance {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if (400..500).contains(&status.code) => match status.code {
                // A conflict, too many requests, a token that is renewed: these pass.
                401 | 404 | 409 | 410 | 429 => Hindrance::Later(error),
                _ => Hindrance::Refused(super::facts::short(&status.message).to_string()),
            },
            // The API server is there, and who is asked whether it may be done is not.
            kube::Error::Api(status) if status.code >= 500 && status.message.contains("webhook") => {
                Hindrance::Blocked(super::facts::short(&status.message).to_string())
            }
            _ => Hindrance::Later(error),
        }
    }
}

pub(super) fn environments(client: &Client, key: &EnvironmentKey) -> Api<DeserializeGuard<Environment>> {
    Api::namespaced(client.clone(), key.namespace.as_str())
}

/// Written through: what is sent is not always what is read.
pub(super) fn resource() -> ApiResource {
    ApiResource::erase::<Environment>(&())
}

fn api(client: &Client, key: &EnvironmentKey, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), key.namespace.as_str(), &api_resource(kind))
}

pub(super) fn api_resource(kind: Kind) -> ApiResource {
    let (group, version, name, plural) = kind.names();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: name.into(),
        plural: plural.into(),
    }
}

/// An object's metadata, if it exists.
pub(super) async fn metadata(
    client: &Client,
    key: &EnvironmentKey,
    kind: Kind,
    name: &str,
) -> Result<Option<ObjectMeta>, Hindrance> {
    let found: Option<PartialObjectMeta<DynamicObject>> =
        api(client, key, kind).get_metadata_opt(name).await?;
    Ok(found.map(|found| found.metadata))
}

/// A whole object, if it exists.
pub(super) async fn object(
    client: &Client,
    key: &EnvironmentKey,
    kind: Kind,
    name: &str,
) -> Result<Option<DynamicObject>, Hindrance> {
    Ok(api(client, key, kind).get_opt(name).await?)
}

/// Writes what one manager owns of an object.
pub(super) async fn apply(
    client: &Client,
    key: &EnvironmentKey,
    kind: Kind,
    (name, manager): (&str, &str),
    object: &(impl Serialize + Debug),
) -> Result<DynamicObject, Hindrance> {
    let params = PatchParams::apply(manager).force();
    Ok(api(client, key, kind).patch(name, &params, &Patch::Apply(object)).await?)
}

/// Changes some fields and owns none.
pub(super) async fn merge(
    client: &Client,
    key: &EnvironmentKey,
    kind: Kind,
    name: &str,
    change: &(impl Serialize + Debug),
) -> Result<(), Hindrance> {
    let params = PatchParams { field_manager: Some(CONTROLLER.into()), ..PatchParams::default() };
    api(client, key, kind).patch(name, &params, &Patch::Merge(change)).await?;
    Ok(())
}

/// Deletes an object, if it is still the one that was seen.
pub(super) async fn delete(
    client: &Client,
    key: &EnvironmentKey,
    kind: Kind,
    (name, uid): (&str, Option<String>),
) -> Result<(), Hindrance> {
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    match api(client, key, kind).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether an object was made by skpr for this environment.
pub(super) fn is_ours(metadata: &ObjectMeta, key: &EnvironmentKey) -> bool {
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let owners = metadata.owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.api_version == API_VERSION && owner.kind == KIND);
    // A label that somebody took away makes it nobody else's.
    owners.any(|owner| owner.name == object_name(&key.name))
        || is_made(metadata)
            && label(PROJECT_LABEL) == Some(key.name.project.as_str())
            && label(ENVIRONMENT_LABEL) == Some(key.name.environment.as_str())
}

/// Whether skpr wrote it. Labels do not tell: `kubectl expose` copies them to what it makes.
pub(super) fn is_made(metadata: &ObjectMeta) -> bool {
    let mut writers = metadata.managed_fields.iter().flatten();
    writers.any(|entry| entry.manager.as_deref() == Some(CONTROLLER))
}
