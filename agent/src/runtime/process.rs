//! A process in an instance: its pipes or its terminal, and its end.

use super::containerd::{Closer, Exec};
use super::leader::Leader;
use super::shell::Place;
use super::{Exit, Instance, Size, Spawner, Start, Started, User, outside, pty, shell, user};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ioctl_fionread;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getgid, getuid};
use rustix::termios::tcgetpgrp;
use skpr_proto::Label;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::Child;

/// Between a process of a container and our end of its output: a pipe, and what containerd's shim copies at once.
const ON_THE_WAY: u64 = (64 << 10) + (32 << 10);

/// A process that runs. When it is dropped, its process group is killed; in a container, its first process; what is run by
/// others' means goes on.
#[derive(Debug)]
pub struct Process {
    pub(super) held: Held,
    /// Its stdin, or what is typed.
    pub input: Option<Input>,
    /// Its stdout, or what its terminal shows.
    pub output: Option<Receiver>,
    /// Its stderr; none when it has a terminal.
    pub errors: Option<Receiver>,
    /// The shell that it is, or that runs it.
    pub shell: Option<String>,
}

/// What holds a process.
#[derive(Debug)]
pub(super) enum Held {
    Local { leader: Box<Leader>, terminal: Option<Arc<OwnedFd>> },
    Container(Box<Exec>),
    Outside(outside::Held),
}

impl From<Started> for Process {
    fn from(started: Started) -> Process {
        let Started { input, output, errors, exit, size, signals, over, tasks } = started;
        Process {
            held: Held::Outside(outside::Held { tasks, exit, size, signals, over }),
            input: Some(Input::of(input, None)),
            output: Some(output),
            errors,
            shell: None,
        }
    }
}

/// What a process reads.
#[derive(Debug)]
pub struct Input {
    pipe: Sender,
    /// What says that it has ended, where dropping the pipe does not.
    closer: Option<Closer>,
}

impl Input {
    pub(super) fn of(pipe: Sender, closer: Option<Closer>) -> Input {
        Input { pipe, closer }
    }

    /// Waits for whoever reads.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pipe.write_all(bytes).await
    }

    /// Nothing more comes.
    pub async fn end(self) {
        let Input { pipe, closer } = self;
        // First the pipe, so that all of it is read before its end is.
        drop(pipe);
        if let Some(closer) = closer {
            closer.close().await;
        }
    }
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the instance is not there any more")]
    Gone,
    #[error("there is no shell here: no bash, sh or ash")]
    NoShell,
    #[error("no command is given")]
    Empty,
    #[error("files are not served here")]
    NoFiles,
    #[error("files are served as the instance's own user alone, and not as `{0}`")]
    NoFilesAs(User),
    #[error("instances run as `{own}` here, and nothing in them as `{asked}`")]
    OneUser { own: String, asked: User },
    #[error("this container runs as {own} and may not become `{asked}`")]
    NotAs { own: u32, asked: User },
    #[error("there is no user `{0}` here")]
    NoUser(User),
    /// Not by whoever starts processes there; what works instead.
    #[error("{what}")]
    Unserved { what: &'static str, instead: &'static str },
    #[error("the command is longer than what can be passed to a program")]
    TooLong,
    #[error("there is no program `{0}`")]
    NotFound(String),
    #[error("`{0}` cannot be run: it is not executable")]
    NotRunnable(String),
    #[error("processes of namespace `{0}` are not for sessions")]
    Denied(Label),
    #[error("this pod is no instance of an environment")]
    NotAnInstance,
    #[error("what is run in a container has to be UTF-8")]
    NotText,
    #[error("the process cannot be started: {0}")]
    Failed(#[from] io::Error),
}

