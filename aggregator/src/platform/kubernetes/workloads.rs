//! Brings what an environment is made into to what it is to be, object by object.
//!
//! * What somebody else made is never touched, and what others lean on stops the rest when it cannot be had: instances
//!   would write into another's volume.
//! * What old instances are reached by goes only when none of them is left.
//! * Volumes are made and grown, belong to the environment as its deletion policy says, and are never deleted here.
//! * What Kubernetes refuses of one object is said, and the others are gone on with.

use super::access::{self, Hindrance, apply, is_made, is_ours, merge};
use super::desired::{Kind, Site, Wanted, claim_owner, quantity};
use super::objects::key_of_labels;
use super::reconcile::Round;
use super::resource::{API_VERSION, KIND, object_name, workload_name};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use skpr_proto::manifest::MemoryQuantity;
use std::collections::BTreeSet;

/// What has come of the objects.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) deployment: Option<DynamicObject>,
    /// The deployment was not there before.
    pub(super) is_new: bool,
    /// Its domains lead to it.
    pub(super) leads: bool,
    /// Why instances cannot be started.
    pub(super) hindrance: Option<String>,
    /// What else is wrong.
    pub(super) trouble: Option<String>,
    /// Not everything is as it is to be.
    pub(super) is_partial: bool,
}

impl Applied {
    fn refused(&mut self, reason: String) {
        self.trouble.get_or_insert(reason);
        self.is_partial = true;
    }
}

impl Round {
    /// Brings every object to what it is to be.
    pub(super) async fn bring(&self, all: &[Wanted], site: &Site<'_>) -> Result<Applied, Hindrance> {
        let mut applied = Applied::default();
        for wanted in all {
            let refused = match self.one(wanted, site, &mut applied).await {
                Ok(()) => continue,
                Err(Hindrance::Refused(reason)) => reason,
                // Instances wait for no way to them and for no task: who has to agree to it is asked again later.
                Err(Hindrance::Blocked(reason)) if matches!(wanted.kind, Kind::Ingress | Kind::CronJob) => {
                    reason
                }
                Err(later) => return Err(later),
            };
            match wanted.kind {
                Kind::Ingress | Kind::CronJob => applied.refused(refused),
                kind => {
                    applied.hindrance.get_or_insert(refused);
                    applied.is_partial = true;
                    if kind.is_leant_on() {
                        break;
                    }
                }
            }
        }
        match self.keep_others(all, site).await {
            Ok(()) => {}
            Err(Hindrance::Refused(reason)) => applied.refused(reason),
            Err(later) => return Err(later),
        }
        Ok(applied)
    }

    async fn one(&self, wanted: &Wanted, site: &Site<'_>, applied: &mut Applied) -> Result<(), Hindrance> {
        let Wanted { kind, name, object } = wanted;
        if *kind == Kind::Claim
            && let Some(found) = access::object(&self.client, &self.key, *kind, name).await?
        {
            self.ours(*kind, name, &found.metadata)?;
            match self.own(name, &found.metadata, site).await {
                Err(Hindrance::Refused(reason)) => applied.refused(reason),
                other => other?,
            }
            match self.grow(name, &found, object).await {
                // As large as it is, it can be mounted.
                Err(Hindrance::Refused(reason)) => drop(applied.hindrance.get_or_insert(reason)),
                other => drop(other?.map(|smaller| applied.trouble.get_or_insert(smaller))),
            }
            return Ok(());
        }
        let known = self.children.get(&(*kind, name.clone()));
        let found = match known {
            Some(_) => None,
            None => access::metadata(&self.client, &self.key, *kind, name).await?,
        };
        if let Some(found) = &found {
            self.ours(*kind, name, found)?;
        }
        let is_missing = known.is_none() && found.is_none();
        let object = match kind {
            Kind::Deployment if is_missing && site.target != 1 => &with_count(object, site.target),
            _ => object,
        };
        let object = apply(&self.client, &self.key, *kind, (name, access::CONTROLLER), object).await?;
        match kind {
            Kind::Deployment => {
                // One that is known may have been deleted a moment ago.
                applied.is_new = is_missing || known.is_some() && known != object.metadata.uid.as_ref();
                applied.deployment = Some(object);
            }
            Kind::Ingress => applied.leads = true,
            Kind::Service | Kind::Autoscaler | Kind::Budget | Kind::Claim | Kind::CronJob => {}
        }
        Ok(())
    }

    /// An object that skpr did not make is not touched.
    fn ours(&self, kind: Kind, name: &str, found: &ObjectMeta) -> Result<(), Hindrance> {
        if is_ours(found, &self.key) {
            return Ok(());
        }
        let kind = kind.names().2;
        // Whose it is, is nobody's business who may not see that one.
        let whose = match key_of_labels(found).filter(|other| *other != self.key && is_made(found)) {
            Some(_) => "belongs to another environment, which its labels name",
            None => "skpr did not make",
        };
        Err(Hindrance::Refused(format!("there is a {kind} `{name}` already that {whose}")))
    }

    /// Whom the volumes belong to that nothing mounts any more: these, too, go or stay as the policy says.
    async fn keep_others(&self, all: &[Wanted], site: &Site<'_>) -> Result<(), Hindrance> {
        for (kind, name) in self.children.keys().filter(|(kind, _)| *kind == Kind::Claim) {
            if !all.iter().any(|wanted| wanted.kind == *kind && wanted.name == *name)
                && let Some(found) = access::metadata(&self.client, &self.key, *kind, name).await?
                && is_ours(&found, &self.key)
            {
                self.own(name, &found, site).await?;
            }
        }
        Ok(())
    }

