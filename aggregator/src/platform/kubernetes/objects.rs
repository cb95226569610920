//! The environments known from the watch of the custom resource. Takes events, gives what the inventory and the
//! controller need of them; no IO.
//!
//! * Of an object that cannot be read, what was known before stays, with the reason as its trouble.
//! * Managed fields and whatever else an object carries are dropped as it arrives.

use super::cron::{self, ByEnvironment, Seen};
use super::resource::{self, Environment, EnvironmentStatus, key_of, releases_of};
use super::{ENVIRONMENT_LABEL, PROJECT_LABEL};
use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, Managed, Wanted};
use crate::run::Suspension;
use jiff::Timestamp;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::watcher::Event;
use skpr_proto::manifest::Domain;
use skpr_proto::{EnvironmentName, Label};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) type WatchedEnvironment = DeserializeGuard<Environment>;

/// Every environment that has an object.
pub(super) type Objects = BTreeMap<EnvironmentKey, Arc<Object>>;

/// What is kept of one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) managed: Arc<Managed>,
    /// What was written to its status, without the releases, which are in `managed`.
    pub(super) status: EnvironmentStatus,
    /// Why it cannot be read.
    pub(super) invalid: Option<String>,
    /// Tasks that a user has suspended.
    pub(super) suspended: BTreeMap<Label, Suspension>,
    /// Its runs, oldest first; none while they are not known.
    pub(super) seen: Option<Arc<Vec<Seen>>>,
}

impl Object {
    /// Says of its tasks what is known of them now.
    fn show_tasks(&mut self, now: Timestamp) {
        let seen = self.seen.as_ref().map(|seen| seen.as_slice());
        let settings = self.managed.settings.cron.as_ref();
        let tasks = cron::states(settings, &self.suspended, &self.status.tasks, seen, now);
        if tasks != self.managed.tasks {
            Arc::make_mut(&mut self.managed).tasks = tasks;
        }
    }
}

#[derive(Default)]
pub(super) struct Environments {
    known: Objects,
    /// Objects that were complained about.
    refused: BTreeSet<String>,
    listing: Option<BTreeSet<EnvironmentKey>>,
    heard: bool,
    /// What is known of runs.
    seen: Option<ByEnvironment>,
}

impl Environments {
    /// Whether anything changed.
    pub(super) fn take(&mut self, event: Event<WatchedEnvironment>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::InitApply(object) | Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                let metadata = metadata_of(&object);
                let key = key_of_metadata(metadata);
                key.is_some_and(|key| self.known.remove(&key).is_some())
            }
            Event::InitDone => {
                if let Some(listed) = self.listing.take() {
                    self.known.retain(|key, _| listed.contains(key));
                }
                self.heard = true;
                true
            }
        }
    }

    fn apply(&mut self, watched: WatchedEnvironment) -> bool {
        let metadata = metadata_of(&watched);
        // The name says whose it is, also when nothing else of it can be read.
        let Some(key) = key_of_metadata(metadata) else {
            self.refuse(metadata, "its name is not PROJECT.ENVIRONMENT");
            return false;
        };
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        let before = self.known.get(&key);
        let mut object = match watched.0 {
            Ok(object) => read(object, before),
            Err(undecodable) => unread(&undecodable.metadata, &undecodable.error, before),
        };
        object.seen = self.seen.as_ref().map(|seen| seen.get(&key).cloned().unwrap_or_default());
        object.show_tasks(Timestamp::now());
        let changed = before.is_none_or(|before| **before != object);
        if changed {
            self.known.insert(key, Arc::new(object));
        }
        changed
    }

    fn refuse(&mut self, metadata: &ObjectMeta, reason: &str) {
        if self.refused.len() < 1000 && self.refused.insert(metadata.uid.clone().unwrap_or_default()) {
            tracing::warn!(
                namespace = metadata.namespace.as_deref().unwrap_or_default(),
                environment = metadata.name.as_deref().unwrap_or_default(),
                reason,
                "environment left out"
            );
        }
    }

    /// Takes what is known of all runs, where it is known.
    pub(super) fn take_runs(&mut self, seen: Option<ByEnvironment>, now: Timestamp) {
        for (key, object) in &mut self.known {
            let of_it = seen.as_ref().map(|seen| seen.get(key).cloned().unwrap_or_default());
            if object.seen != of_it {
                let object = Arc::make_mut(object);
                object.seen = of_it;
                object.show_tasks(now);
            }
        }
        self.seen = seen;
    }

    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    pub(super) fn objects(&self) -> Objects {
        self.known.clone()
    }

    /// The environments as the inventory shows them, with no instances yet.
    pub(super) fn states(&self) -> BTreeMap<EnvironmentKey, EnvironmentState> {
        self.known.iter().map(|(key, object)| (key.clone(), state(object))).collect()
    }
}

