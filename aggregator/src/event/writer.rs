//! Keeps events: each once, as a record of that one of its environment's [`STREAMS`](super::STREAMS) that it belongs to.
//!
//! * An event is kept when the store has it on stable storage. While the disk fails it is tried again, the queue fills,
//!   and the platforms wait.
//! * An event that is told again is known by its id, after a start too: what is stored is asked for it.
//! * Positions count within one start of the aggregator, which is its own generation: a batch that is tried again after
//!   a failure nobody is sure of is stored once, like an agent's.

use super::known::{Id, KEPT, Known, Stored};
use super::{Body, Event, Own, RunCounts, Stream};
use crate::batch::Batch;
use crate::environment::{Claim, EnvironmentKey};
use crate::record::{Filter, Read};
use crate::release::State;
use crate::run::{Run, Trigger};
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
/// Streams whose events are remembered: with 16 KiB each at most 64 MiB, and some tens of bytes an event in truth.
const REMEMBERED_STREAMS: usize = 4096;
/// How far back a stream's events are remembered when the first new one comes. Older ones are looked up singly.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Reads of the store for that at once, of the eight that it does at once for everybody.
const READS: usize = 2;
/// Streams whose events are being stored at once.
const APPENDS: usize = 16;
/// A text is one sentence; more is cut off.
const TEXT_BYTES: usize = 4 << 10;
const NAME_BYTES: usize = 512;
/// Of why a run went as it did: a thousand runs are less than the 4 MiB that a client takes at once.
const REASON_BYTES: usize = 1 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What became of events. Counted here, shown at `/metrics`; a clone counts the same.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// By outcome.
    pub(crate) events: Counted<1>,
    /// By result.
    pub(crate) deploys: Counted<1>,
    /// Runs that have ended or did not begin.
    pub(crate) runs: RunCounts,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            events: Counted::of(&[["stored"], ["duplicate"], ["dropped"]]),
            deploys: Counted::of(&RESULTS.map(|result| [result])),
            runs: RunCounts::default(),
        }
    }
}

/// How a release ends.
const RESULTS: [&str; 4] = ["succeeded", "failed", "rolled-back", "superseded"];

pub(crate) struct Writer {
    store: Store,
    own: Own,
    counts: Counts,
    known: BTreeMap<Place, Remembered>,
    /// When this start of the aggregator was, in nanoseconds.
    generation: u64,
    position: u64,
    /// Counts groups, to tell which stream nothing came to for the longest time.
    round: u64,
}

/// A stream of an environment.
type Place = (EnvironmentKey, Stream);

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
    run: Option<Box<Run>>,
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
        let mut by_place: BTreeMap<Place, Vec<Kept>> = BTreeMap::new();
        for event in events {
            let place = (event.environment.clone(), event.body.stream());
            by_place.entry(place).or_default().push(Kept::of(event));
        }
        self.remember(by_place.keys()).await;
        let mut batches = Vec::new();
        for (place, events) in by_place {
            let fresh = self.fresh(&place, events).await;
            let (environment, stream) = place;
            if !fresh.is_empty() {
                let records = fresh.iter().map(|event| {
                    self.position += 1;
                    (self.position, event.time, event.message.clone())
                });
                let source = self.own.source(&environment, stream);
                let batch = Batch::own(source, self.generation, records.collect());
                batches.push((self.own.claim(&environment), batch, fresh));
            }
        }
        let store = &self.store;
        let stored: Vec<(EnvironmentKey, bool, Vec<Kept>)> = stream::iter(batches)
            .map(async |(claim, batch, events)| {
                let stored = append(store, &claim, batch, ending).await;
                (claim.environment, stored, events)
            })
            .buffer_unordered(APPENDS)
            .collect()
            .await;
        for (environment, stored, events) in stored {
            self.count(if stored { "stored" } else { "dropped" }, events.len());
            if !stored {
                tracing::warn!(events = events.len(), "events dropped: the store does not take them");
                continue;
            }
            for result in events.iter().filter_map(|event| event.result) {
                self.counts.deploys.add([result], 1);
            }
            for run in events.iter().filter_map(|event| event.run.as_deref()) {
                self.counts.runs.count(&environment, run);
            }
        }
    }

    /// Makes sure that something is remembered of each.
    async fn remember(&mut self, places: impl Iterator<Item = &Place>) {
        let (mut unknown, round) = (Vec::new(), self.round);
        for place in places {
            match self.known.get_mut(place) {
                Some(remembered) => remembered.used = round,
                None => unknown.push(place.clone()),
            }
        }
        let store = &self.store;
        let read: Vec<(Place, Known)> = stream::iter(unknown)
            .map(async |place| (place.clone(), recent(store, &place).await))
            .buffer_unordered(READS)
            .collect()
            .await;
        for (place, known) in read {
            if self.known.len() >= REMEMBERED_STREAMS {
                let longest = self.known.iter().min_by_key(|(_, remembered)| remembered.used);
                if let Some(longest) = longest.map(|(place, _)| place.clone()) {
                    self.known.remove(&longest);
                }
            }
            self.known.insert(place, Remembered { known, used: round });
        }
    }

    /// Those that are not stored, which count as stored from here on: they are tried until they are.
    async fn fresh(&mut self, place: &Place, events: Vec<Kept>) -> Vec<Kept> {
        let Some(Remembered { known, .. }) = self.known.get_mut(place) else { return events };
        let (mut fresh, mut duplicates) = (Vec::new(), 0);
        for event in events {
            let stored = match known.is_stored(event.time, event.id) {
                Stored::Yes => true,
                Stored::No => false,
                Stored::Perhaps => is_stored(&self.store, place, &event).await,
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
            run: body.run.map(|run| Box::new(bounded(*run))),
            ..body
        };
        // Texts and numbers: nothing in it can fail.
        let message = serde_json::to_vec(&body).unwrap_or_default().into();
        let run = body.run.filter(|run| run.outcome.is_some());
        Kept { time: crate::batch::in_range(time), id, message, result, run }
    }
}

