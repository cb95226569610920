//! Which aggregator makes workloads of environments: the holder of a Lease.
//!
//! * The holder believes in its lease for shorter than others wait for it, measured by its own clock from before it
//!   asked: a write that it has under way then ends before another begins.
//! * Others go by when they saw the lease change last, and by no clock but their own.

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How long others wait for a holder that says nothing.
const LASTS: Duration = Duration::from_secs(15);
/// How long the holder believes in a lease that it could not renew.
const BELIEVED: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How soon a renewal that failed is tried again, and how often the lease of another is looked at.
const RETRY_EVERY: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// What a Lease says, as far as it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    holder: String,
    version: String,
    at: Instant,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Renew,
    Take,
    Wait,
}

/// Pure: `seen` is the lease as it was first seen in its present state.
fn decide(identity: &str, seen: &Seen, now: Instant) -> Move {
    if seen.holder == identity {
        Move::Renew
    } else if seen.holder.is_empty() || now - seen.at >= LASTS {
        Move::Take
    } else {
        Move::Wait
    }
}

pub(super) struct Lease {
    api: Api<coordination::Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
}

impl Lease {
    pub(super) fn new(api: Api<coordination::Lease>, name: String, identity: String) -> Self {
        Lease { api, name, identity, seen: None }
    }

    /// Holds the lease whenever it can, and says in `out` until when that is believed; gives it back at `stop`.
    pub(super) async fn hold(mut self, out: watch::Sender<Option<Instant>>, stop: CancellationToken) {
        loop {
            let asked = Instant::now();
            let held = match timeout(REQUEST_TIMEOUT, self.attempt()).await {
                Ok(Ok(held)) => Some(held),
                Ok(Err(error)) => {
                    tracing::debug!(error = format!("{error:#}"), "the lease could not be asked for");
                    None
                }
                Err(_) => None,
            };
            match held {
                Some(true) => drop(out.send_replace(Some(asked + BELIEVED))),
                Some(false) => drop(out.send_replace(None)),
                // What was believed before goes on until it runs out.
                None => {}
            }
            let pause = if held == Some(true) { RENEW_EVERY } else { RETRY_EVERY };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        let held = out.send_replace(None).is_some();
        if held && timeout(REQUEST_TIMEOUT, self.give_back()).await.is_err() {
            tracing::debug!("the lease was not given back in time");
        }
    }

    /// Whether the lease is held now.
    async fn attempt(&mut self) -> anyhow::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.name).await.context("read the lease")? else {
            let lease = self.renewed(coordination::Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: None,
            });
            self.api.create(&PostParams::default(), &lease).await.context("make the lease")?;
            tracing::info!("this aggregator makes workloads of environments now");
            return Ok(true);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let now = Instant::now();
        let seen = match self.seen.take() {
            Some(seen) if seen.version == version => seen,
            Some(_) | None => Seen { holder, version, at: now },
        };
        let what = decide(&self.identity, &seen, now);
        self.seen = Some(seen);
        match what {
            Move::Wait => Ok(false),
            Move::Renew | Move::Take => {
                // The version read goes along: of two who take it, one is refused.
                let lease = self.renewed(lease);
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
                    .context("write the lease")?;
                if what == Move::Take {
                    tracing::info!("this aggregator makes workloads of environments now");
                }
                Ok(true)
            }
        }
    }

    fn renewed(&self, mut lease: coordination::Lease) -> coordination::Lease {
        let now = MicroTime(Timestamp::now());
        let mut spec = lease.spec.unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.lease_duration_seconds = i32::try_from(LASTS.as_secs()).ok();
        spec.renew_time = Some(now);
        lease.spec = Some(spec);
        lease
    }

    async fn give_back(&self) -> anyhow::Result<()> {
        let mut lease = self.api.get(&self.name).await.context("read the lease")?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&self.identity)
        {
            spec.holder_identity = Some(String::new());
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .context("give the lease back")?;
        }
        Ok(())
    }
}

/// Does `work` whenever the lease is held, until `stop`. It is dropped when the lease is lost.
pub(super) async fn while_held(
    mut lease: watch::Receiver<Option<Instant>>,
    stop: CancellationToken,
    work: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            held = lease.wait_for(|until| until.is_some_and(|until| until > Instant::now())) => {
                if held.is_err() {
                    return Ok(());
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = lost(&mut lease) => tracing::warn!("the lease was lost, environments are left to its next holder"),
            result = work() => result?,
        }
    }
}

/// Returns when the lease is not held any more.
async fn lost(lease: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let until = *lease.borrow_and_update();
        let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
        tokio::select! {
            () = sleep_until(until) => {}
            changed = lease.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::kubernetes::fake::Fake;
    use tokio::task::JoinSet;

    /// Somebody who would hold the lease, until its tasks are dropped or it is asked to stop.
    fn hold(
        fake: &Fake,
        identity: &str,
    ) -> (watch::Receiver<Option<Instant>>, CancellationToken, JoinSet<()>) {
        let api = Api::namespaced(fake.client(), "skpr");
        let (out, held) = watch::channel(None);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(Lease::new(api, "l".into(), identity.into()).hold(out, stop.clone()));
        (held, stop, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_the_lease_until_it_gives_it_back_or_says_nothing_any_more() {
        let fake = Fake::default();
        let (mut first, stop, mut tasks) = hold(&fake, "a");
        first.wait_for(Option::is_some).await.unwrap();
        let (mut second, _stop, others) = hold(&fake, "b");
        let minute = Duration::from_secs(60);
        timeout(minute, second.wait_for(Option::is_some)).await.expect_err("both hold it");
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
        let begun = Instant::now();
        second.wait_for(Option::is_some).await.unwrap();
        assert!(begun.elapsed() <= RETRY_EVERY && first.borrow().is_none());
        // Gone without a word, as after a power cut.
        drop(others);
        let (mut third, _stop, _tasks) = hold(&fake, "c");
        let begun = Instant::now();
        third.wait_for(Option::is_some).await.unwrap();
        assert!(begun.elapsed() >= LASTS && begun.elapsed() <= LASTS + RETRY_EVERY, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_when_its_holder_has_said_nothing_for_long() {
        let at = Instant::now();
        let seen = |holder: &str| Seen { holder: holder.into(), version: "1".into(), at };
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(decide("me", &seen("me"), after(100)), Move::Renew);
        assert_eq!(decide("me", &seen("other"), after(14)), Move::Wait);
        assert_eq!(decide("me", &seen("other"), after(15)), Move::Take);
        assert_eq!(decide("me", &seen(""), at), Move::Take);
        const { assert!(BELIEVED.as_secs() + REQUEST_TIMEOUT.as_secs() < LASTS.as_secs()) };
    }
}
