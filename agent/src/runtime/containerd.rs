//! Processes in the containers of a Kubernetes node, started by containerd.
//!
//! * The runtime starts what an image has: a process has what the container's own first process has.
//! * What may not be entered cannot be named: see [`find`].
//! * Each process that was asked for is [left](Left) to the [`Reaper`] at its end, and to the next agent's if there is none.
//!
//! It needs containerd's socket, a directory with the same path on the node and here, and for what the image has no program
//! for (the choice of a shell, users, files, connections) the node's `/proc` and the right to go where its processes are.

mod api;
mod connect;
mod exec;
mod fifos;
mod find;
mod looks;
mod members;
mod reaper;
mod root;
mod spec;
mod worker;

pub(super) use exec::{Closer, Exec};
pub(crate) use reaper::Reaper;

use super::user::Account;
use super::{Command, Connected, Process, Start, StartError, To, User};
use api::{Api, Name};
use find::{Found, find};
use looks::Looks;
use reaper::Left;
use root::Root;
use skpr_proto::{Label, PodUid};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tonic::Code;

/// A look into a container's files takes microseconds; they may be on a disk that hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// How soon containerd is asked again when it does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Processes that wait to be reaped: as many as one agent can have, ten channels for each of 256 sessions.
const LEFT: usize = 2560;
/// Connections that are being made at once, each of which takes a thread: more than one client can ask for.
const CONNECTING: usize = 256;

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// containerd's socket.
    pub(crate) socket: PathBuf,
    /// Where FIFOs are made, by a path that is the same on the node.
    pub(crate) fifos: PathBuf,
    /// The node's `/proc`.
    pub(crate) proc: PathBuf,
    /// The program that goes into containers: this one.
    pub(crate) worker: PathBuf,
    /// Namespaces of which nothing is entered.
    pub(crate) denied: BTreeSet<Label>,
}

/// The containerd of this node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Containerd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    api: Api,
    left: mpsc::Sender<Left>,
    /// Places for those who connect.
    connecting: Arc<Semaphore>,
    looks: Looks,
}

/// The containers of one name, each in a pod: what a session may be with.
#[derive(Clone, Debug)]
pub(super) struct Containers {
    pub(super) containerd: Containerd,
    pub(super) name: Label,
}

impl Containerd {
    /// And what ends the processes that nobody has ended.
    pub(crate) fn new(places: Places) -> (Containerd, Reaper) {
        let (left, leaving) = mpsc::channel(LEFT);
        let api = Api::new(places.socket.clone());
        let reaper = Reaper::new(api.clone(), leaving);
        (
            Containerd(Arc::new(Shared {
                places,
                api,
                left,
                connecting: Arc::new(Semaphore::new(CONNECTING)),
                looks: Looks::default(),
            })),
            reaper,
        )
    }
}

impl Containers {
    pub(super) async fn start(&self, pod: &PodUid, start: Start) -> Result<Process, StartError> {
        let found = self.find(pod).await?;
        let user = self.containerd.account(&found, start.user.clone()).await?;
        let work = match start.command {
            Command::Files => Some("files"),
            Command::Transfer => Some("transfer"),
            Command::Shell | Command::Line(_) | Command::Program(_) | Command::TooLong => None,
        };
        if let Some(work) = work {
            return match user {
                Some(_) => Err(StartError::NoFilesAs(start.user)),
                None => worker::files(&self.containerd, &found, work).await,
            };
        }
        let by_shell = start.command.is_for_shell();
        let words = self.words(&found, user.as_ref(), start.command).await?;
        let asked = spec::Asked {
            words: &words,
            variables: &start.variables,
            terminal: start.terminal.as_ref(),
            user: user.as_ref(),
        };
        let process = spec::process(&found.process, &asked)?;
        let size = start.terminal.map(|terminal| terminal.size);
        let process = exec::start(&self.containerd, found, process, size).await?;
        let shell = words.into_iter().next().filter(|_| by_shell);
        Ok(Process { shell, ..process })
    }

    /// Connects to what listens in the container.
    pub(super) async fn connect(&self, pod: &PodUid, to: &To) -> io::Result<Connected> {
        let found = self.find(pod).await.map_err(io::Error::other)?;
        match to {
            To::Port { host, port } => {
                connect::port(&self.containerd, &found, host, *port).await.map(Connected::Port)
            }
            To::Socket(path) => worker::socket(&self.containerd, &found, path).await.map(Connected::Socket),
        }
    }

