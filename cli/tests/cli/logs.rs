//! `logs`.

use crate::fake::{Fake, State};
use crate::names::summary;
use crate::{Home, run};
use skpr_proto::v1::{Instant, LogRecord, RecordKind};
use skpr_proto::{ErrorKind, Failure};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::Notify;

/// 2026-11-22T04:40:00Z, which is 15:40 in Sydney.
const START: i64 = 1_795_322_400_000_000_000;

fn record(index: usize, instance: &str, stream: &str, message: &[u8]) -> LogRecord {
    LogRecord {
        time: Some(Instant { unix_nanos: START + index as i64 * 1_000_001 }),
        instance: instance.into(),
        stream: stream.into(),
        sequence: index as u64 + 1,
        message: message.to_vec().into(),
        kind: RecordKind::Line.into(),
    }
}

fn numbered(count: usize) -> Vec<LogRecord> {
    (0..count).map(|index| record(index, "web-1", "stdout", format!("line {index}").as_bytes())).collect()
}

fn serving(records: Vec<LogRecord>) -> Fake {
    Fake::start(State { records, batch: 10, ..State::default() })
}

const WINDOW: [&str; 4] = ["--since", "2026-11-22 15:40", "--until", "2026-11-22 15:50"];

fn logs<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["logs", "prod", "--timezone", "Australia/Sydney"];
    arguments.extend(more);
    arguments
}

#[test]
fn a_window_for_people() {
    let mut gap = record(2, "web-1", "stdout", b"4096 bytes were deleted before they were read");
    gap.kind = RecordKind::Gap.into();
    let mut long = record(3, "web-1", "stdout", b"aaaa");
    long.kind = RecordKind::Truncated.into();
    let fake = serving(vec![
        record(0, "web-1", "stdout", b"GET / 200"),
        record(1, "web-long-name-2", "stderr", b"PHP Warning"),
        gap,
        long,
        record(4, "web-1", "nginx.stderr", b"upstream"),
    ]);
    insta::assert_snapshot!(run(&mut Home::new().with(&fake, &logs(&WINDOW)), None));
    let request = &fake.requests()[0];
    assert_eq!(request.since.unwrap().unix_nanos, START);
    assert_eq!(request.until.unwrap().unix_nanos, START + 600_000_000_000);
}

#[test]
fn records_for_programs() {
    let fake = serving(vec![
        record(0, "web-1", "stdout", "\"é\u{9b}\"".as_bytes()),
        record(1, "web-1", "stderr", b"\xff"),
    ]);
    let home = Home::new();
    insta::assert_snapshot!(run(&mut home.with(&fake, &["logs", "shop/prod", "-q", "-o", "json"]), None));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["logs", "shop/prod", "-q", "-o", "csv"]), None));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["logs", "shop/prod", "-q", "-o", "yaml"]), None));
}

#[test]
fn hostile_lines_cannot_drive_the_terminal() {
    let hostile: Vec<u8> = (0u8..=255).filter(|byte| *byte != b'\n').collect();
    let records = || {
        vec![
            record(0, "web\x1b[31m", "stdout", &hostile),
            record(1, "web", "\u{9b}2J.stdout", "\u{202e}\u{9b}31m\x1b]52;c;aGk=\x07".as_bytes()),
        ]
    };
    let (home, fake) = (Home::new(), serving(records()));
    for format in ["table", "json", "csv", "yaml"] {
        let output = home.with(&fake, &["logs", "prod", "-o", format]).output().unwrap();
        assert!(output.status.success());
        for character in String::from_utf8(output.stdout).expect("UTF-8").chars() {
            let acts = character.is_control() && !matches!(character, '\n' | '\t')
                || ('\u{202a}'..='\u{202e}').contains(&character);
            assert!(!acts, "{format}: {character:?}");
        }
    }
    let raw = home.with(&fake, &["logs", "prod", "--raw"]).output().unwrap().stdout;
    assert!(raw.windows(hostile.len()).any(|window| window == hostile));
}

