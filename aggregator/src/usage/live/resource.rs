//! What Kubernetes is told that pods use: of each only what is fresh and whole.
//!
//! - A pod is left out while one of the containers that run in it has no rate: the sum of the others would be taken for
//!   the pod's own, and an autoscaler would end instances.
//! - A platform that does not tell containers apart has no pods here.

use super::{Live, Place, is_stale, present};
use crate::environment::EnvironmentKey;
use crate::inventory::{Container, Inventory, Labels, Pod};
use skpr_proto::{Label, NodeName};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodResources {
    pub environment: EnvironmentKey,
    pub instance: Arc<str>,
    pub labels: Arc<Labels>,
    /// When the sample arrived, in milliseconds since the Unix epoch.
    pub time: i64,
    /// The time that rates are about.
    pub window: Duration,
    /// By name.
    pub containers: Vec<ContainerResources>,
}

/// What a container of a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerResources {
    pub container: Label,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

impl Live {
    /// Those pods of a namespace, or of all, that are `wanted`, in order.
    pub(in crate::usage) fn pods(
        &self,
        inventory: &Inventory,
        namespace: Option<&Label>,
        wanted: impl Fn(&Pod) -> bool,
        now: Instant,
    ) -> Vec<PodResources> {
        let mut pods = Vec::new();
        for (node, key, name) in
            listed(inventory).filter(|(_, key, _)| namespace.is_none_or(|one| *one == key.namespace))
        {
            let place = Place { environment: key.clone(), instance: Arc::clone(name) };
            let nodes = self.lock();
            let held = nodes.get(node).and_then(|node| node.instances.get(&place));
            let Some(held) = held.filter(|held| !is_stale(held.at, held.interval, now)) else { continue };
            let Some(pod) = present(inventory, &held.uid, node).filter(|pod| wanted(pod)) else { continue };
            let (Some(containers), Some(rates)) = (held.whole(pod), held.rates) else { continue };
            let Place { environment, instance } = place;
            let labels = Arc::clone(&pod.labels);
            let (time, window) = (held.at.wall, rates.window);
            pods.push(PodResources { environment, instance, labels, time, window, containers });
        }
        pods.sort_unstable_by(|a, b| (&a.environment, &a.instance).cmp(&(&b.environment, &b.instance)));
        pods
    }
}

/// Where each instance is, and each run of a task.
fn listed(inventory: &Inventory) -> impl Iterator<Item = (&NodeName, &EnvironmentKey, &Arc<str>)> {
    let instances = inventory.environments.iter().flat_map(|(key, state)| {
        state.instances.iter().filter_map(move |(name, instance)| Some((instance.node.as_ref()?, key, name)))
    });
    let runs = inventory.runs.iter().filter_map(|uid| inventory.pods.get(uid));
    instances.chain(runs.filter_map(|pod| Some((pod.node.as_ref()?, &pod.environment, &pod.instance))))
}

impl super::Held {
    /// What each of the pod's containers uses, if that is known of every one that runs.
    fn whole(&self, pod: &Pod) -> Option<Vec<ContainerResources>> {
        let of = |(id, known): &(Arc<str>, Container)| {
            let held = self.containers.iter().find(|held| held.id == *id)?;
            Some(ContainerResources {
                container: known.name.clone(),
                cpu_nanocores: held.rates?.cpu_nanocores?,
                memory_bytes: held.sample.whole().memory_working_set_bytes?,
            })
        };
        let mut containers =
            pod.containers.iter().filter(|(_, known)| known.running).map(of).collect::<Option<Vec<_>>>()?;
        containers.sort_unstable_by(|one, other| one.container.cmp(&other.container));
        (!containers.is_empty()).then_some(containers)
    }
}