/// The run with what others have said of it on one line and not too long.
fn bounded(run: Run) -> Run {
    Run {
        trigger: match run.trigger {
            Trigger::User(name) => Trigger::User(plain(&name, NAME_BYTES)),
            Trigger::Schedule => Trigger::Schedule,
        },
        version: plain(&run.version, NAME_BYTES),
        instance: run.instance.map(|name| plain(&name, NAME_BYTES)),
        reason: run.reason.map(|reason| plain(&reason, REASON_BYTES)),
        ..run
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

/// What the store has of a stream's last day.
async fn recent(store: &Store, place: &Place) -> Known {
    let now = UnixNanos::from(jiff::Timestamp::now());
    let since = UnixNanos(now.0.saturating_sub(i64::try_from(REMEMBERED.as_nanos()).unwrap_or(i64::MAX)));
    let mut known = Known::new(since);
    let mut all = true;
    let mut reader = store.read(events(place, since, None));
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
                tracing::warn!(environment = %place.0, stream = place.1.name(), %error, "stored events cannot be read: one may be kept twice");
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
async fn is_stored(store: &Store, place: &Place, event: &Kept) -> bool {
    let until = UnixNanos(event.time.0.saturating_add(1));
    let mut reader = store.read(events(place, event.time, Some(until)));
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

fn events((environment, stream): &Place, since: UnixNanos, until: Option<UnixNanos>) -> Read {
    Read {
        environment: environment.clone(),
        since: Some(since),
        until,
        follow: false,
        to_now: false,
        last: until.is_none().then_some(KEPT),
        filter: Filter { streams: vec![stream.name().to_owned()], ..Filter::default() },
        cursor: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_counted_by_the_state_that_an_event_names_and_not_by_its_id() {
        let result = |state| {
            let id = "release/7/failed/1800000000".into();
            let body = Body::new(id, crate::event::Kind::Deploy, String::new());
            let body = Body { release: Some(7), state, ..body };
            let environment = crate::inventory::tests::key("a", "shop", "dev");
            Kept::of(Event { environment, time: UnixNanos(1), body }).result
        };
        assert_eq!(result(Some(State::RolledBack)), Some("rolled-back"));
        assert_eq!(result(Some(State::Deploying)), None);
        assert_eq!(result(None), None);
    }

    #[test]
    fn what_is_kept_of_a_run_is_bounded() {
        let task = skpr_proto::Label::parse("task", "drush").unwrap();
        let run = Run {
            trigger: Trigger::User("x".repeat(10_000)),
            version: "x".repeat(10_000),
            instance: Some("x".repeat(10_000)),
            reason: Some("y\n".repeat(10_000)),
            ..Run::due(&task, jiff::Timestamp::UNIX_EPOCH)
        };
        let environment = crate::inventory::tests::key("a", "shop", "dev");
        let kept = Kept::of(crate::run::told(&environment, &run, jiff::Timestamp::UNIX_EPOCH));
        assert!(kept.message.len() < 10_000 && kept.run.is_none(), "{}", kept.message.len());
        let body: Body = serde_json::from_slice(&kept.message).unwrap();
        assert_eq!(body.run.unwrap().reason.unwrap().len(), REASON_BYTES);
    }

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        assert_eq!(plain("a\nb\u{1b}[31m", 100), "a b [31m");
        assert_eq!(plain("äöü", 3), "ä");
    }
}
