//! The pods known from the watch. Takes events and the time, gives an inventory, and tells what has happened to them;
//! no IO.

use super::WatchedPod;
use super::facts::{Unusable, ends_of, facts_of, health_path, uid_of};
use super::probes::{Failed, wording};
use crate::environment::EnvironmentKey;
use crate::event::{self, Body, Kind};
use crate::inventory::{EnvironmentState, Inventory, Labels, Pod, Presence};
use jiff::Timestamp;
use kube::runtime::watcher::Event;
use skpr_proto::PodUid;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
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
    /// Of those that are gone, when the first went; or earlier, when that one is back.
    first_gone: Option<Instant>,
    /// The labels of all, each map once: the pods of a deployment have the same.
    labels: HashSet<Arc<Labels>>,
    /// What has happened and was not yet told of.
    told: Vec<event::Event>,
}

struct Known {
    pod: Arc<Pod>,
    gone_since: Option<Instant>,
    /// How often its main container has ended.
    ends: u32,
    /// The path that its health is asked at.
    health: Option<Arc<str>>,
    /// The minute in which a failed health check was told of last.
    failed_in: Option<i64>,
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
                let leaves = known.is_some_and(|known| known.leave(now));
                self.first_gone = self.first_gone.or(leaves.then_some(now));
                leaves
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                for (uid, known) in &mut self.known {
                    if !listed.contains(uid) && known.leave(now) {
                        self.first_gone.get_or_insert(now);
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
            Ok(pod) => uid_of(metadata, node_of(watched)).map_err(Unusable::from).and_then(|uid| {
                let facts = facts_of(pod)?;
                let main = facts.main_container.as_str();
                let (ends, health) = (ends_of(pod, main), health_path(pod, main));
                Ok((uid, Known { pod: Arc::new(facts), gone_since: None, ends, health, failed_in: None }))
            }),
            Err(undecodable) => return self.refuse(watched, &undecodable.error),
        };
        match facts {
            Ok((uid, mut known)) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(uid.clone());
                }
                self.share_labels(Arc::make_mut(&mut known.pod));
                let before = self.known.get(&uid);
                // Only a static pod's hash can be written by hand; whoever does comes too late.
                if before.is_some_and(|before| before.gone_since.is_none() && !before.is_of(metadata)) {
                    return self.refuse(watched, "another pod has its UID");
                }
                if let Some(before) = before {
                    known.remember(before);
                }
                let changed = before.is_none_or(|before| before.pod != known.pod);
                let ends = before.map_or(0, |before| before.ends);
                let restarts = before.map_or(0, |before| before.pod.detail.restarts);
                self.told.extend(known.endings(&uid, ends, restarts));
                self.known.insert(uid, known);
                changed
            }
            Err(unusable) => self.refuse(watched, &unusable.to_string()),
        }
    }

    fn share_labels(&mut self, pod: &mut Pod) {
        match self.labels.get(&pod.labels) {
            Some(same) => pod.labels = Arc::clone(same),
            None => {
                if self.labels.len() > 2 * self.known.len() {
                    self.labels.retain(|labels| Arc::strong_count(labels) > 1);
                }
                self.labels.insert(Arc::clone(&pod.labels));
            }
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
        // This is asked each second, and there may be tens of thousands.
        if self.first_gone.is_none_or(|first| now - first < GRACE) {
            return false;
        }
        let before = self.known.len();
        self.known.retain(|_, known| known.gone_since.is_none_or(|since| now - since < GRACE));
        self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        self.first_gone = self.known.values().filter_map(|known| known.gone_since).min();
        self.known.len() != before
    }

    /// Everything known, with the environments that skpr looks after.
    pub(super) fn inventory(&self, managed: BTreeMap<EnvironmentKey, EnvironmentState>) -> Inventory {
        let pods = self.known.iter().map(|(uid, known)| (uid.clone(), Arc::clone(&known.pod))).collect();
        Inventory { heard: self.heard, ..Inventory::with(pods, managed) }
    }

    /// Takes a failed health check of a pod that is known. Whether the inventory changed.
    pub(super) fn take_failed(&mut self, failed: &Failed) -> bool {
        let Some((uid, known)) = PodUid::parse(&failed.uid)
            .ok()
            .and_then(|uid| Some((uid.clone(), self.known.get_mut(&uid)?)))
            .filter(|(_, known)| known.gone_since.is_none() && !known.pod.detail.leaving)
        else {
            return false;
        };
        let minute = failed.at.as_second().div_euclid(60);
        // Events come late and again: only a newer minute is news.
        if known.failed_in.is_some_and(|told| told >= minute) {
            return false;
        }
        known.failed_in = Some(minute);
        let why = wording(&failed.message, known.health.as_deref());
        let instance = &known.pod.instance;
        let text = format!("instance `{instance}` failed its health check: {why}");
        let body = Body {
            instance: Some(instance.to_string()),
            release: known.pod.detail.release,
            warning: true,
            ..Body::new(format!("probe/{uid}/{minute}"), Kind::Probe, text)
        };
        self.told.push(event(&known.pod.environment, failed.at, body));
        let ready = known.pod.ready;
        let detail = &mut Arc::make_mut(&mut known.pod).detail;
        let shows = !ready && detail.waiting.is_none() && detail.message.as_deref() != Some(&*why);
        if shows {
            detail.message = Some(why);
        }
        shows
    }

    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.known.values().map(|known| &known.pod)
    }

    /// What has happened since this was asked last.
    pub(super) fn told(&mut self) -> Vec<event::Event> {
        std::mem::take(&mut self.told)
    }
}

