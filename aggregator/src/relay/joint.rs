//! Two streams that are one session: each is read by whoever writes the other, and both end together.

use super::ending::{Ending, Why};
use super::told::{Begun, Told};
use crate::api::Seat;
use crate::audit::Access;
use crate::tls::HangUp;
use crate::web::Sessions;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use skpr_proto::v1::Exit;
use skpr_proto::{ErrorKind, Failure};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

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

impl Way {
    fn other(self) -> Way {
        match self {
            Way::ToAgent => Way::ToCaller,
            Way::ToCaller => Way::ToAgent,
        }
    }
}

/// A caller's call, as far as a session needs it.
pub(crate) struct Call {
    pub(crate) access: Access,
    pub(crate) connection: HangUp,
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
    to_agent: CancellationToken,
    to_caller: CancellationToken,
    ending: Ending,
    _seat: Seat,
}

impl Joint {
    /// From here on the session has begun.
    pub(super) fn new(access: Access, told: Told, counts: Sessions, seat: Seat, ending: Ending) -> Joint {
        counts.opened();
        access.session_begins();
        Joint {
            access: Mutex::new(access),
            begun: Mutex::new(Begun::begin(told)),
            counts,
            to_agent: CancellationToken::new(),
            to_caller: CancellationToken::new(),
            ending,
            _seat: seat,
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

    fn passed(&self, way: Way, piece: &Piece) {
        self.counts.passed(piece.data.len() as u64);
        self.access(|access| {
            access.sent(0, piece.data.len());
            if let Some(exit) = &piece.exit {
                access.exit(exit);
            }
            // The agent has said all there is to say; what becomes of the connections is no part of it.
            if piece.end && way == Way::ToCaller {
                access.completed();
            }
        });
        if piece.end && way == Way::ToCaller {
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).end(piece.exit.clone());
        }
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        let whole = self.to_caller.is_cancelled();
        if !whole {
            if let Some(failure) = self.ending.to_note() {
                self.access(|access| access.cut_off(&failure));
            }
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).broke(self.ending.in_words());
        }
        self.counts.closed(whole);
        self.ending.over();
    }
}

/// One direction that is passed on; when it is dropped before its end, the other side has gone.
struct Passing<M> {
    joint: Arc<Joint>,
    way: Way,
    from: BoxStream<'static, Result<M, Status>>,
    /// Its end was passed on.
    ended: bool,
    /// There is nothing more to read, not even an end of the connection.
    drained: bool,
}

/// What comes from one side, as the answer to the other.
pub(super) fn pass<M, N>(
    joint: Arc<Joint>,
    way: Way,
    from: BoxStream<'static, Result<M, Status>>,
    first: Option<N>,
) -> BoxStream<'static, Result<N, Status>>
where
    M: Into<Piece> + Send + 'static,
    N: From<Piece> + Send + 'static,
{
    let passing = Passing { joint, way, from, ended: false, drained: false };
    let passed = stream::unfold(Some(passing), async |passing| {
        let mut passing = passing?;
        match passing.next().await {
            Ok(Some(piece)) => Some((Ok(N::from(piece)), Some(passing))),
            Ok(None) => {
                passing.ended = true;
                None
            }
            Err(why) => {
                let failure = passing.joint.ending.end(why).failure();
                Some((Err(failure.into()), None))
            }
        }
    });
    stream::iter(first.map(Ok)).chain(passed).boxed()
}

impl<M: Into<Piece> + Send + 'static> Passing<M> {
    /// The next piece; none when both directions have ended.
    async fn next(&mut self) -> Result<Option<Piece>, Why> {
        let joint = Arc::clone(&self.joint);
        let other = self.way.other();
        loop {
            let message = tokio::select! {
                why = joint.ending.ended() => return Err(why),
                () = joint.ended(other).cancelled(), if self.ended => return Ok(None),
                message = self.from.try_next(), if !self.drained => message,
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
                Ok(Some(_)) => {
                    return Err(Why::Failed(Failure::new(ErrorKind::Usage, "there is data after the end")));
                }
                // It went without an end, or after it: for whoever waits for the other direction that is one.
                Ok(None) | Err(_) => return Err(Why::gone(self.way)),
            }
        }
    }
}

impl<M> Drop for Passing<M> {
    fn drop(&mut self) {
        let whole = self.joint.to_agent.is_cancelled() && self.joint.to_caller.is_cancelled();
        if !whole {
            // Whoever is answered by this direction has gone, if nothing else has ended it.
            self.joint.ending.end(Why::gone(self.way.other()));
        }
    }
}
