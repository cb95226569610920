//! Puts what the environments' drivers say together into one inventory.
//!
//! * Nothing is published until each environment that is known at the start has said something: an absent environment
//!   means something to readers.
//! * A pod that has ended stays claimed for as long as its output is there.

use super::former::Directories;
use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Managed, Pod, Presence, Wanted};
use skpr_proto::PodUid;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// What one environment's driver says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) wanted: Wanted,
    pub(super) managed: Arc<Managed>,
    pub(super) pods: HashMap<PodUid, Pod>,
}

#[derive(Debug)]
pub(super) struct Publisher {
    out: watch::Sender<Arc<Inventory>>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Who has not said anything yet; none before it is known who will.
    silent: Option<BTreeSet<EnvironmentKey>>,
    views: BTreeMap<EnvironmentKey, View>,
    /// Found when the directories were last looked through.
    former: HashMap<PodUid, Pod>,
    /// Ended since.
    ended: HashMap<PodUid, Pod>,
}

impl Publisher {
    pub(super) fn new(out: watch::Sender<Arc<Inventory>>) -> Publisher {
        Publisher { out, shelf: Mutex::default() }
    }

    /// Says which environments there are at the start.
    pub(super) fn expect(&self, environments: BTreeSet<EnvironmentKey>) {
        let mut shelf = self.shelf();
        shelf.silent = Some(environments);
        self.send(&shelf);
    }

    pub(super) fn publish(&self, environment: &EnvironmentKey, view: View) {
        let mut shelf = self.shelf();
        let told = shelf.silent.as_mut().is_some_and(|silent| silent.remove(environment));
        if told || shelf.views.get(environment) != Some(&view) {
            shelf.views.insert(environment.clone(), view);
            self.send(&shelf);
        }
    }

    /// The environment is gone.
    pub(super) fn remove(&self, environment: &EnvironmentKey) {
        let mut shelf = self.shelf();
        if let Some(silent) = &mut shelf.silent {
            silent.remove(environment);
        }
        shelf.views.remove(environment);
        self.send(&shelf);
    }

    /// An instance has ended; its driver's next view is without it.
    pub(super) fn ended(&self, uid: PodUid, pod: Pod) {
        let gone = Pod { ready: false, presence: Presence::Gone, ..pod };
        self.shelf().ended.insert(uid, gone);
    }

    /// What an environment's driver said last.
    pub(super) fn managed(&self, environment: &EnvironmentKey) -> Option<Arc<Managed>> {
        self.shelf().views.get(environment).map(|view| Arc::clone(&view.managed))
    }

    /// The environments that want this port.
    pub(super) fn wanting(&self, port: u16) -> Vec<EnvironmentKey> {
        let wants = |view: &View| view.managed.settings.port.is_some_and(|own| own.get() == port);
        let shelf = self.shelf();
        shelf.views.iter().filter(|(_, view)| wants(view)).map(|(key, _)| key.clone()).collect()
    }

    /// Looks through the directories of earlier pods and removes what is too old. Blocks.
    pub(super) fn look_through(&self, directories: &Directories) {
        let (current, before): (HashSet<_>, HashSet<_>) = {
            let shelf = self.shelf();
            let current = shelf.views.values().flat_map(|view| view.pods.keys().cloned());
            (current.collect(), shelf.ended.keys().cloned().collect())
        };
        directories.prune(&current, SystemTime::now());
        // Those that run are among them: should one end meanwhile, it is known already.
        let found = directories.former(&HashSet::new());
        let mut shelf = self.shelf();
        shelf.former = found;
        shelf.ended.retain(|uid, _| !before.contains(uid));
        self.send(&shelf);
    }

    fn send(&self, shelf: &Shelf) {
        if shelf.silent.as_ref().is_none_or(|silent| !silent.is_empty()) {
            return;
        }
        let current = shelf.views.values().flat_map(|view| &view.pods);
        let pods = shelf.former.iter().chain(&shelf.ended).chain(current);
        let pods = pods.map(|(uid, pod)| (uid.clone(), pod.clone())).collect();
        let wanted = shelf.views.iter().map(|(key, view)| (key.clone(), view.wanted)).collect();
        let mut inventory = Inventory::of(pods, &wanted);
        for (key, view) in &shelf.views {
            if let Some(state) = inventory.environments.get_mut(key) {
                state.managed = Some(Arc::clone(&view.managed));
            }
        }
        self.out.send_replace(Arc::new(inventory));
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
