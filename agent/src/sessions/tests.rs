//! Sessions as they are in a pod of Kubernetes: stock OpenSSH, the part that passes bytes, the program that starts
//! processes, and the tests' containerd.

use super::beside::Beside;
use super::program::{self, Settings};
use crate::recording;
use crate::runtime::containerd::fake::{Fake, pod};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use serde_json::json;
use skpr_proto::ssh::OWN_USER;
use skpr_proto::v1;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// The pod of an agent, and a port behind which every session is with the same instance.
struct Pod {
    fake: Fake,
    stop: CancellationToken,
    port: u16,
    /// How each session ended.
    ends: mpsc::Receiver<Option<v1::Exit>>,
    program: JoinSet<anyhow::Result<()>>,
    _passing: JoinSet<()>,
}

impl Pod {
    async fn start(fake: Fake) -> Pod {
        Pod::start_by(fake, false).await
    }

    async fn start_by(fake: Fake, recorded: bool) -> Pod {
        let place = |name: &str| fake.directory.path().join(name);
        let places = fake.places();
        let settings = Settings {
            listen: place("agent.sock"),
            containerd: places.socket,
            fifos: places.fifos,
            proc: places.proc,
            state: place("state"),
            denied: places.denied,
            recordings: recorded
                .then(|| recording::Settings { directory: place("recordings"), max_bytes: 1 << 20 }),
        };
        let socket = settings.listen.clone();
        let stop = CancellationToken::new();
        let mut program = JoinSet::new();
        program.spawn(program::run(settings, stop.clone()));
        timeout(PATIENCE, async {
            while UnixStream::connect(&socket).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32])).public_key().to_openssh().unwrap();
        std::fs::write(place("known"), format!("[127.0.0.1]:{port} {key}\n")).unwrap();
        let (tell, ends) = mpsc::channel(16);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (socket, tell): (PathBuf, mpsc::Sender<_>) = (socket.clone(), tell.clone());
                sessions.spawn(async move {
                    let dial = v1::Dial {
                        session: "s".into(),
                        purpose: "ssh".into(),
                        target: "u1".into(),
                        container: "php".into(),
                        host_key: vec![7; 32].into(),
                        project: "shop".into(),
                        environment: "dev".into(),
                        instance: "shop-dev-1".into(),
                    };
                    let beside = Beside::open(&socket, &dial).await.unwrap();
                    let (ours, mut theirs) = duplex(64 << 10);
                    // A client that is reset ends both directions: what passes them on is dropped with it.
                    let both = async move { copy_bidirectional(&mut client, &mut theirs).await.ok() };
                    let (ended, _) = tokio::join!(beside.pass(ours), both);
                    tell.send(ended).await.ok();
                });
            }
        });
        Pod { fake, stop, port, ends, program, _passing: passing }
    }

    fn ssh(&self, words: &[&str]) -> Command {
        self.ssh_as(OWN_USER, words)
    }

    fn ssh_as(&self, user: &str, words: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        let known = format!("UserKnownHostsFile={}", self.fake.directory.path().join("known").display());
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", &known]);
        ssh.args(["-p", &self.port.to_string(), &format!("{user}@127.0.0.1")]).args(words);
        ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        ssh
    }

    async fn run(&self, words: &[&str]) -> Output {
        timeout(PATIENCE, self.ssh(words).output()).await.expect("ssh ends").unwrap()
    }

    async fn is_empty(&self) {
        let empty = async {
            while !self.fake.is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, empty).await.expect("nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_ssh_runs_what_it_is_told_in_the_container() {
    let mut pod = Pod::start(Fake::instance()).await;
    for code in [0, 1, 42, 127] {
        let done = pod.run(&[&format!("echo $SITE; echo err >&2; exit {code}")]).await;
        assert_eq!(done.status.code(), Some(code));
        assert_eq!((&*done.stdout, &*done.stderr), (&b"of the pod\n"[..], &b"err\n"[..]));
        let told = timeout(PATIENCE, pod.ends.recv()).await.unwrap();
        assert_eq!(told, Some(Some(v1::Exit { code: u32::try_from(code).unwrap(), ..v1::Exit::default() })));
    }
    // Each byte both ways, and each direction ends by itself.
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut cat = pod.ssh(&["cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let mut writing = JoinSet::new();
    writing.spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut input, &sent).await });
    let done = timeout(PATIENCE, cat.wait_with_output()).await.unwrap().unwrap();
    assert!(done.stdout == bytes, "{} bytes came back", done.stdout.len());
    pod.is_empty().await;
    let mode = std::fs::metadata(pod.fake.directory.path().join("agent.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_system_is_not_entered_whatever_the_aggregator_says() {
    let mut unlabelled = pod("sites", "u1", &["php"]);
    unlabelled[0].labels.retain(|key, _| !key.starts_with("skpr.io/"));
    for (containers, code, said) in [
        (
            pod("kube-system", "u1", &["php"]),
            126,
            "processes of namespace `kube-system` are not for sessions",
        ),
        (unlabelled, 126, "this pod is no instance of an environment"),
        (vec![], 255, "the instance is not there any more"),
    ] {
        let pod = Pod::start(Fake::start(containers)).await;
        let done = pod.run(&["true"]).await;
        let heard = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(code) && heard.contains(said), "{said}: {heard}");
        pod.is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_ssh_is_the_user_of_what_it_runs() {
    let pod = Pod::start(Fake::with_process(|process| {
        let both = json!(["CAP_SETGID", "CAP_SETUID"]);
        process["capabilities"] = json!({"effective": both, "bounding": both});
    }))
    .await;
    for (user, expected) in [
        (OWN_USER, json!({"uid": 0, "gid": 0})),
        ("0", json!({"uid": 0, "gid": 0})),
        ("12345", json!({"uid": 12345, "gid": 12345, "additionalGids": []})),
        ("12345:7", json!({"uid": 12345, "gid": 7, "additionalGids": []})),
    ] {
        let done = timeout(PATIENCE, pod.ssh_as(user, &["true"]).output()).await.unwrap().unwrap();
        assert_eq!(done.status.code(), Some(0), "{user}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(pod.fake.last()["user"], expected, "{user}");
    }
    let missing = pod.ssh_as("no-such-user", &["true"]).output().await.unwrap();
    let heard = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(heard.contains("there is no user `no-such-user` here") && heard.contains("hint: "), "{heard}");
    assert_eq!(missing.status.code(), Some(126));
    pod.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_recorded_and_its_user_is_told_before_it_is_there() {
    let mut pod = Pod::start_by(Fake::instance(), true).await;
    let plain = pod.run(&["echo plain"]).await;
    assert_eq!((&*plain.stdout, &*plain.stderr), (&b"plain\n"[..], &b""[..]));
    // The tests' containerd makes no terminal, but is asked for one.
    let shown = pod.run(&["-tt", "echo terminal"]).await;
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "terminal\n");
    assert!(shown.stderr.starts_with(b"skpr: this session is recorded\r\n"));
    pod.stop.cancel();
    timeout(PATIENCE, pod.program.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    let folder = pod.fake.directory.path().join("recordings/shop/dev");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let cast = std::fs::read_to_string(&files[0]).unwrap();
    assert!(cast.contains("shop/dev shop-dev-1") && cast.contains("terminal"), "{cast}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_and_a_program_that_stops_leave_nothing() {
    let mut pod = Pod::start(Fake::instance()).await;
    let started = async |pod: &Pod| {
        while pod.fake.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let mut client = pod.ssh(&["sleep", "88.5"]).spawn().unwrap();
    timeout(PATIENCE, started(&pod)).await.unwrap();
    client.kill().await.unwrap();
    pod.is_empty().await;
    let client = pod.ssh(&["sleep", "88.5"]).spawn().unwrap();
    timeout(PATIENCE, started(&pod)).await.unwrap();
    pod.stop.cancel();
    timeout(PATIENCE, pod.program.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(pod.fake.left(), Vec::<String>::new());
    let ended = timeout(PATIENCE, client.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(255));
}