    /// Returns when the instance is not there any more.
    pub(super) async fn gone(&self, pod: &PodUid) {
        loop {
            match self.find(pod).await {
                Ok(found) => {
                    let container = Name { container: found.id, exec: String::new() };
                    match self.containerd.0.api.wait(&container).await {
                        Ok(_) => return,
                        Err(status) if status.code() == Code::NotFound => return,
                        Err(status) => tracing::debug!(%status, "the end of an instance is not waited for"),
                    }
                }
                Err(StartError::Failed(error)) => tracing::debug!(%error, "an instance is not looked for"),
                Err(_) => return,
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn find(&self, pod: &PodUid) -> Result<Found, StartError> {
        find(&self.containerd.0.api, pod, &self.name, &self.containerd.0.places.denied).await
    }

    /// What is run. Whether a program is there, the runtime finds out.
    async fn words(
        &self,
        found: &Found,
        user: Option<&Account>,
        command: Command,
    ) -> Result<Vec<String>, StartError> {
        let uid = user.map_or_else(|| spec::uid(&found.process), |user| user.uid);
        let shell = self.containerd.shell_of(found, uid);
        match command {
            Command::Shell => Ok(vec![shell.await?]),
            Command::Line(line) => Ok(vec![shell.await?, "-c".to_owned(), text(line)?]),
            Command::Program(words) => words.into_iter().map(text).collect(),
            // A worker of ours serves them.
            Command::Files | Command::Transfer => Err(StartError::NoFiles),
            Command::TooLong => Err(StartError::TooLong),
        }
    }
}

impl Containerd {
    /// The shell of a container's own user.
    async fn shell(&self, found: &Found) -> Result<String, StartError> {
        self.shell_of(found, spec::uid(&found.process)).await
    }

    async fn shell_of(&self, found: &Found, uid: u32) -> Result<String, StartError> {
        let path = spec::variable(&found.process, "PATH");
        // What nearly every image has that has a shell.
        let shell = self.look(found, move |root| root.shell(uid, path.as_deref())).await?;
        let shell = shell.unwrap_or_else(|| Some(PathBuf::from("/bin/sh")));
        shell.map(|shell| shell.to_string_lossy().into_owned()).ok_or(StartError::NoShell)
    }

    /// Who that is, if it is another than whom the container runs as and may be.
    async fn account(&self, found: &Found, asked: User) -> Result<Option<Account>, StartError> {
        let (uid, gid) = (spec::uid(&found.process), spec::gid(&found.process));
        if asked == User::Own {
            return Ok(None);
        }
        let seen = self.look(found, Root::users).await?;
        let (passwd, group) = match (seen, &asked) {
            (Some(seen), _) => seen,
            (None, User::Named(_)) => {
                return Err(StartError::Failed(io::Error::other("its users are not to be seen")));
            }
            (None, User::Own | User::Numbered { .. }) => Default::default(),
        };
        if asked.is(uid, gid, &passwd) {
            return Ok(None);
        }
        if !spec::may_change_user(&found.process) {
            return Err(StartError::NotAs { own: uid, asked });
        }
        Account::find(&asked, &passwd, &group).map(Some).ok_or(StartError::NoUser(asked))
    }

    /// What is to be seen of a container's files; none where they are not to be seen.
    async fn look<T: Send + 'static>(
        &self,
        found: &Found,
        look: impl FnOnce(&Root) -> T + Send + 'static,
    ) -> Result<Option<T>, StartError> {
        let (proc, pid) = (self.0.places.proc.clone(), found.pid);
        let looks = self.0.looks.begin(&found.pod);
        let looking = async {
            let begun = looks.await.ok_or_else(|| io::Error::other("nobody looks any more"))?;
            let looking = tokio::task::spawn_blocking(move || {
                let _begun = begun;
                let root = Root::of(&proc, pid)?;
                io::Result::Ok((look(&root), root))
            });
            looking.await.map_err(io::Error::other).flatten()
        };
        let looked = timeout(LOOK_WITHIN, looking).await.map_err(io::Error::from);
        match looked.flatten() {
            // The number may have become another's before it was looked at: then the container does not have it any more.
            Ok((seen, _root)) if self.0.api.runs(&found.id).await? == Some(pid) => Ok(Some(seen)),
            Ok(_) => Err(StartError::Gone),
            Err(error) => {
                tracing::debug!(%error, "the files of a container are not to be seen");
                Ok(None)
            }
        }
    }
}

/// A specification is JSON, which holds text.
fn text(word: OsString) -> Result<String, StartError> {
    word.into_string().map_err(|_| StartError::NotText)
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
