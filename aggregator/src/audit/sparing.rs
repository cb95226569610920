//! Says what strangers can cause at will only so often, and counts the rest.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often is often enough to see that something goes on.
const SAID: u32 = 20;
const EVERY: Duration = Duration::from_secs(60);

/// Lets through at most so many of a kind in a while.
#[derive(Debug)]
pub(crate) struct Sparing {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Sparing {
    /// At most `most` a minute.
    pub(crate) fn per_minute(most: u32) -> Sparing {
        Sparing { most, state: Mutex::new(State { since: None, said: 0, unsaid: 0 }) }
    }

    /// Whether to say it now; and then how many were not said before.
    pub(crate) fn say(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= EVERY) {
            (state.since, state.said) = (Some(now), 0);
        }
        if state.said >= self.most {
            state.unsaid += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

impl Default for Sparing {
    fn default() -> Sparing {
        Sparing::per_minute(SAID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_said_a_few_times_a_minute_and_counted() {
        let sparing = Sparing::per_minute(2);
        let flood = || (0..100).filter_map(|_| sparing.say()).collect::<Vec<_>>();
        assert_eq!(flood(), [0, 0]);
        assert!(flood().is_empty());
        tokio::time::advance(EVERY).await;
        assert_eq!(flood(), [198, 0]);
    }
}
