//! The server against stock OpenSSH, on a port of this machine.

mod blocking;
mod forwards;
mod library;
mod processes;
mod recorded;
mod refusals;

use super::spill::Space;
use super::{HostKey, Session, serve};
use crate::recording::{Record, Recorder, Subject};
use crate::runtime::{Instance, Runtime, Spawner};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use skpr_proto::{PodUid, v1};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime as Threads;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the program does that puts a process into its session: here that of util-linux does.
const WRAPPER: &str =
    r#"t=; while [ "$1" != -- ]; do [ "$1" = --terminal ] && t=-c; shift; done; shift; exec setsid $t "$@""#;
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a port, and a directory for what its clients need.
struct Server {
    directory: TempDir,
    port: u16,
    instances: watch::Sender<BTreeMap<PodUid, Arc<Instance>>>,
    /// Ends with the test, and everything that is served with it.
    _threads: Threads,
}

impl Server {
    fn start() -> Server {
        Server::with_space(1 << 30)
    }

    /// With so much for what one channel's process does not read.
    fn with_space(bytes: u64) -> Server {
        Server::with(bytes, |_| None)
    }

    /// And with terminals that are recorded somewhere in a directory.
    fn with(bytes: u64, record: impl FnOnce(PathBuf) -> Option<Record>) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let uid = PodUid::parse("u1").unwrap();
        let instance = Instance {
            directory: directory.path().to_owned(),
            variables: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("SITE".into(), "of the instance".into()),
            ],
            wrapper: ["/bin/sh", "-c", WRAPPER, "wrapper"].map(Into::into).into(),
            files: None,
            transfer: None,
        };
        let (instances, listed) = watch::channel(BTreeMap::from([(uid.clone(), Arc::new(instance))]));
        let (port, session) = threads.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let session = Session {
                host_key: HostKey([7; 32]),
                instance: uid,
                runtime: Runtime::new(listed, Spawner::start().unwrap()),
                space: Space::of(directory.path().to_owned(), bytes, 4 << 30),
                record: record(directory.path().join("recordings")),
            };
            (port, (listener, session))
        });
        let (listener, session) = session;
        std::thread::spawn({
            let handle = threads.handle().clone();
            move || {
                handle.block_on(async move {
                    let mut served = JoinSet::new();
                    while let Ok((client, _)) = listener.accept().await {
                        client.set_nodelay(true).unwrap();
                        served.spawn(serve(client, session.clone()));
                    }
                });
            }
        });
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32])).public_key().to_openssh().unwrap();
        std::fs::write(directory.path().join("known"), format!("[127.0.0.1]:{port} {key}\n")).unwrap();
        Server { directory, port, instances, _threads: threads }
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// A client with these options, which asks nobody anything.
    fn ssh(&self, options: &[&str], command: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        let known = self.directory.path().join("known");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.args(["-p", &self.port.to_string()])
            .args(options)
            .args(["-o", "User=skpr"])
            .arg("127.0.0.1")
            .args(command);
        ssh.stdin(Stdio::null());
        ssh
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.ssh(options, command).output().unwrap()
    }

    /// A client over the connection that is open.
    fn shared(&self, command: &[&str]) -> Command {
        let control = format!("ControlPath={}", self.control().display());
        self.ssh(&["-o", &control, "-o", "ControlMaster=no"], command)
    }

    /// Opens a connection for others to share; it ends when the child does.
    fn master(&self) -> Child {
        let control = format!("ControlPath={}", self.control().display());
        let mut master = self.ssh(&["-N", "-M", "-o", &control], &[]);
        let master = Child(master.spawn().unwrap());
        until("the connection is open", || self.control().exists());
        master
    }

    /// How long a new channel of the open connection takes to answer.
    fn probe(&self) -> Duration {
        let begun = Instant::now();
        let mut child = self.shared(&["echo", "ok"]).stdout(Stdio::piped()).spawn().map(Child).unwrap();
        until("another channel answers", || child.0.try_wait().unwrap().is_some());
        let mut said = String::new();
        std::io::Read::read_to_string(child.0.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(said, "ok\n");
        begun.elapsed()
    }
}

/// A child that is killed with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Whether some process has this in its command line.
fn runs(mark: &str) -> bool {
    let listed = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let mut words = listed.filter_map(|process| {
        let stat = process.stat().ok()?;
        (stat.state != 'Z').then(|| process.cmdline().unwrap_or_default().join(" "))
    });
    words.any(|words| words.contains(mark) && !words.starts_with("ssh "))
}
