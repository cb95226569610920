//! The engine at one end of a session: it blocks, in a thread of its own, and a socket pair joins it with the relay.

use super::place::Way;
use super::watch::Watch;
use crate::interrupt::{self, Orderly};
use crate::session::Session;
use skpr_rsync::options::Options;
use skpr_rsync::{Base, Error, Link, Local, Summary, pull, push};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Blocking;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the goodbye may take once the transfer is done.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often it is shown how far it is.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// A transfer.
pub(super) struct Task {
    pub(super) way: Way,
    /// The path here, and the one there.
    pub(super) local: Vec<u8>,
    pub(super) there: Vec<u8>,
    pub(super) options: Options,
    pub(super) watch: Arc<Watch>,
}

/// Why a transfer did not come to its end.
pub(super) enum Broken {
    Interrupted,
    Relay,
    Engine(Error),
    System(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::System(error)
    }
}

/// Carries it out.
pub(super) async fn run(session: Session, task: Task) -> Result<Summary, Broken> {
    let (ours, theirs) = Blocking::pair()?;
    theirs.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(theirs)?.into_split();
    let interrupted = Arc::new(AtomicBool::new(false));
    // `kill` is to leave as little behind as Ctrl-C.
    interrupt::exit_on_terminate()?;
    let _orderly = Orderly::new({
        let (interrupted, closer) = (Arc::clone(&interrupted), ours.try_clone()?);
        move || {
            interrupted.store(true, Ordering::Release);
            drop(closer.shutdown(Shutdown::Both));
        }
    });
    let link = link(ours)?;
    let mut engine = tokio::task::spawn_blocking(move || task.watched(link));
    let relayed = session.relay.pass(read, write);
    tokio::pin!(relayed);
    let mut lost = None;
    let mut passing = true;
    let done = loop {
        tokio::select! {
            done = &mut engine => break done,
            // Its end of the socket is closed by that, so that the engine ends, too.
            ended = &mut relayed, if passing => {
                passing = false;
                lost = ended.err();
            }
        }
    };
    if passing {
        // The goodbye tells the aggregator that it came to its end.
        drop(timeout(GOODBYE, relayed).await);
    }
    let done = done.map_err(io::Error::other)?;
    match (done, lost) {
        (Ok(summary), _) => Ok(summary),
        (Err(_), _) if interrupted.load(Ordering::Acquire) => Err(Broken::Interrupted),
        (Err(Error::Ended | Error::Link(_)), Some(_)) => Err(Broken::Relay),
        (Err(error), _) => Err(Broken::Engine(error)),
    }
}

impl Task {
    /// Shows now and then how far it is. That has a thread of its own: a terminal or a pager may take its time, and what
    /// passes the bytes on does not wait for that.
    fn watched(self, link: Link) -> Result<Summary, Error> {
        let watch = Arc::clone(&self.watch);
        let (running, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while ended.recv_timeout(SHOWN_EVERY) == Err(RecvTimeoutError::Timeout) {
                    watch.show();
                }
            });
            let done = self.run(link);
            drop(running);
            done
        })
    }

    fn run(self, link: Link) -> Result<Summary, Error> {
        let Task { way, local, there, options, watch } = self;
        let watcher = |event: skpr_rsync::Event<'_>| watch.see(event);
        let local = Local { base: Base::Own, path: &local, watcher: &watcher, silence: None };
        match way {
            Way::Pull => pull(local, &there, &options, link),
            Way::Push => push(local, &there, &options, link),
        }
    }
}

fn link(ours: Blocking) -> io::Result<Link> {
    let (reader, closer) = (ours.try_clone()?, ours.try_clone()?);
    let close = move || {
        // It may have ended already.
        drop(closer.shutdown(Shutdown::Both));
    };
    Ok(Link { reader: Box::new(reader), writer: Box::new(Closing(ours)), close: Box::new(close) })
}

/// Ends its direction when it is dropped.
struct Closing(Blocking);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        drop(self.0.shutdown(Shutdown::Write));
    }
}
