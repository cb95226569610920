//! Which environment a call is about: from its name and perhaps its namespace to those that may be meant.

use crate::aggregator::Shared;
use crate::auth::{Candidates, Standing};
use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Managed};
use crate::platform;
use skpr_proto::error::usage;
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, v1};
use std::sync::Arc;

/// An environment as its user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: EnvironmentName,
    pub(super) namespace: Option<Label>,
}

impl Target {
    pub(super) fn parse(environment: Option<&v1::Environment>) -> Result<Target, Failure> {
        let environment = environment.ok_or_else(|| usage("no environment is named"))?;
        let name = EnvironmentName::try_from(environment).map_err(|invalid| usage(invalid.to_string()))?;
        let namespace = match &environment.namespace {
            Some(named) => {
                Some(Label::parse("namespace", named).map_err(|invalid| usage(invalid.to_string()))?)
            }
            None => None,
        };
        Ok(Target { name, namespace })
    }

    /// Those in the inventory that may be meant.
    pub(super) fn listed(&self, inventory: &Inventory) -> Candidates {
        let keys = inventory.environments.keys().filter(|key| self.covers(key));
        keys.map(|key| (key.clone(), standing(inventory, key))).collect()
    }

    /// Those that skpr looks after and that may be meant.
    pub(super) fn managed(&self, inventory: &Inventory) -> Candidates {
        let mut candidates = self.listed(inventory);
        candidates.retain(|_, standing| *standing == Standing::Managed);
        candidates
    }

    /// Those that may be meant and run now or have records.
    pub(super) fn recorded(&self, shared: &Shared) -> Candidates {
        let inventory = Arc::clone(&shared.inventory.borrow());
        let recorded = shared.store.environments().into_iter().filter(|key| self.covers(key));
        let mut candidates: Candidates = recorded.map(|key| (key, Standing::History)).collect();
        candidates.extend(self.listed(&inventory));
        candidates
    }

    fn covers(&self, key: &EnvironmentKey) -> bool {
        key.name == self.name && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

fn standing(inventory: &Inventory, key: &EnvironmentKey) -> Standing {
    match inventory.environments.get(key) {
        Some(state) if state.managed.is_some() => Standing::Managed,
        Some(state) if !state.instances.is_empty() => Standing::Runs,
        Some(_) | None => Standing::History,
    }
}

/// What the platform says now, once it has said anything.
pub(super) fn heard(shared: &Shared) -> Result<Arc<Inventory>, Failure> {
    let inventory = Arc::clone(&shared.inventory.borrow());
    if inventory.heard {
        Ok(inventory)
    } else {
        Err(Failure::new(ErrorKind::Unavailable, "the aggregator does not know yet what runs"))
    }
}

/// What skpr looks after of an environment; a failure where it looks after nothing.
pub(super) fn managed(inventory: &Inventory, key: &EnvironmentKey) -> Result<Arc<Managed>, Failure> {
    let state = inventory.environments.get(key);
    state.and_then(|state| state.managed.clone()).ok_or_else(|| platform::unmanaged(&key.name))
}
