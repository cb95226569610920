//! How long to wait before the next connection: exponential with full jitter, so that a thousand agents that lost
//! the same aggregator do not come back together. Pure: the randomness is passed in.

use std::time::Duration;

/// The ceiling of the first wait; each further failure doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// No ceiling grows beyond this. A busy container's log is rotated away within 40 s, so no wait may take a good part of
/// that; and two thousand agents make 400 attempts a second at the very most, which one aggregator takes.
const LIMIT: Duration = Duration::from_secs(5);
/// A refused token does not get better within seconds, and each try costs the cluster a token review.
const DENIED: Duration = Duration::from_secs(60);

/// How often connecting has failed in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: anything from nothing to the ceiling.
    pub(crate) fn after_failure(&mut self, random: u64) -> Duration {
        let ceiling = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LIMIT);
        self.failures = self.failures.saturating_add(1);
        fraction(ceiling, random)
    }

    /// The wait after the aggregator refused who we are: from half a minute to a whole one.
    pub(crate) fn after_denial(&mut self, random: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        DENIED / 2 + fraction(DENIED / 2, random)
    }

    /// The connection was good: the next failure starts from the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `random` as a share of `whole`.
pub(crate) fn fraction(whole: Duration, random: u64) -> Duration {
    let nanos = u128::from(random).saturating_mul(whole.as_nanos()) >> 64;
    // At most `whole`, and every whole used here is far below u64's 584 years of nanoseconds.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_limit() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..9).map(|_| backoff.after_failure(u64::MAX).as_millis() + 1).collect();
        assert_eq!(ceilings, [500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000, 5_000]);
        backoff.reset();
        assert!(backoff.after_failure(u64::MAX) < FIRST);
    }

    #[test]
    fn the_jitter_is_full() {
        assert_eq!(Backoff::default().after_failure(0), Duration::ZERO);
        assert_eq!(Backoff::default().after_failure(u64::MAX / 2 + 1), FIRST / 2);
    }

    #[test]
    fn a_denial_waits_at_least_half_a_minute() {
        assert_eq!(Backoff::default().after_denial(0), Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn never_longer_than_the_limit(failures in any::<u32>(), random in any::<u64>()) {
            let mut backoff = Backoff { failures };
            prop_assert!(backoff.after_failure(random) <= LIMIT);
            prop_assert!(backoff.after_denial(random) <= DENIED);
        }
    }
}
