//! One process that was started in a container.
//!
//! * Its outputs are open to be read before it is started, because the start waits for that, and are read only after it.
//! * Its stdin ends when we say so, and that is said after the last byte was written.
//! * It is forgotten only when its outputs have been read: containerd throws away what is in them then.

use super::super::process::Held;
use super::super::{ASKING, Exit, Input, LOOK_EVERY, Process, Size, StartError};
use super::api::tasks::{Any, ExecProcessRequest};
use super::api::{Api, Name};
use super::fifos::{Fifos, Outputs};
use super::find::Found;
use super::members::{Leader, Which, others};
use super::reaper::Left;
use super::{Containerd, spec};
use rustix::process::Signal;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

/// What is killed has ended by then, or its container hangs.
const AFTER_KILL: Duration = Duration::from_secs(2);
/// How long it is tried to kill what a process has started: a few times, because each takes a shell of the container.
const KILLED_WITHIN: Duration = Duration::from_secs(3);
/// A shell that sends a signal takes some 60 ms to start.
const SIGNALLED_WITHIN: Duration = Duration::from_secs(3);
/// Signals that wait while one is sent; a client that sends more has sent enough.
const SIGNALS: usize = 16;
/// Of what the specification is.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A process that was started. When it is dropped it is killed, if it has not ended, and forgotten.
#[derive(Debug)]
pub(crate) struct Exec {
    containerd: Containerd,
    found: Found,
    kept: Kept,
    /// Its number on the node.
    pid: u32,
    terminal: bool,
    /// How it ended, once it has.
    exit: watch::Receiver<Option<u8>>,
    size: watch::Sender<Option<Size>>,
    signals: mpsc::Sender<Signal>,
    /// Waits for its end, and passes on sizes and signals.
    tasks: JoinSet<()>,
}

/// What containerd may know by a name, with the FIFOs of that name. When it is dropped, the reaper has it.
#[derive(Debug)]
struct Kept {
    name: Name,
    left: mpsc::Sender<Left>,
    fifos: Option<Fifos>,
    /// Our ends of its outputs until it has started, and something reads them.
    outputs: Option<Outputs>,
    /// containerd has said that it knows it.
    announced: bool,
}

impl Kept {
    /// A new name in a container.
    fn new(containerd: &Containerd, container: &str) -> io::Result<Kept> {
        let shared = &containerd.0;
        let (name, fifos) = Fifos::make(&shared.places.fifos, container)?;
        let (left, fifos) = (shared.left.clone(), Some(fifos));
        let mut kept = Kept { name, left, fifos, outputs: None, announced: false };
        kept.outputs = kept.fifos.as_ref().map(Outputs::open).transpose()?;
        Ok(kept)
    }

