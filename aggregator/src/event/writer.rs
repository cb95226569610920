//! Keeps events: each once, as a record of its environment's stream [`STREAM`](super::STREAM).
//!
//! * An event is kept when the store has it on stable storage. While the disk fails it is tried again, the queue fills,
//!   and the platforms wait.
//! * An event that is told again is known by its id, after a start too: what is stored is asked for it.
//! * Positions count within one start of the aggregator, which is its own generation: a batch that is tried again after
//!   a failure nobody is sure of is stored once, like an agent's.

use super::known::{Id, KEPT, Known, Stored};
use super::{Body, Event, Own, STREAM};
use crate::batch::Batch;
use crate::environment::{Claim, EnvironmentKey};
use crate::record::{Filter, Read};
use crate::release::State;
use crate::store::{AppendError, Store};
use crate::web::Counted;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use skpr_proto::{InvalidId, UnixNanos};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events taken from the queue at once: they share the store's commits, of up to 20 ms each.
const GROUP: usize = 256;
/// Environments whose events are remembered: with 16 KiB each at most 64 MiB, and some tens of bytes an event in truth.
const ENVIRONMENTS: usize = 4096;
/// How far back an environment's events are remembered when the first new one comes. Older ones are looked up singly.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Reads of the store for that at once, of the eight that it does at once for everybody.
const READS: usize = 2;
/// Environments whose events are being stored at once.
const APPENDS: usize = 16;
/// A text is one sentence; more is cut off.
const TEXT_BYTES: usize = 4 << 10;
const NAME_BYTES: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What became of events. Counted here, shown at `/metrics`; a clone counts the same.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// By outcome.
    pub(crate) events: Counted<1>,
    /// By result.
    pub(crate) deploys: Counted<1>,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            events: Counted::of(&[["stored"], ["duplicate"], ["dropped"]]),
            deploys: Counted::of(&RESULTS.map(|result| [result])),
        }
    }
}

/// How a release ends.
const RESULTS: [&str; 4] = ["succeeded", "failed", "rolled-back", "superseded"];

pub(crate) struct Writer {
    store: Store,
    own: Own,
    counts: Counts,
    known: BTreeMap<EnvironmentKey, Remembered>,
    /// When this start of the aggregator was, in nanoseconds.
    generation: u64,
    position: u64,
    /// Counts groups, to tell which environment was not told of for the longest time.
    round: u64,
}

struct Remembered {
    known: Known,
    used: u64,
}

/// What is stored of an event.
struct Kept {
    time: UnixNanos,
    id: Id,
    message: Bytes,
    result: Option<&'static str>,
}

impl Writer {
    pub(crate) fn new(store: Store, counts: Counts) -> Result<Writer, InvalidId> {
        let own = Own::new()?;
        let generation = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or_default();
        Ok(Writer { store, own, counts, known: BTreeMap::new(), generation, position: 0, round: 0 })
    }

    /// Works until `ending`, and then keeps what is in the queue unless the store refuses it.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, ending: CancellationToken) {
        let mut group = Vec::new();
        loop {
            let taken = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                taken = events.recv_many(&mut group, GROUP) => taken,
            };
            if taken == 0 {
                // No platform is left that could tell of anything.
                ending.cancelled().await;
                return;
            }
            self.keep(std::mem::take(&mut group), &ending).await;
        }
        events.close();
        while events.recv_many(&mut group, GROUP).await > 0 {
            self.keep(std::mem::take(&mut group), &ending).await;
        }
    }

    /// Keeps those that are new. What the store refuses is tried again until `ending`.
    pub(crate) async fn keep(&mut self, events: Vec<Event>, ending: &CancellationToken) {
        self.round += 1;
        let mut by_environment: BTreeMap<EnvironmentKey, Vec<Kept>> = BTreeMap::new();
        for event in events {
            by_environment.entry(event.environment.clone()).or_default().push(Kept::of(event));
        }
        self.remember(by_environment.keys()).await;
        let mut batches = Vec::new();
        for (environment, events) in by_environment {
            let fresh = self.fresh(&environment, events).await;
            if !fresh.is_empty() {
                let records = fresh.iter().map(|event| {
                    self.position += 1;
                    (self.position, event.time, event.message.clone())
                });
                let source = self.own.source(&environment);
                let batch = Batch::own(source, self.generation, records.collect());
                batches.push((self.own.claim(&environment), batch, fresh));
            }
        }
        let store = &self.store;
        let stored: Vec<(bool, Vec<Kept>)> = stream::iter(batches)
            .map(async |(claim, batch, events)| (append(store, &claim, batch, ending).await, events))
            .buffer_unordered(APPENDS)
            .collect()
            .await;
        for (stored, events) in stored {
            self.count(if stored { "stored" } else { "dropped" }, events.len());
            if !stored {
                tracing::warn!(events = events.len(), "events dropped: the store does not take them");
                continue;
            }
            for result in events.iter().filter_map(|event| event.result) {
                self.counts.deploys.add([result], 1);
            }
        }
    }

    /// Makes sure that something is remembered of each.
    async fn remember(&mut self, environments: impl Iterator<Item = &EnvironmentKey>) {
        let (mut unknown, round) = (Vec::new(), self.round);
        for environment in environments {
            match self.known.get_mut(environment) {
                Some(remembered) => remembered.used = round,
                None => unknown.push(environment.clone()),
            }
        }
        let store = &self.store;
        let read: Vec<(EnvironmentKey, Known)> = stream::iter(unknown)
            .map(async |environment| (environment.clone(), recent(store, &environment).await))
            .buffer_unordered(READS)
            .collect()
            .await;
        for (environment, known) in read {
            if self.known.len() >= ENVIRONMENTS {
                let longest = self.known.iter().min_by_key(|(_, remembered)| remembered.used);
                if let Some(longest) = longest.map(|(environment, _)| environment.clone()) {
                    self.known.remove(&longest);
                }
            }
            self.known.insert(environment, Remembered { known, used: round });
        }
    }

    /// Those that are not stored, which count as stored from here on: they are tried until they are.
    async fn fresh(&mut self, environment: &EnvironmentKey, events: Vec<Kept>) -> Vec<Kept> {
        let Some(Remembered { known, .. }) = self.known.get_mut(environment) else { return events };
        let (mut fresh, mut duplicates) = (Vec::new(), 0);
        for event in events {
            let stored = match known.is_stored(event.time, event.id) {
                Stored::Yes => true,
                Stored::No => false,
                Stored::Perhaps => is_stored(&self.store, environment, &event).await,
            };
            known.insert(event.time, event.id);
            if stored {
                duplicates += 1;
            } else {
                fresh.push(event);
            }
        }
        self.count("duplicate", duplicates);
        fresh
    }

    fn count(&self, outcome: &'static str, events: usize) {
        self.counts.events.add([outcome], events as u64);
    }
}

