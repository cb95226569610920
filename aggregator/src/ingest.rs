//! Records in: one `Ship` stream of one agent, from frame to acknowledgement.
//!
//! - A batch is acknowledged only after the store says that it is on stable storage, and in the order of arrival.
//! - A batch of a pod that is not the agent's node's, or of none that is claimed, is refused for good; that says nothing
//!   about the other batches.
//! - A storage failure ends the stream: the agent goes back to what was acknowledged and comes again later. Nothing that
//!   came behind the failed batch is stored then, else that one would look like a duplicate.
//!
//! Batches are pipelined: [`IN_FLIGHT_BATCHES`] may wait for the disk at once. Past that, or past
//! [`IN_FLIGHT_BYTES`], the stream is not read, and HTTP/2 flow control stops the agent. Nor is it while the batch read
//! last waits for its share of what all streams together may have in flight.

use crate::agents::{AgentCall, frame_error};
use crate::aggregator::ALL_IN_FLIGHT_BYTES;
use crate::aggregator::{Shared, stopping};
use crate::audit::Line;
use crate::batch::Batch;
use crate::environment::Claim;
use crate::event;
use crate::store::{AppendError, Appended, Lane};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesOrdered, StreamExt as _};
use futures::{FutureExt as _, poll};
use skpr_proto::v1::{self, Ack};
use skpr_proto::{ErrorKind, Failure, Source};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tonic::{Status, Streaming};

/// A group commit takes up to 20 ms: 32 batches of 256 KiB are 8 MiB a commit, 400 MB/s.
const IN_FLIGHT_BATCHES: usize = 32;
/// Bounds what a stream holds when its batches are large: 8 MiB, and one batch more.
const IN_FLIGHT_BYTES: usize = 8 << 20;

const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// A batch and its share of what all streams may have in flight.
type Admitted = (v1::Batch, OwnedSemaphorePermit);
type Outcome = (Pending, Result<Appended, AppendError>);

/// A batch that waits for the disk, or for its turn to be refused.
struct Pending {
    id: u64,
    bytes: usize,
    refused: Option<Refusal>,
    /// In place of records: all of this source have come.
    end: Option<Source>,
    _share: OwnedSemaphorePermit,
}

/// Why a batch is not wanted now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Unclaimed,
    ForeignNode,
}

impl Refusal {
    fn message(self) -> &'static str {
        match self {
            Refusal::Unclaimed => "no environment claims this source",
            Refusal::ForeignNode => "the source is another node's",
        }
    }
}

/// Whose a source is.
enum Whose {
    /// The agent's node's, and an environment's: by this claim of the platform, or by one that was remembered.
    Ours(Option<Claim>),
    Refused(Refusal),
}

struct Shipment {
    call: AgentCall,
    lane: Lane,
    batches: Streaming<v1::Batch>,
    peer: Option<SocketAddr>,
    distrusted: BoxFuture<'static, Failure>,
    /// The batch read last, while it waits for its share. It keeps its place in the queue when acknowledgements pass it.
    admission: Option<BoxFuture<'static, Result<Admitted, AcquireError>>>,
    in_flight: FuturesOrdered<BoxFuture<'static, Outcome>>,
    in_flight_bytes: usize,
    last_id: u64,
    /// The agent has sent its last batch.
    ended: bool,
    /// What was logged already: a broken agent repeats itself.
    logged: BTreeSet<Refusal>,
}

/// The acknowledgements for a stream of batches.
pub(crate) fn stream(
    call: AgentCall,
    batches: Streaming<v1::Batch>,
    peer: Option<SocketAddr>,
) -> BoxStream<'static, Result<Ack, Status>> {
    let distrusted = call.distrusted();
    let shipment = Shipment {
        lane: call.shared.store.lane(),
        call,
        batches,
        peer,
        distrusted,
        admission: None,
        in_flight: FuturesOrdered::new(),
        in_flight_bytes: 0,
        last_id: 0,
        ended: false,
        logged: BTreeSet::new(),
    };
    stream::unfold(Some(shipment), async |shipment| {
        let mut shipment = shipment?;
        match shipment.next().await {
            Ok(Some(ack)) => Some((Ok(ack), Some(shipment))),
            Ok(None) => {
                shipment.call.completed();
                None
            }
            Err(status) => {
                tracing::info!(node = %shipment.call.agent.node, %status, "an agent's records stop");
                Some((Err(shipment.call.failed(status)), None))
            }
        }
    })
    .boxed()
}

