//! What the instances of each environment use together, put together in one pass over all of them.

use super::{Live, instance, is_stale};
use crate::environment::EnvironmentKey;
use crate::inventory::Inventory;
use crate::usage::sample;
use crate::usage::totals::Totals;
use skpr_proto::NodeName;
use skpr_proto::v1::Sample;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

/// What the instances of an environment use together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Of those with a fresh sample; none when there is no such.
    pub sample: Option<Sample>,
    pub fresh: usize,
    /// Since the aggregator began to look, of all that there have been.
    pub totals: Totals,
}

/// A container with a fresh sample, while it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerView<'a> {
    pub(crate) environment: &'a EnvironmentKey,
    pub(crate) instance: &'a str,
    pub(crate) container: &'a str,
    pub(crate) node: &'a NodeName,
    pub(crate) sample: Sample,
}

impl Live {
    /// Of each environment of the inventory that something was ever known of.
    pub(in crate::usage) fn sums<'a>(
        &self,
        inventory: &'a Inventory,
        now: Instant,
    ) -> HashMap<&'a EnvironmentKey, Sum> {
        let mut sums: HashMap<&EnvironmentKey, Sum> = HashMap::with_capacity(inventory.environments.len());
        {
            let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            for key in inventory.environments.keys() {
                let known = totals.get(key).map(|totals| (key, Sum { totals: *totals, ..Sum::default() }));
                sums.extend(known);
            }
        }
        for name in self.names() {
            let nodes = self.lock();
            let instances = nodes.get(&name).into_iter().flat_map(|node| node.instances.values());
            for held in instances.filter(|held| !is_stale(held.at, held.interval, now)) {
                let Some(pod) = instance(inventory, &held.uid, &name) else { continue };
                let sum = sums.entry(&pod.environment).or_default();
                sum.fresh += 1;
                match &mut sum.sample {
                    Some(sum) => sample::add(sum, &held.sample.whole()),
                    none => *none = Some(held.sample.whole()),
                }
            }
        }
        sums
    }

    pub(in crate::usage) fn look_at_containers(
        &self,
        inventory: &Inventory,
        now: Instant,
        mut look: impl FnMut(ContainerView<'_>),
    ) {
        for name in self.names() {
            let nodes = self.lock();
            let instances = nodes.get(&name).into_iter().flat_map(|node| &node.instances);
            for (place, held) in instances.filter(|(_, held)| !is_stale(held.at, held.interval, now)) {
                let Some(pod) = instance(inventory, &held.uid, &name) else { continue };
                let view = |container, sample| ContainerView {
                    environment: &place.environment,
                    instance: &place.instance,
                    container,
                    node: &name,
                    sample,
                };
                for container in &held.containers {
                    look(view(container.name.as_str(), container.sample.whole()));
                }
                if pod.containers.is_empty() {
                    look(view(pod.main_container.as_str(), held.sample.whole()));
                }
            }
        }
    }

    pub(super) fn add_totals(&self, added: Vec<(&EnvironmentKey, Totals)>) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        for (environment, more) in added {
            match totals.get_mut(environment) {
                Some(total) => total.add(&more),
                None => drop(totals.insert(environment.clone(), more)),
            }
        }
    }

    pub(super) fn forget_totals(&self, inventory: &Inventory) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.retain(|environment, _| inventory.environments.contains_key(environment));
    }
}
