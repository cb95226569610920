//! One round of the controller for one environment: reads its object, takes every step that it asks for, puts right what
//! is made of it, and writes what is known into its status.
//!
//! * Each write is one step, and what is written says what the next one is ([`super::next`]): a crash between any two,
//!   or a lease that was lost, leaves work for the next round and nothing half done.
//! * The status is written with the version that was read: of two controllers, one is refused.
//! * An object that cannot be acted on is told so in its status, and what runs is left alone.
//! * What Kubernetes refuses is said in the status, and stops nothing that does not lean on it.

use super::access::{self, Hindrance};
use super::cron::Seen;
use super::deployment::Deployment;
use super::desired::{Kind, Site, desired, own_domains, replicas};
use super::done::{Done, Scope};
use super::next::{Step, Written, last_manager, next};
use super::objects::Objects;
use super::outcome::{Known, outcome};
use super::resource::{
    API_VERSION, Environment, EnvironmentSpec, EnvironmentStatus, KIND, key_of, object_name,
};
use super::rules;
use super::workloads::Applied;
use crate::domains::{self, Asking};
use crate::environment::EnvironmentKey;
use crate::inventory::InstanceState;
use crate::release::{self, Release, State};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes that one round takes at most: begin, put back, and whatever an edit in between adds.
const STEPS: usize = 6;

/// What a round needs.
pub(super) struct Round {
    pub(super) client: Client,
    pub(super) options: Arc<super::Options>,
    pub(super) key: EnvironmentKey,
    /// Everybody's objects, to tell whose a domain is.
    pub(super) objects: Arc<Objects>,
    pub(super) instances: BTreeMap<Arc<str>, InstanceState>,
    /// Which of the environment's objects are known to exist and to be ours, with their UIDs.
    pub(super) children: BTreeMap<(Kind, String), String>,
    /// Its runs; none while they are not known.
    pub(super) seen: Option<Arc<Vec<Seen>>>,
    /// How much there is to do, as far as that is known.
    pub(super) scope: Scope,
    /// Since when its rounds have come to their ends.
    pub(super) watching_since: Timestamp,
}

/// What became of an object's next step.
enum Stepped {
    /// It was written, and another may follow.
    Written,
    /// There is none.
    Rest,
    /// It was refused: one sentence.
    Refused(String),
}

impl Round {
    /// None when there is no such environment any more.
    pub(super) async fn run(&self) -> Result<Option<Done>, Hindrance> {
        if let Scope::Runs(before) = &self.scope
            && let Some(done) = self.look_at_runs(before).await?
        {
            return Ok(Some(done));
        }
        let (mut object, mut refused) = (None, None);
        for _ in 0..STEPS {
            object = self.object().await?;
            match &object {
                None => return Ok(None),
                Some(DeserializeGuard(Err(_))) => break,
                Some(DeserializeGuard(Ok(found))) => {
                    if found.metadata.deletion_timestamp.is_some() {
                        return Ok(None);
                    }
                    if self.refusal(found).is_some() {
                        break;
                    }
                    match self.step(found).await? {
                        Stepped::Written => {}
                        Stepped::Rest => break,
                        Stepped::Refused(reason) => {
                            refused = Some(reason);
                            break;
                        }
                    }
                }
            }
        }
        match object {
            None => Ok(None),
            Some(DeserializeGuard(Ok(object))) => self.put_right(object, refused).await.map(Some),
            Some(DeserializeGuard(Err(invalid))) => {
                let reason = format!(
                    "the environment's object cannot be read: {}",
                    super::facts::short(&invalid.error)
                );
                self.refuse(&invalid.metadata, None, reason).await.map(Some)
            }
        }
    }

    pub(super) async fn object(&self) -> Result<Option<DeserializeGuard<Environment>>, Hindrance> {
        let api = access::environments(&self.client, &self.key);
        Ok(api.get_opt(&object_name(&self.key.name)).await?)
    }

    /// Why the object is not acted on.
    pub(super) fn refusal(&self, object: &Environment) -> Option<String> {
        match key_of(object) {
            Ok(_) => {
                rules::accept(&self.key, &object.spec, &self.options).err().map(|failure| failure.message)
            }
            Err(reason) => Some(reason),
        }
    }

