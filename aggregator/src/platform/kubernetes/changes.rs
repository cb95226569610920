//! Takes what users change: each is one write to the environment's object, which the controller carries out.
//!
//! * Every write names the version of the object that it was decided on; when another was quicker it is decided anew.
//! * Nothing here waits for pods.

use super::access::{self, DEPLOY};
use super::failures::failure;
use super::outcome::is_refused;
use super::resource::{
    self, Asked, DeletionPolicy, Environment, EnvironmentSpec, Noted, object_name, releases_of,
};
use super::{Options, rules};
use crate::auth::{self, Change, Grant};
use crate::environment::EnvironmentKey;
use crate::platform::{Delete, Deleted, Platform, Scale, Scaled, being_deleted, unmanaged};
use crate::release::{self, Deploy};
use crate::run::{Run, RunNow, Suspend, Suspended};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::{DeserializeGuard, ObjectMeta};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// How often a write is decided anew because another was quicker.
pub(super) const ATTEMPTS: usize = 5;
/// How long the API server may take; a caller waits for it.
pub(super) const WITHIN: Duration = Duration::from_secs(20);

/// The platform as users change it.
pub struct Kubernetes {
    pub(super) client: Client,
    pub(super) options: Arc<Options>,
    /// Whether the environments have been listed.
    pub(super) known: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Platform for Kubernetes {
    fn home(&self, name: &EnvironmentName) -> Result<EnvironmentKey, Failure> {
        let namespace = self.options.home(name).map_err(|error| {
            Failure::new(ErrorKind::InvalidConfiguration, format!("`{name}` has no namespace: {error}"))
                .with_hint("choose one with --namespace")
        })?;
        Ok(EnvironmentKey { namespace, name: name.clone() })
    }

    async fn makes_namespace(&self, environment: &EnvironmentKey) -> Result<bool, Failure> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = within(api.get_metadata_opt(environment.namespace.as_str())).await?;
        Ok(found.is_none())
    }

