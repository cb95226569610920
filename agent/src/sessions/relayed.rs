//! One end of the relay, as a stream of bytes.
//!
//! What is held here is bounded: a pipe of [`PIPE`] each way, and two messages. Beyond that a side that does not read makes
//! the other wait, through the connection's windows.

use crate::link::connect::Connection;
use crate::link::failure::LinkError;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use skpr_proto::MAX_PIECE;
use skpr_proto::v1::{Exit, SessionData};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What the two sides may be apart. Larger than a message, so that none is cut into pieces.
const PIPE: usize = 128 << 10;
/// Messages that wait for the connection: one, while the next is filled.
const WAITING: usize = 1;
/// The aggregator has the caller waiting when it asks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// When all is said, how long the other side may take to say the same.
const LINGER: Duration = Duration::from_secs(1);
/// How long a process may take to be ended whose client has gone, before nothing is said of how it ended.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// Bytes between a session and the aggregator.
pub(super) struct Relayed {
    from: Incoming,
    to: mpsc::Sender<SessionData>,
    theirs: DuplexStream,
}

/// What comes from the other end.
pub type Incoming = BoxStream<'static, Result<SessionData, Status>>;

impl Relayed {
    /// Comes for a session; the stream of its bytes is returned beside what [passes](Relayed::pass) them.
    pub(super) async fn accept(
        connection: &Connection,
        session: String,
    ) -> Result<(DuplexStream, Relayed), LinkError> {
        let (to, messages) = mpsc::channel(WAITING);
        let first = SessionData { session, ..SessionData::default() };
        drop(to.send(first).await);
        let mut client = connection.client();
        let call = client.accept(connection.request(ReceiverStream::new(messages)));
        let from = timeout(ANSWER_TIMEOUT, call)
            .await
            .map_err(|_| LinkError::TimedOut { what: "coming for a session", limit: ANSWER_TIMEOUT })?
            .map_err(LinkError::call("Accept"))?
            .into_inner();
        Ok(Relayed::of(from.boxed(), to))
    }

    /// With an other end that is in this program.
    pub(super) fn of(from: Incoming, to: mpsc::Sender<SessionData>) -> (DuplexStream, Relayed) {
        let (ours, theirs) = duplex(PIPE);
        (ours, Relayed { from, to, theirs })
    }

    /// Passes bytes both ways until the session has said all, or the aggregator has gone. `exit` tells how it ended.
    pub(super) async fn pass(self, exit: oneshot::Receiver<Option<Exit>>) {
        let Relayed { mut from, to, theirs } = self;
        let (read, write) = split(theirs);
        {
            let (down, up) = (down(&mut from, write), up(read, to, exit));
            tokio::pin!(down, up);
            tokio::select! {
                // The caller may end its direction first, and listen on.
                whole = &mut down => if whole { up.await },
                () = &mut up => drop(timeout(LINGER, down).await),
            }
        }
        // What the other side still has to say is its goodbye.
        while let Ok(Some(Ok(_))) = timeout(LINGER, from.next()).await {}
    }
}

/// From the aggregator to the session; whether it came to its end.
async fn down(from: &mut Incoming, mut write: WriteHalf<DuplexStream>) -> bool {
    loop {
        match from.next().await {
            Some(Ok(message)) => {
                if !message.data.is_empty() && write.write_all(&message.data).await.is_err() {
                    return true;
                }
                if message.end {
                    drop(write.shutdown().await);
                    return true;
                }
            }
            None => return false,
            Some(Err(status)) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "the relay ended");
                return false;
            }
        }
    }
}

/// From the session to the aggregator.
async fn up(
    mut read: ReadHalf<DuplexStream>,
    to: mpsc::Sender<SessionData>,
    exit: oneshot::Receiver<Option<Exit>>,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_PIECE);
        match read.read_buf(&mut buffer).await {
            Ok(1..) => {
                while !buffer.is_empty() {
                    let data: Bytes = buffer.split_to(buffer.len().min(MAX_PIECE)).freeze();
                    if to.send(SessionData { data, ..SessionData::default() }).await.is_err() {
                        return;
                    }
                }
            }
            Ok(0) | Err(_) => break,
        }
    }
    let exit = timeout(ENDED_WITHIN, exit).await.ok().and_then(Result::ok).flatten();
    let last = SessionData { end: true, exit, ..SessionData::default() };
    drop(to.send(last).await);
}