fn state(object: &Object) -> EnvironmentState {
    let (minimum, maximum) = resource::bounds(&object.managed.settings);
    let production = object.managed.settings.production == Some(true);
    EnvironmentState {
        wanted: Wanted { production, minimum, maximum },
        managed: Some(Arc::clone(&object.managed)),
        ..EnvironmentState::default()
    }
}

fn read(object: Environment, before: Option<&Arc<Object>>) -> Object {
    if let Err(reason) = key_of(&object) {
        return unread(&object.metadata, &reason, before);
    }
    let metadata = object.metadata;
    let mut status = object.status.unwrap_or_default();
    let releases = releases_of(&object.spec, &status);
    status.releases = vec![];
    let target = if status.target == 0 { object.spec.bounds().0 } else { status.target };
    let managed = Managed {
        image: object.spec.image,
        version: object.spec.version,
        settings: object.spec.settings,
        releases,
        trouble: status.trouble.clone(),
        waiting_for: status.waiting_for.clone(),
        target,
        deleting: metadata.deletion_timestamp.is_some(),
        created: created(&metadata),
        serves: status.domains.clone(),
        tasks: Default::default(),
    };
    let suspended = object.spec.suspended;
    Object { managed: Arc::new(managed), status, suspended, ..identity(metadata) }
}

fn unread(metadata: &ObjectMeta, reason: &str, before: Option<&Arc<Object>>) -> Object {
    let reason = format!("the environment's object cannot be read: {}", super::facts::short(reason));
    let managed = before.map_or_else(Managed::default, |before| Managed::clone(&before.managed));
    let managed = Managed {
        trouble: Some(reason.clone()),
        deleting: metadata.deletion_timestamp.is_some(),
        created: created(metadata),
        ..managed
    };
    let status = before.map(|before| before.status.clone()).unwrap_or_default();
    let suspended = before.map(|before| before.suspended.clone()).unwrap_or_default();
    Object {
        managed: Arc::new(managed),
        status,
        invalid: Some(reason),
        suspended,
        ..identity(metadata.clone())
    }
}

fn identity(metadata: ObjectMeta) -> Object {
    Object {
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        managed: Arc::default(),
        status: EnvironmentStatus::default(),
        invalid: None,
        suspended: BTreeMap::new(),
        seen: None,
    }
}

fn created(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Whom a deletion was asked for by, if by skpr: the environment with its UID, and who.
pub(super) fn deleted_by(event: &Event<WatchedEnvironment>) -> Option<(EnvironmentKey, String, String)> {
    let Event::Delete(DeserializeGuard(Ok(object))) = event else { return None };
    let by = object.spec.deleted.as_ref()?.by.clone();
    Some((key_of(object).ok()?, object.metadata.uid.clone()?, by))
}

fn metadata_of(object: &WatchedEnvironment) -> &ObjectMeta {
    match &object.0 {
        Ok(object) => &object.metadata,
        Err(undecodable) => &undecodable.metadata,
    }
}

/// The environments that ask for a domain which another one asks for or serves since, or does not any more.
pub(super) fn concerned(before: &Objects, after: &Objects) -> Vec<EnvironmentKey> {
    let names = |object: Option<&Arc<Object>>| {
        let managed = object.map(|object| &object.managed);
        let asked = managed.and_then(|managed| managed.settings.domains.clone()).unwrap_or_default();
        (asked, managed.map(|managed| managed.serves.clone()).unwrap_or_default())
    };
    let mut moved: BTreeMap<Domain, BTreeSet<&EnvironmentKey>> = BTreeMap::new();
    for key in after.keys().chain(before.keys().filter(|key| !after.contains_key(*key))) {
        let (old, new) = (before.get(key), after.get(key));
        if old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
            continue;
        }
        let (old, new) = (names(old), names(new));
        if old != new {
            for domain in [old.0, old.1, new.0, new.1].into_iter().flatten() {
                moved.entry(domain).or_default().insert(key);
            }
        }
    }
    if moved.is_empty() {
        return vec![];
    }
    let asks = |(key, object): &(&EnvironmentKey, &Arc<Object>)| {
        let mut asked = object.managed.settings.domains.iter().flatten();
        asked.any(|domain| moved.get(domain).is_some_and(|by| by.iter().any(|by| by != key)))
    };
    after.iter().filter(asks).map(|(key, _)| key.clone()).collect()
}

/// The environment that a workload belongs to.
pub(super) fn key_of_labels(metadata: &ObjectMeta) -> Option<EnvironmentKey> {
    let label = |name| metadata.labels.as_ref()?.get(name).map(String::as_str);
    Some(EnvironmentKey {
        namespace: Label::parse("namespace", metadata.namespace.as_deref()?).ok()?,
        name: EnvironmentName::parse(label(PROJECT_LABEL)?, label(ENVIRONMENT_LABEL)?).ok()?,
    })
}

