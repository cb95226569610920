//! A short memory for answers: at most one question of a kind is under way, whoever waits for it shares what comes of
//! it, an error is never remembered, and the number of answers is bounded.
//!
//! Answers that are a "no" are kept apart: whoever asks nonsense in quick succession pushes out other nonsense, and
//! never the answers of callers who are let in.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Remembers answers of type `V`; to get one may fail with an `E`.
#[derive(Debug)]
pub(super) struct Cache<V, E> {
    keep: Duration,
    /// Whether an answer is a yes.
    is_yes: fn(&V) -> bool,
    answers: Mutex<Answers<V, E>>,
}

#[derive(Debug)]
struct Answers<V, E> {
    yes: Kept<V>,
    no: Kept<V>,
    /// Under way. Bounded by the calls that wait for them.
    asking: HashMap<Key, Question<V, E>>,
}

type Question<V, E> = Arc<OnceCell<Result<V, E>>>;

#[derive(Debug)]
struct Kept<V> {
    capacity: usize,
    answers: HashMap<Key, Answer<V>>,
}

#[derive(Debug)]
struct Answer<V> {
    value: V,
    at: Instant,
    used: Instant,
}

/// One who waits for an answer. The last to leave, and the first after the answer, clears the question away.
struct Waiting<'a, V: Clone, E> {
    cache: &'a Cache<V, E>,
    key: Key,
    question: Question<V, E>,
}

impl<V: Clone, E: Clone> Cache<V, E> {
    /// Keeps `capacities.0` answers that are a yes and `capacities.1` that are not, each for `keep`.
    pub(super) fn new(keep: Duration, capacities: (usize, usize), is_yes: fn(&V) -> bool) -> Self {
        let kept = |capacity| Kept { capacity, answers: HashMap::new() };
        let answers = Answers { yes: kept(capacities.0), no: kept(capacities.1), asking: HashMap::new() };
        Cache { keep, is_yes, answers: Mutex::new(answers) }
    }

    /// The remembered answer, or that of `ask`, for which other callers with the same key wait. They share its failure
    /// too: a source of answers that hangs is waited for once, not by one caller after the other.
    pub(super) async fn get(&self, key: Key, ask: impl AsyncFnOnce() -> Result<V, E>) -> Result<V, E> {
        let question = {
            let now = Instant::now();
            let mut answers = self.lock();
            let Answers { yes, no, asking } = &mut *answers;
            if let Some(value) = yes.get(&key, now, self.keep).or_else(|| no.get(&key, now, self.keep)) {
                return Ok(value);
            }
            Arc::clone(asking.entry(key).or_default())
        };
        let waiting = Waiting { cache: self, key, question };
        waiting.question.get_or_init(async || ask().await).await.clone()
    }

    /// The last answer, if it was a yes, no later one was not, and it is younger than `keep`.
    pub(super) fn last_yes(&self, key: &Key, keep: Duration) -> Option<V> {
        self.lock().yes.get(key, Instant::now(), keep)
    }
}

impl<V, E> Cache<V, E> {
    fn lock(&self) -> MutexGuard<'_, Answers<V, E>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone, E> Drop for Waiting<'_, V, E> {
    fn drop(&mut self) {
        // Handles are made and dropped under this lock only: the last two are the table's and this one.
        let mut answers = self.cache.lock();
        let question = std::mem::take(&mut self.question);
        let last = Arc::strong_count(&question) == 2;
        let mine = answers.asking.get(&self.key).is_some_and(|asking| Arc::ptr_eq(asking, &question));
        let answer = question.get();
        if !mine || (answer.is_none() && !last) {
            return;
        }
        answers.asking.remove(&self.key);
        if let Some(Ok(value)) = answer {
            let kept = if (self.cache.is_yes)(value) {
                &mut answers.yes
            } else {
                answers.yes.answers.remove(&self.key);
                &mut answers.no
            };
            kept.put(self.key, value.clone(), self.cache.keep);
        }
    }
}

impl<V: Clone> Kept<V> {
    fn get(&mut self, key: &Key, now: Instant, keep: Duration) -> Option<V> {
        let answer = self.answers.get_mut(key).filter(|answer| now.duration_since(answer.at) < keep)?;
        answer.used = now;
        Some(answer.value.clone())
    }

    fn put(&mut self, key: Key, value: V, keep: Duration) {
        let now = Instant::now();
        if self.answers.len() >= self.capacity {
            self.make_room(now, keep);
        }
        self.answers.insert(key, Answer { value, at: now, used: now });
    }

