//! Sends what the tail thread hands out over one `Ship` stream, and tells it what was acknowledged.
//!
//! Invariants:
//! - Batches go out in the order in which they were handed out, so a source's records never overtake one another.
//! - Nothing sent is kept: whatever ends the stream, the tail thread goes back to what was acknowledged and reads the
//!   node's files again.
//! - Nothing waits for company. Each batch is sent as soon as it is handed out, and two more are always asked for while
//!   there is room, so a lone line leaves at once and a backlog fills whole batches by itself.
//!
//! Where pressure goes: a slow network fills the connection's send buffer, then the one slot before it; then no batch
//! is asked for, and the tail thread stops reading. A slow store fills the window (bytes in the tail engine, batches in
//! [`window::Window`]) with the same effect. Unread lines stay in the node's files.

pub(crate) mod pump;
pub(crate) mod tap;
pub(crate) mod window;

use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use futures::{StreamExt as _, TryFutureExt as _};
use skpr_proto::v1;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;
use tap::{Handed, Tap, WANTED};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use window::Window;

/// Between the sender and HTTP/2: one batch, so that the encoder never waits for us, and no more, because what is read
/// too early is only memory. Behind it are the connection's send buffer (1 MiB) and the kernel's.
const OUTGOING: usize = 1;
/// An aggregator that leaves a batch unanswered for so long is stuck; another connection may find a better one. Far
/// above what a slow disk needs for a group commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// At a clean end: how long to wait for the answers to what was sent. Unanswered batches are sent again later.
pub(crate) const WIND_DOWN: Duration = Duration::from_secs(2);

/// Ships until `wind_down` is cancelled, which ends cleanly, or until the stream fails. `on_answer` is called at each
/// acknowledgement.
pub(crate) async fn run(
    tap: &mut Tap,
    connection: &Connection,
    wind_down: &CancellationToken,
    mut on_answer: impl FnMut(),
) -> Result<(), LinkError> {
    let (out, outgoing) = mpsc::channel::<v1::Batch>(OUTGOING);
    let mut client = connection.client();
    let request = connection.request(ReceiverStream::new(outgoing));
    // The aggregator may answer the call only with its first acknowledgement, so opening it is part of the wait.
    let answers =
        async move { client.ship(request).await.map(tonic::Response::into_inner) }.try_flatten_stream();
    let mut answers = pin!(answers);

    tap.begin();
    let mut window = Window::default();
    let mut queue: VecDeque<Handed> = VecDeque::with_capacity(WANTED);
    let mut ends_at: Option<Instant> = None;
    loop {
        if ends_at.is_some() && window.is_empty() {
            return Ok(());
        }
        if ends_at.is_none() && window.has_room() && queue.is_empty() {
            tap.want();
        }
        let deadline = ends_at.or(window.oldest().map(|sent| sent + ANSWER_TIMEOUT));
        tokio::select! {
            biased;
            () = wind_down.cancelled(), if ends_at.is_none() => {
                // What has not gone out stays unsent: it will be read again.
                queue.clear();
                ends_at = Some(Instant::now() + WIND_DOWN);
            }
            answer = answers.next() => {
                let ack = answer.ok_or(LinkError::Ended { call: "Ship" })?.map_err(LinkError::call("Ship"))?;
                on_answer();
                answer_tap(tap, &mut window, ack)?;
            }
            () = sleep_until(deadline), if deadline.is_some() => {
                if ends_at.is_some() {
                    tracing::debug!("stopped with unanswered batches; they will be sent again");
                    return Ok(());
                }
                return Err(LinkError::TimedOut { what: "an acknowledgement", limit: ANSWER_TIMEOUT });
            }
            slot = out.reserve(), if !queue.is_empty() => {
                // The call has dropped its end: its error comes from `answers` at the next turn.
                if let (Ok(slot), Some(mut handed)) = (slot, queue.pop_front()) {
                    handed.batch.id = window.send(handed.ticket);
                    slot.send(handed.batch);
                }
            }
            handed = tap.next(), if ends_at.is_none() && queue.is_empty() => {
                queue.push_back(handed.ok_or(LinkError::TailEnded)?);
            }
        }
    }
}

fn answer_tap(tap: &Tap, window: &mut Window, ack: v1::Ack) -> Result<(), LinkError> {
    let Some(ticket) = window.answer(ack.id)? else { return Ok(()) };
    match ack.refused {
        Some(reason) => tap.refused(ticket, reason),
        None => tap.acked(ticket),
    }
    Ok(())
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
