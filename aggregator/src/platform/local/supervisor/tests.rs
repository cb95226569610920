//! Real processes: restarts, groups, signals, and what becomes of their output.

use super::*;

struct Started {
    directory: tempfile::TempDir,
    readiness: mpsc::Receiver<Readiness>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn start(script: &str) -> Started {
    let directory = tempfile::tempdir().unwrap();
    let instance = Instance {
        name: "shop-dev-0".into(),
        uid: PodUid::parse("u1").unwrap(),
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        directory: directory.path().to_owned(),
        variables: vec![("GREETING".into(), "hello".into())],
        logs: directory.path().join("logs"),
        probe: None,
        cgroup: None,
    };
    let (sender, readiness) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(supervise(instance, Spawner::start().unwrap(), sender, stop.clone()));
    Started { directory, readiness, stop, tasks }
}

impl Started {
    async fn ready(&mut self) -> bool {
        timeout(Duration::from_secs(20), self.readiness.recv()).await.unwrap().unwrap().ready
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
async fn output_is_captured_with_its_stream_and_tag() {
    let mut started = start("echo $GREETING; echo oops >&2; printf 'no end'; exec sleep 0.2");
    assert!(started.ready().await);
    assert!(!started.ready().await);
    let directory = started.stop().await;
    let mut lines = lines(directory.path(), "0.log");
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F hello", "stdout P no end"]);
}

#[tokio::test]
async fn it_is_started_again_with_the_next_file() {
    let mut started = start("echo start; exit 3");
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
    let script = "trap 'echo bye; exit 0' TERM; sleep 1000 & echo $! > child; echo up; wait";
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
    let mut started = start("sleep 1000 & echo $! >> child; exit 0");
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
    let instance = Instance {
        name: "shop-dev-0".into(),
        uid: PodUid::parse("u1").unwrap(),
        program: "/nowhere/serve".into(),
        arguments: vec![],
        directory: directory.path().to_owned(),
        variables: vec![],
        logs: directory.path().join("logs"),
        probe: None,
        cgroup: None,
    };
    let (sender, _readiness) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let run = Run { instance: &instance, readiness: &sender, stop: &stop, ready: false };
    run.once(0, &Spawner::start().unwrap()).await;
    let lines = lines(directory.path(), "0.log");
    assert!(lines[0].starts_with("stderr F skpr: cannot start `/nowhere/serve`: "), "{lines:?}");
}

#[tokio::test]
async fn files_of_earlier_starts_are_tidied_without_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    for start in 0..1000 {
        std::fs::write(logs.join(format!("{start}.log")), "x").unwrap();
    }
    let instance = Instance {
        name: "shop-dev-0".into(),
        uid: PodUid::parse("u1").unwrap(),
        program: "true".into(),
        arguments: vec![],
        directory: directory.path().to_owned(),
        variables: vec![],
        logs: logs.clone(),
        probe: None,
        cgroup: None,
    };
    let (sender, _readiness) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let run = Run { instance: &instance, readiness: &sender, stop: &stop, ready: false };
    run.once(1000, &Spawner::start().unwrap()).await;
    assert!(std::fs::read_dir(&logs).unwrap().count() < 250);
    assert!(logs.join("999.log").exists());
}