/// Lets the store forget the sources of pods that the platform has forgotten, of which no agent sends anything any more.
pub(crate) async fn forget_gone(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stopping.ending.cancelled() => return,
            () = tokio::time::sleep(FORGET_EVERY) => {}
        }
        let inventory = Arc::clone(&shared.inventory.borrow());
        if inventory.heard && !inventory.stale {
            shared
                .store
                .forget_unless(|source| inventory.pods.contains_key(&source.uid) || event::is_source(source));
        }
    }
}

/// Waits until the batch's share is free. Shares go to whoever asked first.
fn admit(budget: &Arc<Semaphore>, message: v1::Batch) -> BoxFuture<'static, Result<Admitted, AcquireError>> {
    let columns = message.position.len() + message.time.len() + message.length.len();
    let bytes = message.messages.len() + columns * size_of::<u64>();
    let share = u32::try_from(bytes.min(ALL_IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
    let waiting = Arc::clone(budget).acquire_many_owned(share);
    Box::pin(async move { Ok((message, waiting.await?)) })
}

async fn admitted(
    admission: &mut Option<BoxFuture<'static, Result<Admitted, AcquireError>>>,
) -> Result<Admitted, AcquireError> {
    match admission {
        Some(admission) => admission.await,
        None => std::future::pending().await,
    }
}

impl Shipment {
    /// The next acknowledgement; `None` when all is acknowledged and the agent has ended.
    async fn next(&mut self) -> Result<Option<Ack>, Status> {
        let ending = self.call.shared.stopping.ending.clone();
        loop {
            let room = self.in_flight.len() < IN_FLIGHT_BATCHES && self.in_flight_bytes < IN_FLIGHT_BYTES;
            if self.ended && self.in_flight.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = ending.cancelled() => return Err(stopping().into()),
                failure = &mut self.distrusted => return Err(failure.into()),
                Some(outcome) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    return self.acknowledge(outcome).map(Some);
                }
                admitted = admitted(&mut self.admission) => {
                    self.admission = None;
                    self.take(admitted.map_err(|_| Status::from(stopping()))?).await?;
                }
                message = self.batches.message(), if room && !self.ended && self.admission.is_none() => {
                    match message.map_err(frame_error).inspect_err(|status| self.malformed(status))? {
                        Some(message) => self.admission = Some(admit(&self.call.shared.in_flight, message)),
                        None => self.ended = true,
                    }
                }
            }
        }
    }

    /// Turns a finished batch into an acknowledgement that covers all that have finished after it as well.
    fn acknowledge(&mut self, outcome: Outcome) -> Result<Ack, Status> {
        let mut ack = self.settle(outcome)?;
        while ack.refused.is_none() {
            match self.in_flight.next().now_or_never() {
                Some(Some(outcome)) => ack = self.settle(outcome)?,
                Some(None) | None => break,
            }
        }
        Ok(ack)
    }

    fn settle(&mut self, (pending, result): Outcome) -> Result<Ack, Status> {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(pending.bytes);
        let ingest = &self.call.shared.metrics.ingest;
        let refusal = match (pending.refused, result) {
            (Some(refusal), _) => Some(refusal),
            (None, Err(AppendError::Unclaimed)) => Some(Refusal::Unclaimed),
            (None, Ok(appended)) => {
                match &pending.end {
                    // Everything before it is settled, and so is stored.
                    Some(source) => self.call.shared.ends.came(source, &self.call.shared.inventory.borrow()),
                    None => ingest.stored(appended, pending.bytes),
                }
                None
            }
            (None, Err(error @ (AppendError::Storage(_) | AppendError::Closed))) => {
                ingest.failed();
                return Err(Failure::new(ErrorKind::Unavailable, error.to_string()).into());
            }
        };
        if refusal.is_some() {
            ingest.refused();
        }
        Ok(Ack { id: pending.id, refused: refusal.map(|refusal| refusal.message().to_owned()) })
    }

    /// Puts a batch on its way to the disk, behind those before it.
    async fn take(&mut self, (message, share): Admitted) -> Result<(), Status> {
        let id = message.id;
        if id <= self.last_id {
            let status =
                Failure::new(ErrorKind::Usage, format!("batch {id} after batch {}", self.last_id)).into();
            self.malformed(&status);
            return Err(status);
        }
        self.last_id = id;
        let malformed = |error| {
            let status = Failure::new(ErrorKind::Usage, format!("invalid batch {id}: {error}")).into();
            self.malformed(&status);
            status
        };
        let (source, batch) = match message.end {
            true => (Batch::end(&message).map_err(malformed)?, None),
            false => {
                let batch = Batch::validate(message).map_err(malformed)?;
                (batch.source().clone(), Some(batch))
            }
        };
        let refused = match self.whose(&source)? {
            Whose::Ours(claim) => {
                // Of a source that has no records nothing is remembered.
                if let (Some(claim), Some(_)) = (claim, &batch) {
                    self.call.shared.store.remember(&source, &claim);
                }
                None
            }
            Whose::Refused(refusal) => Some(refusal),
        };
        let bytes = batch.as_ref().map_or(0, Batch::message_bytes);
        let end = batch.is_none().then(|| source.clone());
        let pending = Pending { id, bytes, refused, end, _share: share };
        if let Some(refusal) = pending.refused {
            self.refuse(refusal, &source);
            self.in_flight.push_back(Box::pin(async { (pending, Err(AppendError::Unclaimed)) }));
            return Ok(());
        }
        let Some(batch) = batch else {
            let nothing = Appended { kept: 0, dropped: 0 };
            self.in_flight.push_back(Box::pin(async move { (pending, Ok(nothing)) }));
            return Ok(());
        };
        self.in_flight_bytes += pending.bytes;
        let append = self.lane.append(batch);
        let mut append: BoxFuture<'static, Outcome> = Box::pin(async move { (pending, append.await) });
        // The store queues a batch when its future is first polled. Doing that here keeps the order of arrival, whatever
        // order the set of futures polls in.
        match poll!(Pin::new(&mut append)) {
            Poll::Ready(outcome) => self.in_flight.push_back(Box::pin(async { outcome })),
            Poll::Pending => self.in_flight.push_back(append),
        }
        Ok(())
    }

    /// Whose a source is: as the platform says now, or as it once said of a pod that is gone.
    fn whose(&self, source: &Source) -> Result<Whose, Status> {
        // What the aggregator writes itself, nobody else does: the store knows this claim, and no pod has it.
        if event::is_source(source) {
            return Ok(Whose::Refused(Refusal::Unclaimed));
        }
        let shared = &self.call.shared;
        let (current, heard) = {
            let inventory = shared.inventory.borrow();
            (inventory.claim(source), inventory.heard)
        };
        let node = &self.call.agent.node;
        match (current, shared.store.claim(source)) {
            (Some(claim), _) if claim.node == *node => Ok(Whose::Ours(Some(claim))),
            (None, Some(claim)) if claim.node == *node => Ok(Whose::Ours(None)),
            (Some(_), _) | (None, Some(_)) => Ok(Whose::Refused(Refusal::ForeignNode)),
            (None, None) if heard => Ok(Whose::Refused(Refusal::Unclaimed)),
            // A refusal is for good, and nothing is known for good yet.
            (None, None) => {
                Err(Failure::new(ErrorKind::Unavailable, "the platform has not been heard from yet").into())
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, source: &Source) {
        if !self.logged.insert(refusal) {
            return;
        }
        let agent = &self.call.agent;
        match refusal {
            // Happens whenever a pod goes while its last lines are under way.
            Refusal::Unclaimed => {
                tracing::info!(node = %agent.node, %source, "records of an unclaimed source refused")
            }
            Refusal::ForeignNode => {
                tracing::warn!(node = %agent.node, %source, "an agent sends another node's records: refused");
                let line = Line {
                    user: agent.name.clone(),
                    namespace: Some(source.namespace.to_string()),
                    environment: None,
                    peer: self.peer,
                    ended: "refused",
                    ..Line::new("Agents.Ship", "denied")
                };
                self.call.shared.audit.write(&line);
            }
        }
    }

    fn malformed(&self, status: &Status) {
        self.call.shared.metrics.ingest.malformed();
        tracing::warn!(node = %self.call.agent.node, peer = ?self.peer, %status, "malformed data from an agent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backlog_of_many_agents_waits_outside_of_memory() {
        let budget = Arc::new(Semaphore::new(100));
        let batch = || v1::Batch { messages: vec![0; 60].into(), ..v1::Batch::default() };
        let (_, first) = admit(&budget, batch()).await.unwrap();
        let mut second = Some(admit(&budget, batch()));
        assert!(admitted(&mut second).now_or_never().is_none());
        drop(first);
        assert!(admitted(&mut second).await.is_ok());
        // One that is larger than everything together still gets through.
        assert!(
            admit(
                &Arc::new(Semaphore::new(ALL_IN_FLIGHT_BYTES)),
                v1::Batch { messages: vec![0; ALL_IN_FLIGHT_BYTES + 1].into(), ..v1::Batch::default() }
            )
            .await
            .is_ok()
        );
    }
}
