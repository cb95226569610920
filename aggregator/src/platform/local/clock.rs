//! What time it is for tasks. Tests set it.
//!
//! A clock may be set forward and back, and it goes on while the machine sleeps and we stand still: what is left until a moment
//! is never slept for at once, and whoever waits for one believes what the clock says when it has come.

use jiff::Timestamp;
use std::time::Duration;
#[cfg(test)]
use tokio::sync::watch;

/// How long is slept without a look at the clock: a task that is due each minute may begin half a minute late.
const GLANCE: Duration = Duration::from_secs(10);

/// The machine's clock, or one of a test.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    #[cfg(test)]
    set: Option<watch::Sender<Timestamp>>,
}

impl Clock {
    pub(super) fn now(&self) -> Timestamp {
        #[cfg(test)]
        if let Some(set) = &self.set {
            return *set.borrow();
        }
        Timestamp::now()
    }

    /// Returns at that moment, or never where there is none to wait for. `looked` is the time that the caller has seen: where
    /// it has become earlier since, the caller has to look again.
    pub(super) async fn until(&self, looked: Timestamp, then: Option<Timestamp>) {
        #[cfg(test)]
        if let Some(set) = &self.set {
            drop(set.subscribe().wait_for(|now| *now != looked).await);
            return;
        }
        let Some(then) = then else { return std::future::pending().await };
        loop {
            let now = self.now();
            if now >= then || now < looked {
                return;
            }
            let left = Duration::try_from(then.duration_since(now)).unwrap_or_default();
            tokio::time::sleep(left.min(GLANCE)).await;
        }
    }
}

#[cfg(test)]
impl Clock {
    /// One that stands until it is set.
    pub(super) fn at(time: Timestamp) -> Clock {
        Clock { set: Some(watch::Sender::new(time)) }
    }

    pub(super) fn set(&self, time: Timestamp) {
        self.set.as_ref().unwrap().send_replace(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_moment_is_waited_for_and_one_that_is_past_is_not() {
        let (clock, a_while) = (Clock::default(), SignedDuration::from_millis(50));
        let now = clock.now();
        clock.until(now, Some(now - a_while)).await;
        clock.until(now, Some(now + a_while)).await;
        assert!(clock.now() >= now + a_while);
        assert!(timeout(Duration::from_millis(50), clock.until(now, None)).await.is_err());
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_is_not_waited_for() {
        let (clock, hour) = (Clock::default(), SignedDuration::from_hours(1));
        let looked = clock.now() + hour;
        timeout(Duration::from_secs(10), clock.until(looked, Some(looked + hour))).await.unwrap();
    }

    #[tokio::test]
    async fn one_of_a_test_tells_when_it_is_set() {
        let clock = Clock::at(Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(7).unwrap();
        assert!(timeout(Duration::ZERO, clock.until(clock.now(), Some(later))).await.is_err());
        clock.set(later);
        clock.until(Timestamp::UNIX_EPOCH, None).await;
        assert_eq!(clock.now(), later);
    }
}
