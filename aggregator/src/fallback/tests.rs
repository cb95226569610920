//! Processes of an instance as they are started by `pods/exec`, with the tests' own API server.

use super::fake::{BREAK, Fake, Ways};
use super::pod::Pod;
use super::{Fallback, Instance, Options, PROCESSES};
use crate::api::Seats;
use crate::inventory::tests::key;
use crate::inventory::{Detail, Inventory, Pod as Listed, Presence};
use rustix::process::Signal;
use skpr_agent::runtime::{Command, Exit, Process, Runtime, Size, Start, StartError, Terminal, To, User};
use skpr_proto::{Label, NodeName, PodUid};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// An instance, and the way into it.
struct World {
    fake: Fake,
    inventory: watch::Sender<Arc<Inventory>>,
    runtime: Runtime,
}

fn uid() -> PodUid {
    PodUid::parse("u1").unwrap()
}

fn listed(presence: Presence) -> Arc<Inventory> {
    let pod = Listed {
        environment: key("sites", "shop", "dev"),
        node: Some(NodeName::parse("n1").unwrap()),
        instance: "shop-1".into(),
        main_container: Label::parse("container", "php").unwrap(),
        task: None,
        labels: Arc::default(),
        containers: Default::default(),
        version: "1.0".into(),
        ready: true,
        production: false,
        presence,
        detail: Detail::default(),
    };
    Arc::new(Inventory::of([(uid(), pod)].into(), &BTreeMap::new()))
}

impl World {
    async fn of(ways: Ways) -> World {
        World::denying(ways, &[]).await
    }

    async fn denying(ways: Ways, denied: &[&str]) -> World {
        let fake = Fake::start(ways).await;
        let (inventory, seen) = watch::channel(listed(Presence::Present));
        let pod = Pod {
            client: fake.client.clone(),
            inventory: seen,
            denied: Arc::new(denied.iter().map(|name| Label::parse("namespace", name).unwrap()).collect()),
            processes: Arc::new(Semaphore::new(PROCESSES)),
            stopping: CancellationToken::new(),
            instance: Instance {
                uid: uid(),
                environment: key("sites", "shop", "dev"),
                name: "shop-1".into(),
                container: Label::parse("container", "php").unwrap(),
            },
        };
        World { fake, inventory, runtime: Runtime::outside(Arc::new(pod)) }
    }

    async fn start(&self, command: Command, terminal: Option<Size>) -> Result<Process, StartError> {
        let terminal = terminal.map(|size| Terminal { kind: "xterm".into(), size, modes: vec![] });
        let variables = vec![("LANG".to_owned(), "C.UTF-8".to_owned())];
        let (uid, start) = (uid(), Start { command, variables, terminal, user: User::Own });
        timeout(PATIENCE, self.runtime.start(&uid, start)).await.expect("it starts")
    }

    async fn line(&self, line: &str) -> Process {
        self.start(Command::Line(line.into()), None).await.unwrap()
    }

    async fn program(&self, words: &[&str]) -> Result<Process, StartError> {
        self.start(Command::Program(words.iter().map(OsString::from).collect()), None).await
    }
}

/// Both outputs, and how it ended.
async fn end(mut process: Process) -> (String, String, Exit) {
    let (mut output, mut errors) = (vec![], vec![]);
    let (mut out, mut err) = (process.output.take().unwrap(), process.errors.take().unwrap());
    let both = async { tokio::try_join!(out.read_to_end(&mut output), err.read_to_end(&mut errors)) };
    timeout(PATIENCE, both).await.expect("its outputs end").unwrap();
    let exit = timeout(PATIENCE, process.exit()).await.expect("it ends").unwrap();
    (String::from_utf8(output).unwrap(), String::from_utf8(errors).unwrap(), exit)
}

