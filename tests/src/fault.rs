//! A TCP link between two programs that can be slowed, stalled and cut, in this process.
//!
//! * Bytes are passed on unchanged and in order, or not at all.
//! * A stalled link holds connections open and moves nothing, as a network that drops every packet does.
//! * Dropping the link ends its connections and its threads.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long connecting to the far end may take before the near end is closed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Passing,
    Stalled,
    Cut,
    Ended,
}

/// Listens on a port of this machine and passes connections on.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    wire: Mutex<Wire>,
    changed: Condvar,
}

#[derive(Debug)]
struct Wire {
    state: State,
    delay: Duration,
    target: SocketAddr,
    sockets: Vec<TcpStream>,
}

impl Link {
    /// A link to `target` that passes everything.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the link")?;
        let address = listener.local_addr().context("find the link's port")?;
        let wire = Wire { state: State::Passing, delay: Duration::ZERO, target, sockets: vec![] };
        let shared = Arc::new(Shared { wire: Mutex::new(wire), changed: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        let accepting = Some(std::thread::spawn(move || accept(&listener, &for_thread)));
        Ok(Link { address, shared, accepting })
    }

    /// Where the near end connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to another place.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.lock().target = target;
    }

    /// Each piece of up to 16 KiB is held this long before it is passed on.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Holds connections open, old and new, and moves nothing.
    pub fn stall(&self) {
        self.shared.set(State::Stalled);
    }

    /// Ends every connection, and each new one at once.
    pub fn cut(&self) {
        self.shared.set(State::Cut);
        self.shared.hang_up();
    }

    /// Ends every connection; new ones pass.
    pub fn reset(&self) {
        self.shared.hang_up();
    }

    /// Passes everything again, what was held first.
    pub fn heal(&self) {
        self.shared.set(State::Passing);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.set(State::Ended);
        self.shared.hang_up();
        // Wakes the accepting thread, which then finds that the link has ended.
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.accepting.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    fn hang_up(&self) {
        for socket in self.lock().sockets.drain(..) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// Waits while the link is stalled; what it does now, and how long it holds a piece.
    fn passing(&self) -> Option<Duration> {
        let mut wire = self.lock();
        while wire.state == State::Stalled {
            wire = self.changed.wait(wire).unwrap_or_else(PoisonError::into_inner);
        }
        (wire.state == State::Passing).then_some(wire.delay)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = vec![];
    for near in listener.incoming() {
        let (state, target) = {
            let wire = shared.lock();
            (wire.state, wire.target)
        };
        pumps.retain(|pump| !pump.is_finished());
        match (state, near) {
            (State::Ended, _) => break,
            (State::Cut, _) | (_, Err(_)) => {}
            (State::Passing | State::Stalled, Ok(near)) => {
                if let Ok(pair) = join(near, target, shared) {
                    pumps.extend(pair);
                }
            }
        }
    }
    for pump in pumps {
        pump.join().ok();
    }
}

fn join(near: TcpStream, target: SocketAddr, shared: &Arc<Shared>) -> Result<[JoinHandle<()>; 2]> {
    let far = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        let mut wire = shared.lock();
        wire.sockets.push(socket.try_clone()?);
        // A link that was cut or ended in the meantime has already hung up on the others.
        if matches!(wire.state, State::Cut | State::Ended) {
            socket.shutdown(Shutdown::Both)?;
        }
    }
    Ok([pump(near.try_clone()?, far.try_clone()?, shared), pump(far, near, shared)])
}

fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut piece = [0; 16 << 10];
        while let Ok(length) = from.read(&mut piece) {
            let Some(delay) = shared.passing() else { break };
            std::thread::sleep(delay);
            let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // The end of one direction is passed on; the other ends by itself.
        to.shutdown(Shutdown::Write).ok();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says everything back.
    fn echo() -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).ok();
        });
        (address, thread)
    }

    #[test]
    fn a_link_passes_stalls_heals_and_is_cut() {
        let (address, server) = echo();
        let link = Link::to(address).unwrap();
        let mut client = TcpStream::connect(link.address()).unwrap();
        let mut byte = [0];
        client.write_all(b"a").unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");

        link.stall();
        client.write_all(b"b").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(client.read_exact(&mut byte).is_err(), "nothing passes a stalled link");
        link.heal();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");

        link.cut();
        assert_eq!(client.read(&mut byte).unwrap_or(0), 0, "a cut link ends the connection");
        drop(link);
        server.join().unwrap();
    }
}