    pub(super) fn next_step(&self, object: &Environment, status: &EnvironmentStatus) -> Step {
        let manager = last_manager(object.metadata.managed_fields.as_deref().unwrap_or_default());
        let is_news =
            object.metadata.generation.is_none_or(|generation| generation > status.observed_generation);
        next(&object.spec, &status.releases, &Written { manager: &manager, is_news })
    }

    /// Takes the next step of the object, if there is one.
    async fn step(&self, object: &Environment) -> Result<Stepped, Hindrance> {
        let status = object.status.clone().unwrap_or_default();
        match self.next_step(object, &status) {
            Step::Rest => return Ok(Stepped::Rest),
            Step::Begin(number, deploy, began) => {
                let mut releases = status.releases.clone();
                release::begin(&mut releases, number, *deploy, began.unwrap_or_else(Timestamp::now));
                release::start(&mut releases, Timestamp::now());
                // Only that it has begun is written here: what is known of its instances is older than it.
                let newest = releases.last();
                let begun = EnvironmentStatus {
                    release: newest.map(|release| release.number),
                    state: newest.map(|release| release.state.name().to_owned()),
                    by: newest.map(|release| release.by.clone()),
                    waiting_for: None,
                    releases,
                    ..status
                };
                self.write_status(&object.metadata, &begun).await?;
            }
            Step::PutBack(spec) => match self.put_back(object, *spec).await {
                // What runs is put back all the same.
                Err(Hindrance::Refused(reason) | Hindrance::Blocked(reason)) => {
                    let sentence = format!("the object still asks for the release that failed: {reason}");
                    return Ok(Stepped::Refused(sentence));
                }
                other => other?,
            },
        }
        Ok(Stepped::Written)
    }

    async fn put_back(&self, object: &Environment, spec: EnvironmentSpec) -> Result<(), Hindrance> {
        let back = Environment { spec, ..object.clone() };
        let params = PostParams { field_manager: Some(access::CONTROLLER.into()), ..PostParams::default() };
        let api: Api<Environment> = Api::namespaced(self.client.clone(), self.key.namespace.as_str());
        api.replace(&object_name(&self.key.name), &params, &back).await?;
        Ok(())
    }