impl StartError {
    /// What a shell would exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::NotFound(_) | StartError::NoShell | StartError::NoFiles => 127,
            StartError::NotRunnable(_)
            | StartError::Unserved { .. }
            | StartError::TooLong
            | StartError::NoFilesAs(_)
            | StartError::OneUser { .. }
            | StartError::NotAs { .. }
            | StartError::NoUser(_)
            | StartError::Empty
            | StartError::Denied(_)
            | StartError::NotAnInstance
            | StartError::NotText => 126,
            // As of a connection that broke: nobody knows what became of it.
            StartError::Gone | StartError::Failed(_) => 255,
        }
    }

    /// What a shell would exit with and say of what an OCI runtime says, which has no other way to tell than its text.
    /// None where that says something else.
    pub fn of_runtime(said: &str, program: &str) -> Option<StartError> {
        let program: String = program.chars().take(200).flat_map(char::escape_debug).collect();
        let said = said.to_ascii_lowercase();
        let says = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
        if says(&["chdir to cwd"]) {
            return Some(StartError::Failed(io::Error::other("its directory cannot be entered")));
        }
        // A container that is just ending lacks other files, of which runtimes say the same.
        let of_it = said.split_once("exec: \"").or_else(|| said.split_once("exec /"));
        let lacks_it = of_it.is_some_and(|(_, of_it)| of_it.contains("no such file or directory"));
        if lacks_it || (says(&["executable file"]) && says(&["not found"])) {
            return Some(StartError::NotFound(program));
        }
        let unfit = says(&["permission denied", "is a directory", "exec format error"]);
        unfit.then_some(StartError::NotRunnable(program))
    }

    /// What may work instead.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StartError::NoShell => {
                Some("a program that is there can be run without one: skpr exec ENV -- PROGRAM")
            }
            StartError::Gone => Some("a deploy may have replaced it: try again"),
            StartError::TooLong => Some("pass what is long on stdin"),
            StartError::NoUser(_) => {
                Some("a number need not stand in /etc/passwd, such as 1000 or 1000:1000")
            }
            StartError::NoFilesAs(_) | StartError::OneUser { .. } | StartError::NotAs { .. } => {
                Some("leave the user out, or say `skpr`, for the instance's own")
            }
            StartError::Unserved { instead, .. } => Some(instead),
            StartError::Empty
            | StartError::NoFiles
            | StartError::NotFound(_)
            | StartError::NotRunnable(_)
            | StartError::Denied(_)
            | StartError::NotAnInstance
            | StartError::NotText
            | StartError::Failed(_) => None,
        }
    }
}

pub(super) async fn start(
    instance: &Instance,
    start: Start,
    spawner: &Spawner,
) -> Result<Process, StartError> {
    let named = |name: &str| instance.variables.iter().find(|(variable, _)| variable == name);
    let path: OsString = named("PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    let by_shell = start.command.is_for_shell();
    let (directory, files, command) = (instance.directory.clone(), instance.files.clone(), start.command);
    let transfer = instance.transfer.clone();
    let asked = start.user;
    let look = move || {
        only_own(asked)?;
        let (files, transfer) = (files.as_deref(), transfer.as_deref());
        shell::words(command, &Place { directory: &directory, path: &path, files, transfer })
    };
    let words = tokio::task::spawn_blocking(look).await;
    let words = words.map_err(io::Error::other)??;
    let shell = by_shell.then(|| words.first().map(|shell| shell.to_string_lossy().into_owned())).flatten();

    let (program, arguments) = instance.wrapper.split_first().ok_or(StartError::Empty)?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).arg("--session");
    if start.terminal.is_some() {
        command.arg("--terminal");
    }
    command.arg("--").args(words).current_dir(&instance.directory).kill_on_drop(true);
    command.env_clear().envs(instance.variables.iter().map(|(name, value)| (name, value)));
    command.envs(start.variables);
    match &start.terminal {
        Some(terminal) => {
            let (ours, theirs) = pty::open(terminal)?;
            command.env("TERM", &terminal.kind);
            command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
            let (input, output) = (ours.try_clone()?, ours.try_clone()?);
            let leader = Box::new(Leader::new(spawner.spawn(command).await?)?);
            Ok(Process {
                held: Held::Local { leader, terminal: Some(Arc::new(ours)) },
                input: Some(Input::of(Sender::from_owned_fd_unchecked(input)?, None)),
                output: Some(Receiver::from_owned_fd_unchecked(output)?),
                errors: None,
                shell,
            })
        }
        None => {
            let pipes = Pipes::for_child(&mut command)?;
            let process = pipes.process(spawner.spawn(command).await?)?;
            Ok(Process { shell, ..process })
        }
    }
}

