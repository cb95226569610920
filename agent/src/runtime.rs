//! What runs on this node, as far as sessions need it: the instances, and how a process is started in one of them.
//!
//! * A process leads a session of its own. Whatever it starts belongs to that session until it leaves it on purpose.
//! * A process that is [ended](Process::end) because its client is gone is given time, and its session is empty then.
//!
//! Deliberately not here: who may start what. A session comes from the aggregator, which has asked.

mod connect;
pub(crate) mod containerd;
mod leader;
mod outside;
mod process;
mod pty;
mod shell;
mod spawn;
mod user;

pub use connect::{Connected, To};
pub use leader::Exit;
pub use outside::{Outside, Started};
pub(crate) use process::waiting;
pub use process::{Input, Process, StartError};
pub use pty::{Size, Terminal};
pub use spawn::Spawner;
pub use user::User;

use containerd::{Containerd, Containers};
use rustix::process::Signal;
use skpr_proto::{Label, PodUid};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What is said to processes that nobody is there for any more, and how long they are given after each; then they are killed.
pub const ASKING: [(Signal, Duration); 2] =
    [(Signal::HUP, Duration::from_secs(5)), (Signal::TERM, Duration::from_secs(5))];
/// How often it is looked whether they have ended.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a process comes into an instance of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it begins.
    pub directory: PathBuf,
    /// All variables that the instance itself has.
    pub variables: Vec<(OsString, OsString)>,
    /// What is put before a command and `--`: a program that joins the instance's cgroup and becomes the command. It is
    /// also told `--session`, and `--terminal` where its stdin is one.
    pub wrapper: Vec<OsString>,
    /// The program that serves its files, which need not be there inside; none where nothing does.
    pub files: Option<Vec<OsString>>,
    /// And the one that serves a transfer of them.
    pub transfer: Option<Vec<OsString>>,
}

/// The instances that run now.
pub type Instances = BTreeMap<PodUid, Arc<Instance>>;

/// Starts processes in the instances of one machine.
#[derive(Clone, Debug)]
pub struct Runtime(Kind);

/// What runs there: processes of this machine, containers, or what somebody else starts.
#[derive(Clone, Debug)]
enum Kind {
    Local { instances: watch::Receiver<Instances>, spawner: Spawner },
    Containers(Containers),
    Outside(Arc<dyn Outside>),
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The user's shell.
    Shell,
    /// A line for that shell.
    Line(OsString),
    /// A program and its arguments, with no shell between.
    Program(Vec<OsString>),
    /// What serves files over SFTP.
    Files,
    /// What serves a transfer of files.
    Transfer,
    /// More than can be passed to a program.
    TooLong,
}

impl Command {
    fn is_for_shell(&self) -> bool {
        matches!(self, Command::Shell | Command::Line(_))
    }
}

/// A process to start.
#[derive(Clone, Debug)]
pub struct Start {
    pub command: Command,
    pub user: User,
    /// In addition to those of the instance.
    pub variables: Vec<(String, String)>,
    pub terminal: Option<Terminal>,
}

impl Runtime {
    /// Of the instances that are listed there.
    pub fn new(instances: watch::Receiver<Instances>, spawner: Spawner) -> Runtime {
        Runtime(Kind::Local { instances, spawner })
    }

    /// Of pods, in each of which the instance is the container of this name.
    pub(crate) fn of_containers(containerd: Containerd, name: Label) -> Runtime {
        Runtime(Kind::Containers(Containers { containerd, name }))
    }

    /// Of the one instance that this is about, whatever it is called.
    pub fn outside(outside: Arc<dyn Outside>) -> Runtime {
        Runtime(Kind::Outside(outside))
    }

    /// Starts a process in an instance.
    pub async fn start(&self, uid: &PodUid, start: Start) -> Result<Process, StartError> {
        match &self.0 {
            Kind::Local { instances, spawner } => {
                let instance = instances.borrow().get(uid).cloned().ok_or(StartError::Gone)?;
                process::start(&instance, start, spawner).await
            }
            Kind::Containers(containers) => containers.start(uid, start).await,
            Kind::Outside(outside) => Ok(outside.start(start).await?.into()),
        }
    }

    /// Connects to what listens in an instance.
    pub async fn connect(&self, uid: &PodUid, to: &To) -> io::Result<Connected> {
        match &self.0 {
            Kind::Local { instances, .. } => {
                let instance = instances.borrow().get(uid).cloned();
                connect::connect(&*instance.ok_or(io::ErrorKind::NotFound)?, to).await
            }
            Kind::Containers(containers) => containers.connect(uid, to).await,
            // Whoever starts processes there leads to no ports.
            Kind::Outside(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns when the instance is not there any more.
    pub async fn gone(&self, uid: &PodUid) {
        match &self.0 {
            Kind::Local { instances, .. } => {
                let mut instances = instances.clone();
                // Whoever keeps the list is gone with all that runs.
                drop(instances.wait_for(|instances| !instances.contains_key(uid)).await);
            }
            Kind::Containers(containers) => containers.gone(uid).await,
            Kind::Outside(outside) => outside.gone().await,
        }
    }
}