    /// Drops what is stale, or else the least recently used quarter: the cost is shared by as many insertions.
    fn make_room(&mut self, now: Instant, keep: Duration) {
        let before = self.answers.len();
        self.answers.retain(|_, answer| now.duration_since(answer.at) < keep);
        if self.answers.len() < before {
            return;
        }
        let mut used: Vec<Instant> = self.answers.values().map(|answer| answer.used).collect();
        used.sort_unstable();
        if let Some(limit) = used.get(before / 4).copied() {
            let mut left = before / 4 + 1;
            self.answers.retain(|_, answer| {
                let drop = left > 0 && answer.used <= limit;
                left -= usize::from(drop);
                !drop
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const KEEP: Duration = Duration::from_secs(10);

    fn cache<V: Clone, E: Clone>(is_yes: fn(&V) -> bool) -> Cache<V, E> {
        Cache::new(KEEP, (8, 4), is_yes)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time_only() {
        let cache = cache(|_| true);
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
        let cache = cache(|_| true);
        let key = Keys::random().unwrap().key(&["a"]);
        assert_eq!(cache.get(key, async || Err::<u8, _>("down")).await, Err("down"));
        assert_eq!(cache.get(key, async || Ok::<_, &str>(1)).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_once_share_one_question() {
        let cache = cache(|_| true);
        let key = Keys::random().unwrap().key(&["a"]);
        let asked = AtomicU32::new(0);
        let ask = async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, ()>(asked.fetch_add(1, Ordering::Relaxed))
        };
        let answers = tokio::join!(cache.get(key, ask), cache.get(key, ask), cache.get(key, ask));
        assert_eq!(answers, (Ok(0), Ok(0), Ok(0)));
        assert!(cache.lock().asking.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_for_a_source_that_hangs_share_its_failure() {
        let cache = cache::<u8, _>(|_| true);
        let key = Keys::random().unwrap().key(&["a"]);
        let ask = async || {
            tokio::time::sleep(KEEP).await;
            Err("timed out")
        };
        let started = Instant::now();
        let answers = tokio::join!(cache.get(key, ask), cache.get(key, ask), cache.get(key, ask));
        assert_eq!(answers, (Err("timed out"), Err("timed out"), Err("timed out")));
        assert_eq!(started.elapsed(), KEEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_everybody_gave_up_leaves_nothing() {
        let cache = cache::<u8, ()>(|_| true);
        let key = Keys::random().unwrap().key(&["a"]);
        let given_up = cache.get(key, std::future::pending);
        assert!(tokio::time::timeout(KEEP, given_up).await.is_err());
        assert!(cache.lock().asking.is_empty());
        // One that takes over from a caller that gave up asks anew.
        let (first, second) = tokio::join!(
            tokio::time::timeout(KEEP / 2, cache.get(key, std::future::pending)),
            cache.get(key, async || Ok(1))
        );
        assert!(first.is_err());
        assert_eq!(second, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_answers_is_bounded_and_the_least_used_go_first() {
        let cache = cache(|_| true);
        let keys = Keys::random().unwrap();
        let hot = keys.key(&["hot"]);
        for i in 0..100_u32 {
            assert_eq!(cache.get(hot, async || if i == 0 { Ok(1) } else { Err("asked again") }).await, Ok(1));
            tokio::time::advance(Duration::from_millis(10)).await;
            cache.get(keys.key(&["cold", &i.to_string()]), async || Ok(2)).await.unwrap();
            assert!(cache.lock().yes.answers.len() <= 8);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn random_tokens_push_out_no_good_one() {
        let cache = cache(|yes| *yes);
        let keys = Keys::random().unwrap();
        let good = keys.key(&["good"]);
        assert_eq!(cache.get(good, async || Ok::<_, &str>(true)).await, Ok(true));
        for i in 0..100_u32 {
            let random = keys.key(&["random", &i.to_string()]);
            assert_eq!(cache.get(random, async || Ok(false)).await, Ok(false));
            assert!(cache.lock().no.answers.len() <= 4);
        }
        assert_eq!(cache.get(good, async || Err("asked again")).await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_yes_is_there_until_a_no() {
        let cache = cache::<bool, &str>(|yes| *yes);
        let key = Keys::random().unwrap().key(&["a"]);
        let long = 10 * KEEP;
        assert_eq!(cache.get(key, async || Ok(true)).await, Ok(true));
        tokio::time::advance(KEEP).await;
        assert_eq!(cache.get(key, async || Err("away")).await, Err("away"));
        assert_eq!((cache.last_yes(&key, long), cache.last_yes(&key, KEEP)), (Some(true), None));
        assert_eq!(cache.get(key, async || Ok(false)).await, Ok(false));
        assert_eq!(cache.last_yes(&key, long), None);
    }

    #[test]
    fn parts_do_not_run_together() {
        let keys = Keys::random().unwrap();
        assert_ne!(keys.key(&["ab", "c"]), keys.key(&["a", "bc"]));
        assert_ne!(keys.key(&["a"]), Keys::random().unwrap().key(&["a"]));
    }
}
