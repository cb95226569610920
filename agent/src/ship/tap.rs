//! Where the asynchronous side and the tail thread meet.
//!
//! Towards the tail thread goes *state*, not a queue: the claims that hold now, the stream that is open now, the
//! batches wanted, what was answered. It cannot grow with time, and neither side ever waits for the other. The other
//! way is a channel of batches that were asked for, so it cannot fill.

use crate::tail::ClaimChange;
use skpr_proto::{PodUid, v1};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Batches asked for and not yet received: one on its way while the tail thread builds the next.
pub(crate) const WANTED: usize = 2;
/// Batches handed out and not taken: [`WANTED`] of this stream, and as many of the stream before that were under way
/// when it ended. With at most 1 MiB each (typically 256 KiB), this bounds the memory between the two sides.
const HANDED: usize = 2 * WANTED;

/// A batch on its way to the aggregator. `ticket` is the tail thread's name for it, counting up.
#[derive(Debug)]
pub(crate) struct Handed {
    stream: u64,
    pub(crate) ticket: u64,
    pub(crate) batch: v1::Batch,
}

/// What the aggregator said about what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Every batch up to this ticket is durable.
    Acked(u64),
    /// This batch is refused for good, every one before it is durable.
    Refused { ticket: u64, reason: String },
}

/// What the tail thread is to know and to do since it last asked.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// How the claims changed. Changes are merged, so this is bounded by the node's pods.
    pub(crate) claims: Option<ClaimChange>,
    /// Pods that have ended, to be taken in after the claims; bounded alike.
    pub(crate) ended: BTreeSet<PodUid>,
    /// A new stream is open: first take in `answers` (they belong to the stream before), then go back to what is
    /// acknowledged. What the stream is called must come back with its batches.
    pub(crate) begin: Option<u64>,
    /// Answers of the stream that was open until now, in order. Acknowledgements are merged, so this is bounded by the
    /// batches in flight.
    pub(crate) answers: Vec<Answer>,
    /// Hand out this many more batches when there is something to send.
    pub(crate) wanted: usize,
    /// Save what is acknowledged and end.
    pub(crate) stop: bool,
}

/// Wakes the tail thread from its wait; called after every change of the orders.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

/// The asynchronous end.
pub(crate) struct Tap {
    teller: Teller,
    handed: mpsc::Receiver<Handed>,
    stream: u64,
    outstanding: usize,
}

/// What may be told to the tail thread from anywhere.
#[derive(Clone)]
pub(crate) struct Teller {
    orders: Arc<Mutex<Orders>>,
    wake: Arc<Wake>,
}

/// The tail thread's end.
pub(crate) struct Spout {
    orders: Arc<Mutex<Orders>>,
    handed: mpsc::Sender<Handed>,
}

/// Both ends.
pub(crate) fn pair(wake: Wake) -> (Tap, Spout) {
    let orders = Arc::new(Mutex::new(Orders::default()));
    let (sender, receiver) = mpsc::channel(HANDED);
    let spout = Spout { orders: Arc::clone(&orders), handed: sender };
    let teller = Teller { orders, wake: Arc::new(wake) };
    (Tap { teller, handed: receiver, stream: 0, outstanding: 0 }, spout)
}

/// The orders are plain values that no panic can leave half changed.
fn lock(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    fn tell(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.orders));
        (self.wake)();
    }

    pub(crate) fn claims(&self, change: ClaimChange, ended: BTreeSet<PodUid>) {
        self.tell(|orders| {
            orders.claims = Some(merge(orders.claims.take(), change));
            orders.ended.extend(ended);
        });
    }

    pub(crate) fn stop(&self) {
        self.tell(|orders| orders.stop = true);
    }
}

impl Tap {
    pub(crate) fn teller(&self) -> Teller {
        self.teller.clone()
    }

    /// A new stream is open: nothing of the one before comes out of [`Tap::next`] any more.
    pub(crate) fn begin(&mut self) {
        self.stream += 1;
        self.outstanding = 0;
        while self.handed.try_recv().is_ok() {}
        self.teller.tell(|orders| {
            orders.begin = Some(self.stream);
            orders.wanted = 0;
        });
    }

    /// Asks for batches, so that [`WANTED`] are on their way.
    pub(crate) fn want(&mut self) {
        let more = WANTED.saturating_sub(self.outstanding);
        if more > 0 {
            self.outstanding += more;
            self.teller.tell(|orders| orders.wanted += more);
        }
    }

    /// The next batch of this stream; nothing when the tail thread has ended. Dropping the wait loses no batch.
    pub(crate) async fn next(&mut self) -> Option<Handed> {
        loop {
            let handed = self.handed.recv().await?;
            if handed.stream == self.stream {
                self.outstanding = self.outstanding.saturating_sub(1);
                return Some(handed);
            }
        }
    }

