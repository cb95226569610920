//! A stand-in for the tail engine behind the same orders and the same channel: lines in, one batch a line.

use super::soon;
use crate::ship::tap::{self, Answer, Spout, Tap};
use crate::tail::ClaimChange;
use skpr_proto::v1;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// What the stand-in has been told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) acked: usize,
    pub(super) refused: Vec<String>,
    pub(super) claims: Vec<ClaimChange>,
    pub(super) begun: u64,
}

/// See the module.
pub(super) struct StandIn {
    lines: SyncSender<Option<String>>,
    told: watch::Receiver<Told>,
    thread: JoinHandle<()>,
}

impl StandIn {
    pub(super) fn start() -> (Tap, StandIn) {
        // A wake-up is an empty message; when the channel is full the thread is awake anyway.
        let (lines, inbox) = sync_channel::<Option<String>>(4096);
        let waker = lines.clone();
        let (tap, spout) = tap::pair(Box::new(move || drop(waker.try_send(None))));
        let (tell, told) = watch::channel(Told::default());
        let thread = std::thread::spawn(move || run(&inbox, &spout, &tell));
        (tap, StandIn { lines, told, thread })
    }

    pub(super) fn write(&self, lines: &[&str]) {
        for line in lines {
            self.lines.send(Some((*line).to_owned())).unwrap();
        }
    }

    pub(super) async fn told(&mut self, what: impl FnMut(&Told) -> bool) -> Told {
        soon(self.told.wait_for(what)).await.unwrap().clone()
    }

    pub(super) fn join(self) {
        self.thread.join().unwrap();
    }
}

fn run(inbox: &Receiver<Option<String>>, spout: &Spout, tell: &watch::Sender<Told>) {
    let mut lines = Vec::new();
    let mut tickets = BTreeMap::new();
    let (mut told, mut cursor, mut stream, mut wanted, mut ticket) = (Told::default(), 0, 0, 0, 0_u64);
    while let Ok(message) = inbox.recv() {
        lines.extend(message);
        let orders = spout.take();
        told.claims.extend(orders.claims);
        for answer in orders.answers {
            match answer {
                Answer::Acked(ticket) => told.acked = tickets[&ticket],
                Answer::Refused { ticket, reason } => {
                    told.acked = tickets[&ticket];
                    told.refused.push(reason);
                }
            }
        }
        if let Some(begin) = orders.begin {
            (stream, wanted, cursor, told.begun) = (begin, 0, told.acked, begin);
        }
        wanted += orders.wanted;
        tell.send_replace(told.clone());
        if orders.stop {
            return;
        }
        while wanted > 0 && cursor < lines.len() {
            ticket += 1;
            wanted -= 1;
            let batch = v1::Batch { messages: lines[cursor].clone().into(), ..Default::default() };
            cursor += 1;
            tickets.insert(ticket, cursor);
            if !spout.hand(stream, ticket, batch) {
                return;
            }
        }
    }
}
