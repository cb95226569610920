//! Who is still in: calls under way, by name, so that a stop can wait for them and name those that are late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Counts calls in and out. Clones are handles to the same gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    holders: Mutex<Holders>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    names: BTreeMap<u64, String>,
}

/// One call that is under way.
#[derive(Debug)]
pub(crate) struct Held {
    gate: Gate,
    id: u64,
}

impl Gate {
    pub(crate) fn enter(&self, name: String) -> Held {
        let mut holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let id = holders.next;
        holders.next += 1;
        holders.names.insert(id, name);
        Held { gate: self.clone(), id }
    }

    /// The calls under way, oldest first.
    pub(crate) fn holders(&self) -> Vec<String> {
        let holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.names.values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner).names.len()
    }

    /// Returns when no call is under way.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Held {
    /// Gives the holder a name that says more, once it is known.
    pub(crate) fn rename(&self, name: String) {
        let mut holders = self.gate.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.names.insert(self.id, name);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.gate.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.names.remove(&self.id);
        if holders.names.is_empty() {
            self.gate.0.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_gate_waits_for_the_last_and_names_who_is_late() {
        let gate = Gate::default();
        gate.emptied().await;
        let (a, b) = (gate.enter("a".into()), gate.enter("b".into()));
        b.rename("b of node".into());
        assert_eq!(gate.holders(), ["a", "b of node"]);
        drop(a);
        let (gate, ()) = tokio::join!(
            async {
                gate.emptied().await;
                gate.clone()
            },
            async { drop(b) }
        );
        assert_eq!(gate.len(), 0);
    }
}