pub(super) fn key_of_metadata(metadata: &ObjectMeta) -> Option<EnvironmentKey> {
    let (project, environment) = metadata.name.as_deref()?.split_once('.')?;
    Some(EnvironmentKey {
        namespace: Label::parse("namespace", metadata.namespace.as_deref()?).ok()?,
        name: EnvironmentName::parse(project, environment).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(name: &str, version: &str) -> Value {
        json!({
            "apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
            "metadata": {"name": name, "namespace": "sites", "uid": "u1", "generation": 3},
            "spec": {"project": "shop", "environment": "dev", "image": "shop", "version": version,
                "instances": {"min": 2, "max": 5}, "production": true}
        })
    }

    fn apply(environments: &mut Environments, object: Value) -> bool {
        environments.take(Event::Apply(serde_json::from_value(object).unwrap()))
    }

    fn only(environments: &Environments) -> (Wanted, Managed) {
        let states = environments.states();
        let state = states.values().next().unwrap();
        (state.wanted, Managed::clone(state.managed.as_ref().unwrap()))
    }

    #[test]
    fn an_object_is_an_environment_with_no_instance() {
        let mut environments = Environments::default();
        assert!(apply(&mut environments, object("shop.dev", "v1")));
        assert!(!apply(&mut environments, object("shop.dev", "v1")));
        let (wanted, managed) = only(&environments);
        assert_eq!(wanted, Wanted { production: true, minimum: 2, maximum: 5 });
        assert_eq!((managed.version.as_str(), managed.target, managed.releases.len()), ("v1", 2, 0));
    }

    #[test]
    fn a_release_that_is_asked_for_shows_before_it_is_begun() {
        let mut environments = Environments::default();
        let mut asked = object("shop.dev", "v1");
        asked["spec"]["release"] = json!({"number": 4, "by": "ann", "began": "2026-11-24T00:00:00Z",
            "timeoutSeconds": 60, "returns": true});
        apply(&mut environments, asked);
        let release = only(&environments).1.releases.pop().unwrap();
        assert_eq!((release.number, release.by.as_str(), release.state.name()), (4, "ann", "deploying"));
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_what_was_known() {
        let mut environments = Environments::default();
        apply(&mut environments, object("shop.dev", "v1"));
        let mut broken = object("shop.dev", "v2");
        broken["spec"]["instances"] = json!("many");
        assert!(apply(&mut environments, broken));
        let (_, managed) = only(&environments);
        assert_eq!(managed.version, "v1");
        assert!(managed.trouble.unwrap().contains("cannot be read"));
        let mut other = object("other.dev", "v1");
        other["metadata"]["uid"] = json!("u2");
        apply(&mut environments, other);
        let states = environments.states();
        assert!(states.values().all(|state| state.managed.as_ref().unwrap().trouble.is_some()));
        assert!(!apply(&mut environments, object("nonsense", "v1")));
    }

    #[test]
    fn who_asks_for_a_domain_that_has_come_or_gone_is_looked_at() {
        let objects = |domains: [(&str, &[&str]); 2]| {
            let mut environments = Environments::default();
            for (name, domains) in domains {
                let mut object = object(&format!("shop.{name}"), "v1");
                object["spec"]["environment"] = json!(name);
                object["spec"]["domains"] = json!(domains);
                apply(&mut environments, object);
            }
            environments.objects()
        };
        let concerned = |before: &Objects, after: &Objects| -> Vec<String> {
            concerned(before, after).iter().map(|key| key.name.environment.to_string()).collect()
        };
        let both = objects([("dev", &["a.example.com"]), ("prod", &["a.example.com", "b.example.com"])]);
        let less = objects([("dev", &[]), ("prod", &["a.example.com", "b.example.com"])]);
        assert_eq!(concerned(&both, &less), ["prod"]);
        assert_eq!(concerned(&less, &both), ["prod"]);
        assert_eq!(concerned(&both, &both), [""; 0]);
        let mut gone = both.clone();
        gone.remove(&crate::inventory::tests::key("sites", "shop", "prod"));
        assert_eq!(concerned(&both, &gone), ["dev"]);
        let mut served = both.clone();
        for object in served.values_mut().take(1) {
            let managed = Arc::make_mut(&mut Arc::make_mut(object).managed);
            managed.serves = managed.settings.domains.clone().unwrap();
        }
        assert_eq!(concerned(&both, &served), ["prod"]);
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone() {
        let mut environments = Environments::default();
        apply(&mut environments, object("shop.dev", "v1"));
        environments.take(Event::Init);
        assert_eq!(environments.objects().len(), 1);
        assert!(environments.take(Event::InitDone));
        assert!(environments.objects().is_empty() && environments.heard());
    }
}
