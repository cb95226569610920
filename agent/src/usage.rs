//! The usage sampler: what the claimed pods of this node use, by the kernel's own counters, round after round.
//!
//! * A round gives counters and gauges, never rates, and the time at which it was on a clock that is never set. Nothing is
//!   kept between rounds but what saves reading: whoever missed one loses no more than its precision.
//! * Rounds are at a fixed phase. A round that is late does not make the next one late.
//! * Nothing is sampled before the aggregator has said which pods are claimed.
//! * Pods are found by their cgroups alone, so that the agent needs no right in Kubernetes and no runtime's socket.

mod cgroup;
mod files;
mod hierarchy;
mod identity;
mod inotify;
mod local;
mod node;
mod parse;
mod pods;
mod process;
mod sampler;
mod values;
mod walk;
mod weight;

#[cfg(test)]
mod kernel;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod shapes;

pub use sampler::{Limits, Sampler};

use crate::health::{self, Heartbeat};
use crate::tail::ClaimChange;
use skpr_proto::{PodUid, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often a round is unless told otherwise, and what may be asked for.
pub const INTERVAL: Duration = Duration::from_secs(5);
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// What is sampled, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// None: never.
    pub interval: Option<Duration>,
    pub sources: Sources,
}

/// Where pods are.
#[derive(Clone, Debug)]
pub enum Sources {
    /// Below this directory, where the node's cgroups are mounted.
    Cgroups(PathBuf),
    /// Where the process that runs both them and this agent says.
    Local(watch::Receiver<BTreeMap<PodUid, Local>>),
}

/// Where to look for what a local instance uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Its cgroup's directories, one for each hierarchy that it is in. It keeps them across restarts.
    pub cgroups: Vec<PathBuf>,
    /// Its process group: looked at where no cgroup counts both CPU and memory.
    pub group: Option<i32>,
    /// What was asked for, in thousandths of a CPU. Its cgroup does not tell that from what the kernel gives everybody.
    pub cpu_share: Option<u64>,
}

/// What the last round gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    pub(crate) usage: Option<Arc<v1::Usage>>,
    /// Since the agent's start.
    pub(crate) unreadable_cgroups: u64,
}

/// The claims that hold, for the sampler; none before the aggregator has named any.
#[derive(Clone, Debug)]
pub(crate) struct Claims(watch::Sender<Option<BTreeSet<PodUid>>>);

impl Claims {
    pub(crate) fn pair() -> (Claims, watch::Receiver<Option<BTreeSet<PodUid>>>) {
        let (sender, receiver) = watch::channel(None);
        (Claims(sender), receiver)
    }

    pub(crate) fn change(&self, change: &ClaimChange) {
        self.0.send_modify(|claims| match change {
            ClaimChange::Complete(claimed) => *claims = Some(claimed.clone()),
            ClaimChange::Delta { claimed, released } => {
                let claims = claims.get_or_insert_default();
                claims.retain(|uid| !released.contains(uid));
                claims.extend(claimed.iter().cloned());
            }
        });
    }
}

/// Something that is worth a word only the first time.
#[derive(Debug, Default)]
struct Once(bool);

impl Once {
    fn say(&mut self, word: impl FnOnce()) {
        if !std::mem::replace(&mut self.0, true) {
            word();
        }
    }
}

/// Samples for ever; returns only when that has failed. Reading blocks for some milliseconds, and so has a thread for
/// that time.
pub(crate) async fn run(
    settings: Settings,
    mut claims: watch::Receiver<Option<BTreeSet<PodUid>>>,
    rounds: watch::Sender<Round>,
    mut heartbeat: Heartbeat,
) -> anyhow::Error {
    let mut beats = tokio::time::interval(health::INTERVAL);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            known = claims.wait_for(Option::is_some), if settings.interval.is_some() => {
                if known.is_ok() {
                    break;
                }
                return anyhow::anyhow!("the claims are not told any more");
            }
            _ = beats.tick() => heartbeat.beat(),
        }
    }
    let interval = settings.interval.unwrap_or(INTERVAL);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sampler = Sampler::new(settings.sources, Limits::of_this_process());
    loop {
        tokio::select! {
            _ = beats.tick() => heartbeat.beat(),
            _ = ticks.tick() => {
                let claimed = claims.borrow_and_update().clone().unwrap_or_default();
                let round = tokio::task::spawn_blocking(move || {
                    let usage = sampler.round(&claimed, interval);
                    (sampler, usage)
                });
                let usage = match round.await {
                    Ok((back, usage)) => {
                        sampler = back;
                        usage
                    }
                    Err(error) => return anyhow::Error::new(error).context("sample the usage"),
                };
                let unreadable_cgroups = sampler.unreadable();
                rounds.send_replace(Round { usage: Some(Arc::new(usage)), unreadable_cgroups });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(names: &[&str]) -> BTreeSet<PodUid> {
        names.iter().map(|name| PodUid::parse(name).unwrap()).collect()
    }

    #[test]
    fn claims_are_unknown_until_they_are_told() {
        let (claims, told) = Claims::pair();
        assert_eq!(*told.borrow(), None);
        claims.change(&ClaimChange::Complete(uids(&["a", "b"])));
        claims.change(&ClaimChange::Delta { claimed: uids(&["c"]), released: uids(&["a"]) });
        assert_eq!(*told.borrow(), Some(uids(&["b", "c"])));
        claims.change(&ClaimChange::Complete(uids(&[])));
        assert_eq!(*told.borrow(), Some(uids(&[])));
    }
}
