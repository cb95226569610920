//! Processes in containers, from what is asked for to what is left, with the tests' own containerd.

use super::fake::{Fake, pod};
use super::fifos::Fifos;
use super::{Containerd, Reaper};
use crate::runtime::{Command, Exit, Process, Runtime, Size, Start, StartError, Terminal, User};
use rustix::process::Signal;
use serde_json::json;
use skpr_proto::{Label, PodUid};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node, and what serves sessions on it.
struct Node {
    fake: Fake,
    runtime: Runtime,
    _reaping: JoinSet<()>,
}

impl Node {
    fn of(fake: Fake) -> Node {
        let (containerd, mut reaper) = Containerd::new(fake.places());
        reaper.sweep(&fake.places()).unwrap();
        let mut reaping = JoinSet::new();
        reaping.spawn(async move { reaper.run().await });
        let runtime = Runtime::of_containers(containerd, Label::parse("container", "php").unwrap());
        Node { fake, runtime, _reaping: reaping }
    }

    fn new() -> Node {
        Node::of(Fake::instance())
    }

    async fn start(&self, command: Command) -> Result<Process, StartError> {
        let start = Start { command, user: User::Own, variables: vec![], terminal: None };
        self.runtime.start(&uid(), start).await
    }

    async fn program(&self, words: &[&str]) -> Result<Process, StartError> {
        self.start(Command::Program(words.iter().map(OsString::from).collect())).await
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

fn uid() -> PodUid {
    PodUid::parse("u1").unwrap()
}

/// Both outputs, and how it ended.
async fn end(mut process: Process) -> (String, String, Exit) {
    let (mut output, mut errors) = (String::new(), String::new());
    let (mut out, mut err) = (process.output.take().unwrap(), process.errors.take().unwrap());
    tokio::try_join!(out.read_to_string(&mut output), err.read_to_string(&mut errors)).unwrap();
    (output, errors, process.exit().await.unwrap())
}

/// Waits until it does, or does not any more.
async fn until(words: &str, expected: bool) {
    let come = async {
        while runs(words) != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("`{words}` runs: {}", !expected));
}

/// Whether some process runs exactly these words.
fn runs(words: &str) -> bool {
    let listed = procfs::process::all_processes().unwrap().filter_map(Result::ok);
    let mut lines = listed.filter(|process| process.stat().is_ok_and(|stat| stat.state != 'Z'));
    lines.any(|process| process.cmdline().is_ok_and(|line| line.join(" ") == words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_what_the_container_has_and_its_end_is_known() {
    let node = Node::new();
    for code in [0, 1, 42, 127] {
        let process = node.program(&["sh", "-c", &format!("echo $SITE; echo err >&2; exit {code}")]).await;
        let ended = end(process.unwrap()).await;
        assert_eq!(ended, ("of the pod\n".into(), "err\n".into(), Exit::Code(code)));
    }
    let killed = node.program(&["sh", "-c", "kill -TERM $$"]).await.unwrap();
    assert_eq!(end(killed).await.2, Exit::Code(143));
    assert_eq!(node.fake.last()["noNewPrivileges"], true);
    assert_eq!(node.fake.last()["terminal"], false);
    let line = node.start(Command::Line("pwd; echo \"$0\"".into())).await.unwrap();
    let (said, _, _) = end(line).await;
    assert!(said.starts_with("/tmp\n/") && said.ends_with("sh\n"), "{said}");
    node.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_ends_after_its_last_byte() {
    let node = Node::new();
    for length in [0, 3, 1 << 20] {
        let mut process = node.program(&["cat"]).await.unwrap();
        let mut input = process.input.take().unwrap();
        let sent = "x".repeat(length);
        let feeding = async {
            input.write(sent.as_bytes()).await.unwrap();
            input.end().await;
        };
        let ((), (said, _, exit)) =
            timeout(PATIENCE, async { tokio::join!(feeding, end(process)) }).await.unwrap();
        assert!(said == sent, "{length}: {}", said.len());
        assert_eq!(exit, Exit::Code(0));
    }
    node.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let node = Node::new();
    let missing = node.program(&["no-such-program"]).await.unwrap_err();
    assert!(matches!(&missing, StartError::NotFound(name) if name == "no-such-program"), "{missing}");
    assert!(matches!(node.program(&[]).await, Err(StartError::Empty)));
    let bytes = Command::Program(vec!["echo".into(), OsString::from_vec(vec![0xff])]);
    assert!(matches!(node.start(bytes).await, Err(StartError::NotText)));
    node.is_empty().await;

    let node = Node::of(Fake::start(pod("kube-system", "u1", &["php"])));
    assert!(matches!(node.program(&["true"]).await, Err(StartError::Denied(_))));
    let node = Node::of(Fake::start(vec![]));
    assert!(matches!(node.program(&["true"]).await, Err(StartError::Gone)));
    timeout(PATIENCE, node.runtime.gone(&uid())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_had_where_the_container_could_become_it_and_nowhere_else() {
    let run = async |node: &Node, command: Command, user: &str| {
        let start = Start { command, user: User::parse(user), variables: vec![], terminal: None };
        node.runtime.start(&uid(), start).await
    };
    let program = || Command::Program(vec!["true".into()]);
    let both = json!(["CAP_SETGID", "CAP_SETUID"]);
    let root = Node::of(Fake::with_process(|process| {
        process["capabilities"] = json!({"effective": both, "permitted": both, "bounding": both});
    }));
    end(run(&root, program(), "nobody").await.unwrap()).await;
    let started = root.fake.last();
    assert_ne!(started["user"]["uid"], 0);
    assert!(started["env"].as_array().unwrap().contains(&json!("USER=nobody")), "{started}");
    assert_eq!(started["capabilities"]["effective"], json!([]));
    assert_eq!(started["capabilities"]["bounding"], both);
    // The own user is as if nobody had asked.
    for own in ["skpr", "root", "0", "0:0"] {
        end(run(&root, program(), own).await.unwrap()).await;
        assert_eq!(root.fake.last()["user"], json!({"uid": 0, "gid": 0}), "{own}");
        assert!(matches!(run(&root, Command::Files, own).await, Err(StartError::Failed(_))));
    }
    let files = run(&root, Command::Files, "nobody").await.unwrap_err();
    assert!(matches!(files, StartError::NoFilesAs(_)), "{files}");
    assert!(matches!(run(&root, program(), "no-such-user").await, Err(StartError::NoUser(_))));
    root.is_empty().await;

    let site = Node::of(Fake::with_process(|process| {
        process["user"] = json!({"uid": 1000, "gid": 1000});
        process["capabilities"] = json!({"effective": both, "permitted": both, "bounding": both});
    }));
    for other in ["root", "0", "1000:0", "no-such-user", "4294967295"] {
        let refused = run(&site, program(), other).await.unwrap_err();
        let said = format!("this container runs as 1000 and may not become `{other}`");
        assert_eq!((refused.to_string(), refused.exit_code()), (said, 126));
    }
    end(run(&site, program(), "1000:1000").await.unwrap()).await;
    assert_eq!(site.fake.last()["capabilities"]["effective"], both);
    site.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_resized_and_signals_arrive() {
    let node = Node::new();
    let terminal = Terminal { kind: "xterm".into(), size: Size::of(100, 30), modes: vec![] };
    let start =
        Start { command: Command::Shell, user: User::Own, variables: vec![], terminal: Some(terminal) };
    let process = node.runtime.start(&uid(), start).await.unwrap();
    assert!(process.has_terminal() && process.errors.is_none());
    assert_eq!(node.fake.last()["consoleSize"], json!({"width": 100, "height": 30}));
    for columns in 1..=50 {
        process.resize(Size::of(columns, 0));
    }
    timeout(PATIENCE, async {
        while node.fake.sizes().last() != Some(&(50, 24)) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(node.fake.sizes().len() < 50, "a size that is old already was passed on");
    drop(process);
    // To what it has started, too.
    let mut waiting = node.program(&["sh", "-c", "sleep 83.5; exit 3"]).await.unwrap();
    until("sleep 83.5", true).await;
    waiting.signal(Signal::TERM);
    let ended = timeout(PATIENCE, waiting.exit()).await.unwrap().unwrap();
    assert_eq!(ended, Exit::Code(143));
    until("sleep 83.5", false).await;
    drop(waiting);
    node.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_is_hung_up_and_then_killed_with_what_it_has_started() {
    let node = Node::new();
    let gentle = node.program(&["sh", "-c", "sleep 84.5; true"]).await.unwrap();
    let begun = Instant::now();
    timeout(PATIENCE, gentle.end()).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5) && !runs("sleep 84.5"));

    let stubborn =
        node.program(&["sh", "-c", "trap '' HUP TERM; sleep 85.5; sleep 85.5; true"]).await.unwrap();
    // By then it has set its traps.
    until("sleep 85.5", true).await;
    let begun = Instant::now();
    let exit = timeout(PATIENCE, stubborn.end()).await.unwrap().unwrap();
    let took = begun.elapsed();
    assert_eq!(exit, Exit::Code(137));
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(15), "{took:?}");
    until("sleep 85.5", false).await;
    node.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_left_is_ended_by_the_next_and_a_stop_leaves_nothing() {
    let fake = Fake::instance();
    {
        let (containerd, _no_reaper) = Containerd::new(fake.places());
        let runtime = Runtime::of_containers(containerd, Label::parse("container", "php").unwrap());
        let command = Command::Program(["sleep", "86.5"].map(OsString::from).into());
        let left = runtime
            .start(&uid(), Start { command, user: User::Own, variables: vec![], terminal: None })
            .await
            .unwrap();
        // As a crash would.
        drop(left);
    }
    until("sleep 86.5", true).await;
    // One of whose container nothing is known any more.
    Fifos::make(&fake.places().fifos, "gone").unwrap();
    let node = Node::of(fake);
    node.is_empty().await;
    until("sleep 86.5", false).await;

    let (containerd, reaper): (Containerd, Reaper) = Containerd::new(node.fake.places());
    let runtime = Runtime::of_containers(containerd, Label::parse("container", "php").unwrap());
    let command = Command::Program(["sleep", "86.5"].map(OsString::from).into());
    drop(
        runtime
            .start(&uid(), Start { command, user: User::Own, variables: vec![], terminal: None })
            .await
            .unwrap(),
    );
    drop(runtime);
    reaper.finish(PATIENCE).await;
    assert!(node.fake.is_empty() && !runs("sleep 86.5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_container_is_told() {
    let node = Node::new();
    let early = timeout(Duration::from_millis(200), node.runtime.gone(&uid())).await;
    assert!(early.is_err());
    node.fake.end();
    timeout(PATIENCE, node.runtime.gone(&uid())).await.unwrap();
}
