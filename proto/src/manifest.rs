//! `.skpr.yml`: what a developer writes about a project's environments. One type for every program that reads it.
//!
//! Unknown keys are errors. What a key means for a platform is the platform's business; here it is only read.

use crate::ids::Label;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The file's name; it is found walking up from the working directory.
pub const FILE_NAME: &str = ".skpr.yml";
/// The most bytes read of a manifest.
pub const MAX_BYTES: usize = 1 << 20;

/// A project and its environments.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    pub project: Label,
    pub image: Option<String>,
    /// `host:port` of the aggregator.
    pub cluster: Option<String>,
    #[serde(default)]
    pub defaults: Environment,
    pub environments: BTreeMap<Label, Environment>,
}

/// One environment's settings; what is absent comes from `defaults`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Environment {
    pub production: Option<bool>,
    pub instances: Option<Instances>,
    pub env: Option<BTreeMap<String, String>>,
    pub port: Option<u16>,
    pub health: Option<String>,
    pub domains: Option<Vec<String>>,
    /// The program and its arguments; needed standalone, where there is no image to name one.
    pub command: Option<Vec<String>>,
}

/// How many instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instances {
    pub min: u32,
    pub max: u32,
}
