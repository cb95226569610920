//! A watch of one kind of objects that goes on for ever and hands over what it hears, and whether it works.

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The server ends a watch after this long and we begin it again: a connection that died in silence is noticed within
/// this time and five seconds.
const WATCH_SECONDS: u32 = 60;
/// How long a watch may be broken before that counts: what it said last is stale, and what it has not said is not known.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(30);
/// A watch with no error for this long works: it is longer than the longest backoff (30 s, jittered) and a connection
/// attempt (30 s) together. A watch that works says nothing when nothing happens, so silence has to count as health.
const HEALED_AFTER: Duration = Duration::from_secs(90);

/// Objects of all namespaces with these labels.
pub(super) fn labelled(labels: &str) -> watcher::Config {
    watcher::Config::default().labels(labels).timeout(WATCH_SECONDS).streaming_lists()
}

/// Follows the objects until `out` is closed. A server that does not answer is asked again, with backoff.
pub(super) async fn follow<K, T>(
    api: Api<K>,
    mut config: watcher::Config,
    to: impl Fn(watcher::Result<Event<K>>) -> Option<T>,
    out: mpsc::Sender<T>,
) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    loop {
        let stream = watcher(api.clone(), config.clone()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                () = out.closed() => return Ok(()),
                event = stream.next() => event,
            };
            let Some(event) = event else {
                anyhow::bail!("a watch has given up");
            };
            if event.as_ref().is_err_and(streaming_lists_refused) {
                tracing::info!("the api server has no streaming lists, listing in pages");
                config.initial_list_strategy = watcher::InitialListStrategy::ListWatch;
                break;
            }
            if let Some(told) = to(event)
                && out.send(told).await.is_err()
            {
                return Ok(());
            }
        }
    }
}

/// A server without them says that `sendInitialEvents` is invalid.
fn streaming_lists_refused(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 422 && status.message.contains("sendInitialEvents"))
}

/// Whether a watch works.
#[derive(Default)]
pub(super) struct Line {
    trouble: Option<Trouble>,
}

/// Errors that follow on each other.
struct Trouble {
    since: Instant,
    latest: Instant,
    reason: String,
    /// Each of them said that the server does not know this kind of objects.
    is_unknown: bool,
}

impl Line {
    /// A list is begun before the server is asked for it, and half of one may be all that comes.
    pub(super) fn heard<K>(&mut self, event: &Event<K>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone | Event::Apply(_) | Event::Delete(_) => self.trouble = None,
        }
    }

    pub(super) fn broke(&mut self, what: &'static str, error: &watcher::Error) {
        let now = Instant::now();
        let cause = error as &dyn std::error::Error;
        let before = self.trouble(now).map(|trouble| (trouble.since, trouble.is_unknown));
        match before {
            None => tracing::warn!(error = cause, what, "watching broke, trying again"),
            Some(_) => tracing::debug!(error = cause, what, "watching is still broken"),
        }
        let (since, were_unknown) = before.unwrap_or((now, true));
        let is_unknown = were_unknown && is_unknown_kind(error);
        self.trouble = Some(Trouble { since, latest: now, reason: reason(error), is_unknown });
    }

    /// Why it is broken, once that has lasted.
    pub(super) fn lasting(&self, now: Instant) -> Option<&str> {
        let trouble = self.trouble(now).filter(|trouble| now - trouble.since >= STALE_AFTER);
        trouble.map(|trouble| trouble.reason.as_str())
    }

    /// When that will count which is broken now.
    pub(super) fn lasts_at(&self, now: Instant) -> Option<Instant> {
        self.trouble(now).map(|trouble| trouble.since + STALE_AFTER)
    }

    /// The server knows no such objects, and so there are none: for longer than it takes to install them.
    pub(super) fn is_unknown(&self, now: Instant) -> bool {
        self.lasting(now).is_some() && self.trouble.as_ref().is_some_and(|trouble| trouble.is_unknown)
    }

    /// What was heard may be old.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.lasting(now).is_some() && !self.is_unknown(now)
    }

    fn trouble(&self, now: Instant) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| now - trouble.latest < HEALED_AFTER)
    }
}

/// What the server said, in one sentence.
fn reason(error: &watcher::Error) -> String {
    let said = status_of(error).map_or_else(|| error.to_string(), |status| status.message.clone());
    super::facts::short(&said).to_string()
}

/// The server does not know this kind of objects.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 404)
}

fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::InitialListFailed(kube::Error::Api(status)) => Some(status),
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    }
}