#[test]
fn every_filter_reaches_the_server() {
    let fake = serving(numbered(1));
    let filters = [
        "-n",
        "5",
        "--instance",
        "a",
        "--instance",
        "b",
        "--stream",
        "stderr",
        "--grep",
        "x",
        "--grep",
        "-y",
        "--exclude",
        "z",
    ];
    run(&mut Home::new().with(&fake, &logs(&filters)), None);
    let request = fake.requests().remove(0);
    assert_eq!(request.last, Some(5));
    assert_eq!((request.since, request.until, request.follow), (None, None, false));
    assert_eq!(request.instances, ["a", "b"]);
    assert_eq!(request.streams, ["stderr"]);
    assert_eq!(
        (request.grep, request.exclude),
        (vec!["x".to_owned(), "-y".to_owned()], vec!["z".to_owned()])
    );
}

fn messages(stdout: &[u8]) -> Vec<String> {
    let text = String::from_utf8(stdout.to_vec()).unwrap();
    text.lines().map(|line| line.split(" | ").nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_cut_connection_loses_and_repeats_nothing() {
    let fake = Fake::start(State {
        records: numbered(1000),
        batch: 10,
        cuts: [20, 0, 1, 33].into(),
        ..State::default()
    });
    let output = Home::new().with(&fake, &logs(&WINDOW)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let expected: Vec<String> = (0..1000).map(|index| format!("line {index}")).collect();
    assert_eq!(messages(&output.stdout), expected);
    assert!(fake.requests().len() >= 4);
    assert!(stderr.contains("connection lost, reconnecting…\nconnected again\n"), "{stderr}");
}

#[test]
fn the_namespace_is_asked_for_and_kept_after_a_cut() {
    let namespaces = |environment: Option<&str>, arguments: &[&str]| {
        let gate = Arc::new(Notify::new());
        let fake = Fake::start(State {
            records: numbered(30),
            batch: 10,
            cuts: [1].into(),
            gate: Some(Arc::clone(&gate)),
            ..State::default()
        });
        let home = Home::new();
        let mut command = home.with(&fake, &logs(arguments));
        command.envs(environment.map(|value| ("SKPR_NAMESPACE", value))).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The link is cut when the first answer has come.
        let shown = lines
            .enumerate()
            .inspect(|(index, _)| {
                if *index == 9 {
                    gate.notify_one()
                }
            })
            .count();
        assert!(child.wait().unwrap().success());
        assert_eq!(shown, 30);
        let requests = fake.requests().into_iter();
        requests.map(|request| request.environment.unwrap().namespace).collect::<Vec<_>>()
    };
    let some = |name: &str| Some(name.to_owned());
    // The fake says that it is of `sites`, whatever it was asked.
    assert_eq!(namespaces(None, &WINDOW), [None, some("sites")]);
    assert_eq!(namespaces(Some("other"), &WINDOW)[0], some("other"));
    let flag: Vec<&str> = WINDOW.into_iter().chain(["--namespace", "flag"]).collect();
    assert_eq!(namespaces(Some("other"), &flag)[0], some("flag"));
}

#[test]
fn following_goes_on_after_a_cut_and_ends_with_ctrl_c() {
    let gate = Arc::new(Notify::new());
    let fake = Fake::start(State {
        records: numbered(100),
        batch: 10,
        cuts: [5].into(),
        gate: Some(Arc::clone(&gate)),
        ..State::default()
    });
    let home = Home::new();
    let mut child = home
        .with(&fake, &["logs", "prod", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for index in 0..100 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(&format!(" | line {index}")), "{line}");
        if index == 49 {
            // All that was sent has been shown: nothing is held back while the stream pauses.
            gate.notify_one();
        }
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(lines.next().is_none());
    let mut stderr = String::new();
    child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(
        stderr,
        "from now to whenever you stop it (UTC)\nconnection lost, reconnecting…\nconnected again\n"
    );
    let requests = fake.requests();
    assert_eq!((requests[0].follow, requests[0].last, requests[0].since), (true, Some(0), None));
    assert_eq!(requests[1].cursor, "50");
}

#[test]
fn an_error_that_stays_ends_it_also_while_following() {
    let expired = Failure::new(ErrorKind::NotLoggedIn, "the token has expired");
    // The first call is served and cut, the second refused.
    let fake = Fake::start(State {
        records: numbered(20),
        batch: 10,
        cuts: [1].into(),
        failures: [None, Some(expired)].into(),
        ..State::default()
    });
    let shown = run(&mut Home::new().with(&fake, &["logs", "prod", "-f", "-q"]), None);
    assert!(
        shown.starts_with("exit 4\n") && shown.contains("error: the token has expired\nhint: skpr login"),
        "{shown}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_a_success() {
    let fake = serving(numbered(50_000));
    let home = Home::new();
    let mut child =
        home.with(&fake, &logs(&WINDOW)).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure_and_a_closed_stdout_is_not() {
    let (home, fake) = (Home::new(), serving(numbered(10)));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = home.with(&fake, &["logs", "prod", "-q"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: cannot write to stdout\n"));
    let with = home.with(&fake, &[]);
    let environment: Vec<_> =
        with.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
    let script = format!("exec {} logs prod -q >&-", env!("CARGO_BIN_EXE_skpr"));
    let status =
        Command::new("/bin/sh").args(["-c", &script]).env_clear().envs(environment).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_unknown_environment_and_what_was_meant() {
    let home = Home::new();
    let refuse = || {
        Failure::new(
            ErrorKind::NotAllowed,
            "you may not read the logs of `shop/prdo`, or there is no such environment",
        )
    };
    let fake = Fake::start(State {
        failures: [Some(refuse()), Some(refuse())].into(),
        environments: vec![summary("shop", "prod", true, 2), summary("shop", "dev", false, 2)],
        ..State::default()
    });
    insta::assert_snapshot!(run(&mut home.with(&fake, &["logs", "prdo", "-q"]), None));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["logs", "prdo", "-q", "-o", "json"]), None));
}

#[test]
fn usage_errors_name_the_value() {
    let (home, fake) = (Home::new(), serving(Vec::new()));
    insta::assert_snapshot!(run(&mut home.with(&fake, &logs(&["--since", "noon"])), None));
    for (arguments, expected) in [
        (&["--since", "2026-11-22", "--until", "2026-11-21"][..], "is after --until"),
        (&["-f", "--until", "1m"], "exclude each other"),
        (&["--since", "2099-01-01"], "is in the future"),
        (&["--timezone", "Mars/Olympus"], "`Mars/Olympus` is not a time zone"),
        (&["-o", "name"], "means nothing"),
        (&["-n", "-1"], "-1"),
    ] {
        let mut all = vec!["logs", "prod"];
        all.extend(arguments);
        let shown = run(&mut home.with(&fake, &all), None);
        assert!(
            shown.starts_with("exit 2\n--- stdout\n--- stderr\nerror: ") && shown.contains(expected),
            "{shown}"
        );
    }
    let shown = run(home.with(&fake, &["logs", "prod"]).env_remove("SKPR_PROJECT"), None);
    assert!(shown.starts_with("exit 2\n") && shown.contains("say PROJECT/prod"), "{shown}");
    assert!(fake.requests().is_empty(), "nothing of this needs the cluster");
}

#[test]
fn what_is_no_longer_kept_is_said() {
    let fake = Fake::start(State {
        records: numbered(1),
        skipped: 3,
        oldest_kept: Some(START + 60_000_000_000),
        ..State::default()
    });
    insta::assert_snapshot!(run(&mut Home::new().with(&fake, &logs(&WINDOW)), None));
}

#[test]
fn an_aggregator_that_is_away_from_the_start_is_an_error() {
    let fake = Fake::start(State {
        failures: [Some(Failure::new(ErrorKind::Unavailable, "the aggregator is starting"))].into(),
        ..State::default()
    });
    let shown = run(&mut Home::new().with(&fake, &["logs", "prod", "-f", "-q"]), None);
    assert!(shown.starts_with("exit 1\n") && shown.contains("error: the aggregator is starting"), "{shown}");
}
