//! What is heard, in whatever order it comes, and what is concluded when it does not.

use super::super::note::BEGINNING;
use super::*;
use futures::stream;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, pipe};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Error;

/// A process that is heard, and what it is known by.
struct Heard {
    output: Receiver,
    errors: Receiver,
    exit: watch::Receiver<Option<Exit>>,
    pulse: Arc<Pulse>,
    lost: CancellationToken,
    over: CancellationToken,
    _hearing: JoinSet<()>,
}

/// One that a shell runs, if there is a secret.
fn hear(secret: Option<&Secret>, from: Incoming) -> Heard {
    let ((output, stdout), (errors, stderr)) = (pipe().unwrap(), pipe().unwrap());
    let (tell, exit) = watch::channel(None);
    let (pulse, lost, over) = (Arc::<Pulse>::default(), CancellationToken::new(), CancellationToken::new());
    let hearing = Hearing {
        output: Voice::of_output(output, secret),
        errors: Some(Voice::of_errors(errors, secret)),
        program: secret.is_none().then(|| "x".to_owned()),
        pulse: Arc::clone(&pulse),
        lost: lost.clone(),
        over: over.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(hearing.run(vec![], from, tell));
    Heard { output: stdout, errors: stderr, exit, pulse, lost, over, _hearing: tasks }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

fn out(text: &str) -> Message {
    frame(1, text.as_bytes())
}

fn note(channel: u8, secret: &Secret, what: &str) -> Message {
    frame(channel, format!("{BEGINNING}{} {what}\n", secret.as_str()).as_bytes())
}

fn status(status: &serde_json::Value) -> Message {
    frame(3, status.to_string().as_bytes())
}

fn success() -> Message {
    status(&json!({"metadata": {}, "status": "Success"}))
}

fn code(code: u8) -> Message {
    status(&json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}))
}

fn failure() -> Message {
    status(&json!({"status": "Failure", "reason": "InternalError", "message": "it broke", "code": 500}))
}

/// What comes is heard out: both outputs, and the exit code.
async fn heard(secret: Option<&Secret>, messages: Vec<Message>) -> (String, String, u8) {
    let mut heard = hear(secret, stream::iter(messages.into_iter().map(Ok)).boxed());
    heard.over.cancel();
    let (mut output, mut errors) = (String::new(), String::new());
    heard.output.read_to_string(&mut output).await.unwrap();
    heard.errors.read_to_string(&mut errors).await.unwrap();
    let exit = heard.exit.wait_for(Option::is_some).await.unwrap().unwrap();
    let Exit::Code(code) = exit else { panic!("{exit:?}") };
    (output, errors, code)
}

/// Where a shell is beside it, from when it goes.
async fn by_shell(messages: impl FnOnce(&Secret) -> Vec<Message>) -> (String, String, u8) {
    let secret = Secret::new().unwrap();
    let going = note(1, &secret, "going");
    let messages = messages(&secret);
    heard(Some(&secret), [going].into_iter().chain(messages).collect()).await
}

const UNKNOWN: &str = "nobody knows how the process ended";

#[tokio::test]
async fn all_is_heard_wherever_the_status_comes() {
    for at in 0..=4 {
        // The status lies, as one does of a connection that is lost.
        let (output, errors, exit) = by_shell(|secret| {
            let (last, also) = (note(1, secret, "ended 1"), note(2, secret, "ended 1"));
            let mut messages = vec![out("a"), out("b"), last, also];
            messages.insert(at, success());
            messages.push(Message::Close(None));
            messages
        })
        .await;
        assert_eq!((output.as_str(), errors.as_str(), exit), ("ab", "", 1), "{at}");
    }
    // The shell was killed, and only Kubernetes knows.
    for at in 0..=2 {
        let mut messages = vec![out("a"), out("b")];
        messages.insert(at, code(137));
        messages.push(Message::Close(None));
        let (output, errors, exit) = by_shell(|_| messages).await;
        assert_eq!((output.as_str(), errors.as_str(), exit), ("ab", "", 137), "{at}");
    }
    // Nobody is beside it.
    for at in 0..=2 {
        for (status, expected) in [(success(), 0), (code(7), 7)] {
            let mut messages = vec![out("a"), out("b")];
            messages.insert(at, status);
            let (output, errors, exit) = heard(None, messages).await;
            assert_eq!((output.as_str(), errors.as_str(), exit), ("ab", "", expected), "{at}");
        }
    }
}

