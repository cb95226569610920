//! What instances and nodes use now: the latest sample of each, and what it says together with the one before.
//!
//! - An agent speaks only for the pods that the inventory places on its node, and only for containers that these have.
//! - Time comes from outside: nothing here reads a clock.
//! - Memory: 0.5 KiB an instance and 0.3 KiB a named container, for no more of either than the inventory has; what has
//!   left the inventory is not shown from that moment on, and forgotten with the next round or [`Live::prune`].
//! - Held locked for the time of one node at most.

mod resource;
mod sums;
mod take;

pub use resource::{ContainerResources, PodResources};
pub(crate) use sums::ContainerView;
pub use sums::Sum;

use super::counts::Counts;
use super::sample::{self, Rates, Small};
use super::totals::{Counters, Kept, Totals};
use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Pod, Presence};
use skpr_proto::v1::{NodeSample, Sample};
use skpr_proto::{Label, NodeName, PodUid};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so many intervals without a sample the latest is stale.
const STALE_INTERVALS: u32 = 2;
/// How long the latest sample is shown at all; longer where rounds are rare.
const KEEP: Duration = Duration::from_secs(5 * 60);
/// As many as Kubernetes supports.
const NODES: usize = 5_000;

/// A moment by both clocks: one that is never set, and milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub instant: Instant,
    pub wall: i64,
}

/// What an instance uses.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceUsage {
    pub environment: EnvironmentKey,
    pub instance: Arc<str>,
    pub node: NodeName,
    pub sample: Sample,
    /// None until there are two samples that can be compared.
    pub rates: Option<Rates>,
    /// When the sample arrived, in milliseconds since the Unix epoch.
    pub time: i64,
    pub age: Duration,
    /// How often there is one.
    pub interval: Duration,
    pub stale: bool,
}

/// What the instances of an environment use together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvironmentUsage {
    /// Of those with a fresh sample, or where none has one, of those with a stale one. What is a limit is known when all
    /// of them have one; the CPU's share and limit are of those that `cpu_nanocores` is of.
    pub sample: Sample,
    /// Of those with two samples.
    pub cpu_nanocores: Option<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    /// The most of one, as in [`Rates`].
    pub pressures: [Option<u16>; 3],
    /// How many have a fresh sample.
    pub fresh: usize,
    /// By name, those whose sample is stale, and the ready ones that have none. One that is not ready may have nothing yet
    /// that could be sampled.
    pub stale: Vec<Arc<str>>,
    pub unknown: Vec<Arc<str>>,
    /// Of the oldest sample that is in `sample`.
    pub age: Duration,
    /// How often there is a sample of each; 0 when nothing is known.
    pub interval: Duration,
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeUsage {
    pub node: NodeName,
    pub sample: NodeSample,
    pub cpu_nanocores: Option<u64>,
    pub window: Option<Duration>,
    pub time: i64,
    pub age: Duration,
    pub stale: bool,
}

/// The latest of everything.
pub struct Live {
    nodes: Mutex<HashMap<NodeName, Node>>,
    /// Since the start, for no more environments than the inventory has.
    totals: Mutex<HashMap<EnvironmentKey, Totals>>,
    counts: Arc<Counts>,
}

struct Node {
    at: Moment,
    /// The round before the latest.
    earlier: Option<Moment>,
    interval: Duration,
    monotonic: u64,
    sample: NodeSample,
    cpu_nanocores: Option<u64>,
    window: Option<Duration>,
    /// Boxed, since half of a map's places are empty.
    instances: HashMap<Place, Box<Held>>,
    /// Until when its rounds so far would have lasted, had they come no more often than they may.
    paid_until: Instant,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    environment: EnvironmentKey,
    instance: Arc<str>,
}

struct Held {
    uid: PodUid,
    at: Moment,
    interval: Duration,
    monotonic: u64,
    sample: Small,
    counters: Counters,
    rates: Option<Rates>,
    /// No more room than they take.
    containers: Box<[HeldContainer]>,
    kept: Kept,
}

struct HeldContainer {
    id: Arc<str>,
    name: Label,
    sample: Small,
    rates: Option<Rates>,
}

fn is_stale(at: Moment, interval: Duration, now: Instant) -> bool {
    now.saturating_duration_since(at.instant) >= interval * STALE_INTERVALS
}

fn is_kept(at: Moment, interval: Duration, now: Instant) -> bool {
    now.saturating_duration_since(at.instant) < KEEP.max(interval * (STALE_INTERVALS + 1))
}

/// The pod of this UID, where it is present on this node: an instance or a run.
fn present<'a>(inventory: &'a Inventory, uid: &PodUid, node: &NodeName) -> Option<&'a Pod> {
    let pod = inventory.pods.get(uid)?;
    (pod.presence == Presence::Present && pod.node.as_ref() == Some(node)).then_some(pod)
}

/// The same, where it is an instance.
fn instance<'a>(inventory: &'a Inventory, uid: &PodUid, node: &NodeName) -> Option<&'a Pod> {
    present(inventory, uid, node).filter(|pod| pod.task.is_none())
}

