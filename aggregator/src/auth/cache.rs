//! A short memory for answers: at most one question of a kind is under way, an error is never remembered, and the
//! number of answers is bounded.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// A keyed digest of what was asked: nothing secret is kept, and the digests of one process mean nothing elsewhere.
pub(super) type Key = [u8; 32];

/// Makes [`Key`]s with a random key of this process.
pub(super) struct Keys([u8; 32]);

impl Keys {
    pub(super) fn random() -> anyhow::Result<Keys> {
        Ok(Keys(super::tokens::random()?))
    }

    pub(super) fn key(&self, parts: &[&str]) -> Key {
        let mut digest = Sha256::new();
        digest.update(self.0);
        for part in parts {
            // With its length, so that no two lists of parts run together.
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

#[derive(Debug)]
pub(super) struct Cache<V> {
    keep: Duration,
    capacity: usize,
    slots: Mutex<HashMap<Key, Slot<V>>>,
}

#[derive(Debug)]
struct Slot<V> {
    used: Instant,
    answer: Arc<OnceCell<(V, Instant)>>,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(keep: Duration, capacity: usize) -> Self {
        Cache { keep, capacity, slots: Mutex::new(HashMap::new()) }
    }

    /// The remembered answer, or that of `ask`, for which other callers with the same key wait.
    pub(super) async fn get<E>(&self, key: Key, ask: impl AsyncFnOnce() -> Result<V, E>) -> Result<V, E> {
        let slot = self.slot(key);
        let (answer, _) = slot.get_or_try_init(async || Ok((ask().await?, Instant::now()))).await?;
        Ok(answer.clone())
    }

    fn slot(&self, key: Key) -> Arc<OnceCell<(V, Instant)>> {
        let now = Instant::now();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(&key)
            && slot.fresh(now, self.keep)
        {
            slot.used = now;
            return Arc::clone(&slot.answer);
        }
        if slots.len() >= self.capacity {
            make_room(&mut slots, now, self.keep);
        }
        let answer = Arc::new(OnceCell::new());
        slots.insert(key, Slot { used: now, answer: Arc::clone(&answer) });
        answer
    }
}

impl<V> Slot<V> {
    /// Whether the answer is young enough, or still being asked for.
    fn fresh(&self, now: Instant, keep: Duration) -> bool {
        self.answer.get().is_none_or(|(_, at)| now.duration_since(*at) < keep)
    }
}

/// Drops what is stale, or else the least recently used quarter: the cost is shared by as many insertions.
fn make_room<V>(slots: &mut HashMap<Key, Slot<V>>, now: Instant, keep: Duration) {
    let before = slots.len();
    slots.retain(|_, slot| slot.fresh(now, keep));
    if slots.len() < before {
        return;
    }
    let mut used: Vec<Instant> = slots.values().map(|slot| slot.used).collect();
    used.sort_unstable();
    if let Some(limit) = used.get(before / 4).copied() {
        let mut left = before / 4 + 1;
        slots.retain(|_, slot| {
            let drop = left > 0 && slot.used <= limit;
            left -= usize::from(drop);
            !drop
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const KEEP: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time_only() {
        let cache = Cache::new(KEEP, 8);
        let key = Keys::random().unwrap().key(&["a"]);
        let asked = AtomicU32::new(0);
        let ask = async || Ok::<_, ()>(asked.fetch_add(1, Ordering::Relaxed));
        assert_eq!(cache.get(key, ask).await, Ok(0));
        tokio::time::advance(KEEP - Duration::from_millis(1)).await;
        assert_eq!(cache.get(key, ask).await, Ok(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get(key, ask).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_not_kept() {
        let cache = Cache::new(KEEP, 8);
        let key = Keys::random().unwrap().key(&["a"]);
        assert_eq!(cache.get(key, async || Err::<u8, _>("down")).await, Err("down"));
        assert_eq!(cache.get(key, async || Ok::<_, &str>(1)).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_once_share_one_question() {
        let cache = Cache::new(KEEP, 8);
        let key = Keys::random().unwrap().key(&["a"]);
        let asked = AtomicU32::new(0);
        let ask = async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, ()>(asked.fetch_add(1, Ordering::Relaxed))
        };
        let answers = tokio::join!(cache.get(key, ask), cache.get(key, ask), cache.get(key, ask));
        assert_eq!(answers, (Ok(0), Ok(0), Ok(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_answers_is_bounded_and_the_least_used_go_first() {
        let cache = Cache::new(KEEP, 8);
        let keys = Keys::random().unwrap();
        let hot = keys.key(&["hot"]);
        for i in 0..100_u32 {
            assert_eq!(cache.get(hot, async || if i == 0 { Ok(1) } else { Err("asked again") }).await, Ok(1));
            tokio::time::advance(Duration::from_millis(10)).await;
            cache.get(keys.key(&["cold", &i.to_string()]), async || Ok::<_, ()>(2)).await.unwrap();
            assert!(cache.slots.lock().unwrap().len() <= 8);
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let keys = Keys::random().unwrap();
        assert_ne!(keys.key(&["ab", "c"]), keys.key(&["a", "bc"]));
        assert_ne!(keys.key(&["a"]), Keys::random().unwrap().key(&["a"]));
    }
}
