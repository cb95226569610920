//! Which environment is to be looked at next. Pure: takes the time, and remembers nothing but what is due.
//!
//! * One environment is worked on once at a time; what comes meanwhile is done afterwards.
//! * Whatever fails waits for itself alone, longer each time.

use crate::environment::EnvironmentKey;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The first and the longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two rounds of one environment: a rollout changes many things at once.
const EACH: Duration = Duration::from_millis(300);

/// How much is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    /// See whether what is known asks for anything.
    Look,
    /// Read the object, put right what is not as it is to be.
    Reconcile,
}

#[derive(Default)]
pub(super) struct Queue {
    entries: BTreeMap<EnvironmentKey, Entry>,
    running: BTreeSet<EnvironmentKey>,
}

#[derive(Clone, Copy)]
struct Entry {
    due: Option<(Instant, How)>,
    last: Option<Instant>,
    failures: u32,
}

impl Queue {
    pub(super) fn add(&mut self, key: &EnvironmentKey, how: How, at: Instant) {
        let fresh = Entry { due: None, last: None, failures: 0 };
        let entry = self.entries.entry(key.clone()).or_insert(fresh);
        entry.due = Some(match entry.due {
            None => (at, how),
            // The sooner of both is done, and as much as either asks for.
            Some((due, much)) => (due.min(at), much.max(how)),
        });
    }

    /// What is due, and counts as being worked on from now on.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(EnvironmentKey, How)> {
        // The one that has waited longest: by name, the first few of many would be all that is ever done.
        let due = self.ready().filter(|(_, at, _)| *at <= now);
        let (key, how) = due.min_by_key(|(_, at, _)| *at).map(|(key, _, how)| (key.clone(), how))?;
        if let Some(entry) = self.entries.get_mut(&key) {
            (entry.due, entry.last) = (None, Some(now));
        }
        self.running.insert(key.clone());
        Some((key, how))
    }

    /// When something will be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.ready().map(|(_, at, _)| at).min()
    }

    fn ready(&self) -> impl Iterator<Item = (&EnvironmentKey, Instant, How)> {
        self.entries.iter().filter(|(key, _)| !self.running.contains(*key)).filter_map(|(key, entry)| {
            let (at, how) = entry.due?;
            let earliest = entry.last.map_or(at, |last| at.max(last + EACH));
            Some((key, earliest, how))
        })
    }

    pub(super) fn done(&mut self, key: &EnvironmentKey) {
        self.running.remove(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failures = 0;
        }
    }

    /// It is tried again after a pause; what comes meanwhile may hurry it.
    pub(super) fn failed(&mut self, key: &EnvironmentKey, now: Instant) -> Duration {
        self.running.remove(key);
        let failures = self.entries.get_mut(key).map_or(1, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        });
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
        self.add(key, How::Reconcile, now + pause);
        pause
    }

    pub(super) fn forget(&mut self, key: &EnvironmentKey) {
        self.running.remove(key);
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;

    #[tokio::test(start_paused = true)]
    async fn one_environment_is_worked_on_once_at_a_time() {
        let (mut queue, now, dev) = (Queue::default(), Instant::now(), key("a", "shop", "dev"));
        queue.add(&dev, How::Look, now);
        queue.add(&dev, How::Reconcile, now + EACH);
        assert_eq!(queue.pop(now), Some((dev.clone(), How::Reconcile)));
        queue.add(&dev, How::Look, now);
        assert_eq!((queue.pop(now), queue.next()), (None, None));
        queue.done(&dev);
        assert_eq!((queue.pop(now), queue.next()), (None, Some(now + EACH)));
        assert_eq!(queue.pop(now + EACH), Some((dev.clone(), How::Look)));
        queue.forget(&dev);
        assert_eq!(queue.pop(now + EACH * 9), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_first_is_done_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (first, second) = (key("a", "shop", "a"), key("a", "shop", "z"));
        queue.add(&first, How::Look, now + EACH);
        queue.add(&second, How::Look, now);
        assert_eq!(queue.pop(now + EACH * 2), Some((second, How::Look)));
        assert_eq!(queue.pop(now + EACH * 2), Some((first, How::Look)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_waits_longer_each_time_and_keeps_nobody() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let (bad, good) = (key("a", "shop", "dev"), key("a", "shop", "prod"));
        queue.add(&bad, How::Look, now);
        let mut pauses = vec![];
        for _ in 0..8 {
            assert_eq!(queue.pop(now).unwrap().0, bad);
            pauses.push(queue.failed(&bad, now).as_millis());
            queue.add(&good, How::Look, now);
            assert_eq!(queue.pop(now), Some((good.clone(), How::Look)));
            queue.forget(&good);
            now = queue.next().unwrap();
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        queue.pop(now);
        queue.done(&bad);
        queue.add(&bad, How::Look, now);
        queue.pop(now + EACH);
        assert_eq!(queue.failed(&bad, now), FIRST_PAUSE);
    }
}
