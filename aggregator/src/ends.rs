//! Whose output is all stored: instances and runs that have ended, of which the node says that nothing more comes.
//!
//! It is what agents have said to this process; to the next they say it again. Memory: an entry for each pod that the platform
//! knows and that has ended, and as many again before what is forgotten goes.

use crate::inventory::Inventory;
use skpr_proto::{PodUid, Source};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Fewer than this are kept without a look at whether they are still known.
const FEW: usize = 1024;

/// See the module.
#[derive(Default)]
pub(crate) struct Ends(Mutex<Ended>);

#[derive(Default)]
struct Ended {
    pods: HashSet<PodUid>,
    /// How many were left when the rest was forgotten last.
    left: usize,
}

impl Ends {
    /// Everything of a source is stored. Of a pod's containers the main one counts.
    pub(crate) fn came(&self, source: &Source, inventory: &Inventory) {
        let is_main = |uid| inventory.pods.get(uid).is_some_and(|pod| pod.main_container == source.container);
        if !is_main(&source.uid) {
            return;
        }
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.pods.len() >= FEW.max(2 * ended.left) {
            ended.pods.retain(|uid| inventory.pods.contains_key(uid));
            ended.left = ended.pods.len();
        }
        ended.pods.insert(source.uid.clone());
    }

    /// Whether everything of a pod is known to be stored.
    pub(crate) fn has(&self, pod: &PodUid) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pods.contains(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::pod;
    use std::collections::BTreeMap;

    fn uid(number: usize) -> PodUid {
        PodUid::parse(&format!("u{number}")).unwrap()
    }

    fn source(number: usize, container: &str) -> Source {
        Source::parse("sites", &format!("run-{number}"), uid(number).as_str(), container).unwrap()
    }

    fn knowing(numbers: std::ops::Range<usize>) -> Inventory {
        let pods = numbers.map(|number| (uid(number), pod(&format!("run-{number}"), Some("n1"))));
        Inventory::of(pods.collect(), &BTreeMap::new())
    }

    #[test]
    fn a_pod_has_ended_with_its_main_container() {
        let (ends, inventory) = (Ends::default(), knowing(0..2));
        ends.came(&source(0, "proxy"), &inventory);
        assert!(!ends.has(&uid(0)));
        ends.came(&source(0, "php"), &inventory);
        ends.came(&source(7, "php"), &inventory);
        assert!(ends.has(&uid(0)) && !ends.has(&uid(1)) && !ends.has(&uid(7)));
    }

    #[test]
    fn what_the_platform_has_forgotten_is_forgotten() {
        let ends = Ends::default();
        for number in 0..10 * FEW {
            ends.came(&source(number, "php"), &knowing(number..number + 1));
        }
        assert!(ends.0.lock().unwrap().pods.len() <= FEW);
    }
}
