//! Ports of ours that lead to a port of an instance: one connection to the agent, and a channel for each connection to us.
//!
//! * No channel holds up another: what the instance sends is taken in at once, and the agent sends no more than
//!   [`ssh::MOST_UNTAKEN_FORWARD`] ahead of what was passed on. It is told the same way how we send.
//! * Each direction ends by itself.

use super::Relay;
use super::connection::{self, Broken, Known};
use bytes::BytesMut;
use russh::client::{Handle, Msg};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use skpr_proto::ssh;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, SimplexStream, duplex, simplex, split};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// As many as the agent serves on one connection.
const AT_ONCE: usize = 64;
/// What one of them may send before it is read, with what it says about that.
const WAITING: usize = 2 * ssh::MOST_UNTAKEN_FORWARD as usize;
/// Room for all of them. SSH itself does not read while it cannot write: without that room, both ends might write.
const PIPE: usize = AT_ONCE * WAITING;
const READ: usize = 32 << 10;
const TELL_EVERY: u64 = ssh::MOST_UNTAKEN_FORWARD / 8;

/// From where to where.
pub(crate) struct Ports {
    pub listener: TcpListener,
    /// As the instance sees it.
    pub host: String,
    pub port: u16,
}

/// Takes connections until the session breaks.
pub(crate) async fn forward(
    relay: Relay,
    host_key: &str,
    ports: &Ports,
    refused: impl Fn(&russh::Error),
) -> Result<Infallible, Broken> {
    let (ours, theirs) = duplex(PIPE);
    let (read, write) = split(theirs);
    let relayed = relay.pass(read, write);
    let farewell = Arc::<OnceLock<String>>::default();
    let serving = async {
        let handle = connection::open(ours, host_key, ssh::OWN_USER, Arc::clone(&farewell)).await?;
        serve(&Arc::new(handle), ports, refused).await
    };
    let ended = tokio::select! {
        ended = relayed => Err(ended.map_or_else(Broken::Relay, |()| Broken::Cut)),
        broken = serving => broken,
    };
    ended.map_err(|broken| farewell.get().cloned().map_or(broken, Broken::Farewell))
}

async fn serve(
    handle: &Arc<Handle<Known>>,
    ports: &Ports,
    refused: impl Fn(&russh::Error),
) -> Result<Infallible, Broken> {
    let mut open: JoinSet<Result<(), russh::Error>> = JoinSet::new();
    loop {
        let stream = tokio::select! {
            // Those beyond wait in the system's queue.
            accepted = ports.listener.accept(), if open.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => stream,
                // Whoever came has gone again, or there are too many files open: both pass.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(ended) = open.join_next() => {
                if let Ok(Err(error)) = ended {
                    if handle.is_closed() {
                        return Err(error.into());
                    }
                    refused(&error);
                }
                continue;
            }
        };
        let (handle, host, port) = (Arc::clone(handle), ports.host.clone(), ports.port.into());
        open.spawn(async move {
            stream.set_nodelay(true)?;
            let channel = handle.channel_open_direct_tcpip(host, port, ssh::FORWARD, 0).await?;
            let (read, write) = channel.split();
            pass(stream, read, write).await
        });
    }
}

/// Passes both ways of one connection on.
async fn pass(
    stream: TcpStream,
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
) -> Result<(), russh::Error> {
    let (from, to) = stream.into_split();
    let (kept, keep) = simplex(WAITING);
    let (taken, allowed) = watch::channel(0);
    let write = Arc::new(write);
    let mut ways = JoinSet::new();
    ways.spawn(down(kept, to, Arc::clone(&write)));
    let up = ways.spawn(up(from, Arc::clone(&write), allowed));
    let mut taking = pin!(take_in(read, keep, taken));
    let mut closed = false;
    loop {
        tokio::select! {
            // What has come is still to be passed on.
            () = &mut taking, if !closed => {
                closed = true;
                up.abort();
            }
            ended = ways.join_next() => match ended {
                Some(Ok(Ok(()))) => {}
                Some(Err(stopped)) if stopped.is_cancelled() => {}
                // Either way is of no use without the other once it has failed.
                Some(_) | None => break,
            },
        }
    }
    ways.shutdown().await;
    write.close().await
}

/// Takes in what the agent sends, until the channel is closed.
async fn take_in(
    mut read: ChannelReadHalf,
    mut keep: tokio::io::WriteHalf<SimplexStream>,
    taken: watch::Sender<u64>,
) {
    while let Some(message) = read.wait().await {
        match message {
            // There is room: the agent keeps to what it may. Whoever reads may have gone.
            ChannelMsg::Data { data } => drop(keep.write_all(&data).await),
            ChannelMsg::ExtendedData { data, ext: ssh::TAKEN } => {
                if let Some(bytes) = ssh::bytes_taken(&data) {
                    taken.send_replace(bytes);
                }
            }
            ChannelMsg::Eof => drop(keep.shutdown().await),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    drop(keep.shutdown().await);
}

/// From the connection to the instance, no further ahead than may be.
async fn up(
    mut from: OwnedReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    mut taken: watch::Receiver<u64>,
) -> Result<(), russh::Error> {
    let (mut buffer, mut sent) = (BytesMut::new(), 0_u64);
    loop {
        let may = |taken: &u64| sent < taken.saturating_add(ssh::MOST_UNTAKEN_FORWARD);
        if taken.wait_for(may).await.is_err() {
            return Ok(());
        }
        buffer.reserve(READ);
        match from.read_buf(&mut buffer).await? {
            0 => return write.eof().await,
            length => {
                sent += length as u64;
                write.data_bytes(buffer.split().freeze()).await?;
            }
        }
    }
}

/// From the instance to the connection, telling what was passed on.
async fn down(
    mut kept: ReadHalf<SimplexStream>,
    mut to: OwnedWriteHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
) -> Result<(), russh::Error> {
    let (mut buffer, mut taken, mut told) = (BytesMut::new(), 0_u64, 0);
    loop {
        buffer.reserve(READ);
        let length = kept.read_buf(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all_buf(&mut buffer).await?;
        taken += length as u64;
        if taken - told >= TELL_EVERY {
            told = taken;
            write.extended_data_bytes(ssh::TAKEN, ssh::taken(taken)).await?;
        }
    }
}
