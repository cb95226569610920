//! Takes connections: TCP accept, TLS handshake, then on to the server.
//!
//! A handshake that stalls delays nobody: each runs by itself, for at most [`HANDSHAKE_TIMEOUT`], and when
//! [`HANDSHAKES`] are under way the oldest makes room for a new one. Of connections past [`CONNECTIONS`] nothing is read.

use crate::audit::Sparing;
use rustls_pki_types::CertificateDer;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Handshakes under way: at about 20 KiB each (buffers of TLS and the kernel) 10 MiB.
pub(crate) const HANDSHAKES: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them, which it does at once; past it handshakes wait, then accept.
const READY: usize = 64;
/// Open connections: 5000 nodes with one agent each, and 1000 users. An idle one costs some 40 KiB, all of them 240 MiB.
pub(super) const CONNECTIONS: usize = 6000;
/// After `accept` failed for want of files or memory, which passes; trying at once would only spin. Twice as long each
/// further time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(1600);
/// How long a handshake that is aborted may take to be gone.
const GIVEN_BACK_WITHIN: Duration = Duration::from_millis(200);
/// How often a minute it is said that connections cannot be taken.
const SAID: u32 = 1;

/// Connections whose handshake is done.
pub type Connections = ReceiverStream<io::Result<Connection>>;

/// A connection and its place among those that may be open.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end, as calls see it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) connection: HangUp,
}

/// Ends a connection with everything on it, also what waits for the other end to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct HangUp(CancellationToken);

impl HangUp {
    pub(crate) fn hang_up(&self) {
        self.0.cancel();
    }

    #[cfg(test)]
    pub(crate) fn is_hung_up(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Where a call comes from.
pub(crate) fn peer<T>(request: &tonic::Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<Peer>().and_then(|peer| peer.address)
}

/// What ends the connection of a call.
pub(crate) fn connection<T>(request: &tonic::Request<T>) -> HangUp {
    request.extensions().get::<Peer>().map(|peer| peer.connection.clone()).unwrap_or_default()
}

/// The accept loop.
pub struct Acceptor {
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<Connection>>,
    places: Arc<Semaphore>,
}

impl Acceptor {
    pub fn new(listener: TcpListener, config: Arc<rustls::ServerConfig>) -> (Acceptor, Connections) {
        Acceptor::with_places(listener, config, CONNECTIONS)
    }

    /// `places`: how many connections may be open, those with a handshake under way among them.
    pub(crate) fn with_places(
        listener: TcpListener,
        config: Arc<rustls::ServerConfig>,
        places: usize,
    ) -> (Acceptor, Connections) {
        let (ready, connections) = mpsc::channel(READY);
        let (tls, places) = (TlsAcceptor::from(config), Arc::new(Semaphore::new(places)));
        (Acceptor { listener, tls, ready, places }, ReceiverStream::new(connections))
    }

    /// Accepts until told to stop; handshakes that are not done then are dropped.
    pub async fn run(self, stop: CancellationToken) {
        let mut handshakes = JoinSet::new();
        let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
        let (troubles, refused) = (Sparing::per_minute(SAID), Sparing::per_minute(SAID));
        let mut pause = ACCEPT_PAUSE;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
                Some(_) = handshakes.join_next() => {
                    oldest.retain(|handshake| !handshake.is_finished());
                    continue;
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if let Some(unsaid) = troubles.say() {
                        tracing::warn!(%error, unsaid, "accept failed");
                    }
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                    continue;
                }
            };
            pause = ACCEPT_PAUSE;
            let Some(place) = self.place(&mut oldest).await else {
                if let Some(unsaid) = refused.say() {
                    tracing::warn!(peer = ?stream.peer_addr().ok(), unsaid, "too many connections: one refused");
                }
                continue;
            };
            let (tls, ready) = (self.tls.clone(), self.ready.clone());
            oldest.push_back(handshakes.spawn(handshake(stream, place, tls, ready)));
        }
    }

    /// A place for whoever comes. Handshakes that have begun and say nothing keep nobody out: the oldest goes first.
    async fn place(&self, oldest: &mut VecDeque<AbortHandle>) -> Option<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        if free.is_some() && oldest.len() < HANDSHAKES {
            return free;
        }
        oldest.retain(|handshake| !handshake.is_finished());
        oldest.pop_front()?.abort();
        match free {
            Some(place) => Some(place),
            // What is aborted gives its place back as soon as it is looked at.
            None => timeout(GIVEN_BACK_WITHIN, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok(),
        }
    }
}

async fn handshake(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let peer = stream.peer_addr().ok();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(?peer, %error, "no TCP_NODELAY");
    }
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        // The receiver is gone only when the server has stopped.
        Ok(Ok(stream)) => drop(ready.send(Ok(Connection::new(stream, peer, place))).await),
        Ok(Err(error)) => tracing::debug!(?peer, %error, "handshake failed"),
        Err(_) => tracing::debug!(?peer, "handshake took too long"),
    }
}

impl Connection {
    fn new(
        stream: TlsStream<TcpStream>,
        address: Option<SocketAddr>,
        place: OwnedSemaphorePermit,
    ) -> Connection {
        let connection = HangUp::default();
        let hung_up = Box::pin(connection.0.clone().cancelled_owned());
        Connection { stream, peer: Peer { address, connection }, hung_up, _place: place }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer.address
    }

    /// The certificates that the client showed: its own, whose key it has, then what it says stands behind that.
    pub(crate) fn client_certificates(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.stream.get_ref().1.peer_certificates().unwrap_or_default();
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
    }
}

fn aborted<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever serves the connection waits to read, or to write.
        if self.hung_up.as_mut().poll(context).is_ready() {
            return aborted();
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.hung_up.as_mut().poll(context).is_ready() {
            return aborted();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.hung_up.as_mut().poll(context).is_ready() {
            return aborted();
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hung_up.as_mut().poll(context).is_ready() {
            return aborted();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
