//! A port or a socket of the instance, at the client's end of a channel (`ssh -L`, `-D` and `-W`).
//!
//! * What is not there, or does not answer, is refused after a while. Nothing waits for it but its own channel.
//! * Each direction ends by itself. What the other end has not taken yet is kept as a process's input is ([`spill`]), and
//!   goes there also when the client, having said all, is gone.

use super::channel::Channels;
use super::output::READ;
use super::spill::{self, Drain, Filler};
use super::taken::Taken;
use crate::runtime::{Connected, To};
use bytes::BytesMut;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf};
use skpr_proto::ssh;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Often enough for a client that may be [`ssh::MOST_UNTAKEN_FORWARD`] ahead.
const TELL_EVERY: u64 = ssh::MOST_UNTAKEN_FORWARD / 8;
/// How long the other end may take nothing once there is no client to wait with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is connected answers by then, or never.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// A channel that is asked for.
pub(super) struct Forward {
    pub(super) channel: Channel<Msg>,
    pub(super) to: To,
    /// The client tells what it has passed on, and wants to be told.
    pub(super) paced: bool,
    pub(super) reply: ChannelOpenHandle,
    pub(super) place: OwnedSemaphorePermit,
}

/// Serves it to its end.
pub(super) async fn serve(forward: Forward, channels: &Channels) {
    let Forward { channel, to, paced, reply, place: _place } = forward;
    let session = channels.session();
    let connecting = timeout(CONNECTED_WITHIN, session.runtime.connect(&session.instance, &to));
    let connected = tokio::select! {
        connected = connecting => connected.map_err(|_| io::ErrorKind::TimedOut.into()).flatten(),
        () = channels.over() => return,
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a client's forward leads nowhere");
            let why = match error.kind() {
                io::ErrorKind::Unsupported => ChannelOpenFailure::AdministrativelyProhibited,
                _ => ChannelOpenFailure::ConnectFailed,
            };
            return reply.reject(why).await;
        }
    };
    reply.accept().await;
    let (filler, drain) = spill::pair(&session.space);
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let mut passing =
        Passing { ways: JoinSet::new(), closed: CancellationToken::new(), taken: watch::channel(0).0 };
    let up = match stream {
        Connected::Port(stream) => passing.begin(stream, drain, &write, paced),
        Connected::Socket(stream) => passing.begin(stream, drain, &write, paced),
    };
    tokio::select! {
        () = passing.both(read, filler, &up) => {}
        () = session.runtime.gone(&session.instance) => {}
    }
    passing.ways.shutdown().await;
    drop(write.close().await);
}

/// Two ways that are under way.
struct Passing {
    ways: JoinSet<()>,
    /// Is cancelled when the client has closed the channel, or is gone.
    closed: CancellationToken,
    /// What a client that says so has passed on of what it was sent.
    taken: watch::Sender<u64>,
}

impl Passing {
    /// Begins both ways; returns what ends the one to the client.
    fn begin<S>(
        &mut self,
        stream: S,
        drain: Drain,
        write: &Arc<ChannelWriteHalf<Msg>>,
        paced: bool,
    ) -> AbortHandle
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = split(stream);
        let may = paced.then(|| self.taken.subscribe());
        let tell = Taken::new(paced.then(|| Arc::clone(write)), TELL_EVERY);
        self.ways.spawn(down(drain, to, tell, self.closed.clone()));
        self.ways.spawn(up(from, Arc::clone(write), may))
    }

    /// Takes in what the client sends until both ways have come to their ends.
    async fn both(&mut self, mut read: ChannelReadHalf, filler: Filler, up: &AbortHandle) {
        let mut filler = Some(filler);
        let mut whole = false;
        loop {
            let message = tokio::select! {
                message = read.wait(), if !self.closed.is_cancelled() => message,
                ended = self.ways.join_next() => match ended {
                    Some(_) => continue,
                    None => return,
                },
            };
            match message {
                Some(ChannelMsg::Data { data }) => {
                    let Some(filler) = &mut filler else { continue };
                    if let Err(full) = filler.push(data).await {
                        tracing::debug!(%full, "a client's forward is cut off");
                        return;
                    }
                }
                Some(ChannelMsg::ExtendedData { data, ext: ssh::TAKEN }) => {
                    if let Some(bytes) = ssh::bytes_taken(&data) {
                        self.taken.send_replace(bytes);
                    }
                }
                Some(ChannelMsg::Eof) => {
                    whole = true;
                    filler = None;
                }
                // It has said all there is to say, and all of that is to arrive.
                Some(ChannelMsg::Close) | None if whole => {
                    self.closed.cancel();
                    up.abort();
                }
                Some(ChannelMsg::Close) | None => return,
                Some(_) => {}
            }
        }
    }
}

/// From the instance to the client, at its pace.
async fn up(
    mut from: impl AsyncRead + Unpin,
    to: Arc<ChannelWriteHalf<Msg>>,
    mut taken: Option<watch::Receiver<u64>>,
) {
    let (mut buffer, mut sent) = (BytesMut::new(), 0_u64);
    loop {
        if let Some(taken) = &mut taken {
            let may = |taken: &u64| sent < taken.saturating_add(ssh::MOST_UNTAKEN_FORWARD);
            if taken.wait_for(may).await.is_err() {
                return;
            }
        }
        buffer.reserve(READ);
        match from.read_buf(&mut buffer).await {
            Ok(length @ 1..) => {
                sent += length as u64;
                if to.data_bytes(buffer.split().freeze()).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => {
                drop(to.eof().await);
                return;
            }
        }
    }
}

/// From the client to the instance, at its pace; once the channel is closed, with some patience.
async fn down(
    mut drain: Drain,
    mut to: impl AsyncWrite + Unpin,
    mut taken: Taken,
    closed: CancellationToken,
) {
    // From the moment in which there is no client any more, for all that is left.
    let mut impatient = pin!(async {
        closed.cancelled().await;
        sleep(PATIENCE).await;
    });
    loop {
        let bytes = match drain.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) => {
                // Cut off, and not ended: what is there is not all.
                tracing::error!(%error, "what a client has sent through a forward is lost");
                return taken.tell(u64::MAX).await;
            }
        };
        let written = tokio::select! {
            written = to.write_all(&bytes) => written.is_ok(),
            () = &mut impatient => false,
        };
        if !written {
            drop(drain);
            return taken.tell(u64::MAX).await;
        }
        taken.passed(bytes.len() as u64).await;
    }
    drop(to.shutdown().await);
}