    pub(crate) fn acked(&self, ticket: u64) {
        self.teller.tell(|orders| match orders.answers.last_mut() {
            Some(Answer::Acked(last)) => *last = ticket,
            Some(Answer::Refused { .. }) | None => orders.answers.push(Answer::Acked(ticket)),
        });
    }

    pub(crate) fn refused(&self, ticket: u64, reason: String) {
        self.teller.tell(|orders| orders.answers.push(Answer::Refused { ticket, reason }));
    }
}

/// Two changes of the claims as one.
fn merge(earlier: Option<ClaimChange>, later: ClaimChange) -> ClaimChange {
    match (earlier, later) {
        (Some(ClaimChange::Complete(mut set)), ClaimChange::Delta { claimed, released }) => {
            set.retain(|uid| !released.contains(uid));
            set.extend(claimed);
            ClaimChange::Complete(set)
        }
        (
            Some(ClaimChange::Delta { claimed: mut all, released: mut gone }),
            ClaimChange::Delta { claimed, released },
        ) => {
            all.retain(|uid| !released.contains(uid));
            gone.retain(|uid| !claimed.contains(uid));
            all.extend(claimed);
            gone.extend(released);
            ClaimChange::Delta { claimed: all, released: gone }
        }
        (_, change) => change,
    }
}

impl Spout {
    /// What there is to know and to do since the last time. Never waits.
    pub(crate) fn take(&self) -> Orders {
        std::mem::take(&mut *lock(&self.orders))
    }

    /// Hands out a batch that was wanted; false when nobody is there to take it. Waits only if more is handed out than
    /// was wanted.
    pub(crate) fn hand(&self, stream: u64, ticket: u64, batch: v1::Batch) -> bool {
        self.handed.blocking_send(Handed { stream, ticket, batch }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn orders_are_state_and_are_taken_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let (mut tap, spout) = pair(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        tap.begin();
        tap.want();
        tap.want();
        for ticket in 1..=1000 {
            tap.acked(ticket);
        }
        tap.refused(1001, "not claimed".into());
        tap.acked(1002);
        let ended = BTreeSet::from([PodUid::parse("a").unwrap()]);
        tap.teller().claims(ClaimChange::Complete(BTreeSet::new()), ended.clone());
        let orders = spout.take();
        assert_eq!(orders.begin, Some(1));
        assert_eq!(orders.wanted, WANTED);
        let refused = Answer::Refused { ticket: 1001, reason: "not claimed".into() };
        assert_eq!(orders.answers, [Answer::Acked(1000), refused, Answer::Acked(1002)]);
        assert_eq!((orders.claims, orders.ended), (Some(ClaimChange::Complete(BTreeSet::new())), ended));
        assert!(woken.load(Ordering::Relaxed) >= 1000);
        let orders = spout.take();
        assert!(
            orders.begin.is_none()
                && orders.answers.is_empty()
                && orders.claims.is_none()
                && orders.ended.is_empty()
                && orders.wanted == 0
        );
    }

    fn uids(names: &[&str]) -> BTreeSet<PodUid> {
        names.iter().map(|name| PodUid::parse(name).unwrap()).collect()
    }

    #[test]
    fn changes_of_claims_merge() {
        let delta = |claimed: &[&str], released: &[&str]| ClaimChange::Delta {
            claimed: uids(claimed),
            released: uids(released),
        };
        let complete = |claimed: &[&str]| ClaimChange::Complete(uids(claimed));
        assert_eq!(merge(None, delta(&["a"], &[])), delta(&["a"], &[]));
        assert_eq!(merge(Some(delta(&["a"], &["b"])), delta(&["b"], &["a"])), delta(&["b"], &["a"]));
        assert_eq!(merge(Some(complete(&["a", "b"])), delta(&["c"], &["a"])), complete(&["b", "c"]));
        assert_eq!(merge(Some(delta(&["a"], &[])), complete(&["z"])), complete(&["z"]));
        assert_eq!(merge(Some(complete(&["a"])), complete(&[])), complete(&[]));
    }

    #[test]
    fn a_new_stream_voids_what_the_old_one_asked_for() {
        let (mut tap, spout) = pair(Box::new(|| ()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tap.begin();
        tap.want();
        assert!(spout.hand(1, 1, v1::Batch::default()));
        tap.begin();
        // Under way when the stream ended.
        assert!(spout.hand(1, 2, v1::Batch::default()));
        tap.want();
        assert!(spout.hand(2, 1, v1::Batch::default()));
        let handed = runtime.block_on(tap.next()).unwrap();
        assert_eq!((handed.stream, handed.ticket), (2, 1));
        drop(spout);
        assert!(runtime.block_on(tap.next()).is_none());
    }
}