    fn is_known(&self, _: &EnvironmentKey) -> Result<(), Failure> {
        if self.known.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Failure::new(ErrorKind::Unavailable, "the environments cannot be read from Kubernetes")
            .with_hint("try again; the aggregator's log says why"))
    }

    async fn check(&self, environment: &EnvironmentKey, deploy: &Deploy) -> Result<(), Failure> {
        // What is compared with and kept from being taken away are the others.
        self.is_known(environment)?;
        rules::namespace(&environment.namespace, &self.options)?;
        rules::content(&environment.name, deploy.image.as_deref(), &deploy.version, &deploy.settings)
    }

    async fn deploy(&self, grant: &Grant<Change>, deploy: Deploy) -> Result<u64, Failure> {
        let key = grant.environment();
        self.check(key, &deploy).await?;
        let name = object_name(&key.name);
        for _ in 0..ATTEMPTS {
            let (number, written) = match self.find(key).await? {
                None => {
                    self.make_namespace(grant).await?;
                    let mut object =
                        Environment::new(&name, spec(key, &deploy, DeletionPolicy::default(), 1));
                    object.metadata.namespace = Some(key.namespace.to_string());
                    (1, timeout(WITHIN, self.api(key).create(&params(), &object)).await)
                }
                Some(mut object) => {
                    not_deleting(&key.name, &object)?;
                    let status = object.status.clone().unwrap_or_default();
                    let releases = releases_of(&object.spec, &status);
                    // One that is not acted on does not come to an end by itself either.
                    if !is_refused(&status) {
                        release::locked(&key.name, &releases)?;
                    }
                    let number = object.spec.next_number(&releases);
                    let before = object.spec.aside(&releases);
                    let suspended = std::mem::take(&mut object.spec.suspended);
                    let made = spec(key, &deploy, object.spec.deletion_policy, number);
                    object.spec = EnvironmentSpec { suspended, ..made };
                    if let Some(asked) = &mut object.spec.release {
                        asked.before = Some(before);
                    }
                    (number, timeout(WITHIN, self.api(key).replace(&name, &params(), &object)).await)
                }
            };
            match written {
                Ok(Ok(_)) => return Ok(number),
                // Another wrote first, or made it first.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    async fn scale(&self, grant: &Grant<Change>, wanted: Scale) -> Result<Scaled, Failure> {
        let key = grant.environment();
        for _ in 0..ATTEMPTS {
            let Some(mut object) = self.find(key).await? else {
                return Err(unmanaged(&key.name));
            };
            not_deleting(&key.name, &object)?;
            let status = object.status.clone().unwrap_or_default();
            release::locked(&key.name, &releases_of(&object.spec, &status))?;
            let (scaled, instances) = wanted.of(object.spec.settings.instances.as_ref())?;
            object.spec.settings.instances = Some(instances);
            object.spec.scaled = Some(Noted::now(&wanted.by));
            rules::accept(key, &object.spec, &self.options)?;
            if wanted.dry_run || !scaled.is_change() {
                return Ok(scaled);
            }
            let name = object_name(&key.name);
            match timeout(WITHIN, self.api(key).replace(&name, &params(), &object)).await {
                Ok(Ok(_)) => return Ok(scaled),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    async fn run_task(&self, grant: &Grant<auth::Cron>, wanted: RunNow) -> Result<Run, Failure> {
        self.begin_run(grant.environment(), &wanted).await
    }

    async fn suspend(&self, grant: &Grant<auth::Cron>, wanted: Suspend) -> Result<Suspended, Failure> {
        self.suspend_tasks(grant.environment(), &wanted).await
    }

    async fn delete(&self, grant: &Grant<auth::Delete>, how: Delete) -> Result<Deleted, Failure> {
        self.take_away(grant.environment(), &how).await
    }
}

impl Kubernetes {
    pub(super) fn api(&self, key: &EnvironmentKey) -> Api<Environment> {
        Api::namespaced(self.client.clone(), key.namespace.as_str())
    }

    pub(super) async fn find(&self, key: &EnvironmentKey) -> Result<Option<Environment>, Failure> {
        let api = access::environments(&self.client, key);
        match within(api.get_opt(&object_name(&key.name))).await? {
            None => Ok(None),
            Some(DeserializeGuard(Ok(object))) => Ok(Some(object)),
            Some(DeserializeGuard(Err(invalid))) => {
                let sentence = format!(
                    "the object of `{}` cannot be read: {}",
                    key.name,
                    super::facts::short(&invalid.error)
                );
                Err(Failure::new(ErrorKind::InvalidConfiguration, sentence).with_hint(format!(
                    "kubectl edit environment {} -n {}",
                    object_name(&key.name),
                    key.namespace
                )))
            }
        }
    }

    async fn make_namespace(&self, grant: &Grant<Change>) -> Result<(), Failure> {
        let namespace = &grant.environment().namespace;
        if !self.makes_namespace(grant.environment()).await? {
            return Ok(());
        }
        if !self.options.create_namespaces || !grant.makes_namespace() {
            let sentence = format!("the namespace `{namespace}` does not exist");
            return Err(Failure::new(ErrorKind::NotFound, sentence)
                .with_hint(format!("kubectl create namespace {namespace}")));
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let metadata = ObjectMeta { name: Some(namespace.to_string()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match timeout(WITHIN, api.create(&params(), &namespace)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(away()),
        }
    }
}

pub(super) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(WITHIN, call).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(away()),
    }
}

pub(super) fn params() -> PostParams {
    PostParams { field_manager: Some(DEPLOY.into()), ..PostParams::default() }
}

fn spec(
    key: &EnvironmentKey,
    deploy: &Deploy,
    deletion_policy: DeletionPolicy,
    number: u64,
) -> EnvironmentSpec {
    EnvironmentSpec {
        project: key.name.project.clone(),
        environment: key.name.environment.clone(),
        image: deploy.image.clone(),
        version: deploy.version.clone(),
        settings: deploy.settings.clone(),
        deletion_policy,
        release: Some(Asked {
            number,
            by: resource::name(&deploy.by),
            began: Timestamp::now(),
            timeout_seconds: u32::try_from(deploy.timeout.as_secs()).unwrap_or(u32::MAX),
            returns: deploy.returns,
            restores: deploy.restores,
            before: None,
        }),
        scaled: None,
        deleted: None,
        suspended: BTreeMap::new(),
    }
}

pub(super) fn not_deleting(name: &EnvironmentName, object: &Environment) -> Result<(), Failure> {
    if object.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    Err(being_deleted(name))
}

pub(super) fn contended(name: &EnvironmentName) -> Failure {
    Failure::new(ErrorKind::Unavailable, format!("others change `{name}` all the time"))
        .with_hint("try again")
}

pub(super) fn away() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the Kubernetes API server does not answer")
        .with_hint("try again; what runs goes on running")
}

impl Options {
    /// The namespace of a new environment.
    fn home(&self, name: &EnvironmentName) -> Result<Label, skpr_proto::InvalidId> {
        let filled = self.home.replace("{project}", name.project.as_str());
        Label::parse("namespace", &filled.replace("{environment}", name.environment.as_str()))
    }
}

#[cfg(test)]
pub(super) mod tests;