impl Kept {
    fn of(event: Event) -> Kept {
        let Event { time, body, .. } = event;
        let id = Id::of(&body.id);
        let result = body.state.filter(|state| !state.is_open()).map(State::name);
        let limited = |text: Option<String>| text.map(|text| plain(&text, NAME_BYTES));
        let body = Body {
            id: plain(&body.id, NAME_BYTES),
            text: plain(&body.text, TEXT_BYTES),
            instance: limited(body.instance),
            by: limited(body.by),
            ..body
        };
        // Texts and numbers: nothing in it can fail.
        let message = serde_json::to_vec(&body).unwrap_or_default().into();
        Kept { time: crate::batch::in_range(time), id, message, result }
    }
}

/// The text on one line, without control characters and not longer than that.
fn plain(text: &str, bytes: usize) -> String {
    let short = text.get(..text.floor_char_boundary(bytes)).unwrap_or_default();
    short.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Stores a batch, however often that takes; whether it is stored.
async fn append(store: &Store, claim: &Claim, batch: Batch, ending: &CancellationToken) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        store.remember(batch.source(), claim);
        match store.append(batch.clone()).await {
            Ok(_) => return true,
            Err(AppendError::Closed) => return false,
            Err(AppendError::Storage(_) | AppendError::Unclaimed) if ending.is_cancelled() => return false,
            Err(AppendError::Storage(_) | AppendError::Unclaimed) => {}
        }
        // The store says itself why it cannot write.
        drop(tokio::time::timeout(pause, ending.cancelled()).await);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the store has of an environment's last day.
async fn recent(store: &Store, environment: &EnvironmentKey) -> Known {
    let now = UnixNanos::from(jiff::Timestamp::now());
    let since = UnixNanos(now.0.saturating_sub(i64::try_from(REMEMBERED.as_nanos()).unwrap_or(i64::MAX)));
    let mut known = Known::new(since);
    let mut all = true;
    let mut reader = store.read(events(environment, since, None));
    while let Some(chunk) = reader.next().await {
        match chunk {
            Ok(chunk) => {
                all &= chunk.skipped == 0;
                for record in chunk.records {
                    if let Ok(body) = serde_json::from_slice::<Body>(&record.message) {
                        known.insert(record.time, Id::of(&body.id));
                    }
                }
            }
            Err(error) => {
                all = false;
                tracing::warn!(%environment, %error, "stored events cannot be read: one may be kept twice");
            }
        }
    }
    if !all || known.len() >= KEPT {
        // Of those that have the time of the oldest there may be more.
        let oldest = known.oldest().unwrap_or(UnixNanos(i64::MAX));
        known.forget_before(UnixNanos(oldest.0.saturating_add(1)));
    }
    known
}

/// Looks an event up by its time, which is the same whenever it is told.
async fn is_stored(store: &Store, environment: &EnvironmentKey, event: &Kept) -> bool {
    let until = UnixNanos(event.time.0.saturating_add(1));
    let mut reader = store.read(events(environment, event.time, Some(until)));
    while let Some(Ok(chunk)) = reader.next().await {
        let same = |message: &Bytes| {
            serde_json::from_slice::<Body>(message).is_ok_and(|body| Id::of(&body.id) == event.id)
        };
        if chunk.records.iter().any(|record| same(&record.message)) {
            return true;
        }
    }
    false
}

fn events(environment: &EnvironmentKey, since: UnixNanos, until: Option<UnixNanos>) -> Read {
    Read {
        environment: environment.clone(),
        since: Some(since),
        until,
        follow: false,
        last: until.is_none().then_some(KEPT),
        filter: Filter { streams: vec![STREAM.to_owned()], ..Filter::default() },
        cursor: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_counted_by_the_state_that_an_event_names_and_not_by_its_id() {
        let result = |state| {
            let body = Body {
                id: "release/7/failed/1800000000".into(),
                kind: crate::event::Kind::Deploy,
                text: String::new(),
                instance: None,
                release: Some(7),
                state,
                by: None,
                warning: false,
            };
            let environment = crate::inventory::tests::key("a", "shop", "dev");
            Kept::of(Event { environment, time: UnixNanos(1), body }).result
        };
        assert_eq!(result(Some(State::RolledBack)), Some("rolled-back"));
        assert_eq!(result(Some(State::Deploying)), None);
        assert_eq!(result(None), None);
    }

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        assert_eq!(plain("a\nb\u{1b}[31m", 100), "a b [31m");
        assert_eq!(plain("äöü", 3), "ä");
    }
}
