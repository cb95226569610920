//! A longer way to somewhere: what comes in goes out so much later, and as fast as it came.
//!
//! It is a proxy of this program, so that it needs nothing of the kernel. What a real way of that length has besides, TCP's
//! slow beginning and its losses, it has not.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

const PIECE: usize = 64 << 10;
/// Pieces that are on the way: 64 MiB, which is 640 MB/s at 100 ms.
const MOST: usize = 1024;

/// Where the way begins.
pub(crate) struct Far {
    pub(crate) address: SocketAddr,
}

impl Far {
    /// A way to `target` and back that takes so long. Its threads end with the connections, and the listening one with this
    /// program.
    pub(crate) fn to(target: SocketAddr, round_trip: Duration) -> Result<Far> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for a longer way")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for near in listener.incoming().filter_map(Result::ok) {
                // Whoever connects sees that it has ended.
                if let Ok(far) = TcpStream::connect(target) {
                    drop(join(&near, &far, round_trip / 2));
                }
            }
        });
        Ok(Far { address })
    }
}

fn join(near: &TcpStream, far: &TcpStream, delay: Duration) -> Result<()> {
    for (from, to) in [(near, far), (far, near)] {
        from.set_nodelay(true)?;
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (sender, receiver) = sync_channel(MOST);
        std::thread::spawn(move || take(from, &sender, delay));
        std::thread::spawn(move || give(to, &receiver));
    }
    Ok(())
}

fn take(mut from: TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let bytes = piece.get(..length).unwrap_or_default().to_vec();
        if sender.send((Instant::now() + delay, bytes)).is_err() {
            return;
        }
    }
}

fn give(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in receiver {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    // It may have ended from the other side.
    drop(to.shutdown(Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_as_long_as_it_is_far_and_not_longer_for_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
        });
        let far = Far::to(target, Duration::from_millis(200)).unwrap();
        let mut client = TcpStream::connect(far.address).unwrap();
        let (sent, mut back) = (vec![7; 4 << 20], vec![0; 4 << 20]);
        let begun = Instant::now();
        let writing = client.try_clone().unwrap();
        let written = std::thread::spawn(move || (&writing).write_all(&sent).map(|()| sent));
        client.read_exact(&mut back).unwrap();
        let took = begun.elapsed();
        assert!(back == written.join().unwrap().unwrap());
        // By the piece it would be 13 s.
        assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&took), "{took:?}");
        client.shutdown(Shutdown::Write).unwrap();
        echo.join().unwrap();
    }
}