impl Live {
    pub(super) fn new(counts: Arc<Counts>) -> Live {
        Live { nodes: Mutex::default(), totals: Mutex::default(), counts }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is too old, and what the inventory does not have.
    pub(super) fn prune(&self, inventory: &Inventory, now: Instant) {
        self.forget_totals(inventory);
        for name in self.names() {
            let mut nodes = self.lock();
            let Some(node) = nodes.get_mut(&name) else { continue };
            let kept = |held: &Held| {
                is_kept(held.at, held.interval, now) && present(inventory, &held.uid, &name).is_some()
            };
            node.instances.retain(|_, held| kept(held));
            node.instances.shrink_to(2 * node.instances.len());
            if !is_kept(node.at, node.interval, now) {
                nodes.remove(&name);
            }
        }
    }

    /// The nodes, so that each can be looked at by itself.
    fn names(&self) -> Vec<NodeName> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn instance(
        &self,
        inventory: &Inventory,
        environment: &EnvironmentKey,
        instance: &str,
        now: Instant,
    ) -> Option<InstanceUsage> {
        let (instance, state) = inventory.environments.get(environment)?.instances.get_key_value(instance)?;
        let place = Place { environment: environment.clone(), instance: Arc::clone(instance) };
        self.at(inventory, state.node.as_ref()?, &place, now)
    }

    /// What is held for an instance on this node.
    fn at(
        &self,
        inventory: &Inventory,
        node: &NodeName,
        place: &Place,
        now: Instant,
    ) -> Option<InstanceUsage> {
        let nodes = self.lock();
        shown(inventory, node, place, nodes.get(node)?.instances.get(place)?, now)
    }

    pub(super) fn environment(
        &self,
        inventory: &Inventory,
        environment: &EnvironmentKey,
        wanted: impl Fn(&str) -> bool,
        now: Instant,
    ) -> EnvironmentUsage {
        let mut usage = EnvironmentUsage::default();
        let state = inventory.environments.get(environment);
        let (mut fresh, mut stale) = (Vec::new(), Vec::new());
        let instances = state.iter().flat_map(|state| &state.instances);
        for (name, state) in instances.filter(|(name, _)| wanted(name)) {
            let place = Place { environment: environment.clone(), instance: Arc::clone(name) };
            let found = state.node.as_ref().and_then(|node| self.at(inventory, node, &place, now));
            match found {
                Some(found) if found.stale => {
                    usage.stale.push(Arc::clone(name));
                    stale.push(found);
                }
                Some(found) => fresh.push(found),
                None if state.ready => usage.unknown.push(Arc::clone(name)),
                None => {}
            }
        }
        usage.fresh = fresh.len();
        let counted = if fresh.is_empty() { stale } else { fresh };
        usage.age = counted.iter().map(|found| found.age).max().unwrap_or_default();
        usage.sample = sample::sum(counted.iter().map(|found| &found.sample)).unwrap_or_default();
        usage.interval = counted.iter().map(|found| found.interval).min().unwrap_or_default();
        let rates = || counted.iter().filter_map(|found| found.rates);
        let all = |of: fn(&Rates) -> u64| rates().map(|rates| of(&rates)).fold(0, u64::saturating_add);
        usage.periods = all(|rates| rates.periods);
        usage.throttled_periods = all(|rates| rates.throttled_periods);
        usage.pressures = sample::most_pressures(rates());
        let cpu = |found: &InstanceUsage| found.rates.and_then(|rates| rates.cpu_nanocores);
        let rated = || counted.iter().filter(|found| cpu(found).is_some());
        usage.cpu_nanocores = rated().filter_map(cpu).reduce(u64::saturating_add);
        // What is used stands beside the share of those that use it: an instance has no rate before its second sample.
        if let Some(rated) = sample::sum(rated().map(|found| &found.sample)) {
            usage.sample.cpu_share_millicores = rated.cpu_share_millicores;
            usage.sample.cpu_limit_millicores = rated.cpu_limit_millicores;
        }
        usage
    }

    /// Every instance that has a sample, in no order.
    #[cfg(test)]
    fn instances(&self, inventory: &Inventory, now: Instant) -> Vec<InstanceUsage> {
        self.each(|name, node, found| {
            let instances = node.instances.iter();
            found.extend(instances.filter_map(|(place, held)| shown(inventory, name, place, held, now)));
        })
    }

    /// Every node that has a sample, in no order.
    pub(super) fn nodes(&self, now: Instant) -> Vec<NodeUsage> {
        self.each(|name, node, found| {
            if is_kept(node.at, node.interval, now) {
                found.push(NodeUsage {
                    node: name.clone(),
                    sample: node.sample,
                    cpu_nanocores: node.cpu_nanocores,
                    window: node.window,
                    time: node.at.wall,
                    age: now.saturating_duration_since(node.at.instant),
                    stale: is_stale(node.at, node.interval, now),
                });
            }
        })
    }

    fn each<T>(&self, look: impl Fn(&NodeName, &Node, &mut Vec<T>)) -> Vec<T> {
        let mut found = Vec::new();
        for name in self.names() {
            if let Some(node) = self.lock().get(&name) {
                look(&name, node, &mut found);
            }
        }
        found
    }
}

fn shown(
    inventory: &Inventory,
    node: &NodeName,
    place: &Place,
    held: &Held,
    now: Instant,
) -> Option<InstanceUsage> {
    if !is_kept(held.at, held.interval, now) {
        return None;
    }
    instance(inventory, &held.uid, node)?;
    Some(InstanceUsage {
        environment: place.environment.clone(),
        instance: Arc::clone(&place.instance),
        node: node.clone(),
        sample: held.sample.whole(),
        rates: held.rates,
        time: held.at.wall,
        age: now.saturating_duration_since(held.at.instant),
        interval: held.interval,
        stale: is_stale(held.at, held.interval, now),
    })
}

#[cfg(test)]
mod tests;
