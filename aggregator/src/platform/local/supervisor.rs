//! Keeps one instance running: start, capture, watch, end, and start again.
//!
//! * An instance is a process group, and a cgroup where that is allowed. When its program ends, for whatever reason,
//!   the rest of the group is killed before the next start.
//! * Starts are further apart each time, up to a bound, until one has lasted.
//! * Each start has a port of its own: one that somebody else took in between costs a start and nothing more.

mod status;

pub(super) use status::{Report, Status};

use super::cgroup::Cgroup;
use super::health::Probe;
use super::host::{Entrances, Whereabouts};
use super::output::{Cutter, LogFile, ROTATE_AT, tidy};
use super::ports::{Port, Ports};
use super::variables::{search, variables};
use super::words;
use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use skpr_agent::runtime::{self, Spawner};
use skpr_agent::usage;
use skpr_proto::PodUid;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
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
/// What keeps an instance from running that ended more than once.
const CRASH_LOOP: &str = "CrashLoopBackOff";
/// What of our own program serves files.
const SERVE_FILES: &str = "serve-files";
const SERVE_TRANSFER: &str = "serve-transfer";
/// Tells an instance where to listen.
const PORT: &str = "PORT";
/// What is read from a pipe at once: as much as a pipe holds.
const READ: usize = 64 << 10;

/// Everything that is needed to run one instance.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) uid: PodUid,
    /// What is put before the command: our own program that becomes the site's, with its arguments.
    pub(super) wrapper: Vec<OsString>,
    /// The site's program and its arguments.
    pub(super) command: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    /// The path at which `.skpr.yml` puts each of its volumes, and where it is.
    pub(super) volumes: Vec<(PathBuf, PathBuf)>,
    /// Where `N.log` are written.
    pub(super) logs: PathBuf,
    pub(super) probe: Probe,
    /// Where its ports come from; none for one that listens on nothing.
    pub(super) ports: Option<Ports>,
    pub(super) cgroup: Option<Cgroup>,
    /// In thousandths of a CPU.
    pub(super) cpu_share: Option<u64>,
    pub(super) whereabouts: Whereabouts,
    pub(super) entrances: Entrances,
}

