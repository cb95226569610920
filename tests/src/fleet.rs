//! A platform that is only a formula: many nodes, each with as many pods, dealt out to environments.
//!
//! Everything follows from numbers, so that the program that pretends to be the platform and the one that pretends to be
//! the agents agree without a word.

use anyhow::{Context as _, Result};
use skpr_aggregator::environment::EnvironmentKey;
use skpr_aggregator::inventory::{Container, Inventory, Pod, Presence};
use skpr_proto::{EnvironmentName, Label, NodeName, PodUid};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Environments of one project.
pub const ENVIRONMENTS_PER_PROJECT: usize = 30;

/// Written `NODESxPODS/INSTANCES`, as `1000x30/10`: pods of each node, instances of each environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub nodes: usize,
    pub pods_per_node: usize,
    pub instances: usize,
}

impl FromStr for Fleet {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Fleet> {
        let wrong = || format!("`{text}` is not NODESxPODS/INSTANCES");
        let (nodes, rest) = text.split_once('x').with_context(wrong)?;
        let (pods, instances) = rest.split_once('/').with_context(wrong)?;
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0).with_context(wrong);
        Ok(Fleet { nodes: number(nodes)?, pods_per_node: number(pods)?, instances: number(instances)? })
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}/{}", self.nodes, self.pods_per_node, self.instances)
    }
}

impl Fleet {
    pub fn pods(&self) -> usize {
        self.nodes * self.pods_per_node
    }

    pub fn environments(&self) -> usize {
        self.pods().div_ceil(self.instances)
    }

    /// The pods of a node. Those of one environment are on different nodes, as a scheduler would have them.
    pub fn pods_of(&self, node: usize) -> impl Iterator<Item = usize> {
        (node..self.pods()).step_by(self.nodes)
    }

    /// The environment of a pod.
    pub fn environment(&self, pod: usize) -> Result<EnvironmentKey> {
        environment(pod / self.instances)
    }

    /// What the platform says of all this.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut pods = Vec::with_capacity(self.pods());
        for number in 0..self.pods() {
            let environment = self.environment(number)?;
            let container = Label::parse("container", "app")?;
            let name = format!(
                "{}-{}-7d4b9c6f5-{number:05}",
                environment.name.project, environment.name.environment
            );
            let pod = Pod {
                environment,
                node: Some(node(number % self.nodes)?),
                instance: name.into(),
                main_container: container.clone(),
                task: None,
                labels: Default::default(),
                containers: [(container_id(number).into(), Container { name: container, running: true })]
                    .into_iter()
                    .collect(),
                version: "1.42.0".into(),
                ready: true,
                production: false,
                presence: Presence::Present,
                detail: Default::default(),
            };
            pods.push((uid(number)?, pod));
        }
        Ok(Inventory::of(pods.into_iter().collect(), &BTreeMap::new()))
    }
}

/// An environment by its number.
pub fn environment(number: usize) -> Result<EnvironmentKey> {
    let project = format!("p{}", number / ENVIRONMENTS_PER_PROJECT);
    let name = format!("e{}", number % ENVIRONMENTS_PER_PROJECT);
    Ok(EnvironmentKey {
        namespace: Label::parse("namespace", &format!("{project}-{name}"))?,
        name: EnvironmentName::parse(&project, &name)?,
    })
}

pub fn node(number: usize) -> Result<NodeName> {
    Ok(NodeName::parse(&format!("node{number}"))?)
}

pub fn uid(pod: usize) -> Result<PodUid> {
    Ok(PodUid::parse(&format!("0f2a7f34-5c1d-4f4e-9d55-{pod:012x}"))?)
}

/// The id of a pod's one container, as its runtime calls it.
pub fn container_id(pod: usize) -> String {
    format!("{pod:064x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_environments_share_out_all_pods() {
        let fleet: Fleet = "4x3/5".parse().unwrap();
        assert_eq!((fleet.pods(), fleet.environments(), fleet.to_string().as_str()), (12, 3, "4x3/5"));
        let inventory = fleet.inventory().unwrap();
        assert_eq!(inventory.environments.len(), 3);
        for number in 0..4 {
            let of_node = fleet.pods_of(number).map(|pod| uid(pod).unwrap()).collect();
            assert_eq!(inventory.claims_of(&node(number).unwrap()), of_node);
        }
        assert!("4x3".parse::<Fleet>().is_err() && "0x1/1".parse::<Fleet>().is_err());
    }
}
