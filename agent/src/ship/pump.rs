//! The tail thread: drives the tail engine, which is synchronous, and is the only one that touches it.
//!
//! It waits in one place, for files or for orders, and never for the network: it hands out only what was wanted.

use super::tap::{Answer, Orders, Spout};
use crate::health::Heartbeat;
use crate::tail::{Counters, Tail};
use anyhow::Context as _;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// The longest wait: where the kernel reports no changes, the engine looks at everything once a second.
const WAIT: Duration = Duration::from_secs(1);
/// The checkpoint is written at most so often. What a crash makes us send again, the store drops.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The counters are brought up to date at most so often.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Reading, parsing and hashing are flat loops; the buffers are on the heap.
const STACK: usize = 512 << 10;

/// The running tail thread. Whoever holds it must [`stop`](Pump::stop) it.
pub(crate) struct Pump {
    thread: JoinHandle<anyhow::Result<()>>,
    ended: oneshot::Receiver<()>,
}

impl Pump {
    pub(crate) fn start(
        tail: Tail,
        spout: Spout,
        counters: watch::Sender<Counters>,
        heartbeat: Heartbeat,
    ) -> anyhow::Result<Self> {
        let (ending, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("tail".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Dropped last, also when the thread panics.
                let _ending = ending;
                Loop {
                    tail,
                    spout,
                    counters,
                    heartbeat,
                    stream: 0,
                    wanted: 0,
                    saved: Instant::now(),
                    counted: None,
                    save_failed: false,
                }
                .run()
            })
            .context("start the tail thread")?;
        Ok(Pump { thread, ended })
    }

    /// Comes back when the thread has ended by itself, which it never should.
    pub(crate) async fn ended(&mut self) {
        // The sender is dropped, never used: an error is the news.
        drop((&mut self.ended).await);
    }

    /// Waits for the thread, which was told to stop, up to `limit`.
    pub(crate) async fn join(mut self, limit: Duration) -> anyhow::Result<()> {
        if !self.thread.is_finished() {
            tokio::time::timeout(limit, self.ended()).await.context("wait for the tail thread")?;
        }
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("the tail thread panicked"),
        }
    }
}

struct Loop {
    tail: Tail,
    spout: Spout,
    counters: watch::Sender<Counters>,
    heartbeat: Heartbeat,
    stream: u64,
    wanted: usize,
    saved: Instant,
    counted: Option<Instant>,
    save_failed: bool,
}

impl Loop {
    fn run(mut self) -> anyhow::Result<()> {
        loop {
            let orders = self.spout.take();
            let now = Instant::now();
            let stop = orders.stop;
            self.obey(orders, now);
            if stop {
                return self.tail.save().context("save the checkpoint");
            }
            self.tail.tick(now);
            if !self.hand_out(now) {
                return self.tail.save().context("save the checkpoint");
            }
            self.count(now);
            self.save(now);
            self.heartbeat.beat();
            self.tail.wait(WAIT);
        }
    }

    fn obey(&mut self, orders: Orders, now: Instant) {
        if let Some(change) = orders.claims {
            self.tail.claim(change, now);
        }
        if !orders.ended.is_empty() {
            self.tail.ended(orders.ended, now);
        }
        for answer in orders.answers {
            match answer {
                Answer::Acked(ticket) => self.tail.acknowledged(ticket),
                Answer::Refused { ticket, reason } => {
                    self.tail.acknowledged(ticket.saturating_sub(1));
                    self.tail.refused(ticket, &reason);
                }
            }
        }
        if let Some(stream) = orders.begin {
            self.tail.rewind();
            self.stream = stream;
            self.wanted = 0;
        }
        self.wanted += orders.wanted;
    }

    /// Hands out what is wanted and there; false when the other side is gone.
    fn hand_out(&mut self, now: Instant) -> bool {
        while self.wanted > 0 {
            let Some(batch) = self.tail.next_batch(now) else { break };
            self.wanted -= 1;
            if !self.spout.hand(self.stream, batch.id, batch) {
                return false;
            }
        }
        true
    }

    /// Makes the counters known: they are gathered from every file, and read every few seconds.
    fn count(&mut self, now: Instant) {
        if self.counted.is_none_or(|counted| now.duration_since(counted) >= COUNT_INTERVAL) {
            self.counted = Some(now);
            self.counters.send_replace(self.tail.counters());
        }
    }

    fn save(&mut self, now: Instant) {
        if !self.tail.is_dirty() || now.duration_since(self.saved) < SAVE_INTERVAL {
            return;
        }
        self.saved = now;
        match self.tail.save() {
            Ok(()) => self.save_failed = false,
            // A full or read-only disk costs a replay after the next start; shipping goes on.
            Err(error) if !self.save_failed => {
                self.save_failed = true;
                tracing::warn!(error = format!("{error:#}"), "the checkpoint cannot be saved");
            }
            Err(_) => {}
        }
    }
}
