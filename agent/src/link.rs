//! The one connection to the aggregator, for as long as the agent runs: open it, use it, wait, open the next.
//!
//! Invariants:
//! - At most one connection is open, and its three calls (`Connect`, `Ship`, `Report`) live and end with it.
//! - `Ship` is opened only after the aggregator has named this node's claims on the same connection. An aggregator that
//!   has just started and knows no pods yet would refuse what it will want a second later, and a refusal is final.
//! - Each distinct failure is logged once until a connection has proved good.

mod backoff;
pub(crate) mod connect;
mod control;
pub(crate) mod failure;

use crate::config::Config;
use crate::report;
use crate::sessions::Asker;
use crate::ship;
use crate::ship::tap::Tap;
use crate::tail::Counters;
use crate::usage::{Claims, Round};
use backoff::{Backoff, fraction};
use connect::Connection;
use control::{Control, Next};
use failure::{Complaints, LinkError};
use futures::FutureExt as _;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that lasted so long was good, whether or not there was something to ship.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The longest wait that an aggregator may ask for before the next connection.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// How a connection ended without a failure.
enum Ended {
    /// The agent stops.
    Stopped,
    /// The aggregator goes away and asks us to come back after about this long.
    Drained(Duration),
}

/// Keeps the agent connected until `stop`. What it needs from one connection to the next is here.
pub(crate) struct Link {
    pub(crate) config: Config,
    pub(crate) tap: Tap,
    pub(crate) counters: watch::Receiver<Counters>,
    /// Where the sampler learns of the claims, and its latest round.
    pub(crate) claims: Claims,
    pub(crate) rounds: watch::Receiver<Round>,
    /// Where sessions are asked for.
    pub(crate) asker: Asker,
}

/// What one connection has shown so far.
struct Proof {
    opened: Instant,
    acknowledged: bool,
}

impl Proof {
    fn is_good(&self) -> bool {
        self.acknowledged || self.opened.elapsed() >= HEALTHY_AFTER
    }
}

impl Link {
    /// Returns when `stop` is cancelled and what was sent is answered or given up.
    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        let mut complaints = Complaints::default();
        let mut connections: u64 = 0;
        loop {
            let mut proof = Proof { opened: Instant::now(), acknowledged: false };
            let ended = self.connection(stop, &mut proof, &mut complaints, connections).await;
            connections += 1;
            if proof.is_good() {
                backoff.reset();
                complaints.forget();
            }
            let wait = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Drained(after)) => {
                    tracing::info!(?after, "the aggregator goes away; connecting again");
                    // Half as long again at most, so that not all agents arrive in the same instant.
                    after + fraction(after / 2, random())
                }
                Err(LinkError::TailEnded) => return,
                // A token ends in the middle of a good connection, and the file holds the next one by then.
                Err(error) if error.denied() && proof.is_good() => {
                    tracing::info!(%error, "connecting again with the token as it is now");
                    backoff.after_failure(random())
                }
                Err(error) => {
                    complaints.complain(&error);
                    let denied = error.denied();
                    if denied { backoff.after_denial(random()) } else { backoff.after_failure(random()) }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One connection, from opening to its end.
    async fn connection(
        &mut self,
        stop: &CancellationToken,
        proof: &mut Proof,
        complaints: &mut Complaints,
        connections: u64,
    ) -> Result<Ended, LinkError> {
        let opening = async {
            let connection = Connection::open(&self.config).await?;
            let (teller, claims, asker) = (self.tap.teller(), self.claims.clone(), self.asker.clone());
            let control = Control::open(&connection, &self.config.node, teller, claims, asker).await?;
            Ok::<_, LinkError>((connection, control))
        };
        let (connection, mut control) = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            opened = opening => opened?,
        };
        proof.opened = Instant::now();
        tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            next = control.claims() => match next? {
                Next::Claims => {}
                Next::Drain(after) => return Ok(Ended::Drained(after.min(LONGEST_DRAIN))),
            },
        }
        if complaints.is_empty() {
            tracing::info!(aggregator = %self.config.aggregator, "connected");
        } else {
            tracing::debug!(aggregator = %self.config.aggregator, "connected again");
        }

        let wind_down = stop.child_token();
        let report = report::run(&connection, self.counters.clone(), self.rounds.clone(), connections);
        let shipping = ship::run(&mut self.tap, &connection, &wind_down, || {
            if !proof.acknowledged && !complaints.is_empty() {
                complaints.forget();
                tracing::info!(aggregator = %self.config.aggregator, "records are acknowledged again");
            }
            proof.acknowledged = true;
        });
        tokio::pin!(shipping);
        let (mut report, mut drained) = (Box::pin(report), None);
        let mut reporting = true;
        loop {
            tokio::select! {
                shipped = &mut shipping => {
                    // An aggregator that goes away says so first, but its goodbye may be seen after the end of `Ship`.
                    let drained = drained.or_else(|| control.drained().now_or_never()?.ok());
                    return match (drained, shipped) {
                        (Some(after), _) => Ok(Ended::Drained(after.min(LONGEST_DRAIN))),
                        (None, Ok(())) => Ok(Ended::Stopped),
                        (None, Err(error)) => Err(error),
                    };
                }
                next = control.drained(), if drained.is_none() => {
                    // What was sent may still be answered; nothing more is sent.
                    drained = Some(next?);
                    wind_down.cancel();
                }
                error = &mut report, if reporting => {
                    // Counters are a courtesy: without them records still arrive. A dead connection shows elsewhere.
                    reporting = false;
                    tracing::debug!(%error, "the aggregator takes no reports on this connection");
                }
            }
        }
    }
}

/// Not for secrets: spreads agents over time. `RandomState` is seeded by the operating system.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