#[tokio::test]
async fn what_is_run_ends_with_its_own_code_and_its_outputs_stay_apart() {
    let world = World::of(Ways::default()).await;
    for code in [0, 1, 42, 127, 255] {
        let process = world.line(&format!("echo out $LANG; echo err >&2; exit {code}")).await;
        let expected = ("out C.UTF-8\n".to_owned(), "err\n".to_owned(), Exit::Code(code));
        assert_eq!(end(process).await, expected);
    }
    let process = world.program(&["printf", "%s|", "a b", "$X", "", "&command=x"]).await.unwrap();
    assert_eq!(end(process).await.0, "a b|$X||&command=x|");
    let (_, errors, exit) = end(world.program(&["no-such"]).await.unwrap()).await;
    assert_eq!((errors.as_str(), exit), ("skpr: there is no program `no-such`\n", Exit::Code(127)));
    let asked = world.fake.seen.asked.lock().unwrap().concat();
    assert!(asked.contains("/api/v1/namespaces/sites/pods/shop-1/exec?"), "{asked}");
    assert!(asked.contains("container=php"), "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_both_ways_and_input_ends() {
    let world = World::of(Ways::default()).await;
    let noise: Vec<u8> = (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut process = world.program(&["cat"]).await.unwrap();
    let (mut input, mut output) = (process.input.take().unwrap(), process.output.take().unwrap());
    let sent = noise.clone();
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        input.write(&sent).await.unwrap();
        input.end().await;
    });
    let mut back = vec![];
    timeout(PATIENCE, output.read_to_end(&mut back)).await.expect("its end comes back").unwrap();
    assert!(back == noise, "{} bytes came back", back.len());
    assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
}

/// One direction that is full holds up neither the other nor what is to be said of the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_not_read_is_read_from_and_ended_all_the_same() {
    let world = World::of(Ways::default()).await;
    let mut process = world
        .line("i=0; while [ $i -lt 200000 ]; do echo 0123456789; i=$((i + 1)); done; exec sleep 60")
        .await;
    let (mut input, output) = (process.input.take().unwrap(), process.output.take().unwrap());
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        // More than fits anywhere on the way.
        input.write(&vec![0; 64 << 20]).await.ok();
    });
    let mut lines = BufReader::new(output).lines();
    let all = async {
        for _ in 0..200_000 {
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "0123456789");
        }
    };
    timeout(PATIENCE, all).await.expect("all of its output comes");
    process.signal(Signal::TERM);
    assert_eq!(timeout(PATIENCE, process.exit()).await.expect("it ends").unwrap(), Exit::Code(143));
}

