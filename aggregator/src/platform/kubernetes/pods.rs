//! The pods known from the watch. Takes events and the time, gives an inventory; no IO.

use super::WatchedPod;
use super::facts::{Unusable, facts_of, uid_of};
use crate::inventory::{Inventory, Pod, Presence};
use kube::runtime::watcher::Event;
use skpr_proto::PodUid;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long a deleted pod's records are still asked for: what it wrote last is on its node's disk and being read.
pub(super) const GRACE: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Pods {
    known: HashMap<PodUid, Known>,
    /// Pods that were complained about. A pod leaves with its deletion.
    refused: HashSet<String>,
    /// While a list arrives: what it has named so far.
    listing: Option<HashSet<PodUid>>,
    heard: bool,
}

struct Known {
    pod: Pod,
    gone_since: Option<Instant>,
}

impl Pods {
    /// Whether the inventory changed.
    pub(super) fn take(&mut self, event: Event<WatchedPod>, now: Instant) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                self.refused.clear();
                false
            }
            Event::InitApply(pod) | Event::Apply(pod) => self.apply(&pod),
            Event::Delete(pod) => {
                let metadata = metadata_of(&pod);
                self.refused.remove(metadata.uid.as_deref().unwrap_or_default());
                let known = uid_of(metadata, node_of(&pod)).ok().and_then(|uid| self.known.get_mut(&uid));
                let known = known.filter(|known| known.is_of(metadata));
                known.is_some_and(|known| known.leave(now))
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                for (uid, known) in &mut self.known {
                    if !listed.contains(uid) {
                        known.leave(now);
                    }
                }
                self.heard = true;
                true
            }
        }
    }

    fn apply(&mut self, watched: &WatchedPod) -> bool {
        let metadata = metadata_of(watched);
        let facts = match &watched.0 {
            Ok(pod) => uid_of(metadata, node_of(watched))
                .map_err(Unusable::from)
                .and_then(|uid| Ok((uid, facts_of(pod)?))),
            Err(undecodable) => return self.refuse(watched, &undecodable.error),
        };
        match facts {
            Ok((uid, pod)) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(uid.clone());
                }
                let known = Known { pod, gone_since: None };
                let before = self.known.get(&uid);
                // Only a static pod's hash can be written by hand; whoever does comes too late.
                if before.is_some_and(|before| before.gone_since.is_none() && !before.is_of(metadata)) {
                    return self.refuse(watched, "another pod has its UID");
                }
                let changed = before.is_none_or(|before| before.pod != known.pod);
                self.known.insert(uid, known);
                changed
            }
            Err(unusable) => self.refuse(watched, &unusable.to_string()),
        }
    }

    fn refuse(&mut self, watched: &WatchedPod, reason: &str) -> bool {
        let metadata = metadata_of(watched);
        let uid = metadata.uid.clone().unwrap_or_default();
        if let (Some(listing), Ok(uid)) = (&mut self.listing, uid_of(metadata, node_of(watched))) {
            listing.insert(uid); // it exists: what was known of it before stays
        }
        if self.refused.insert(uid) {
            tracing::warn!(
                namespace = metadata.namespace.as_deref().unwrap_or_default(),
                pod = metadata.name.as_deref().unwrap_or_default(),
                reason,
                "pod left out"
            );
        }
        false
    }

    /// Forgets the pods that have been gone for long. Whether any was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.known.len();
        self.known.retain(|_, known| known.gone_since.is_none_or(|since| now - since < GRACE));
        self.known.len() != before
    }

    pub(super) fn inventory(&self) -> Inventory {
        let pods = self.known.iter().map(|(uid, known)| (uid.clone(), known.pod.clone())).collect();
        Inventory { heard: self.heard, ..Inventory::of(pods, &BTreeMap::new()) }
    }
}

impl Known {
    fn is_of(&self, metadata: &kube::core::ObjectMeta) -> bool {
        metadata.namespace.as_deref() == Some(self.pod.environment.namespace.as_str())
            && metadata.name.as_deref() == Some(&*self.pod.instance)
    }

    fn leave(&mut self, now: Instant) -> bool {
        let leaves = self.gone_since.is_none();
        if leaves {
            self.gone_since = Some(now);
            self.pod.presence = Presence::Gone;
            self.pod.ready = false;
        }
        leaves
    }
}

fn metadata_of(pod: &WatchedPod) -> &kube::core::ObjectMeta {
    match &pod.0 {
        Ok(pod) => &pod.metadata,
        Err(undecodable) => &undecodable.metadata,
    }
}

fn node_of(pod: &WatchedPod) -> Option<&str> {
    pod.0.as_ref().ok()?.spec.as_ref()?.node_name.as_deref()
}
