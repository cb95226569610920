//! What instances and nodes use: now, and over time.
//!
//! Runs of tasks are no instances: what they use is in no sum, no series and no history, which would show the task's schedule
//! instead of the site. Kubernetes is told of their pods as of any other.
//!
//! Agents report rounds of samples. [`Live`] keeps the latest of each and the rates that they make with the ones before;
//! [`History`] keeps a row of each on disk, with counters that only grow, of which the averages of an answer are made.

mod at_once;
mod cell;
mod counts;
mod files;
mod history;
mod keeper;
mod live;
mod pending;
mod points;
mod read;
mod row;
mod sample;
mod seal;
mod spool;
mod spread;
mod table;
mod totals;

#[cfg(test)]
mod tests;

use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Pod};
use crate::store::OpenError;
use skpr_proto::{Label, NodeName, v1};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use counts::{Counts, Numbers, Outcome};
pub use history::{History, Options};
pub(crate) use live::ContainerView;
pub use live::{
    ContainerResources, EnvironmentUsage, InstanceUsage, Live, Moment, NodeUsage, PodResources, Sum,
};
pub use points::{MOST_BUCKETS, Point, Points, Query, ReadError, Series};
pub use row::{Amount, Row};
pub use sample::Rates;
pub use totals::Totals;

/// How often what has left the inventory is forgotten, where no agent reports any more.
const PRUNE_EVERY: Duration = Duration::from_secs(30);

/// Usage, now and over time. Clones are handles to the same one.
#[derive(Clone)]
pub struct Usage(Arc<Inner>);

struct Inner {
    live: Live,
    history: History,
    counts: Arc<Counts>,
    inventory: watch::Receiver<Arc<Inventory>>,
}

impl Usage {
    /// Opens history, and takes samples of what `inventory` has. Blocks.
    pub fn open(options: Options, inventory: watch::Receiver<Arc<Inventory>>) -> Result<Usage, OpenError> {
        let counts = Arc::new(Counts::default());
        let history = History::open(options, Arc::clone(&counts))?;
        let live = Live::new(Arc::clone(&counts));
        Ok(Usage(Arc::new(Inner { live, history, counts, inventory })))
    }

    fn inventory(&self) -> Arc<Inventory> {
        Arc::clone(&self.0.inventory.borrow())
    }

    /// Takes a round of samples that the agent of this node reports.
    pub fn take(&self, node: &NodeName, usage: v1::Usage) {
        let at = Moment { instant: Instant::now(), wall: history::now() };
        let rows = self.0.live.take(node, usage, at, &self.inventory());
        self.0.history.add(rows);
    }

    /// What an instance uses; none when nothing is known, or the platform has it no more.
    pub fn instance(&self, environment: &EnvironmentKey, instance: &str) -> Option<InstanceUsage> {
        self.0.live.instance(&self.inventory(), environment, instance, Instant::now())
    }

    /// What those instances of an environment that are wanted use together.
    pub fn environment(
        &self,
        environment: &EnvironmentKey,
        wanted: impl Fn(&str) -> bool,
    ) -> EnvironmentUsage {
        self.0.live.environment(&self.inventory(), environment, wanted, Instant::now())
    }

    /// What the instances of each environment of `inventory` use together; none of those that nothing was ever known of.
    pub(crate) fn sums<'a>(&self, inventory: &'a Inventory) -> HashMap<&'a EnvironmentKey, Sum> {
        self.0.live.sums(inventory, Instant::now())
    }

    /// Shows every container of an instance with a fresh sample, in no order; a pod of which containers are not told apart as one.
    pub(crate) fn look_at_containers(&self, inventory: &Inventory, look: impl FnMut(ContainerView<'_>)) {
        self.0.live.look_at_containers(inventory, Instant::now(), look);
    }

    /// Those pods of a namespace, or of all, that are `wanted` and of which all is known that Kubernetes is told. Runs of tasks
    /// are among them.
    pub fn pods(&self, namespace: Option<&Label>, wanted: impl Fn(&Pod) -> bool) -> Vec<PodResources> {
        self.0.live.pods(&self.inventory(), namespace, wanted, Instant::now())
    }

    /// Every node that something is known of, stale ones too, in no order.
    pub fn nodes(&self) -> Vec<NodeUsage> {
        self.0.live.nodes(Instant::now())
    }

    pub fn history(&self) -> &History {
        &self.0.history
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Keeps memory small until `ending`.
    pub(crate) async fn prune(self, ending: CancellationToken) {
        while tokio::time::timeout(PRUNE_EVERY, ending.cancelled()).await.is_err() {
            self.0.live.prune(&self.inventory(), Instant::now());
        }
    }
}
