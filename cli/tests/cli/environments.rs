//! `info`, `releases`, `scale`, `delete`, `events`.

use crate::fake::{Fake, Script, Tasks};
use crate::names::summary;
use crate::{Home, run};
use skpr_proto::v1::{DescribeResponse, Event, Instance, Instant, Release, Run, Task, TasksResponse};
use skpr_proto::{ErrorKind, Failure};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

/// 2020-01-01T00:00:00Z, and this many seconds more: its age has four digits of days for as long as matters.
fn at(second: i64) -> Option<Instant> {
    Some(Instant { unix_nanos: 1_577_836_800_000_000_000 + second * 1_000_000_000 })
}

/// How long ago that is, and when a task is due next, depends on the day of the test.
fn without_ages(shown: String) -> String {
    let mut out = String::new();
    for word in shown.split_inclusive([' ', '\n']) {
        let age = word.trim_end();
        let date = age.len() == 10 && age.split('-').map(str::len).eq([4, 2, 2]);
        let counts = age.strip_suffix('d').is_some_and(|days| days.parse::<u32>().is_ok());
        out.push_str(&if date {
            word.replace(age, "DATE")
        } else if counts {
            word.replace(age, "AGE")
        } else {
            word.to_owned()
        });
    }
    out
}

fn release(number: u64, state: &str) -> Release {
    Release {
        number,
        version: format!("v{number}"),
        digest: Some("sha256:abc".into()),
        by: "dana\u{1b}[2J".into(),
        began: at(0),
        ended: (state != "deploying").then(|| at(95)).flatten(),
        state: state.into(),
        ..Release::default()
    }
}

fn described() -> DescribeResponse {
    let mut failed = release(3, "rolled-back");
    failed.reason = Some("instance `web-2` ended with exit code 3".into());
    (failed.instance, failed.exit_code) = (Some("web-2".into()), Some(3));
    let mut restored = release(4, "succeeded");
    restored.restores = Some(2);
    let mut summary = summary("shop", "prod", true, 1);
    summary.release = Some(restored.clone());
    summary.trouble = Some("the namespace's quota `cpu` is used up".into());
    summary.instance.push(Instance {
        name: "web-2".into(),
        version: "1.2.0".into(),
        node: "n2".into(),
        created: at(0),
        restarts: 4,
        out_of_memory_kills: 1,
        trouble: Some("CrashLoopBackOff".into()),
        exit_code: Some(137),
        ..Instance::default()
    });
    DescribeResponse {
        summary: Some(summary),
        releases: vec![restored, failed, release(2, "succeeded")],
        settings: br#"{"production":true,"cpu":"500m","memory":{"min":"256Mi","max":"1Gi"},"port":8080,
            "env":{"DATABASE_PASSWORD":"s3cret"},"domains":["www.example.com"],"health":"/healthz",
            "cron":{"drush":{"schedule":"0 3 1 * *","command":"drush cron","timezone":"UTC"}}}"#
            .to_vec()
            .into(),
        image: Some("registry.example.com/shop".into()),
    }
}

fn tasks() -> TasksResponse {
    let last = Run {
        id: "drush-26297460".into(),
        task: "drush".into(),
        trigger: "schedule".into(),
        outcome: "failed".into(),
        exit_code: Some(3),
        began: at(0),
        ended: at(12),
        ..Run::default()
    };
    let drush = Task {
        name: "drush".into(),
        schedule: "0 3 1 * *".into(),
        timezone: "UTC".into(),
        command: "drush cron".into(),
        overlap: "forbid".into(),
        next: at(86_400),
        last: Some(last),
        ..Task::default()
    };
    TasksResponse { tasks: vec![drush], now: at(3_600), ..TasksResponse::default() }
}

fn event(second: i64, kind: &str, text: &str, warning: bool) -> Event {
    Event {
        time: at(second),
        kind: kind.into(),
        text: text.into(),
        by: (kind == "deploy").then(|| "dana".into()),
        instance: (kind == "restart").then(|| "web-2".into()),
        release: Some(4),
        sequence: u64::try_from(second).unwrap(),
        warning,
    }
}

pub(crate) fn script() -> Script {
    Script {
        described: described(),
        events: vec![
            event(1, "deploy", "release 4 (v4) began", false),
            event(2, "restart", "instance `web-2` ended with exit code 137\u{1b}[2J", true),
            event(3, "deploy", "release 4 (v4) succeeded", false),
        ],
        cron: Tasks { tasks: tasks(), ..Tasks::default() },
        ..Script::default()
    }
}

#[test]
fn info_for_people_and_programs() {
    let (home, fake) = (Home::new(), Fake::scripted(script()));
    let shown = |arguments: &[&str]| without_ages(run(&mut home.with(&fake, arguments), Some(&fake)));
    insta::assert_snapshot!(shown(&["info", "prod"]));
    insta::assert_snapshot!(shown(&["info", "prod", "-o", "json"]));
    assert!(shown(&["info", "prod", "-o", "yaml"]).starts_with("exit 0\n"));
    assert_eq!(shown(&["info", "prod", "-o", "name"]), "exit 0\n--- stdout\nshop/prod\n--- stderr\n");
    assert_eq!(fake.script().event_requests[0].last, Some(5));
    // Who may not know how the tasks went is told the rest.
    let refused = Failure::new(ErrorKind::NotAllowed, "you may not");
    fake.script().refusals.insert("tasks", [refused].into());
    let shown = run(&mut home.with(&fake, &["info", "prod"]), Some(&fake));
    assert!(
        shown.starts_with("exit 0\n") && shown.contains("drush  at 03:00 on day 1 of the month  UTC   20"),
        "{shown}"
    );
    // Nor is anybody asked where there are none.
    fake.script().described.settings = b"{}".to_vec().into();
    fake.script().calls.clear();
    assert!(!shown_calls(&home, &fake).contains(&"tasks shop/prod".to_owned()));
}

