//! Runs the built programs as a user would: own configuration directory, own environment, nothing inherited that
//! begins with `SKPR_`.
//!
//! * A running program is killed when its handle is dropped, so that a failed test leaves nothing behind.
//! * Every wait has a deadline and, when it passes, shows what the program has said.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where cargo put a program of this workspace: beside this one, or above when this is a test.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let folder = own.parent().context("find cargo's output folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("`{}` is not built\nhint: cargo build --workspace --bins", path.display());
    }
    Ok(path)
}

/// A program of a Debian package that is only unpacked, as `scripts/setup` does; else one that is installed.
pub fn debian_program(name: &str) -> PathBuf {
    let unpacked = std::env::var_os("SKPR_TEST_PROMETHEUS").map(|folder| PathBuf::from(folder).join(name));
    unpacked.unwrap_or_else(|| name.into())
}

/// A user at a terminal: a configuration directory and the variables set in the shell.
#[derive(Debug)]
pub struct User {
    home: TempDir,
    variables: Vec<(String, String)>,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Lines {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

impl User {
    pub fn new() -> Result<Self> {
        Ok(User { home: tempfile::tempdir().context("make a home directory")?, variables: vec![] })
    }

    /// Sets a variable for every program that this user runs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Where this user's programs begin to look for a `.skpr.yml`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs `skpr` to its end.
    pub fn skpr<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Finished> {
        let output = self.command("skpr", arguments)?.stdin(Stdio::null()).output().context("run skpr")?;
        Ok(Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a program of this workspace.
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, arguments: &[S]) -> Result<Running> {
        let mut command = self.command(name, arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(command).with_context(|| format!("start {name}"))
    }

    fn command<S: AsRef<OsStr>>(&self, name: &str, arguments: &[S]) -> Result<Command> {
        Ok(self.other(program(name)?, arguments))
    }

    /// A program of the system, as this user would run it.
    pub fn other<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SKPR_") {
                command.env_remove(variable);
            }
        }
        command.args(arguments).current_dir(self.home.path());
        command.env("HOME", self.home.path()).env("SKPR_CONFIG_DIR", self.home.path().join("config"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Finished {
    /// Fails unless the program exited with 0, and says what it said.
    pub fn success(self) -> Result<Self> {
        self.exit(0)
    }

    /// Fails unless the program exited with this code, and says what it said.
    pub fn exit(self, code: i32) -> Result<Self> {
        if self.status.code() != Some(code) {
            bail!(
                "ended with {} instead of {code}\nstdout: {}\nstderr: {}",
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

/// Runs a command to its end with this on its stdin.
pub fn fed(mut command: Command, input: Vec<u8>) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    // One that ends without having read all is to be judged by how it ends.
    let writer = std::thread::spawn(move || match stdin.write_all(&input) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    });
    let mut stdout = vec![];
    child.stdout.take().context("stdout")?.read_to_end(&mut stdout)?;
    writer.join().ok().context("the writer")??;
    let output = child.wait_with_output()?;
    Ok(Output { stdout, ..output })
}

impl Running {
    /// Starts a command whose stdout and stderr are pipes.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn().context("start the program")?;
        let (stdout, stderr) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        let mut readers = vec![];
        if let Some(pipe) = child.stdout.take() {
            readers.push(collect(pipe, Arc::clone(&stdout)));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(collect(pipe, Arc::clone(&stderr)));
        }
        Ok(Running { child, stdout, stderr, readers })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line on stdout that satisfies `wanted`, now or within `timeout`.
    pub fn line(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.until(timeout, |lines| lines.iter().find(|line| wanted(line)).cloned())
    }

    /// What `answer` makes of all lines of stdout so far, as soon as it makes something of them.
    pub fn until<T>(&self, timeout: Duration, answer: impl Fn(&[String]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut said = self.stdout.said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = answer(&said.lines) {
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                let why = if said.ended { "the program ended" } else { "nothing more came in time" };
                let last = said.lines.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
                bail!(
                    "{why} after {} lines\nstdout ends: {last}\nstderr: {}",
                    said.lines.len(),
                    self.stderr()
                );
            }
            said = self.stdout.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All lines of stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.said.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// All of stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.said.lock().unwrap_or_else(PoisonError::into_inner).lines.join("\n")
    }

    /// Sends a signal, such as `TERM`, and waits for the end.
    pub fn end(self, signal: &str, timeout: Duration) -> Result<Finished> {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        sent.context("send a signal")?;
        self.wait(timeout)
    }

    /// Waits for its end.
    pub fn wait(mut self, timeout: Duration) -> Result<Finished> {
        let status = crate::eventually("the program ends", timeout, || {
            self.child.try_wait().context("wait for the program")
        })?;
        for reader in self.readers.drain(..) {
            reader.join().ok().context("read the program's output")?;
        }
        Ok(Finished { status, stdout: self.stdout().join("\n"), stderr: self.stderr() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(pipe: impl Read + Send + 'static, into: Arc<Lines>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = vec![];
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            let mut said = into.said.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(read, Ok(0) | Err(_)) {
                said.ended = true;
                into.more.notify_all();
                return;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            said.lines.push(String::from_utf8_lossy(text).into_owned());
            into.more.notify_all();
        }
    })
}