/// Runs the instance until `stop`, and returns when nothing of it is left.
pub(super) async fn supervise(
    instance: Instance,
    spawner: Spawner,
    reports: mpsc::Sender<Report>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    let mut teller = Teller { uid: instance.uid.clone(), status: Status::default(), reports };
    for start in 0.. {
        let begun = Instant::now();
        teller.status.restarts = start;
        Run { instance: &instance, teller: &mut teller, stop: &stop, port: None }.once(start, &spawner).await;
        if stop.is_cancelled() {
            break;
        }
        if begun.elapsed() >= LASTED {
            pause = FIRST_PAUSE;
        }
        // The first start again comes so soon that it is not worth a word.
        if pause > FIRST_PAUSE {
            teller.tell(|status| _ = status.waiting.get_or_insert(CRASH_LOOP)).await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    instance.whereabouts.send_modify(|all| _ = all.remove(&instance.uid));
    if let Some(cgroup) = instance.cgroup {
        blocking(move || cgroup.remove()).await;
    }
}

/// Sends on what has changed.
struct Teller {
    uid: PodUid,
    status: Status,
    reports: mpsc::Sender<Report>,
}

impl Teller {
    async fn tell(&mut self, change: impl FnOnce(&mut Status)) {
        let before = self.status.clone();
        change(&mut self.status);
        if before != self.status {
            let report = Report { uid: self.uid.clone(), status: self.status.clone() };
            // The platform stops listening only after it has asked us to stop.
            drop(self.reports.send(report).await);
        }
    }
}

struct Run<'a> {
    instance: &'a Instance,
    teller: &'a mut Teller,
    stop: &'a CancellationToken,
    port: Option<Port>,
}

impl Run<'_> {
    async fn once(mut self, start: u32, spawner: &Spawner) {
        let instance = self.instance;
        let mut log = LogFile::new(instance.logs.clone(), start, ROTATE_AT);
        let (directory, _) = log.place();
        // Each start leaves a file, and one that ends soon never rotates it.
        blocking(move || tidy_up(&directory, start)).await;
        let killed = instance.cgroup.as_ref().map_or(0, Cgroup::out_of_memory_kills);
        let mut child = match self.start(spawner).await {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(instance = instance.name, error = %error, "instance cannot be started");
                let program = instance.command.first().map(PathBuf::from).unwrap_or_default();
                let text = format!("cannot start `{}`: {}", program.display(), words::why(&error));
                let mut line = Vec::new();
                let said = format!("skpr: {text}\n");
                Cutter::new("stderr").push(Timestamp::now(), said.as_bytes(), &mut line);
                blocking(move || log.write(&line, Timestamp::now())).await;
                self.teller.tell(|status| status.not_started(&text)).await;
                return;
            }
        };
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        tracing::info!(instance = instance.name, start, pid = child.id(), "instance started");
        let local = usage::Local {
            cgroups: instance.cgroup.as_ref().map(|cgroup| cgroup.directories().to_vec()).unwrap_or_default(),
            group: group.map(|group| group.as_raw_nonzero().get()),
            cpu_share: instance.cpu_share,
        };
        instance.whereabouts.send_modify(|all| _ = all.insert(instance.uid.clone(), local));
        let port = self.port.as_ref().map(Port::number);
        let entrance = Arc::new(self.entrance());
        instance.entrances.send_modify(|all| _ = all.insert(instance.uid.clone(), entrance));
        self.teller.tell(|status| status.started(port, Timestamp::now())).await;
        let mut output = JoinSet::new();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            output.spawn(capture(stdout, stderr, log));
        }
        let mut program = Program::new(child, group);
        let status = self.watch(&mut program, &mut output).await;
        let killed = instance.cgroup.as_ref().map_or(0, Cgroup::out_of_memory_kills).saturating_sub(killed);
        // Before the rest is ended: what came from outside is told that it was this.
        instance.entrances.send_modify(|all| _ = all.remove(&instance.uid));
        self.end_rest(&program).await;
        if timeout(DRAIN_WITHIN, output.join_next()).await.is_err() {
            tracing::warn!(
                instance = instance.name,
                "a process of the instance escaped and still holds its output"
            );
        }
        output.shutdown().await;
        let end = status::end(status.as_ref().ok().copied(), killed, Timestamp::now());
        let text = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if self.stop.is_cancelled() {
            tracing::info!(instance = instance.name, status = text, "instance stopped");
        } else {
            tracing::warn!(instance = instance.name, status = text, "instance ended, starting it again");
        }
        self.teller.tell(|status| status.ended(end, killed)).await;
    }

    async fn start(&mut self, spawner: &Spawner) -> std::io::Result<Child> {
        let instance = self.instance;
        // The wrapper would find out as well, and then be all that had ended.
        if !instance.wrapper.is_empty() {
            status::runnable(&instance.command, &instance.directory, &search(&instance.variables))?;
        }
        self.port = instance.ports.as_ref().map(Ports::take).transpose()?;
        spawner.spawn(self.command()?).await
    }

    fn command(&self) -> std::io::Result<Command> {
        let instance = self.instance;
        let mut words = instance.wrapper.iter().chain(&instance.command);
        let program = words.next().ok_or_else(|| std::io::Error::other("there is no command"))?;
        let mut command = Command::new(program);
        command.args(words).current_dir(&instance.directory).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().envs(self.variables());
        Ok(command)
    }

    fn variables(&self) -> Vec<(OsString, OsString)> {
        let mut all = variables(&self.instance.variables);
        if let Some(port) = &self.port {
            all.retain(|(name, _)| name != PORT);
            all.push((PORT.into(), port.number().to_string().into()));
        }
        all
    }

    /// How another process comes to where this instance is.
    fn entrance(&self) -> runtime::Instance {
        let words = self.instance.wrapper.iter().filter(|word| *word != "--");
        let program = self.instance.wrapper.first();
        runtime::Instance {
            directory: self.instance.directory.clone(),
            variables: self.variables(),
            wrapper: words.cloned().collect(),
            files: program.map(|program| vec![program.clone(), SERVE_FILES.into()]),
            transfer: program.map(|program| {
                let volumes = self.instance.volumes.iter();
                let volumes = volumes.flat_map(|(at, place)| ["--volume".into(), at.into(), place.into()]);
                [program.clone(), SERVE_TRANSFER.into()].into_iter().chain(volumes).collect()
            }),
        }
    }

    /// Until the program has ended, or been ended because of `stop`.
    async fn watch(
        &mut self,
        program: &mut Program,
        output: &mut JoinSet<()>,
    ) -> std::io::Result<ExitStatus> {
        let mut failed = 0_u32;
        let port = self.port.as_ref().map_or(0, Port::number);
        loop {
            let ready = self.teller.status.ready;
            let pause = match (ready, failed) {
                (true, _) => PROBE_READY,
                (false, 0) => Duration::ZERO,
                (false, _) => PROBE_STARTING,
            };
            tokio::select! {
                status = program.ended() => return status,
                () = self.stop.cancelled() => break,
                // A program may close its output and go on.
                () = super::watch_over(output) => {}
                passed = probe_after(&self.instance.probe, port, pause) => {
                    failed = if passed.is_ok() { 0 } else { failed.saturating_add(1) };
                    if !ready || passed.is_ok() || failed >= PROBES_FAILED {
                        self.teller.tell(|status| status.probed(passed)).await;
                    }
                }
            }
        }
        self.teller.tell(|status| status.ready = false).await;
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

async fn probe_after(probe: &Probe, port: u16, pause: Duration) -> Result<(), String> {
    sleep(pause).await;
    probe.passes(port).await
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