pub(super) fn event(environment: &EnvironmentKey, at: Timestamp, body: Body) -> event::Event {
    event::Event { environment: environment.clone(), time: at.into(), body }
}

impl Known {
    fn is_of(&self, metadata: &kube::core::ObjectMeta) -> bool {
        metadata.namespace.as_deref() == Some(self.pod.environment.namespace.as_str())
            && metadata.name.as_deref() == Some(&*self.pod.instance)
    }

    /// Keeps what the pod itself does not say.
    fn remember(&mut self, before: &Known) {
        let (ready, is_run) = (self.pod.ready, self.pod.task.is_some());
        let detail = &mut Arc::make_mut(&mut self.pod).detail;
        let earlier = &before.pod.detail;
        self.failed_in = before.failed_in;
        if is_run && detail.started.is_none() && detail.waiting.is_none() {
            // What keeps a run from beginning is the reason of its end, when nothing else is said any more.
            detail.waiting.clone_from(&earlier.waiting);
            detail.message.clone_from(&earlier.message);
        }
        let new = if self.ends > before.ends { detail.out_of_memory_kills } else { 0 };
        detail.out_of_memory_kills = (earlier.out_of_memory_kills + new).max(detail.out_of_memory_kills);
        if !ready && detail.waiting.is_none() && earlier.waiting.is_none() {
            detail.message = detail.message.take().or_else(|| earlier.message.clone());
        }
    }

    /// What has happened to the main container since it had ended and been started again so often.
    fn endings(&self, uid: &PodUid, ends: u32, restarts: u32) -> Vec<event::Event> {
        let (pod, detail) = (&self.pod, &self.pod.detail);
        // How a run ends is told as that.
        let Some(end) = detail.end.as_ref().filter(|_| pod.task.is_none()) else { return vec![] };
        let at = end.at.unwrap_or_else(Timestamp::now);
        let why = end.reason.as_deref().unwrap_or("Error");
        let body = |id, kind, text| Body {
            instance: Some(pod.instance.to_string()),
            release: detail.release,
            warning: true,
            ..Body::new(id, kind, text)
        };
        let (name, code) = (&pod.instance, end.exit_code);
        let mut told = vec![];
        if self.ends > ends && why == "OOMKilled" {
            let text = format!("instance `{name}` was killed because it used more memory than it may");
            let id = format!("out-of-memory/{uid}/{}", self.ends);
            told.push(event(&pod.environment, at, body(id, Kind::OutOfMemory, text)));
        }
        if detail.restarts > restarts {
            let count = detail.restarts;
            let text = format!(
                "instance `{name}` ended with exit code {code} ({why}) and was started again, restart {count}"
            );
            let id = format!("restart/{uid}/{count}");
            told.push(event(&pod.environment, at, body(id, Kind::Restart, text)));
        }
        told
    }

    fn leave(&mut self, now: Instant) -> bool {
        let leaves = self.gone_since.is_none();
        if leaves {
            self.gone_since = Some(now);
            let pod = Arc::make_mut(&mut self.pod);
            pod.presence = Presence::Gone;
            pod.ready = false;
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
