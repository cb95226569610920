//! The workloads that are ours, as far as it takes to see that one was changed or deleted. Takes events; no IO.
//!
//! * A change of an object's status is no change here: what counts is who wrote the rest of it, and when. But a
//!   deployment's status says why its instances cannot be started.

use super::access::is_made;
use super::desired::Kind;
use super::objects::key_of_labels;
use super::queue::How;
use crate::environment::EnvironmentKey;
use kube::api::DynamicObject;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::Event;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

pub(super) type Seen = Event<PartialObjectMeta<DynamicObject>>;

#[derive(Default)]
pub(super) struct Children {
    known: BTreeMap<EnvironmentKey, BTreeMap<(Kind, String), Child>>,
    listing: HashMap<Kind, BTreeSet<(EnvironmentKey, String)>>,
    heard: BTreeSet<Kind>,
}

struct Child {
    uid: String,
    fingerprint: u64,
}

impl Children {
    /// Which environments have to be looked at, and how.
    pub(super) fn take(&mut self, kind: Kind, event: Seen) -> Vec<(EnvironmentKey, How)> {
        match event {
            Event::Init => {
                self.listing.insert(kind, BTreeSet::new());
                vec![]
            }
            Event::InitApply(object) | Event::Apply(object) => {
                self.apply(kind, &object.metadata).into_iter().collect()
            }
            Event::Delete(object) => self.delete(kind, &object.metadata).into_iter().collect(),
            Event::InitDone => {
                let listed = self.listing.remove(&kind).unwrap_or_default();
                self.heard.insert(kind);
                let mut gone = vec![];
                for (key, children) in &mut self.known {
                    let before = children.len();
                    children.retain(|(other, name), _| {
                        *other != kind || listed.contains(&(key.clone(), name.clone()))
                    });
                    if children.len() < before {
                        gone.push((key.clone(), How::Reconcile));
                    }
                }
                self.known.retain(|_, children| !children.is_empty());
                gone
            }
        }
    }

    fn apply(&mut self, kind: Kind, metadata: &ObjectMeta) -> Option<(EnvironmentKey, How)> {
        let key = key_of_labels(metadata)?;
        if !is_made(metadata) {
            return None;
        }
        let name = metadata.name.clone()?;
        if let Some(listing) = self.listing.get_mut(&kind) {
            listing.insert((key.clone(), name.clone()));
        }
        let child =
            Child { uid: metadata.uid.clone().unwrap_or_default(), fingerprint: fingerprint(metadata) };
        let changed = child.fingerprint;
        let before = self.known.entry(key.clone()).or_default().insert((kind, name), child);
        if before.is_none_or(|before| before.fingerprint != changed) {
            return Some((key, How::Reconcile));
        }
        (kind == Kind::Deployment).then_some((key, How::Reconcile))
    }

    fn delete(&mut self, kind: Kind, metadata: &ObjectMeta) -> Option<(EnvironmentKey, How)> {
        let key = key_of_labels(metadata)?;
        let children = self.known.get_mut(&key)?;
        children.remove(&(kind, metadata.name.clone()?));
        if children.is_empty() {
            self.known.remove(&key);
        }
        Some((key, How::Reconcile))
    }

    /// Every kind has been listed once.
    pub(super) fn heard(&self) -> bool {
        self.heard.len() == Kind::ALL.len()
    }

    pub(super) fn has_heard(&self, kind: Kind) -> bool {
        self.heard.contains(&kind)
    }

    /// The environment's objects with their UIDs.
    pub(super) fn of(&self, key: &EnvironmentKey) -> BTreeMap<(Kind, String), String> {
        let children = self.known.get(key).into_iter().flatten();
        children.map(|(name, child)| (name.clone(), child.uid.clone())).collect()
    }
}

/// What changes when somebody writes anything but its status.
fn fingerprint(metadata: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&metadata.uid, &metadata.generation, &metadata.labels).hash(&mut hasher);
    metadata.deletion_timestamp.is_some().hash(&mut hasher);
    for entry in metadata.managed_fields.iter().flatten() {
        if entry.subresource.as_deref() != Some("status") {
            (&entry.manager, &entry.operation, &entry.subresource).hash(&mut hasher);
            entry.time.as_ref().map(|time| time.0).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use serde_json::json;

    fn object(name: &str, uid: &str, second: u32, subresource: &str) -> PartialObjectMeta<DynamicObject> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a", "uid": uid,
            "labels": {"skpr.io/project": "shop", "skpr.io/environment": "dev"},
            "managedFields": [{"manager": "skpr-controller", "operation": "Update", "subresource": subresource,
                "time": format!("2026-11-24T00:00:{second:02}Z")}]}}))
        .unwrap()
    }

    #[test]
    fn what_somebody_changes_or_deletes_is_put_right_and_a_status_is_not() {
        let (mut children, dev) = (Children::default(), key("a", "shop", "dev"));
        let reconcile = vec![(dev.clone(), How::Reconcile)];
        let apply = |object| Event::Apply(object);
        assert_eq!(children.take(Kind::Autoscaler, apply(object("x", "u1", 1, ""))), reconcile);
        assert_eq!(children.take(Kind::Autoscaler, apply(object("x", "u1", 2, ""))), reconcile);
        let status = object("x", "u1", 3, "status");
        assert_eq!(children.take(Kind::Autoscaler, apply(status.clone())), reconcile);
        let later = object("x", "u1", 9, "status");
        assert_eq!(children.take(Kind::Autoscaler, apply(later)), vec![]);
        assert_eq!(children.of(&dev).len(), 1);
        assert_eq!(children.take(Kind::Autoscaler, Event::Delete(status)), reconcile);
        assert!(children.of(&dev).is_empty());
    }

    #[test]
    fn what_somebody_else_made_with_our_labels_is_not_ours() {
        let (mut children, dev) = (Children::default(), key("a", "shop", "dev"));
        let mut exposed = object("front", "u1", 1, "");
        exposed.metadata.managed_fields.as_mut().unwrap()[0].manager = Some("kubectl-expose".into());
        assert_eq!(children.take(Kind::Service, Event::Apply(exposed)), vec![]);
        assert!(children.of(&dev).is_empty());
    }

    #[test]
    fn what_a_new_list_does_not_name_was_deleted() {
        let (mut children, dev) = (Children::default(), key("a", "shop", "dev"));
        for kind in Kind::ALL {
            children.take(kind, Event::Init);
            children.take(kind, Event::InitApply(object("x", "u1", 1, "")));
            assert!(!children.heard());
            children.take(kind, Event::InitDone);
        }
        assert!(children.heard());
        children.take(Kind::Service, Event::Init);
        let gone = children.take(Kind::Service, Event::InitDone);
        let left = Kind::ALL.len() - 1;
        assert_eq!((gone, children.of(&dev).len()), (vec![(dev, How::Reconcile)], left));
    }

    #[test]
    fn nothing_is_kept_of_an_environment_whose_last_object_a_new_list_does_not_name() {
        let mut children = Children::default();
        children.take(Kind::Service, Event::Apply(object("x", "u1", 1, "")));
        children.take(Kind::Service, Event::Init);
        children.take(Kind::Service, Event::InitDone);
        assert!(children.known.is_empty());
    }
}
