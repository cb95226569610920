//! Two streams that are one session: each is read by whoever writes the other, and both end together.

use super::told::{Begun, Told};
use crate::aggregator::stopping;
use crate::api::Seat;
use crate::audit::Access;
use crate::web::Sessions;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use skpr_proto::v1::Exit;
use skpr_proto::{ErrorKind, Failure};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// A part of a direction's bytes.
pub(super) struct Piece {
    pub(super) data: Bytes,
    pub(super) end: bool,
    pub(super) exit: Option<Exit>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToAgent,
    ToCaller,
}

/// A caller's call, as far as a session needs it.
pub(crate) struct Call {
    pub(crate) access: Access,
    /// Given back when the session ends.
    pub(crate) seat: Seat,
    /// Resolves when the caller's right is gone.
    pub(crate) forbidden: BoxFuture<'static, Failure>,
    pub(crate) told: Told,
    pub(crate) counts: Sessions,
    /// Is cancelled when the aggregator stops.
    pub(crate) stop: CancellationToken,
}

/// What the two directions share. Leaves the session's line and its counts when the last has ended.
pub(super) struct Joint {
    access: Mutex<Access>,
    begun: Mutex<Begun>,
    counts: Sessions,
    stop: CancellationToken,
    to_agent: CancellationToken,
    to_caller: CancellationToken,
    broken: CancellationToken,
    /// Taken by the direction that watches it.
    forbidden: Mutex<Option<BoxFuture<'static, Failure>>>,
    _seat: Seat,
}

impl Joint {
    /// From here on the session has begun.
    pub(super) fn new(call: Call) -> Joint {
        call.counts.opened();
        Joint {
            access: Mutex::new(call.access),
            begun: Mutex::new(Begun::begin(call.told)),
            counts: call.counts,
            stop: call.stop,
            to_agent: CancellationToken::new(),
            to_caller: CancellationToken::new(),
            broken: CancellationToken::new(),
            forbidden: Mutex::new(Some(call.forbidden)),
            _seat: call.seat,
        }
    }

    /// Is cancelled when that direction's end was passed on.
    fn ended(&self, way: Way) -> &CancellationToken {
        match way {
            Way::ToAgent => &self.to_agent,
            Way::ToCaller => &self.to_caller,
        }
    }

    fn access<T>(&self, change: impl FnOnce(&mut Access) -> T) -> T {
        change(&mut self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes why it ended, if it has not come to its end before.
    fn failed(&self, failure: &Failure) {
        if !self.to_caller.is_cancelled() {
            self.access(|access| access.refused(failure));
        }
    }

    fn passed(&self, way: Way, piece: &Piece) {
        self.counts.passed(piece.data.len() as u64);
        self.access(|access| {
            access.sent(0, piece.data.len());
            if let Some(exit) = &piece.exit {
                access.exit(match exit.signal {
                    0 => exit.code.to_string(),
                    signal => format!("signal {signal}"),
                });
            }
            // The agent has said all there is to say; what becomes of the connections is no part of it.
            if piece.end && way == Way::ToCaller {
                access.completed();
            }
        });
        if piece.end && way == Way::ToCaller {
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).end(piece.exit);
        }
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        self.counts.closed(self.to_caller.is_cancelled());
    }
}

/// One direction that is passed on; when it is dropped before its end, the other side has gone.
struct Passing<M> {
    joint: Arc<Joint>,
    way: Way,
    from: Streaming<M>,
    forbidden: BoxFuture<'static, Failure>,
    /// Its end was passed on.
    ended: bool,
    /// There is nothing more to read, not even an end of the connection.
    drained: bool,
}

/// What comes from one side, as the answer to the other.
pub(super) fn pass<M, N>(
    joint: Arc<Joint>,
    way: Way,
    from: Streaming<M>,
    first: Option<N>,
) -> BoxStream<'static, Result<N, Status>>
where
    M: Into<Piece> + Send + 'static,
    N: From<Piece> + Send + 'static,
{
    let forbidden = match way {
        Way::ToAgent => joint.forbidden.lock().unwrap_or_else(PoisonError::into_inner).take(),
        Way::ToCaller => None,
    };
    let forbidden = forbidden.unwrap_or_else(|| Box::pin(std::future::pending()));
    let passing = Passing { joint, way, from, forbidden, ended: false, drained: false };
    let passed = stream::unfold(Some(passing), async |passing| {
        let mut passing = passing?;
        match passing.next().await {
            Ok(Some(piece)) => Some((Ok(N::from(piece)), Some(passing))),
            Ok(None) => {
                passing.ended = true;
                None
            }
            Err(failure) => {
                passing.joint.failed(&failure);
                Some((Err(failure.into()), None))
            }
        }
    });
    stream::iter(first.map(Ok)).chain(passed).boxed()
}

impl<M: Into<Piece> + Send + 'static> Passing<M> {
    /// The next piece; none when both directions have ended.
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        let joint = Arc::clone(&self.joint);
        let other = match self.way {
            Way::ToAgent => Way::ToCaller,
            Way::ToCaller => Way::ToAgent,
        };
        loop {
            let message = tokio::select! {
                () = joint.broken.cancelled() => return Err(gone(self.way)),
                () = joint.stop.cancelled() => return Err(stopping()),
                failure = &mut self.forbidden => return Err(failure),
                () = joint.ended(other).cancelled(), if self.ended => return Ok(None),
                message = self.from.message(), if !self.drained => message,
            };
            match message {
                Ok(Some(message)) if !self.ended => {
                    let piece: Piece = message.into();
                    joint.passed(self.way, &piece);
                    if piece.end {
                        self.ended = true;
                        joint.ended(self.way).cancel();
                    }
                    return Ok(Some(piece));
                }
                Ok(None) if self.ended => self.drained = true,
                // After its end there is nothing to say.
                Ok(Some(_)) => return Err(Failure::new(ErrorKind::Usage, "there is data after the end")),
                // It went without an end, or after it: for whoever waits for the other direction that is one.
                Ok(None) | Err(_) => return Err(gone(self.way)),
            }
        }
    }
}

impl<M> Drop for Passing<M> {
    fn drop(&mut self) {
        let whole = self.joint.to_agent.is_cancelled() && self.joint.to_caller.is_cancelled();
        if !whole {
            self.joint.broken.cancel();
        }
    }
}

/// Says which side has gone.
fn gone(way: Way) -> Failure {
    let message = match way {
        Way::ToAgent => "the client has gone",
        Way::ToCaller => "the node's agent has gone, and the session with it",
    };
    Failure::new(ErrorKind::Unavailable, message)
}