#[tokio::test]
async fn a_terminal_has_its_size_and_is_resized() {
    let world = World::of(Ways::default()).await;
    let line = Command::Line("echo $TERM; read typed; echo got $typed".into());
    let mut process = world.start(line, Some(Size::of(132, 43))).await.unwrap();
    assert!(process.has_terminal() && process.errors.is_none());
    let mut lines = BufReader::new(process.output.take().unwrap()).lines();
    assert_eq!(timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap(), "xterm");
    // Told before it was let go.
    let sizes = || world.fake.seen.sizes.lock().unwrap().clone();
    assert_eq!(sizes(), [r#"{"Height":43,"Width":132}"#]);
    process.resize(Size::of(80, 24));
    let resized = async {
        while sizes().len() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, resized).await.expect("it is told");
    assert_eq!(sizes().last().unwrap(), r#"{"Height":24,"Width":80}"#);
    let mut input = process.input.take().unwrap();
    input.write(b"this\n").await.unwrap();
    // That nothing more is typed does not end it.
    input.end().await;
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "got this");
    assert_eq!(process.exit().await.unwrap(), Exit::Code(0));
}

#[tokio::test]
async fn one_that_nobody_is_there_for_is_hung_up_and_then_killed() {
    let world = World::of(Ways::default()).await;
    let process = world.line("sleep 61 & exec sleep 62").await;
    let begun = tokio::time::Instant::now();
    assert_eq!(timeout(PATIENCE, process.end()).await.unwrap().unwrap(), Exit::Code(129));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let mut process = world.line("trap '' HUP TERM; echo deaf; while :; do sleep 0.1; done").await;
    let mut said = [0; 5];
    process.output.as_mut().unwrap().read_exact(&mut said).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(timeout(PATIENCE, process.end()).await.unwrap().unwrap(), Exit::Code(137));
    assert!(begun.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn an_image_without_a_shell_runs_what_it_has() {
    let world = World::of(Ways { bare: true, ..Ways::default() }).await;
    let (output, _, exit) = end(world.program(&["echo", "hi"]).await.unwrap()).await;
    assert_eq!((output.as_str(), exit), ("hi\n", Exit::Code(0)));
    let (_, errors, exit) = end(world.program(&["no-such"]).await.unwrap()).await;
    assert_eq!((errors.as_str(), exit), ("skpr: there is no program `no-such`\n", Exit::Code(127)));
    // Nobody but Kubernetes could say so of it.
    let (_, _, exit) = end(world.program(&["false"]).await.unwrap()).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(matches!(world.start(Command::Shell, None).await, Err(StartError::NoShell)));
    assert!(matches!(world.start(Command::Line("true".into()), None).await, Err(StartError::NoShell)));
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    for (code, expected) in
        [(404, "is not there any more"), (403, "does not let the aggregator"), (500, "Kubernetes says: no")]
    {
        let world = World::of(Ways { refuses: Some(code), ..Ways::default() }).await;
        let error = world.program(&["true"]).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let old = World::of(Ways { old: true, ..Ways::default() }).await;
    let error = old.program(&["true"]).await.unwrap_err();
    assert!(error.to_string().contains("its input has ended"), "{error}");
    // A terminal needs no end of input.
    old.start(Command::Line("true".into()), Some(Size::of(80, 24))).await.unwrap();
    let world = World::of(Ways::default()).await;
    let error = world.start(Command::Files, None).await.unwrap_err();
    assert!(error.to_string().contains("files are not served") && error.hint().is_some(), "{error}");
    let port = To::Port { host: "localhost".into(), port: 80 };
    assert_eq!(world.runtime.connect(&uid(), &port).await.unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert!(world.fake.seen.asked.lock().unwrap().is_empty());
}

/// As it does where it has lost its own connection to the node.
#[tokio::test]
async fn kubernetes_is_not_believed_that_all_has_ended_well() {
    let world = World::of(Ways { lies: true, ..Ways::default() }).await;
    for code in [0, 1, 42] {
        let process = world.line(&format!("echo out; echo err >&2; exit {code}")).await;
        assert_eq!(end(process).await, ("out\n".to_owned(), "err\n".to_owned(), Exit::Code(code)));
    }
    // One that takes the shell beside it along leaves nobody who knows.
    let (_, errors, exit) = end(world.line("kill -KILL 0").await).await;
    assert!(errors.contains("nobody knows how the process ended"), "{errors}");
    assert_eq!(exit, Exit::Code(255));
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_success_and_ends_what_it_was_of() {
    let world = World::of(Ways { breaks: true, ..Ways::default() }).await;
    let process = world.line(&format!("echo {BREAK} $$; exec sleep 63")).await;
    let (output, errors, exit) = end(process).await;
    assert!(errors.contains("the connection to Kubernetes broke, and nobody knows"), "{errors}");
    assert_eq!(exit, Exit::Code(255));
    let number = output.split_whitespace().last().unwrap();
    assert!(!std::path::Path::new("/proc").join(number).exists(), "{output}");
}

#[tokio::test]
async fn only_an_instance_is_entered_and_none_of_a_denied_namespace() {
    let world = World::denying(Ways::default(), &["sites"]).await;
    assert!(
        matches!(world.program(&["true"]).await, Err(StartError::Denied(name)) if name.as_str() == "sites")
    );
    let world = World::of(Ways::default()).await;
    let uid = uid();
    let mut gone = Box::pin(world.runtime.gone(&uid));
    assert!(timeout(Duration::from_millis(50), &mut gone).await.is_err());
    // It has ended; and then another has its name.
    let mut run = (*listed(Presence::Present)).clone();
    Arc::make_mut(run.pods.get_mut(&uid).unwrap()).task = Some(Label::parse("task", "drush").unwrap());
    for inventory in [Arc::new(run), listed(Presence::Gone), Arc::default()] {
        world.inventory.send_replace(inventory);
        assert!(matches!(world.program(&["true"]).await, Err(StartError::Gone)));
    }
    timeout(PATIENCE, gone).await.unwrap();
    assert!(world.fake.seen.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn there_are_so_many_places_and_no_more() {
    let fake = Fake::start(Ways::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { denied: Default::default(), directory: directory.path().to_owned() };
    let (fallback, _server) = Fallback::new(fake.client.clone(), options, watch::channel(Arc::default()).1);
    let seats = Seats::of("sessions");
    let mut places: Vec<_> = (0..super::SESSIONS)
        .map(|number| fallback.take(seats.take(&(number / 32).to_string()).unwrap()).unwrap())
        .collect();
    assert!(fallback.take(seats.take("robin").unwrap()).is_err());
    // Whoever has no place has no seat either, and one that goes gives back both.
    assert!(seats.take("0").is_err());
    drop(places.remove(0));
    fallback.take(seats.take("0").unwrap()).unwrap();
}