    /// Brings what is made of the object to what it is to be; `refused` says which step of the object itself was.
    async fn put_right(&self, object: Environment, refused: Option<String>) -> Result<Done, Hindrance> {
        let status = object.status.clone().unwrap_or_default();
        let bounds = object.spec.bounds();
        if let Some(reason) = self.refusal(&object) {
            return self.refuse(&object.metadata, Some(bounds), reason).await;
        }
        let Some(current) = release::current(&status.releases).cloned() else {
            return Err(Hindrance::Refused("the releases in the status cannot be made sense of".into()));
        };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let asked = object.spec.settings.domains.as_deref().unwrap_or_default();
        let asking = Asking {
            key: &self.key,
            domains: asked,
            before: asked,
            serves: &status.domains,
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
        };
        let others = self.objects.iter().map(|(key, object)| (key, &*object.managed));
        let taken = domains::taken(&asking, others);
        let runs = self.plan_runs(&object, &status).await?;
        let unsaid = self.write_ends(&runs).await?;
        let site = Site {
            key: &self.key,
            uid: &uid,
            deletion: object.spec.deletion_policy,
            settings: &object.spec.settings,
            release: &current,
            target: status.target.clamp(bounds.0, bounds.1.max(bounds.0)),
            taken: &taken,
            stopped: &runs.stopped,
            options: &self.options.cluster,
        };
        let wanted = desired(&site);
        let Applied { deployment, is_new, leads, hindrance, trouble, is_partial } =
            self.bring(&wanted, &site).await?;
        let taken = taken.first();
        let taken = taken.map(|domain| format!("the domain `{domain}` belongs to another environment"));
        let trouble = refused.or(taken).or(trouble).or(unsaid);
        let now = Timestamp::now();
        let mut done = Done {
            target: site.target,
            hindrance,
            trouble,
            scaled: object.spec.scaled.clone(),
            uid: uid.clone(),
            ..Done::of(status.clone())
        };
        if let Some(found) = deployment {
            let mut state = Deployment::of(&found);
            // One that was made anew has as many as there were, and the number is nobody's until it is said.
            let anew = (is_new && site.target != 1).then_some(site.target);
            done.target = state.replicas;
            if let Some(count) = anew.or_else(|| replicas(state.replicas, bounds)) {
                done.target = count;
                match self.scale(count).await {
                    Ok(scaled) => state = Deployment::of(&scaled),
                    Err(Hindrance::Refused(reason)) => drop(done.trouble.get_or_insert(reason)),
                    Err(later) => return Err(later),
                }
            }
            done.deployment = Some((state.uid, state.generation));
            (done.obstacle, done.rolled_out) = (state.obstacle, state.rolled_out);
        }
        let known = Known {
            generation: object.metadata.generation.unwrap_or_default(),
            bounds: Some(bounds),
            target: done.target,
            rolled_out: done.rolled_out,
            hindrance: done.hindrance(now),
            trouble: done.trouble.as_deref(),
            ..self.known(status.releases.clone(), now)
        };
        let mut after = outcome(known, &status);
        let gone = after.releases.last().is_some_and(|newest| match newest.state {
            State::Succeeded | State::RolledBack => true,
            // Of one that failed and was left, the old instances go on.
            State::Deploying | State::RollingBack | State::Failed | State::Superseded => false,
        });
        if let Some(left) = self.tidy(&wanted, gone, runs.busy.as_ref()).await? {
            after.trouble.get_or_insert_with(|| left.clone());
            done.trouble.get_or_insert(left);
        }
        if !is_partial {
            after.deletion_policy = Some(site.deletion);
        }
        let is_wanted = wanted.iter().any(|wanted| wanted.kind == Kind::Ingress);
        let is_there = self.children.keys().any(|(kind, _)| *kind == Kind::Ingress);
        after.domains = match (leads, is_wanted) {
            (true, _) => own_domains(&site),
            // As it was left: it could not be written, or goes later.
            (false, true) => status.domains.clone(),
            (false, false) if is_there && !gone => status.domains.clone(),
            (false, false) => vec![],
        };
        after.tasks.clone_from(&runs.tasks);
        if after != status {
            self.write_status(&object.metadata, &after).await?;
        }
        done.status = after;
        done.take_plan(runs);
        Ok(done)
    }

    pub(super) fn known(&self, releases: Vec<Release>, now: Timestamp) -> Known<'_> {
        Known {
            generation: 0,
            bounds: None,
            releases,
            instances: &self.instances,
            target: 0,
            rolled_out: true,
            hindrance: None,
            trouble: None,
            stuck: None,
            refusal: None,
            watching_since: self.watching_since,
            now,
        }
    }

    /// Tells the object that it is not acted on, and why.
    async fn refuse(
        &self,
        metadata: &kube::core::ObjectMeta,
        bounds: Option<(u32, u32)>,
        reason: String,
    ) -> Result<Done, Hindrance> {
        // What is remembered must not be lost with what cannot be read: it is read by itself, and if not even that can be
        // done the status is left as it is.
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.key.namespace.as_str(), &access::resource());
        let raw = api.get(name).await?.data.get("status").cloned().unwrap_or_else(|| json!({}));
        let before: EnvironmentStatus =
            serde_json::from_value(raw).map_err(|error| Hindrance::Refused(error.to_string()))?;
        let after = outcome(
            Known {
                generation: metadata.generation.unwrap_or_default(),
                bounds,
                target: before.target,
                refusal: Some(&reason),
                ..self.known(before.releases.clone(), Timestamp::now())
            },
            &before,
        );
        if after != before {
            self.write_status(metadata, &after).await?;
        }
        let uid = metadata.uid.clone().unwrap_or_default();
        Ok(Done { refusal: Some(reason), uid, ..Done::of(after) })
    }

    pub(super) async fn write_status(
        &self,
        metadata: &kube::core::ObjectMeta,
        status: &EnvironmentStatus,
    ) -> Result<(), Hindrance> {
        let name = metadata.name.as_deref().unwrap_or_default();
        let change = json!({"apiVersion": API_VERSION, "kind": KIND,
            "metadata": {"name": name, "resourceVersion": metadata.resource_version}, "status": status});
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.key.namespace.as_str(), &access::resource());
        let params = PatchParams::apply(access::STATUS).force();
        api.patch_status(name, &params, &Patch::Apply(&change)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