    /// Makes a volume belong to the environment, or not.
    async fn own(&self, name: &str, found: &ObjectMeta, site: &Site<'_>) -> Result<(), Hindrance> {
        let before = found.owner_references.as_deref().unwrap_or_default();
        let Some(after) = owners(before, &object_name(&self.key.name), claim_owner(site)) else {
            return Ok(());
        };
        // With the version that was read: nobody else's owner is lost.
        let change =
            json!({"metadata": {"resourceVersion": found.resource_version, "ownerReferences": after}});
        merge(&self.client, &self.key, Kind::Claim, name, &change).await
    }

    /// Most of a volume cannot change once it is there; it can grow where its class can. What cannot be had, in words.
    async fn grow(
        &self,
        name: &str,
        found: &DynamicObject,
        wanted: &Value,
    ) -> Result<Option<String>, Hindrance> {
        let path = "/spec/resources/requests/storage";
        let bytes = |value: Option<&Value>| {
            let text = value.and_then(Value::as_str).unwrap_or_default();
            MemoryQuantity::parse(text).ok()
        };
        let (have, want) = (bytes(found.data.pointer(path)), bytes(wanted.pointer(path)));
        let (Some(have), Some(want)) = (have, want) else { return Ok(None) };
        if want.bytes() > have.bytes() {
            let change = json!({"spec": {"resources": {"requests": {"storage": quantity(&want)}}}});
            merge(&self.client, &self.key, Kind::Claim, name, &change).await?;
        }
        let volume = name.strip_prefix(&format!("{}-", workload_name(&self.key.name))).unwrap_or(name);
        let smaller =
            || format!("the volume `{volume}` keeps its {have}: volumes only grow, and {want} is less");
        Ok((want.bytes() < have.bytes()).then(smaller))
    }

    pub(super) async fn scale(&self, count: u32) -> Result<DynamicObject, Hindrance> {
        let name = workload_name(&self.key.name);
        let change = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.key.namespace}, "spec": {"replicas": count}});
        apply(&self.client, &self.key, Kind::Deployment, (&name, access::REPLICAS), &change).await
    }

    /// Deletes what is not wanted any more; what old instances may still be reached by only when they are `gone`, and a task
    /// only when it is not `busy`: what runs of it comes to its own end. What could not be, in words.
    pub(super) async fn tidy(
        &self,
        all: &[Wanted],
        gone: bool,
        busy: Option<&BTreeSet<String>>,
    ) -> Result<Option<String>, Hindrance> {
        let mut left = None;
        for ((kind, name), uid) in &self.children {
            let stays = match kind {
                Kind::Claim => true,
                Kind::Service | Kind::Ingress => !gone,
                Kind::Deployment | Kind::Autoscaler | Kind::Budget | Kind::CronJob => false,
            };
            if !stays && !all.iter().any(|wanted| wanted.kind == *kind && wanted.name == *name) {
                let is_busy = *kind == Kind::CronJob && busy.is_none_or(|busy| busy.contains(name));
                let done = match is_busy {
                    true => self.keep_busy(name).await,
                    false => access::delete(&self.client, &self.key, *kind, (name, Some(uid.clone()))).await,
                };
                match done {
                    Err(Hindrance::Refused(reason)) => drop(left.get_or_insert(reason)),
                    other => other?,
                }
            }
        }
        Ok(left)
    }
}

/// The deployment with the number of its instances, which is nobody's yet: whoever makes it says it once.
fn with_count(deployment: &Value, count: u32) -> Value {
    let mut deployment = deployment.clone();
    if let Some(spec) = deployment.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("replicas".into(), json!(count));
    }
    deployment
}

/// The owners of an environment's volume as they are to be, if they are not: `wanted`, and whoever else there is.
pub(super) fn owners(
    before: &[OwnerReference],
    environment: &str,
    wanted: Option<OwnerReference>,
) -> Option<Vec<OwnerReference>> {
    let is_environment = |owner: &&OwnerReference| {
        owner.api_version == API_VERSION && owner.kind == KIND && owner.name == environment
    };
    let mut have = before.iter().filter(is_environment).map(|owner| &owner.uid);
    if have.next() == wanted.as_ref().map(|owner| &owner.uid) && have.next().is_none() {
        return None;
    }
    let others = before.iter().filter(|owner| !is_environment(owner)).cloned();
    Some(others.chain(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(kind: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: API_VERSION.into(),
            kind: kind.into(),
            name: "shop.dev".into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    #[test]
    fn a_volume_belongs_to_the_environment_or_not_and_to_whoever_else_it_does() {
        let (this, earlier, other) = (owner(KIND, "u2"), owner(KIND, "u1"), owner("Backup", "b"));
        let check = |before: &[&OwnerReference], wanted: bool, expected: Option<&[&OwnerReference]>| {
            let own = |owners: &[&OwnerReference]| owners.iter().map(|o| (*o).clone()).collect::<Vec<_>>();
            let after = owners(&own(before), "shop.dev", wanted.then(|| this.clone()));
            assert_eq!(after, expected.map(own));
        };
        check(&[], false, None);
        check(&[&other], true, Some(&[&other, &this]));
        check(&[&this, &other], true, None);
        check(&[&this, &other], false, Some(&[&other]));
        check(&[&earlier], true, Some(&[&this]));
        check(&[&earlier, &this], true, Some(&[&this]));
    }
}
