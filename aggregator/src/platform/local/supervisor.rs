//! Keeps one instance running: start, capture, watch, end, and start again.
//!
//! * An instance is a process group, and a cgroup where that is allowed. When its program ends, for whatever reason,
//!   the rest of the group is killed before the next start.
//! * Starts are further apart each time, up to a bound, until one has lasted.

use super::cgroup::Cgroup;
use super::health::Probe;
use super::output::{Cutter, LogFile, ROTATE_AT, tidy};
use super::spawn::Spawner;
use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use skpr_proto::PodUid;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, Interest};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Between SIGTERM and SIGKILL.
const TERMINATE_WITHIN: Duration = Duration::from_secs(10);
/// After its last process is gone an instance's pipes end at once; one that escaped may hold them no longer than this.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// The first pause before another start, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A start that lasted this long makes the next pause the first again.
const LASTED: Duration = Duration::from_secs(60);
/// How often an instance is asked: until it is ready, and afterwards.
const PROBE_STARTING: Duration = Duration::from_millis(250);
const PROBE_READY: Duration = Duration::from_secs(5);
/// So many probes in a row fail before a ready instance is not.
const PROBES_FAILED: u32 = 3;
/// What is read from a pipe at once: as much as a pipe holds.
const READ: usize = 64 << 10;

/// Everything that is needed to run one instance.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) uid: PodUid,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<std::ffi::OsString>,
    pub(super) directory: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    /// Where `N.log` are written.
    pub(super) logs: PathBuf,
    pub(super) probe: Option<Probe>,
    pub(super) cgroup: Option<Cgroup>,
}

/// An instance has become ready, or is no longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) uid: PodUid,
    pub(super) ready: bool,
}

/// Runs the instance until `stop`, and returns when nothing of it is left.
pub(super) async fn supervise(
    instance: Instance,
    spawner: Spawner,
    readiness: mpsc::Sender<Readiness>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    for start in 0.. {
        let begun = Instant::now();
        let run = Run { instance: &instance, readiness: &readiness, stop: &stop, ready: false };
        run.once(start, &spawner).await;
        if stop.is_cancelled() {
            break;
        }
        if begun.elapsed() >= LASTED {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if let Some(cgroup) = instance.cgroup {
        blocking(move || cgroup.remove()).await;
    }
}

struct Run<'a> {
    instance: &'a Instance,
    readiness: &'a mpsc::Sender<Readiness>,
    stop: &'a CancellationToken,
    ready: bool,
}

impl Run<'_> {
    async fn once(mut self, start: u32, spawner: &Spawner) {
        let instance = self.instance;
        let mut log = LogFile::new(instance.logs.clone(), start, ROTATE_AT);
        let (directory, _) = log.place();
        // Each start leaves a file, and one that ends soon never rotates it.
        blocking(move || tidy_up(&directory, start)).await;
        let mut child = match spawner.spawn(self.command()).await {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(instance = instance.name, error = %error, "instance cannot be started");
                let mut line = Vec::new();
                let text = format!("skpr: cannot start `{}`: {error}\n", instance.program.display());
                Cutter::new("stderr").push(Timestamp::now(), text.as_bytes(), &mut line);
                blocking(move || log.write(&line, Timestamp::now())).await;
                return;
            }
        };
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        tracing::info!(instance = instance.name, start, pid = child.id(), "instance started");
        let mut output = JoinSet::new();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            output.spawn(capture(stdout, stderr, log));
        }
        let mut program = Program::new(child, group);
        let status = self.watch(&mut program).await;
        self.report(false).await;
        self.end_rest(&program).await;
        if timeout(DRAIN_WITHIN, output.join_next()).await.is_err() {
            tracing::warn!(
                instance = instance.name,
                "a process of the instance escaped and still holds its output"
            );
        }
        output.shutdown().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if self.stop.is_cancelled() {
            tracing::info!(instance = instance.name, status, "instance stopped");
        } else {
            tracing::warn!(instance = instance.name, status, "instance ended, starting it again");
        }
    }

    fn command(&self) -> Command {
        let instance = self.instance;
        let mut command = Command::new(&instance.program);
        command
            .args(&instance.arguments)
            .current_dir(&instance.directory)
            .process_group(0)
            .kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Our own settings, a token among them perhaps, are not the site's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SKPR_") {
                command.env_remove(name);
            }
        }
        command.envs(instance.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Until the program has ended, or been ended because of `stop`.
    async fn watch(&mut self, program: &mut Program) -> std::io::Result<ExitStatus> {
        let mut failed = 0;
        loop {
            let pause = if self.ready { PROBE_READY } else { PROBE_STARTING };
            tokio::select! {
                status = program.ended() => return status,
                () = self.stop.cancelled() => break,
                passes = probe_after(self.instance.probe.as_ref(), if self.ready || failed > 0 { pause } else { Duration::ZERO }) => {
                    failed = if passes { 0 } else { failed + 1 };
                    if passes || failed >= PROBES_FAILED {
                        self.report(passes).await;
                    }
                }
            }
        }
        self.report(false).await;
        signal(program.group, Signal::TERM);
        if let Ok(status) = timeout(TERMINATE_WITHIN, program.ended()).await {
            return status;
        }
        tracing::warn!(instance = self.instance.name, "instance did not stop when asked, killing it");
        signal(program.group, Signal::KILL);
        program.ended().await
    }

    /// The program has ended; what it started has to go with it.
    async fn end_rest(&self, program: &Program) {
        if self.instance.cgroup.is_none() && program.exit.is_none() {
            // The number may be another group's by now, but nothing else names this one's.
            signal(program.group, Signal::KILL);
        }
        if let Some(cgroup) = self.instance.cgroup.clone() {
            blocking(move || cgroup.kill()).await;
        }
    }

    async fn report(&mut self, ready: bool) {
        if ready != self.ready {
            self.ready = ready;
            // The platform stops listening only after it has asked us to stop.
            drop(self.readiness.send(Readiness { uid: self.instance.uid.clone(), ready }).await);
        }
    }
}

