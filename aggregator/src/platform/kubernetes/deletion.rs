//! Takes an environment away, with or without the contents of its volumes.
//!
//! * What goes with an environment is what belongs to it: whatever is to go is made to before the one write that deletes
//!   the object, and Kubernetes collects the rest. A crash before that write loses nothing, and one after it nothing either.
//! * What is told is what Kubernetes will do, which follows what was carried out of the deletion policy and not what the
//!   spec says since.

use super::access::{self, Hindrance, is_made};
use super::changes::{ATTEMPTS, Kubernetes, WITHIN, away, contended, params, within};
use super::desired::{Kind, owner};
use super::failures::failure;
use super::resource::{self, DeletionPolicy, Environment, Noted, object_name, releases_of, workload_name};
use super::workloads::owners;
use crate::environment::EnvironmentKey;
use crate::platform::{Delete, Deleted, unmanaged};
use crate::release;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use kube::core::ObjectMeta;
use serde_json::json;
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use tokio::time::timeout;

impl Kubernetes {
    pub(super) async fn take_away(&self, key: &EnvironmentKey, how: &Delete) -> Result<Deleted, Failure> {
        let Some(object) = self.find(key).await? else {
            return Err(unmanaged(&key.name));
        };
        can_be_told(&key.name, &object, how.volumes)?;
        let deleted = say(key, &object, &self.claims(key).await?, how.volumes);
        if how.dry_run {
            return Ok(deleted);
        }
        let noted = self.edit(key, |object| {
            can_be_told(&key.name, object, how.volumes)?;
            unlocked(&key.name, object, how.force)?;
            object.spec.deleted = Some(Noted::now(&how.by));
            if how.volumes {
                object.spec.deletion_policy = DeletionPolicy::DeleteAll;
            }
            Ok(())
        });
        let before = object.spec.deletion_policy;
        let noted = match noted.await {
            Ok(noted) => noted,
            // Who deletes it would have been good to know, and is no reason to keep it.
            Err(Failure { kind: ErrorKind::InvalidConfiguration | ErrorKind::Failed, .. })
                if !how.volumes =>
            {
                object
            }
            Err(failure) => return Err(failure),
        };
        let result = self.remove(key, noted, how).await;
        if result.is_err() {
            let restored = self.edit(key, |object| {
                (object.spec.deletion_policy, object.spec.deleted) = (before, None);
                Ok(())
            });
            if let Err(error) = restored.await {
                tracing::warn!(environment = %key, %error, "an environment keeps its mark of a deletion that failed");
            }
        }
        result.map(|()| deleted)
    }

    /// Deletes the object as it was found, or decides anew when another was quicker: what has begun since is its lock.
    async fn remove(&self, key: &EnvironmentKey, found: Environment, how: &Delete) -> Result<(), Failure> {
        let uid = found.metadata.uid.clone();
        if how.volumes {
            self.own_claims(key, uid.as_deref().unwrap_or_default()).await?;
        }
        let mut object = Some(found);
        for _ in 0..ATTEMPTS {
            let Some(found) = object.filter(|object| object.metadata.uid == uid) else { return Ok(()) };
            unlocked(&key.name, &found, how.force)?;
            let resource_version = found.metadata.resource_version.filter(|_| !how.force);
            let preconditions = Preconditions { uid: uid.clone(), resource_version };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            match timeout(WITHIN, self.api(key).delete(&object_name(&key.name), &params)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => object = self.find(key).await?,
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    /// Writes a change of an object, decided anew when another was quicker.
    async fn edit(
        &self,
        key: &EnvironmentKey,
        change: impl Fn(&mut Environment) -> Result<(), Failure> + Send + Sync,
    ) -> Result<Environment, Failure> {
        for _ in 0..ATTEMPTS {
            let Some(mut object) = self.find(key).await? else {
                return Err(unmanaged(&key.name));
            };
            change(&mut object)?;
            match timeout(WITHIN, self.api(key).replace(&object_name(&key.name), &params(), &object)).await {
                Ok(Ok(written)) => return Ok(written),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(away()),
            }
        }
        Err(contended(&key.name))
    }

    /// Makes the volumes belong to the environment. The controller, which goes by the policy, does the same by now.
    async fn own_claims(&self, key: &EnvironmentKey, uid: &str) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let mut is_contended = false;
            for claim in self.claims(key).await? {
                let name = claim.name.unwrap_or_default();
                let before = claim.owner_references.unwrap_or_default();
                let Some(after) = owners(&before, &object_name(&key.name), Some(owner(key, uid))) else {
                    continue;
                };
                let change = json!({"metadata": {"resourceVersion": claim.resource_version, "ownerReferences": after}});
                match timeout(WITHIN, access::merge(&self.client, key, Kind::Claim, &name, &change)).await {
                    Ok(Ok(())) => {}
                    // Another was quicker, or it is gone.
                    Ok(Err(Hindrance::Later(kube::Error::Api(status))))
                        if matches!(status.code, 404 | 409) =>
                    {
                        is_contended = true;
                    }
                    Ok(Err(hindrance)) => return Err(kept(key, &name, &hindrance.reason())),
                    Err(_) => return Err(away()),
                }
            }
            if !is_contended {
                return Ok(());
            }
        }
        Err(contended(&key.name))
    }

    /// The environment's volumes.
    async fn claims(&self, key: &EnvironmentKey) -> Result<Vec<ObjectMeta>, Failure> {
        let labels = resource::labels(&key.name);
        let selector: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace.as_str());
        let found = within(api.list_metadata(&ListParams::default().labels(&selector.join(",")))).await?;
        Ok(found.items.into_iter().map(|claim| claim.metadata).filter(is_made).collect())
    }
}