fn shown_calls(home: &Home, fake: &Fake) -> Vec<String> {
    run(&mut home.with(fake, &["info", "prod"]), Some(fake));
    fake.script().calls.clone()
}

#[test]
fn releases_for_people_and_programs() {
    let (home, fake) = (Home::new(), Fake::scripted(script()));
    let shown = |arguments: &[&str]| without_ages(run(&mut home.with(&fake, arguments), Some(&fake)));
    insta::assert_snapshot!(shown(&["releases", "prod"]));
    insta::assert_snapshot!(shown(&["releases", "prod", "-n", "1", "-o", "json"]));
    insta::assert_snapshot!(shown(&["releases", "prod", "-o", "csv"]));
    assert_eq!(
        shown(&["releases", "prod", "-o", "name", "-n", "2"]),
        "exit 0\n--- stdout\nshop/prod/4\nshop/prod/3\n--- stderr\n"
    );
}

#[test]
fn scale_says_what_it_changes() {
    let (home, fake) = (Home::new(), Fake::scripted(script()));
    let scale = |arguments: &[&str]| {
        let mut all = vec!["scale", "prod"];
        all.extend(arguments);
        run(&mut home.with(&fake, &all), Some(&fake))
    };
    assert_eq!(
        scale(&["--min", "4", "--max", "4"]),
        "exit 0\n--- stdout\nshop/prod: instances 2–8 → 4, until the next deploy\n--- stderr\n"
    );
    assert_eq!(fake.script().calls, ["scale shop/prod"]);
    fake.script().calls.clear();
    assert_eq!(
        scale(&["--max", "12", "-n"]),
        "exit 0\n--- stdout\nshop/prod: instances 2–8 → 2–12, until the next deploy (nothing was changed)\n--- stderr\n"
    );
    for nothing in [&["--min", "2", "--max", "8"][..], &["--max", "8", "-n"]] {
        let expected =
            "exit 0\n--- stdout\nshop/prod: instances are 2–8 already; nothing was changed\n--- stderr\n";
        assert_eq!(scale(nothing), expected);
    }
    insta::assert_snapshot!(scale(&["--max", "12", "-o", "csv"]));
    assert!(
        scale(&["--min", "3", "--max", "2"]).contains("at least `3` instances are more than at most `2`")
    );
    for wrong in [&[][..], &["--min", "0"], &["--min", "-1"], &["--max", "many"]] {
        assert!(scale(wrong).starts_with("exit 2\n"), "{wrong:?}");
    }
}

#[test]
fn delete_off_a_terminal_needs_to_be_agreed_to() {
    let (home, fake) = (Home::new(), Fake::scripted(script()));
    let delete = |arguments: &[&str]| {
        let mut all = vec!["delete", "prod"];
        all.extend(arguments);
        run(&mut home.with(&fake, &all), Some(&fake))
    };
    insta::assert_snapshot!(delete(&[]));
    assert!(fake.script().calls.is_empty());
    insta::assert_snapshot!(delete(&["-n", "--volumes"]));
    insta::assert_snapshot!(delete(&["-y"]));
    insta::assert_snapshot!(delete(&["-y", "--volumes", "-o", "json"]));
    assert_eq!(fake.script().calls, ["delete? shop/prod", "delete! shop/prod", "delete! shop/prod"]);
}

/// `shop/prod` while somebody deploys to it.
pub(crate) fn deploying() -> Script {
    let mut script = script();
    script.described.summary.as_mut().unwrap().release = Some(release(5, "deploying"));
    script
}

#[test]
fn a_deploy_that_would_end_with_an_environment_is_named() {
    let (home, fake) = (Home::new(), Fake::scripted(deploying()));
    let shown = run(&mut home.with(&fake, &["delete", "prod", "-n"]), Some(&fake));
    let open =
        "ends   release `shop/prod/5` (`v5`) is being deployed by dana^[[2J since 2020-01-01T00:00:00Z\n";
    assert!(shown.contains(open), "{shown}");
    let json = run(&mut home.with(&fake, &["delete", "prod", "-n", "-o", "json"]), Some(&fake));
    assert!(json.contains("\"id\": \"shop/prod/5\""), "{json}");
}

#[test]
fn events_for_people_and_programs() {
    let (home, fake) = (Home::new(), Fake::scripted(script()));
    let arguments = ["events", "prod", "--since", "2020-01-01T00:00:00Z", "--until", "2020-01-01T00:10:00Z"];
    let shown = |more: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(more);
        run(&mut home.with(&fake, &all), Some(&fake))
    };
    insta::assert_snapshot!(shown(&["--timezone", "Australia/Sydney"]));
    insta::assert_snapshot!(shown(&["-q", "-o", "json"]));
    insta::assert_snapshot!(shown(&["-q", "-o", "csv"]));
    assert!(shown(&["-q", "-o", "yaml"]).contains("\n- {\"time\":"));
    assert!(shown(&["-o", "name"]).starts_with("exit 2\n"));
    let request = fake.script().event_requests[0].clone();
    assert_eq!((request.since, request.until), (at(0), at(600)));
}

#[test]
fn events_are_followed_over_a_cut_without_loss_or_repetition() {
    let (home, fake) = (Home::new(), Fake::scripted(Script { event_cuts: [2].into(), ..script() }));
    let mut child = home
        .with(&fake, &["events", "prod", "-f", "-n", "3", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let kinds: Vec<&str> = lines.iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(kinds, ["deploy", "restart", "deploy"]);
    assert_eq!(fake.script().event_requests.len(), 2);
}