/// Processes of this machine are started as whom we are.
fn only_own(asked: User) -> Result<(), StartError> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let passwd = || std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if asked == User::Own || asked.is(uid, gid, &passwd()) {
        return Ok(());
    }
    Err(StartError::OneUser { own: user::name_of(uid, &passwd()), asked })
}

/// Our ends of what a child reads and writes.
pub(super) struct Pipes {
    input: OwnedFd,
    output: OwnedFd,
    errors: OwnedFd,
}

impl Pipes {
    pub(super) fn for_child(command: &mut tokio::process::Command) -> io::Result<Pipes> {
        let ((theirs, input), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        [&input, &output, &errors].into_iter().try_for_each(never_wait)?;
        command.stdin(Stdio::from(theirs)).stdout(stdout).stderr(stderr);
        Ok(Pipes { input, output, errors })
    }

    /// With the child that has the other ends.
    pub(super) fn process(self, child: Child) -> io::Result<Process> {
        Ok(Process {
            held: Held::Local { leader: Box::new(Leader::new(child)?), terminal: None },
            input: Some(Input::of(Sender::from_owned_fd_unchecked(self.input)?, None)),
            output: Some(Receiver::from_owned_fd_unchecked(self.output)?),
            errors: Some(Receiver::from_owned_fd_unchecked(self.errors)?),
            shell: None,
        })
    }
}

fn never_wait(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

impl Process {
    /// Waits for the end of its first process. Cancel-safe.
    pub async fn ended(&self) {
        match &self.held {
            Held::Local { leader, .. } => leader.ended().await,
            Held::Container(exec) => exec.ended().await,
            Held::Outside(held) => held.ended().await,
        }
    }

    /// How it ended; what it started goes on. What it has written can still be read until it is dropped.
    pub async fn exit(&mut self) -> io::Result<Exit> {
        match &mut self.held {
            Held::Local { leader, .. } => leader.exit().await,
            Held::Container(exec) => exec.exit().await,
            Held::Outside(held) => held.exit().await,
        }
    }

    /// Ends all of it, because nobody is there for it any more: hung up, after 5 s asked to end, after 10 s killed.
    pub async fn end(self) -> io::Result<Exit> {
        let Process { held, input, output, errors, shell: _ } = self;
        drop((input, output, errors));
        match held {
            Held::Local { leader, terminal } => {
                // A terminal that is closed hangs up by itself; pipes end.
                drop(terminal);
                leader.end().await
            }
            Held::Container(exec) => exec.end().await,
            Held::Outside(held) => held.end().await,
        }
    }

    pub fn has_terminal(&self) -> bool {
        match &self.held {
            Held::Local { terminal, .. } => terminal.is_some(),
            Held::Container(exec) => exec.has_terminal(),
            Held::Outside(held) => held.size.is_some(),
        }
    }

    /// How much of what it has written may be on its way to where it is read, at most.
    pub(crate) fn on_the_way(&self) -> u64 {
        match &self.held {
            // Its end is told when all of that has come.
            Held::Local { .. } | Held::Outside(_) => 0,
            Held::Container(_) => ON_THE_WAY,
        }
    }

    /// Its terminal has another size now.
    pub fn resize(&self, size: Size) {
        match &self.held {
            Held::Local { terminal: Some(terminal), .. } => {
                if let Err(error) = size.set(terminal) {
                    tracing::debug!(%error, "a terminal was not resized");
                }
            }
            Held::Local { terminal: None, .. } => {}
            Held::Container(exec) if exec.has_terminal() => exec.resize(size),
            Held::Container(_) => {}
            Held::Outside(held) => {
                if let Some(to) = &held.size {
                    to.send_replace(size);
                }
            }
        }
    }

    /// Sends a signal to what is in the foreground of its terminal, else to its process group.
    pub fn signal(&self, signal: Signal) {
        match &self.held {
            Held::Local { leader, terminal } => {
                let foreground = terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
                leader.signal(foreground, signal);
            }
            Held::Container(exec) => exec.signal(signal),
            Held::Outside(held) => held.signal(signal),
        }
    }
}

/// Bytes that wait to be read.
pub(crate) fn waiting(pipe: &Receiver) -> u64 {
    ioctl_fionread(pipe).unwrap_or(0)
}