#[tokio::test]
async fn what_nobody_has_said_is_no_success() {
    // No status; one that is none; one that does not say; and one that only Kubernetes says.
    let statuses =
        [vec![], vec![frame(3, b"")], vec![frame(3, b"not JSON")], vec![failure()], vec![success()]];
    for status in &statuses {
        for end in [vec![], vec![Message::Close(None)]] {
            let messages = [vec![out("a")], status.clone(), end].concat();
            let (output, errors, exit) = by_shell(|_| messages.clone()).await;
            assert!(output == "a" && errors.contains(UNKNOWN) && exit == 255, "{status:?}: {errors}");
            if *status != [success()] {
                let (output, errors, exit) = heard(None, messages).await;
                assert!(output == "a" && errors.contains(UNKNOWN) && exit == 255, "{status:?}: {errors}");
            }
        }
    }
    // Nothing came but that.
    let (_, errors, exit) = heard(None, vec![failure()]).await;
    assert!(errors.contains("Kubernetes says: it broke") && exit == 255, "{errors}");
    // It was let go, and was never heard to go.
    let secret = Secret::new().unwrap();
    let (output, errors, exit) = heard(Some(&secret), vec![out("go\r\n"), success()]).await;
    assert!(output.is_empty() && errors.contains(UNKNOWN) && exit == 255, "{output}{errors}");
}

#[tokio::test]
async fn the_end_has_to_be_heard_of_every_output() {
    for channel in [1, 2] {
        let (_, errors, exit) = by_shell(|secret| vec![note(channel, secret, "ended 0"), success()]).await;
        assert!(errors.contains(UNKNOWN) && exit == 255, "{errors}");
    }
    let (_, errors, exit) =
        by_shell(|secret| vec![note(1, secret, "ended 0"), note(2, secret, "ended 1"), Message::Close(None)])
            .await;
    assert!(errors.contains(UNKNOWN) && exit == 255, "{errors}");
    // It is known without a status.
    let (_, errors, exit) =
        by_shell(|secret| vec![note(2, secret, "ended 3"), out("x"), note(1, secret, "ended 3")]).await;
    assert_eq!((errors.as_str(), exit), ("", 3));
}

#[tokio::test]
async fn what_a_terminal_shows_of_the_script_is_not_shown() {
    let secret = Secret::new().unwrap();
    let messages = vec![
        out("go\r\n"),
        note(1, &secret, "going"),
        frame(2, b"err"),
        // What looks like a note of another.
        out("\u{1e}skpr 0 ended 0\n$ "),
        note(1, &secret, "ended 0"),
        note(2, &secret, "ended 0"),
        // Of what was left behind.
        out("later\u{1e}"),
    ];
    let expected = ("\u{1e}skpr 0 ended 0\n$ later\u{1e}".to_owned(), "err".to_owned(), 0);
    assert_eq!(heard(Some(&secret), messages).await, expected);
}

#[tokio::test]
async fn its_end_is_told_when_all_before_is_in_its_pipes() {
    let secret = Secret::new().unwrap();
    let messages = vec![
        note(1, &secret, "going"),
        // More than a pipe holds.
        out(&"x".repeat(100 << 10)),
        note(1, &secret, "ended 0"),
        note(2, &secret, "ended 0"),
    ];
    let connected = stream::iter(messages.into_iter().map(Ok)).chain(stream::pending()).boxed();
    let mut heard = hear(Some(&secret), connected);
    assert!(timeout(Duration::from_millis(100), heard.exit.changed()).await.is_err());
    heard.output.read_exact(&mut vec![0; 100 << 10]).await.unwrap();
    // Also while what was left behind has its outputs.
    timeout(Duration::from_secs(5), heard.exit.changed()).await.expect("it is told").unwrap();
    assert_eq!(*heard.exit.borrow(), Some(Exit::Code(0)));
}

#[tokio::test]
async fn what_is_lost_is_ended_before_that_is_told() {
    let secret = Secret::new().unwrap();
    let broken = stream::iter([Ok(out("a")), Err(Error::ConnectionClosed)]).boxed();
    let mut heard = hear(Some(&secret), broken);
    heard.lost.cancelled().await;
    assert!(timeout(Duration::from_millis(50), heard.exit.changed()).await.is_err());
    heard.over.cancel();
    heard.exit.changed().await.unwrap();
    assert_eq!(*heard.exit.borrow(), Some(Exit::Code(255)));
}

/// Whether it has been given up after that time.
async fn given_up(heard: &mut Heard, after: Duration) -> bool {
    timeout(after, heard.lost.cancelled()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_falls_silent_is_noticed_if_it_would_have_answered() {
    let secret = Secret::new().unwrap();
    let hour = Duration::from_secs(3600);
    let silent = || hear(Some(&secret), stream::pending().boxed());
    // It never answers pings, so that its silence says nothing.
    assert!(!given_up(&mut silent(), hour).await);
    let mut heard = silent();
    heard.pulse.answered(0);
    assert!(given_up(&mut heard, SILENT + Duration::from_secs(1)).await);
    // It has not read all, because the process does not.
    let mut heard = silent();
    heard.pulse.answered(7);
    assert!(!given_up(&mut heard, hour).await);
    // After a status nothing is waited for but the end.
    let status = stream::iter([Ok(success())]).chain(stream::pending()).boxed();
    let mut heard = hear(Some(&secret), status);
    assert!(!given_up(&mut heard, CLOSED_WITHIN - Duration::from_secs(1)).await);
    assert!(given_up(&mut heard, Duration::from_secs(2)).await);
}
