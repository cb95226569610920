//! Watches the cluster's pods that are labelled with a project and an environment.
//!
//! * Only facts are kept, a few hundred bytes a pod; Kubernetes' objects are dropped as they arrive.
//! * A pod that cannot be decoded or is labelled wrongly is left out, said once, and stops nothing.
//! * A broken watch is tried again for ever, with backoff; meanwhile what was known last stays published.

mod facts;
mod pods;

use crate::inventory::Inventory;
use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1 as core;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use pods::Pods;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// The labels that put a pod into an environment.
pub const PROJECT_LABEL: &str = "skpr.io/project";
pub const ENVIRONMENT_LABEL: &str = "skpr.io/environment";

/// The server ends a watch after this long and we begin it again: a connection that died in silence is noticed within
/// this time and five seconds.
const WATCH_SECONDS: u32 = 60;
/// How long a watch may be broken before what it said last is called stale.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// A watch with no error for this long works: it is longer than the longest backoff (30 s, jittered) and a connection
/// attempt (30 s) together. A watch that works says nothing when nothing happens, so silence has to count as health.
const HEALED_AFTER: Duration = Duration::from_secs(90);
/// How often time alone may change what is published.
const TICK: Duration = Duration::from_secs(2);

type WatchedPod = DeserializeGuard<core::Pod>;

/// Publishes the cluster's pods until `stop`. A cluster that does not answer is no error: it makes the inventory stale.
pub async fn watch_pods(
    client: Client,
    out: watch::Sender<Arc<Inventory>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut watch = Watch { pods: Pods::default(), trouble: None, dirty: false, out };
    let mut config = watcher::Config::default()
        .labels(&format!("{PROJECT_LABEL},{ENVIRONMENT_LABEL}"))
        .timeout(WATCH_SECONDS)
        .streaming_lists();
    loop {
        let stream = watcher(Api::<WatchedPod>::all(client.clone()), config.clone()).default_backoff();
        match watch.follow(stream, &stop).await {
            Ended::Stopped => return Ok(()),
            Ended::Over => anyhow::bail!("the watch of pods has given up"),
            Ended::NoStreamingLists => {
                tracing::info!("the api server has no streaming lists, listing pods in pages");
                config.initial_list_strategy = watcher::InitialListStrategy::ListWatch;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    /// The stream ended, which a watch does not.
    Over,
    NoStreamingLists,
}

/// The first and the latest of errors that follow on each other.
#[derive(Clone, Copy)]
struct Trouble {
    since: Instant,
    latest: Instant,
}

struct Watch {
    pods: Pods,
    trouble: Option<Trouble>,
    dirty: bool,
    out: watch::Sender<Arc<Inventory>>,
}

impl Watch {
    async fn follow(
        &mut self,
        stream: impl Stream<Item = watcher::Result<Event<WatchedPod>>>,
        stop: &CancellationToken,
    ) -> Ended {
        let mut stream = pin!(stream);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut next = tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                event = stream.next() => match event {
                    Some(event) => Some(event),
                    None => return Ended::Over,
                },
                _ = tick.tick() => None,
            };
            // What is there already is taken together: a burst of events is one publication.
            let mut burst = 0;
            while let Some(event) = next {
                if event.as_ref().is_err_and(streaming_lists_refused) {
                    return Ended::NoStreamingLists;
                }
                self.take(event);
                burst += 1;
                next = if burst < 1000 { stream.next().now_or_never().flatten() } else { None };
            }
            self.publish();
        }
    }

    fn take(&mut self, event: watcher::Result<Event<WatchedPod>>) {
        let now = Instant::now();
        match event {
            Ok(event) => {
                // A new list is begun before the server is asked for it.
                if !matches!(event, Event::Init) {
                    self.trouble = None;
                }
                self.dirty |= self.pods.take(event, now);
            }
            Err(error) => {
                let since = self.trouble.map_or(now, |trouble| trouble.since);
                if self.trouble.is_none() {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "watching pods broke, trying again"
                    );
                } else {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "watching pods is still broken"
                    );
                }
                self.trouble = Some(Trouble { since, latest: now });
            }
        }
    }

    fn publish(&mut self) {
        let now = Instant::now();
        self.dirty |= self.pods.expire(now);
        self.trouble = self.trouble.filter(|trouble| now - trouble.latest < HEALED_AFTER);
        let stale = self.trouble.is_some_and(|trouble| now - trouble.since > STALE_AFTER);
        if self.dirty || self.out.borrow().stale != stale {
            self.dirty = false;
            self.out.send_replace(Arc::new(Inventory { stale, ..self.pods.inventory() }));
        }
    }
}

/// A server without them says that `sendInitialEvents` is invalid.
fn streaming_lists_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::InitialListFailed(kube::Error::Api(status)) => {
            status.code == 422 && status.message.contains("sendInitialEvents")
        }
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests;
