//! One process of a site, from its start to the end of all that it started: what instances and runs of tasks have in common.
//!
//! * It leads a process group, and is in a cgroup where that is allowed. When it ends, for whatever reason, the rest of the
//!   group is killed before that end is collected, and after it what is left in the cgroup.
//! * What it has written is in its log when [`Process::finish`] returns.

use super::cgroup::Cgroup;
use super::output::{Cutter, LogFile, tidy};
use super::variables::{search, variables};
use super::words;
use jiff::Timestamp;
use rustix::fs::{Access, access};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use skpr_agent::runtime::Spawner;
use skpr_agent::usage;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, Interest};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Between SIGTERM and SIGKILL.
const TERMINATE_WITHIN: Duration = Duration::from_secs(10);
/// After its last process is gone the pipes end at once; one that escaped may hold them no longer than this.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// What is read from a pipe at once: as much as a pipe holds.
const READ: usize = 64 << 10;

/// What is started, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch<'a> {
    /// What it is called in our log.
    pub(super) name: &'a str,
    /// What is put before the command: our own program that becomes the site's, with its arguments.
    pub(super) wrapper: &'a [OsString],
    pub(super) command: &'a [OsString],
    pub(super) directory: &'a Path,
    /// What it is told beyond what describes the machine and its user.
    pub(super) variables: &'a [(String, String)],
    pub(super) cgroup: Option<&'a Cgroup>,
}

/// One that runs.
pub(super) struct Process {
    name: String,
    program: Program,
    output: JoinSet<()>,
    cgroup: Option<Cgroup>,
    /// Kills for memory in its cgroup before it was started.
    killed_before: u32,
}

impl Process {
    pub(super) async fn start(launch: Launch<'_>, spawner: &Spawner) -> io::Result<Process> {
        // The wrapper would find out as well, and then be all that had ended.
        if !launch.wrapper.is_empty() {
            runnable(launch.command, launch.directory, &search(launch.variables))?;
        }
        let killed_before = launch.cgroup.map_or(0, Cgroup::out_of_memory_kills);
        let child = spawner.spawn(launch.command()?).await?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Process {
            name: launch.name.to_owned(),
            program: Program::new(child, group),
            output: JoinSet::new(),
            cgroup: launch.cgroup.cloned(),
            killed_before,
        })
    }

    /// Writes all that it says into `log`.
    pub(super) fn capture(&mut self, log: LogFile) {
        let child = &mut self.program.child;
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            self.output.spawn(capture(stdout, stderr, log));
        }
    }

    /// Where what it uses can be measured.
    pub(super) fn whereabouts(&self, cpu_share: Option<u64>) -> usage::Local {
        usage::Local {
            cgroups: self.cgroup.as_ref().map(|cgroup| cgroup.directories().to_vec()).unwrap_or_default(),
            group: self.program.group.map(|group| group.as_raw_nonzero().get()),
            cpu_share,
        }
    }

    pub(super) fn number(&self) -> Option<u32> {
        self.program.child.id()
    }

    /// Waits until it has ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        tokio::select! {
            status = self.program.ended() => status,
            // A program may close its output and go on.
            () = super::watch_over(&mut self.output) => Err(io::Error::other("its output cannot be read")),
        }
    }

    /// Asks it to end, and kills it when it does not.
    pub(super) async fn end(&mut self) -> io::Result<ExitStatus> {
        signal(self.program.group, Signal::TERM);
        if let Ok(status) = timeout(TERMINATE_WITHIN, self.program.ended()).await {
            return status;
        }
        tracing::warn!(process = self.name, "a process did not stop when asked, killing it");
        signal(self.program.group, Signal::KILL);
        self.program.ended().await
    }

    /// How many of its processes were killed because they used too much memory.
    pub(super) fn killed_for_memory(&self) -> u32 {
        let kills = self.cgroup.as_ref().map_or(0, Cgroup::out_of_memory_kills);
        kills.saturating_sub(self.killed_before)
    }

    /// The program has ended; what it started goes with it, and what they said is written down.
    pub(super) async fn finish(mut self) {
        if self.cgroup.is_none() && self.program.exit.is_none() {
            // The number may be another group's by now, but nothing else names this one's.
            signal(self.program.group, Signal::KILL);
        }
        if let Some(cgroup) = self.cgroup.clone() {
            blocking(move || cgroup.kill()).await;
        }
        if timeout(DRAIN_WITHIN, self.output.join_next()).await.is_err() {
            tracing::warn!(process = self.name, "a process escaped and still holds its output");
        }
        self.output.shutdown().await;
    }
}

impl Launch<'_> {
    fn command(&self) -> io::Result<Command> {
        let mut words = self.wrapper.iter().chain(self.command);
        let program = words.next().ok_or_else(|| io::Error::other("there is no command"))?;
        let mut command = Command::new(program);
        command.args(words).current_dir(self.directory).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().envs(variables(self.variables));
        Ok(command)
    }

    /// Why it cannot be started, in words for users. They stand in its log as well.
    pub(super) async fn not_started(&self, error: &io::Error, mut log: LogFile) -> String {
        let program = self.command.first().map(PathBuf::from).unwrap_or_default();
        let text = format!("cannot start `{}`: {}", program.display(), words::why(error));
        let mut line = Vec::new();
        let said = format!("skpr: {text}\n");
        Cutter::new("stderr").push(Timestamp::now(), said.as_bytes(), &mut line);
        blocking(move || log.write(&line, Timestamp::now())).await;
        text
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
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Some(exit) = &self.exit
            && exit.readable().await.is_ok()
        {
            signal(self.group, Signal::KILL);
        }
        self.child.wait().await
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(error = %error, "a site's processes cannot be signalled");
    }
}

/// Whether the program of a command is there and may be run from `directory`, as `exec` would find it.
fn runnable(command: &[OsString], directory: &Path, search: &OsStr) -> io::Result<()> {
    let program = command.first().map(PathBuf::from).unwrap_or_default();
    let places: Vec<PathBuf> = if program.components().count() > 1 || program.as_os_str().len() < 2 {
        vec![directory.join(&program)]
    } else {
        std::env::split_paths(search).map(|place| directory.join(place).join(&program)).collect()
    };
    let mut refused = io::Error::from(io::ErrorKind::NotFound);
    for place in places.iter().filter(|place| place.is_file()) {
        match access(place, Access::EXEC_OK) {
            Ok(()) => return Ok(()),
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
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

pub(super) fn tidy_up(directory: &Path, start: u32) {
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
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_exec_does() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("plain"), "").unwrap();
        let search = std::env::var_os("PATH").unwrap();
        let check = |program: &str| {
            runnable(&[program.into()], directory.path(), &search).map_err(|error| error.kind())
        };
        assert_eq!(check("sh"), Ok(()));
        assert_eq!(check("/bin/sh"), Ok(()));
        assert_eq!(check("./plain"), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(check("./none"), Err(io::ErrorKind::NotFound));
        assert_eq!(check("no-such-program"), Err(io::ErrorKind::NotFound));
    }
}
