//! Real processes: restarts, groups, signals, and what becomes of their output.

use super::*;
use std::path::Path;
use tokio::task::JoinSet;
use tokio::time::timeout;

struct Started {
    directory: tempfile::TempDir,
    reports: mpsc::Receiver<Report>,
    ready: bool,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn instance(directory: &Path, command: &[&str]) -> Instance {
    Instance {
        name: "shop-dev-r1-0".into(),
        uid: PodUid::parse("u1").unwrap(),
        wrapper: vec![],
        command: command.iter().map(OsString::from).collect(),
        directory: directory.to_owned(),
        variables: vec![("GREETING".into(), "hello".into())],
        volumes: vec![],
        logs: directory.join("logs"),
        probe: Probe::Runs,
        ports: None,
        cgroup: None,
        cpu_share: None,
        whereabouts: Whereabouts::default(),
        entrances: Entrances::default(),
    }
}

fn start(script: &str) -> Started {
    let directory = tempfile::tempdir().unwrap();
    let instance = instance(directory.path(), &["sh", "-c", script]);
    let (sender, reports) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(supervise(instance, Spawner::start().unwrap(), sender, stop.clone()));
    Started { directory, reports, ready: false, stop, tasks }
}

/// One start of an instance, to its end.
async fn once(instance: &Instance, start: u32) -> Status {
    let (reports, _held) = mpsc::channel(16);
    let mut teller = Teller { uid: instance.uid.clone(), status: Status::default(), reports };
    let stop = CancellationToken::new();
    let run = Run { instance, teller: &mut teller, stop: &stop, port: None };
    run.once(start, &Spawner::start().unwrap()).await;
    teller.status
}

impl Started {
    async fn report(&mut self) -> Status {
        timeout(Duration::from_secs(20), self.reports.recv()).await.unwrap().unwrap().status
    }

    /// The next change of readiness.
    async fn ready(&mut self) -> bool {
        loop {
            let ready = self.report().await.ready;
            if ready != self.ready {
                self.ready = ready;
                return ready;
            }
        }
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        timeout(Duration::from_secs(20), self.tasks.join_next()).await.unwrap().unwrap().unwrap();
        self.directory
    }
}

/// The stream, tag and text of each line of a log file.
fn lines(directory: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join("logs").join(file)).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Whether any of the processes whose numbers are in the file is still there.
fn running(pid_file: &Path) -> bool {
    let text = std::fs::read_to_string(pid_file).unwrap();
    text.lines().any(|pid| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    })
}

/// A process that was killed is gone as soon as the kernel comes to it.
async fn ends(pid_file: &Path) {
    let gone = async {
        while running(pid_file) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn our_own_variables_are_not_the_sites() {
    // Cargo sets it for this very process.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let directory = tempfile::tempdir().unwrap();
    let script = "echo $GREETING ${CARGO_MANIFEST_DIR-nothing} ${PATH:+path}";
    once(&instance(directory.path(), &["sh", "-c", script]), 0).await;
    let said = std::fs::read_to_string(directory.path().join("logs/0.log")).unwrap();
    assert!(said.contains(" hello nothing path\n"), "{said}");
}

#[tokio::test]
async fn output_is_captured_with_its_stream_and_tag() {
    let mut started = start("echo $GREETING; echo oops >&2; printf 'no end'; exec sleep 0.2");
    assert!(started.ready().await);
    assert!(!started.ready().await);
    let directory = started.stop().await;
    let mut lines = lines(directory.path(), "0.log");
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F hello", "stdout F no end"]);
}

#[tokio::test]
async fn it_is_started_again_with_the_next_file() {
    // Long enough to be seen at all, as below.
    let mut started = start("echo start; sleep 0.5; exit 3");
    for _ in 0..2 {
        assert!(started.ready().await);
        assert!(!started.ready().await);
    }
    let directory = started.stop().await;
    assert_eq!(lines(directory.path(), "0.log"), ["stdout F start"]);
    assert_eq!(lines(directory.path(), "1.log"), ["stdout F start"]);
}

#[tokio::test]
async fn a_stop_asks_first_and_leaves_nobody() {
    let script = "trap 'echo bye; exit 0' TERM; sleep 1000 & echo up; echo $! > child; wait";
    let mut started = start(script);
    assert!(started.ready().await);
    let child = started.directory.path().join("child");
    while std::fs::read_to_string(&child).unwrap_or_default().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(running(&child));
    let directory = started.stop().await;
    assert_eq!(lines(directory.path(), "0.log"), ["stdout F up", "stdout F bye"]);
    ends(&directory.path().join("child")).await;
}

#[tokio::test]
async fn a_program_that_leaves_children_loses_them() {
    // Long enough to be seen at all: each start that is not doubles the pause before the next.
    let mut started = start("sleep 1000 & echo $! >> child; sleep 0.5; exit 0");
    assert!(started.ready().await);
    assert!(!started.ready().await);
    assert!(started.ready().await); // the second start comes only after the first was cleared away
    assert!(
        started.directory.path().join("logs").exists() || started.directory.path().join("child").exists()
    );
    let directory = started.stop().await;
    ends(&directory.path().join("child")).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    for wrapper in [vec![], vec!["env".into()]] {
        let instance = Instance { wrapper, ..instance(directory.path(), &["/nowhere/serve"]) };
        let status = once(&instance, 0).await;
        let lines = lines(directory.path(), "0.log");
        assert!(lines[0].starts_with("stderr F skpr: cannot start `/nowhere/serve`: "), "{lines:?}");
        assert_eq!(status.waiting, Some("RunContainerError"));
        assert!(status.message.unwrap().starts_with("cannot start `/nowhere/serve`: "));
    }
}

#[tokio::test]
async fn one_that_ends_again_and_again_is_said_to() {
    let mut started = start("exit 3");
    let status = loop {
        let status = started.report().await;
        if status.waiting.is_some() {
            break status;
        }
    };
    assert_eq!((status.waiting, status.restarts, status.ready), (Some(CRASH_LOOP), 1, false));
    assert_eq!(status.end.unwrap().exit_code, 3);
    started.stop().await;
}

#[tokio::test]
async fn each_start_has_a_port_of_its_own_and_is_ready_when_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let ports = Ports::default();
    let instance = Instance {
        ports: Some(ports.clone()),
        probe: Probe::Listens,
        ..instance(directory.path(), &["sh", "-c", "echo $PORT >> ports; exec sleep 100"])
    };
    let (sender, mut reports) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(supervise(instance, Spawner::start().unwrap(), sender, stop.clone()));
    let started = reports.recv().await.unwrap().status;
    let port = started.port.unwrap();
    let refused = reports.recv().await.unwrap().status;
    assert_eq!(refused.message.as_deref(), Some(&*format!("nothing listens on port {port} ($PORT)")));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let ready = timeout(Duration::from_secs(20), reports.recv()).await.unwrap().unwrap().status;
    assert_eq!((ready.ready, ready.message), (true, None));
    drop(listener);
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    let said = std::fs::read_to_string(directory.path().join("ports")).unwrap();
    assert_eq!(said.trim(), port.to_string());
}

#[tokio::test]
async fn files_of_earlier_starts_are_tidied_without_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    for start in 0..1000 {
        std::fs::write(logs.join(format!("{start}.log")), "x").unwrap();
    }
    once(&instance(directory.path(), &["true"]), 1000).await;
    assert!(std::fs::read_dir(&logs).unwrap().count() < 250);
    assert!(logs.join("999.log").exists());
}