/// The running program, which leads a process group.
struct Program {
    child: Child,
    group: Option<Pid>,
    /// Readable from the program's end on, before the end is collected.
    exit: Option<AsyncFd<OwnedFd>>,
}

impl Program {
    fn new(child: Child, group: Option<Pid>) -> Program {
        let exit = group.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        #[expect(
            deprecated,
            reason = "sound for an `OwnedFd`, and the constructor for all else needs unsafe"
        )]
        let exit = exit.and_then(|exit| AsyncFd::with_interest(exit, Interest::READABLE).ok());
        Program { child, group, exit }
    }

    /// Waits for its end, and kills the rest of its group before that end is collected: until then the group's number
    /// cannot become another's. Cancel-safe.
    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(exit) = &self.exit
            && exit.readable().await.is_ok()
        {
            signal(self.group, Signal::KILL);
        }
        self.child.wait().await
    }
}

/// With nothing to ask, a program that runs is ready.
async fn probe_after(probe: Option<&Probe>, pause: Duration) -> bool {
    sleep(pause).await;
    match probe {
        Some(probe) => probe.passes().await,
        None => true,
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(error = %error, "an instance's processes cannot be signalled");
    }
}

/// Reads both pipes to their ends. One write at a time, outside the runtime's threads: a slow disk makes the pipe fill
/// and the site wait, as a container runtime would.
async fn capture(mut stdout: ChildStdout, mut stderr: ChildStderr, mut log: LogFile) {
    let (mut out, mut err) = (Pipe::new("stdout"), Pipe::new("stderr"));
    let mut tidying = JoinSet::new();
    while out.open || err.open {
        let lines = tokio::select! {
            lines = out.read(&mut stdout), if out.open => lines,
            lines = err.read(&mut stderr), if err.open => lines,
        };
        if lines.is_empty() {
            continue;
        }
        let written = blocking(move || {
            let rotated = log.write(&lines, Timestamp::now());
            (log, rotated)
        });
        let Some((back, rotated)) = written.await else { return };
        log = back;
        while tidying.try_join_next().is_some() {}
        if rotated && tidying.is_empty() {
            let (directory, start) = log.place();
            tidying.spawn_blocking(move || tidy_up(&directory, start));
        }
    }
    while tidying.join_next().await.is_some() {}
}

fn tidy_up(directory: &Path, start: u32) {
    if let Err(error) = tidy(directory, start, SystemTime::now()) {
        tracing::warn!(directory = %directory.display(), error = %error, "earlier output cannot be tidied");
    }
}

struct Pipe {
    cutter: Cutter,
    buffer: Vec<u8>,
    open: bool,
}

impl Pipe {
    fn new(stream: &'static str) -> Self {
        Pipe { cutter: Cutter::new(stream), buffer: Vec::new(), open: true }
    }

    /// Cancel-safe: what was read is cut at once.
    async fn read(&mut self, pipe: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        self.buffer.resize(READ, 0);
        let length = pipe.read(&mut self.buffer).await.unwrap_or(0);
        let (now, mut lines) = (Timestamp::now(), Vec::new());
        if length == 0 {
            self.open = false;
            self.cutter.finish(now, &mut lines);
        } else {
            self.cutter.push(now, self.buffer.get(..length).unwrap_or_default(), &mut lines);
        }
        lines
    }
}

/// Runs what may block elsewhere; none when the runtime is ending.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests;
