//! How long to wait before the next attempt to connect: full jitter, so that many who were cut at once do not come
//! back at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(10);

pub(super) struct Backoff {
    random: RandomState,
    drawn: u64,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Backoff { random: RandomState::new(), drawn: 0, attempt: 0 }
    }

    pub(super) fn next(&mut self) -> Duration {
        let limit = limit(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        self.drawn += 1;
        // The standard library's random hash key is all the randomness that this needs.
        let share = (self.random.hash_one(self.drawn) >> 11) as f64 / (1u64 << 53) as f64;
        limit.mul_f64(share)
    }

    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }
}

fn limit(attempt: u32) -> Duration {
    FIRST.saturating_mul(1 << attempt.min(10)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::new();
        for attempt in 0..40 {
            assert!(backoff.next() <= limit(attempt));
        }
        assert_eq!(limit(40), MOST);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
