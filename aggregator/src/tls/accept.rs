//! Takes connections: TCP accept, TLS handshake, then on to the server.
//!
//! A handshake that stalls delays nobody: each runs by itself, for at most [`HANDSHAKE_TIMEOUT`], and when
//! [`HANDSHAKES`] are under way the oldest makes room for a new one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Handshakes under way: at about 20 KiB each (buffers of TLS and the kernel) 10 MiB.
const HANDSHAKES: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them, which it does at once; past it handshakes wait, then accept.
const READY: usize = 64;
/// After `accept` failed for want of files or memory, which passes; trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections whose handshake is done.
pub type Connections = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// The accept loop.
pub struct Acceptor {
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
}

impl Acceptor {
    pub fn new(listener: TcpListener, config: Arc<rustls::ServerConfig>) -> (Acceptor, Connections) {
        let (ready, connections) = mpsc::channel(READY);
        (Acceptor { listener, tls: TlsAcceptor::from(config), ready }, ReceiverStream::new(connections))
    }

    /// Accepts until told to stop; handshakes that are not done then are dropped.
    pub async fn run(self, stop: CancellationToken) {
        let mut handshakes = JoinSet::new();
        let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
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
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if oldest.len() >= HANDSHAKES
                && let Some(handshake) = oldest.pop_front()
            {
                handshake.abort();
            }
            let (tls, ready) = (self.tls.clone(), self.ready.clone());
            oldest.push_back(handshakes.spawn(handshake(stream, tls, ready)));
        }
    }
}

async fn handshake(
    stream: TcpStream,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let peer = stream.peer_addr().ok();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(?peer, %error, "no TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        // The receiver is gone only when the server has stopped.
        Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
        Ok(Err(error)) => tracing::debug!(?peer, %error, "handshake failed"),
        Err(_) => tracing::debug!(?peer, "handshake took too long"),
    }
}
