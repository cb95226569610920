//! Which environment a record belongs to, and how a source's records are named in it.

use serde::{Deserialize, Serialize};
use skpr_proto::{EnvironmentName, Label, NodeName};
use std::fmt;
use std::sync::Arc;

/// An environment, told apart from one of the same name in another namespace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnvironmentKey {
    pub namespace: Label,
    pub name: EnvironmentName,
}

impl fmt::Display for EnvironmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

impl fmt::Debug for EnvironmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the platform says about a source: whose records they are, and what they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub environment: EnvironmentKey,
    pub node: NodeName,
    pub instance: Arc<str>,
    /// Before `stdout` and `stderr`: empty for the main container, else `CONTAINER.`.
    pub stream_prefix: Arc<str>,
}