/// A release that is under way is the environment's lock, unless it is to end with it.
fn unlocked(name: &EnvironmentName, object: &Environment, force: bool) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    release::locked(name, &releases_of(&object.spec, &object.status.clone().unwrap_or_default()))
}

/// Whether what is told of a deletion is what Kubernetes will do.
fn can_be_told(name: &EnvironmentName, object: &Environment, volumes: bool) -> Result<(), Failure> {
    let policy = object.spec.deletion_policy;
    if volumes && policy == DeletionPolicy::Orphan {
        let sentence = format!(
            "`{name}` goes on running without skpr when it is deleted (deletionPolicy `Orphan`), and needs its volumes"
        );
        return Err(Failure::new(ErrorKind::Usage, sentence)
            .with_hint("delete it without --volumes, or set its deletionPolicy to `DeleteAll`"));
    }
    let followed = object.status.as_ref().and_then(|status| status.deletion_policy);
    // Of the other two only volumes make a difference, which are made to go here.
    let differs =
        |followed: DeletionPolicy| followed != policy && (!volumes || followed == DeletionPolicy::Orphan);
    match followed.filter(|followed| differs(*followed)) {
        None => Ok(()),
        Some(followed) => {
            let sentence = format!(
                "`{name}` is locked: its deletionPolicy is `{policy:?}`, and what is made of it still follows `{followed:?}`"
            );
            Err(Failure::new(ErrorKind::Locked, sentence)
                .with_hint(format!("try again in a moment; skpr info {name} says what keeps it")))
        }
    }
}

/// What a deletion does, in words.
fn say(key: &EnvironmentKey, object: &Environment, claims: &[ObjectMeta], volumes: bool) -> Deleted {
    let mut deleted = Deleted { removed: vec![format!("the environment `{}`", key.name)], kept: vec![] };
    let workload = workload_name(&key.name);
    let status = object.status.clone().unwrap_or_default();
    let settings = &object.spec.settings;
    let orphan = object.spec.deletion_policy == DeletionPolicy::Orphan;
    let part = if orphan { &mut deleted.kept } else { &mut deleted.removed };
    part.push(format!("the deployment `{workload}` and its {} instances", status.instances));
    if settings.port.is_some() {
        part.push(format!("the service `{workload}`"));
    }
    for domain in settings.domains.iter().flatten() {
        part.push(format!("the way from `{}` to it", domain.as_str()));
    }
    let tasks = settings.cron.iter().flatten();
    part.extend(tasks.map(|(task, _)| format!("the task `{task}` and what runs of it")));
    let gone = volumes || object.spec.deletion_policy == DeletionPolicy::DeleteAll;
    let part = if gone { &mut deleted.removed } else { &mut deleted.kept };
    let names = claims.iter().filter_map(|claim| claim.name.as_deref());
    part.extend(names.map(|name| format!("the volume `{name}` and its contents")));
    deleted.kept.push(format!("the namespace `{}`", key.namespace));
    deleted
}

/// Nothing is gone, because one of the volumes could not go.
fn kept(key: &EnvironmentKey, claim: &str, reason: &str) -> Failure {
    let sentence = format!(
        "nothing was deleted: the volume `{claim}` cannot be made to go with `{}`: {reason}",
        key.name
    );
    Failure::new(ErrorKind::Failed, sentence)
        .with_hint(format!("skpr delete {} without --volumes leaves it", key.name))
}

#[cfg(test)]
mod tests;
