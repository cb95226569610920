//! How many looks into one pod's files may be under way: a look that a hung file system keeps holds a thread for as long as
//! that hangs, and there are [512](tokio::runtime::Builder::max_blocking_threads) for all pods of a node.

use skpr_proto::PodUid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// At once, in one pod. One takes microseconds, and more wait for it.
const OF_ONE: usize = 16;
/// Of all pods together.
const OF_ALL: usize = 256;

/// The looks that are under way, by pod. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    pods: Arc<Mutex<HashMap<PodUid, Arc<Semaphore>>>>,
    all: Arc<Semaphore>,
}

/// One of them; over when it is dropped.
#[derive(Debug)]
pub(super) struct Look {
    looks: Looks,
    pod: PodUid,
    /// Always there until it is dropped.
    own: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks { pods: Arc::default(), all: Arc::new(Semaphore::new(OF_ALL)) }
    }
}

impl Looks {
    /// One more, as soon as there are not too many; none while those do not come back.
    pub(super) async fn begin(&self, pod: &PodUid) -> Option<Look> {
        let own =
            Arc::clone(self.lock().entry(pod.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE))));
        let own = own.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Look { looks: self.clone(), pod: pod.clone(), own: Some(own), _all: all })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Arc<Semaphore>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut pods = self.looks.lock();
        drop(self.own.take());
        // Who has one, or waits for one, holds it, too.
        if pods.get(&self.pod).is_some_and(|own| Arc::strong_count(own) == 1) {
            pods.remove(&self.pod);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    /// One that is to be had at once.
    fn begin(looks: &Looks, pod: &str) -> Option<Look> {
        // tokio has whoever asks that often wait for others.
        tokio::task::unconstrained(looks.begin(&PodUid::parse(pod).unwrap())).now_or_never().flatten()
    }

    #[tokio::test]
    async fn a_pod_whose_files_hang_takes_no_thread_from_others() {
        let looks = Looks::default();
        let mut hung: Vec<Look> = std::iter::from_fn(|| begin(&looks, "hung")).collect();
        assert_eq!(hung.len(), OF_ONE);
        let fine = begin(&looks, "fine").unwrap();
        hung.pop();
        assert!(begin(&looks, "hung").is_some());
        drop((fine, hung));
        assert!(looks.lock().is_empty());
        let all: Vec<Look> =
            (0..OF_ALL).filter_map(|number| begin(&looks, &format!("u{}", number / 2))).collect();
        assert_eq!(all.len(), OF_ALL);
        assert!(begin(&looks, "one-more").is_none());
        drop(all);
        assert_eq!(looks.all.available_permits(), OF_ALL);
    }
}
