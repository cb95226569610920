//! How many looks into one container's files may be under way: a look that a hung file system keeps holds a thread for as
//! long as that hangs, and there are [512](tokio::runtime::Builder::max_blocking_threads) for all containers of a node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// At once, in one container: enough for the ten programs that one connection starts, twice over, as a look is microseconds.
const OF_ONE: usize = 20;
/// Of all containers together.
const OF_ALL: usize = 256;

/// The looks that are under way, by container. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(Arc<Mutex<HashMap<String, usize>>>);

/// One of them; over when it is dropped.
#[derive(Debug)]
pub(super) struct Look {
    looks: Looks,
    container: String,
}

impl Looks {
    /// One more; none when too many have not come back.
    pub(super) fn begin(&self, container: &str) -> Option<Look> {
        let mut all = self.lock();
        let total: usize = all.values().sum();
        let own = all.entry(container.to_owned()).or_default();
        if *own >= OF_ONE || total >= OF_ALL {
            return None;
        }
        *own += 1;
        drop(all);
        Some(Look { looks: self.clone(), container: container.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut all = self.looks.lock();
        if let Some(own) = all.get_mut(&self.container) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.container);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_whose_files_hang_takes_no_thread_from_others() {
        let looks = Looks::default();
        let hung: Vec<Look> = (0..).map_while(|_| looks.begin("hung")).collect();
        assert_eq!(hung.len(), OF_ONE);
        let fine = looks.begin("fine").unwrap();
        drop(hung);
        assert!(looks.begin("hung").is_some());
        drop(fine);
        assert!(looks.lock().is_empty());
        let all: Vec<Look> = (0..100).flat_map(|name| looks.begin(&format!("{}", name / 2))).collect();
        assert_eq!(all.len(), 100);
        let more: Vec<Look> = (0..1000).filter_map(|name| looks.begin(&format!("more-{name}"))).collect();
        assert_eq!(all.len() + more.len(), OF_ALL);
    }
}
