//! The thread that owns stdout.

use super::Line;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines that wait for stdout, at about 400 bytes each 1.6 MiB. A reader that is further behind loses lines, which is
/// counted and logged: the alternative is that it stops everything.
const WAITING: usize = 4096;

/// Writes lines. Clones write to the same place.
#[derive(Clone, Debug)]
pub(crate) struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: SyncSender<Command>,
    lost: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Command {
    Line(Vec<u8>),
    Close,
}

impl Audit {
    pub(crate) fn new(out: impl Write + Send + 'static) -> std::io::Result<Audit> {
        let (lines, waiting) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || run(&waiting, out))?;
        Ok(Audit(Arc::new(Inner { lines, lost: AtomicU64::new(0), thread: Mutex::new(Some(thread)) })))
    }

    pub(crate) fn write(&self, line: &Line) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        match self.0.lines.try_send(Command::Line(text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                let lost = self.0.lost.fetch_add(1, Ordering::Relaxed) + 1;
                if lost.is_power_of_two() {
                    tracing::error!(lost, "audit lines lost: stdout is not being read");
                }
            }
        }
    }

    /// Lines that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Writes what waits, and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && self.0.lines.send(Command::Close).is_ok()
            && thread.join().is_err()
        {
            tracing::error!("the audit thread ended abnormally");
        }
    }
}

fn run(waiting: &Receiver<Command>, mut out: impl Write) {
    while let Ok(Command::Line(line)) = waiting.recv() {
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            tracing::error!(%error, "audit line not written");
        }
    }
}