    fn fifos(&self) -> io::Result<&Fifos> {
        self.fifos.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Tells containerd of it.
    async fn announce(&mut self, api: &Api, process: &Value, terminal: bool) -> Result<(), StartError> {
        api.exec(request(&self.name, self.fifos()?, process, terminal)?).await?;
        self.announced = true;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(fifos) = self.fifos.take() else { return };
        let (outputs, announced) = (self.outputs.take(), self.announced);
        let left = Left { name: self.name.clone(), fifos, outputs, announced };
        if self.left.try_send(left).is_err() {
            tracing::debug!("a process is left to the next agent");
        }
    }
}

/// Ends the stdin of a process.
#[derive(Debug)]
pub(crate) struct Closer {
    api: Api,
    name: Name,
}

/// Starts a process in a container that was found.
pub(super) async fn start(
    containerd: &Containerd,
    found: Found,
    process: Value,
    size: Option<Size>,
) -> Result<Process, StartError> {
    let (tell, exit) = watch::channel(None);
    let (resized, sizes) = watch::channel(None);
    let (signals, signalled) = mpsc::channel(SIGNALS);
    let terminal = size.is_some();
    let kept = Kept::new(containerd, &found.id)?;
    let (containerd, tasks) = (containerd.clone(), JoinSet::new());
    let mut exec = Exec { containerd, found, kept, pid: 0, terminal, exit, size: resized, signals, tasks };
    let (api, name) = (exec.containerd.0.api.clone(), exec.kept.name.clone());
    exec.kept.announce(&api, &process, terminal).await?;
    exec.tasks.spawn({
        let (api, name) = (api.clone(), name.clone());
        async move {
            let status = ended(&api, &name).await;
            tell.send_replace(Some(status));
        }
    });
    exec.pid = api.start(&name).await.map_err(|status| not_started(&status, &process))?;
    let pipe = exec.kept.fifos()?.writer().await?;
    let passing = exec.others(Which::Group);
    exec.tasks.spawn(pass_on(api.clone(), name.clone(), passing, sizes, signalled));
    let Outputs { output, errors } = exec.kept.outputs.take().ok_or(StartError::Gone)?;
    let closer = (!terminal).then_some(Closer { api, name });
    Ok(Process {
        input: Some(Input::of(pipe, closer)),
        output: Some(output),
        errors: (!terminal).then_some(errors),
        shell: None,
        held: Held::Container(Box::new(exec)),
    })
}

fn request(name: &Name, fifos: &Fifos, process: &Value, terminal: bool) -> io::Result<ExecProcessRequest> {
    let path = |path: &Path| path.display().to_string();
    Ok(ExecProcessRequest {
        container_id: name.container.clone(),
        exec_id: name.exec.clone(),
        stdin: path(&fifos.input()),
        stdout: path(&fifos.output()),
        // A terminal shows both; without one, containerd wants both.
        stderr: if terminal { String::new() } else { path(&fifos.errors()) },
        terminal,
        spec: Some(Any { type_url: PROCESS.to_owned(), value: serde_json::to_vec(process)? }),
    })
}

/// Waits for the end of a process; 255 where nobody knows it.
async fn ended(api: &Api, name: &Name) -> u8 {
    loop {
        match api.wait(name).await {
            Ok(status) => return u8::try_from(status).unwrap_or(u8::MAX),
            Err(status) if status.code() == Code::NotFound => return u8::MAX,
            Err(status) => {
                // containerd is restarted now and then; processes go on meanwhile.
                tracing::debug!(%status, "the end of a process is waited for again");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Passes on what changes while a process runs: of sizes only the latest.
async fn pass_on(
    api: Api,
    name: Name,
    others: Others,
    mut sizes: watch::Receiver<Option<Size>>,
    mut signals: mpsc::Receiver<Signal>,
) {
    loop {
        tokio::select! {
            Ok(()) = sizes.changed() => {
                let size: Option<Size> = *sizes.borrow_and_update();
                if let Some(size) = size
                    && let Err(status) = api.resize(&name, size).await
                {
                    tracing::debug!(%status, "a terminal was not resized");
                }
            }
            Some(signal) = signals.recv() => {
                send(&api, &name, signal).await;
                others.signal(signal).await;
            }
            else => return,
        }
    }
}

/// Sends a signal to the process itself. One that has ended needs none.
async fn send(api: &Api, name: &Name, signal: Signal) {
    if let Err(status) = api.kill(name, signal.as_raw()).await {
        tracing::debug!(%status, "a signal was not delivered");
    }
}

/// What a shell would exit with and say of what runc says.
fn not_started(status: &Status, process: &Value) -> StartError {
    let program = process.pointer("/args/0").and_then(Value::as_str).unwrap_or_default();
    StartError::of_runtime(status.message(), program).unwrap_or_else(|| match status.code() {
        Code::NotFound | Code::FailedPrecondition => StartError::Gone,
        _ => StartError::from(status.clone()),
    })
}

impl Exec {
    /// Waits for its end. Cancel-safe.
    pub(crate) async fn ended(&self) {
        if self.exit.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How it ended.
    pub(crate) async fn exit(&self) -> io::Result<Exit> {
        let exit = *self.exit.clone().wait_for(Option::is_some).await.map_err(io::Error::other)?;
        Ok(Exit::Code(exit.unwrap_or(u8::MAX)))
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn resize(&self, size: Size) {
        self.size.send_replace(Some(size));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if self.signals.try_send(signal).is_err() {
            tracing::debug!("a signal was one too many");
        }
    }

    /// Ends it and what it has started, because nobody is there for it any more.
    pub(crate) async fn end(self) -> io::Result<Exit> {
        let api = &self.containerd.0.api;
        // With a terminal this closes it, which hangs up.
        if let Err(status) = api.close_stdin(&self.kept.name).await {
            tracing::debug!(%status, "a process's stdin was not closed");
        }
        let others = self.others(Which::Session);
        for (signal, patience) in ASKING {
            let deadline = Instant::now() + patience;
            self.signal_all(&others, signal).await;
            if self.emptied(&others, deadline).await {
                return self.exit().await;
            }
        }
        // What forks faster than it is listed is listed again.
        let killed = async {
            loop {
                self.signal_all(&others, Signal::KILL).await;
                if self.emptied(&others, Instant::now() + 2 * LOOK_EVERY).await {
                    return;
                }
            }
        };
        if timeout(KILLED_WITHIN, killed).await.is_err() {
            tracing::warn!(container = %self.found.id, "what a process has started may not have ended by KILL");
        }
        let known = timeout(AFTER_KILL, self.exit()).await;
        known.unwrap_or_else(|_| Err(io::Error::other("a process that was killed has not ended")))
    }

    async fn signal_all(&self, others: &Others, signal: Signal) {
        for signal in [signal, Signal::CONT] {
            // One that is stopped would see it only when it goes on; one that is killed does not care.
            if self.exit.borrow().is_none() {
                send(&self.containerd.0.api, &self.kept.name, signal).await;
            }
            others.signal(signal).await;
            if signal == Signal::KILL {
                return;
            }
        }
    }

    /// Whether nothing of it runs before the deadline.
    async fn emptied(&self, others: &Others, deadline: Instant) -> bool {
        let empty = async {
            while self.exit.borrow().is_none() || !others.numbers().await.is_empty() {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout_at(deadline, empty).await.is_ok()
    }

    fn others(&self, which: Which) -> Others {
        let leader = Leader { pid: self.pid, first: self.found.pid };
        Others { containerd: self.containerd.clone(), found: self.found.clone(), leader, which }
    }
}

impl Closer {
    /// What was written before still arrives.
    pub(crate) async fn close(self) {
        if let Err(status) = self.api.close_stdin(&self.name).await {
            // It has ended.
            tracing::debug!(%status, "a process's stdin was not closed");
        }
    }
}

/// What a process has started.
struct Others {
    containerd: Containerd,
    found: Found,
    leader: Leader,
    which: Which,
}

impl Others {
    async fn numbers(&self) -> Vec<i32> {
        let (proc, leader, which) = (self.containerd.0.places.proc.clone(), self.leader, self.which);
        tokio::task::spawn_blocking(move || others(&proc, leader, which)).await.unwrap_or_default()
    }

    /// Signals them by the container's own shell: they have no name that containerd knows, and from outside of their
    /// container's processes nobody may. Where there is no shell, they end with their container.
    async fn signal(&self, signal: Signal) {
        let numbers = self.numbers().await;
        if numbers.is_empty() {
            return;
        }
        let Ok(shell) = self.containerd.shell(&self.found).await else { return };
        let numbers = numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
        let line = format!("kill -{} {numbers}", signal.as_raw());
        let words = [shell, "-c".to_owned(), line];
        let asked = spec::Asked { words: &words, variables: &[], terminal: None, user: None };
        let Ok(process) = spec::process(&self.found.process, &asked) else { return };
        if let Err(error) = quietly(&self.containerd, &self.found, &process).await {
            tracing::debug!(%error, "what a process has started was not signalled");
        }
    }
}

/// Runs something short, whose output is nobody's. What is left of it is the reaper's, as of any other.
async fn quietly(containerd: &Containerd, found: &Found, process: &Value) -> Result<(), StartError> {
    let mut kept = Kept::new(containerd, &found.id)?;
    let run = async {
        let api = &containerd.0.api;
        kept.announce(api, process, false).await?;
        api.start(&kept.name).await?;
        api.wait(&kept.name).await?;
        Ok(())
    };
    timeout(SIGNALLED_WITHIN, run).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_runc_says_becomes_what_a_shell_would_say() {
        let exec = "OCI runtime exec failed: exec failed: unable to start container process: ";
        for (said, code, expected) in [
            ("exec: \"x\": executable file not found in $PATH: unknown", Code::Unknown, 127),
            ("exec: \"/x\": stat /x: no such file or directory: unknown", Code::Unknown, 127),
            ("exec: \"/x\": permission denied: unknown", Code::Unknown, 126),
            ("exec: \"/\": is a directory: unknown", Code::Unknown, 126),
            ("exec /x: exec format error", Code::Unknown, 126),
            (
                "chdir to cwd (\"/app\") set in config.json failed: no such file or directory",
                Code::Unknown,
                255,
            ),
            ("something new", Code::Unknown, 255),
            ("process 12 not found", Code::NotFound, 255),
        ] {
            let status = Status::new(code, format!("{exec}{said}"));
            let error = not_started(&status, &json!({"args": ["\u{1b}x"]}));
            assert_eq!(error.exit_code(), expected, "{said}: {error}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }
}
