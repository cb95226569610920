//! One attempt at an environment: a round within its time, and what is told where rounds have failed for long.
//!
//! * Whatever happens in a round, it comes back with the key of its environment.
//! * That nothing comes of an environment is written into its status by a write of its own, and ends its release when
//!   that has had its time.

use super::access::Hindrance;
use super::done::Done;
use super::outcome::{Known, outcome};
use super::reconcile::Round;
use crate::environment::EnvironmentKey;
use futures::FutureExt as _;
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A round is some ten requests; one that takes this long hangs.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long rounds may fail before that is told: what passes by itself has passed by then.
const LASTS: Duration = Duration::from_secs(30);

/// How an attempt ended.
pub(super) struct Ended {
    pub(super) key: EnvironmentKey,
    /// None when there is no such environment any more.
    pub(super) result: Result<Option<Done>, Failed>,
}

/// Nothing came of it.
pub(super) struct Failed {
    pub(super) cause: Hindrance,
    /// What was written of that.
    pub(super) told: Option<Done>,
}

/// The failures of one environment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failing {
    /// Of those that follow on each other, the first.
    since: Option<Instant>,
    warned: bool,
    /// When the API server was away last: nobody could help a release then.
    pub(super) away: Option<Timestamp>,
}

impl Failing {
    pub(super) fn mended(&mut self) {
        (self.since, self.warned) = (None, false);
    }

    /// Whether somebody has to be told now.
    pub(super) fn failed(&mut self, cause: &Hindrance, now: Instant, at: Timestamp) -> bool {
        if cause.is_away() {
            self.away = Some(at);
        }
        self.since.get_or_insert(now);
        // That the API server is away is said by those who watch it.
        let warns = self.lasts(now) && !self.warned && !cause.is_away();
        self.warned |= warns;
        warns
    }

    pub(super) fn lasts(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now - since >= LASTS)
    }
}

/// Tries a round; `blind` says why it cannot be tried.
pub(super) async fn attempt(round: Round, failing: Failing, blind: Option<String>) -> Ended {
    let lasts = blind.is_some() || failing.lasts(Instant::now());
    let result = match blind {
        None => guarded(round.run()).await,
        Some(reason) => Err(Hindrance::Blocked(reason)),
    };
    let result = match result {
        Ok(done) => Ok(done),
        Err(cause) if lasts => match guarded(round.tell(&cause.reason())).await {
            Ok(told) => Err(Failed { cause, told }),
            Err(absent) if absent.is_away() => Err(Failed { cause: absent, told: None }),
            // It is written with the next one.
            Err(_) => Err(Failed { cause, told: None }),
        },
        Err(cause) => Err(Failed { cause, told: None }),
    };
    Ended { key: round.key, result }
}

/// A round that hangs or panics has failed like any other.
async fn guarded<T>(round: impl Future<Output = Result<T, Hindrance>>) -> Result<T, Hindrance> {
    match AssertUnwindSafe(timeout(ROUND_TIMEOUT, round)).catch_unwind().await {
        Ok(Ok(ended)) => ended,
        Ok(Err(_)) => Err(Hindrance::Later(kube::Error::Service("the round took too long".into()))),
        Err(_) => {
            tracing::error!("a round of the controller ended abnormally");
            Err(Hindrance::Refused("skpr has failed over it: its log says more".to_owned()))
        }
    }
}

impl Round {
    /// Writes why nothing comes of the environment. None where there is nothing to write it into.
    async fn tell(&self, reason: &str) -> Result<Option<Done>, Hindrance> {
        let Some(DeserializeGuard(Ok(object))) = self.object().await? else { return Ok(None) };
        if object.metadata.deletion_timestamp.is_some() || self.refusal(&object).is_some() {
            return Ok(None);
        }
        let before = object.status.clone().unwrap_or_default();
        let known = Known {
            generation: before.observed_generation,
            bounds: Some(object.spec.bounds()),
            target: before.target,
            stuck: Some(reason),
            ..self.known(before.releases.clone(), Timestamp::now())
        };
        let after = outcome(known, &before);
        if after != before {
            self.write_status(&object.metadata, &after).await?;
        }
        Ok(Some(Done {
            target: before.target,
            trouble: Some(reason.to_owned()),
            scaled: object.spec.scaled.clone(),
            uid: object.metadata.uid.unwrap_or_default(),
            ..Done::of(after)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_or_hangs_has_failed_like_any_other() {
        let panics = guarded(async { panic!("a bug") as Result<(), Hindrance> }).await.unwrap_err();
        assert!(matches!(panics, Hindrance::Refused(_)));
        let hangs = guarded(std::future::pending::<Result<(), Hindrance>>()).await.unwrap_err();
        assert!(hangs.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_when_it_lasts_and_only_an_absent_server_stops_a_release_s_time() {
        let (mut failing, now, at) = (Failing::default(), Instant::now(), Timestamp::UNIX_EPOCH);
        let blocked = Hindrance::Blocked("failed calling webhook".into());
        assert!(!failing.failed(&blocked, now, at));
        assert!(!failing.failed(&blocked, now + LASTS / 2, at));
        assert!(failing.failed(&blocked, now + LASTS, at) && failing.lasts(now + LASTS));
        assert!(!failing.failed(&blocked, now + LASTS * 2, at), "it was told");
        assert_eq!(failing.away, None);
        failing.mended();
        let away = Hindrance::Later(kube::Error::Service("connection refused".into()));
        assert!(!failing.failed(&away, now + LASTS * 3, at));
        assert_eq!(failing.away, Some(at));
    }
}
