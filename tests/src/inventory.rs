//! A platform that is only a directory: each pod directory of a fake node is a pod of the environment its name begins
//! with.
//!
//! `fixture-aggregator` runs the real aggregator on it, so that what lies between a log file and `skpr logs` can be
//! tested, killed and measured without a cluster.

use skpr_aggregator::environment::EnvironmentKey;
use skpr_aggregator::inventory::{Inventory, Pod, Presence};
use skpr_proto::{EnvironmentName, Label, NodeName, Source};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The project of every fixture environment.
pub const PROJECT: &str = "site";
/// The namespace of every fixture pod.
pub const NAMESPACE: &str = "local";
/// The one container of every fixture pod.
pub const CONTAINER: &str = "app";

/// The pods whose directories are below `logs`: `local_prod-0_UID` is an instance of `site/prod`.
pub fn scan(logs: &Path, node: &str) -> anyhow::Result<Inventory> {
    let mut pods = HashMap::new();
    for entry in std::fs::read_dir(logs)? {
        let name = entry?.file_name();
        let Ok(source) = Source::from_directories(&name.to_string_lossy(), CONTAINER) else { continue };
        let environment = source.pod.split('-').next().unwrap_or_default();
        let pod = Pod {
            environment: EnvironmentKey {
                namespace: Label::parse("namespace", NAMESPACE)?,
                name: EnvironmentName::parse(PROJECT, environment)?,
            },
            node: Some(NodeName::parse(node)?),
            instance: source.pod.clone(),
            main_container: source.container.clone(),
            task: None,
            version: "1.0.0".into(),
            ready: true,
            production: environment == "prod",
            presence: Presence::Present,
            detail: Default::default(),
            labels: Default::default(),
            containers: Default::default(),
        };
        pods.insert(source.uid, pod);
    }
    Ok(Inventory::of(pods, &BTreeMap::new()))
}
