//! The programs that are started here. One ends with its owner, when its time is up, and when somebody has seen enough.
//!
//! Whoever waits for one that is ended here sees it end, fails, and thereby ends everything else in order: nothing waits
//! without a limit, and no limit needs a timeout of its own.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A terminal and a script may both tell the same; whoever asks again after this does not want to wait.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// What a shell says of a program that was interrupted.
const INTERRUPTED_CODE: i32 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WATCHED: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Watched {
    process: OwnedFd,
    deadline: Mutex<Instant>,
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    watched: Arc<Watched>,
    /// A file, so that nobody has to read it while it runs.
    stderr: File,
    what: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails once this was interrupted.
pub(crate) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Asks until there is an answer, or this is interrupted.
pub(crate) fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let answer = skpr_tests::eventually(what, timeout, || match check() {
        Ok(()) => Ok(question()?.map(Some)),
        Err(_) => Ok(Some(None)),
    })?;
    answer.context("interrupted")
}

/// Begins to watch, for as long as this program runs.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    drop(inside);
    let watching = async move {
        let mut first: Option<Instant> = None;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = interrupt.recv() => told(&mut first),
                _ = terminate.recv() => told(&mut first),
                _ = hangup.recv() => told(&mut first),
            }
            end_what_is_late();
        }
    };
    let spawned = std::thread::Builder::new().name("watch".into()).spawn(move || runtime.block_on(watching));
    spawned.map(drop).context("start the thread that watches")
}

fn told(first: &mut Option<Instant>) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    if first.get_or_insert_with(Instant::now).elapsed() > SAME_SIGNAL {
        std::process::exit(INTERRUPTED_CODE);
    }
}

fn end_what_is_late() {
    let (interrupted, now) = (check().is_err(), Instant::now());
    lock(&WATCHED).retain(|watched| {
        let Some(watched) = watched.upgrade() else { return false };
        if interrupted || *lock(&watched.deadline) < now {
            // It may have ended by itself.
            pidfd_send_signal(&watched.process, Signal::KILL).ok();
        }
        true
    });
}

impl Client {
    /// Starts it, for this long at most. What it says on stderr is kept.
    pub(crate) fn start(command: &mut Command, limit: Duration) -> Result<Client> {
        check()?;
        let what = format!("{command:?}");
        let stderr = tempfile::tempfile().context("make a file for stderr")?;
        let mut child =
            command.stderr(stderr.try_clone()?).spawn().with_context(|| format!("start {what}"))?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).inspect_err(|_| {
            child.kill().ok();
            child.wait().ok();
        })?;
        let watched = Arc::new(Watched { process, deadline: Mutex::new(Instant::now() + limit) });
        lock(&WATCHED).push(Arc::downgrade(&watched));
        Ok(Client { child, watched, stderr, what })
    }

    /// Its time is counted anew.
    pub(crate) fn renew(&self, limit: Duration) {
        *lock(&self.watched.deadline) = Instant::now() + limit;
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("its stdin is a pipe")
    }

    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("its stdout is a pipe")
    }

    /// Waits for its end, which is to be a good one.
    pub(crate) fn success(mut self) -> Result<()> {
        let status = self.child.wait().context("wait for a program")?;
        check()?;
        let said = self.said();
        ensure!(status.success(), "{}: {status}\n{said}", self.what);
        Ok(())
    }

    /// What it has said on stderr.
    pub(crate) fn said(&mut self) -> String {
        let mut text = Vec::new();
        // It only explains an error, which says enough without it.
        self.stderr.rewind().ok();
        self.stderr.read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
