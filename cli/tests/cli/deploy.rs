//! `deploy` and `rollback`: what is sent, what is shown, how it ends.

use crate::fake::{Fake, Part, Script};
use crate::release::{MANIFEST, answer, at, instance, planned, project, scripted, succeeded};
use crate::{Home, run};
use skpr_proto::v1::{EnvironmentSummary, FollowResponse, Instance, LogRecord};
use skpr_proto::{ErrorKind, Failure};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::Notify;

fn git(home: &Home, arguments: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(home.0.path())
        .env("HOME", home.0.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// With git on the PATH, which tests otherwise do without.
fn with_path(home: &Home, fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = home.with(fake, arguments);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
}

#[test]
fn a_deploy_that_succeeds() {
    let (home, fake) = (
        project(),
        scripted(vec![
            answer(
                "deploying",
                &[instance("old-a", 41, true), instance("web-a", 42, true), instance("web-b", 42, false)],
            ),
            answer(
                "deploying",
                &[
                    Instance { leaving: true, ..instance("old-a", 41, true) },
                    instance("web-a", 42, true),
                    instance("web-b", 42, true),
                ],
            ),
            succeeded(),
        ]),
    );
    insta::assert_snapshot!(run(
        &mut home.with(&fake, &["deploy", "dev", "v42", "--timeout", "5m"]),
        Some(&fake)
    ));
    let script = fake.script();
    let [dry, real] = script.deploys.as_slice() else { panic!("{:?}", script.deploys.len()) };
    assert!(dry.dry_run && !real.dry_run);
    assert_eq!((real.version.as_str(), real.timeout_seconds, real.keep_failed), ("v42", 300, false));
    assert_eq!(real.image.as_deref(), Some("registry.example.com/shop"));
    assert_eq!(real.environment.as_ref().unwrap().namespace.as_deref(), Some("sites"));
    let settings: serde_json::Value = serde_json::from_slice(&real.settings).unwrap();
    assert_eq!(settings["port"], 8080);
    assert_eq!(settings["instances"]["min"], 2);
    assert_eq!(script.follows[0].release, 42);
}

#[test]
fn a_deploy_for_programs() {
    let home = project();
    let json = run(
        &mut home.with(&scripted(vec![succeeded()]), &["deploy", "dev", "v42", "-q", "-o", "json"]),
        None,
    );
    insta::assert_snapshot!(json);
    let name = run(
        &mut home.with(&scripted(vec![succeeded()]), &["deploy", "dev", "v42", "-q", "-o", "name"]),
        None,
    );
    assert_eq!(name, "exit 0\n--- stdout\nshop/dev/42\n--- stderr\n");
}

fn failed(state: &str, code: Option<i32>) -> FollowResponse {
    let mut answer = answer(
        state,
        &[
            instance("old-a", 41, true),
            Instance {
                trouble: Some("CrashLoopBackOff".into()),
                exit_code: code,
                restarts: 2,
                ..instance("web-a", 42, false)
            },
        ],
    );
    let release = answer.release.as_mut().unwrap();
    release.reason = Some("instance `web-a` ended with exit code 3 and is started again and again".into());
    (release.instance, release.exit_code) = (Some("web-a".into()), code);
    answer.last_lines = ["starting", "\u{1b}[31mno database\u{1b}[0m"]
        .iter()
        .map(|line| LogRecord {
            time: at(1),
            instance: "web-a".into(),
            stream: "stderr".into(),
            message: line.as_bytes().to_vec().into(),
            ..LogRecord::default()
        })
        .collect();
    answer
}

#[test]
fn a_failure_says_why_and_what_became_of_it() {
    let home = project();
    let mut last = failed("rolled-back", Some(3));
    last.last_lines.clear();
    let fake = scripted(vec![failed("rolling-back", Some(3)), last]);
    insta::assert_snapshot!(run(&mut home.with(&fake, &["deploy", "dev", "v42"]), Some(&fake)));
    let fake = scripted(vec![failed("failed", Some(3))]);
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42", "--no-rollback", "-q"]), Some(&fake));
    insta::assert_snapshot!(shown);
    assert!(fake.script().deploys.iter().all(|deploy| deploy.keep_failed));
    let fake = scripted(vec![failed("rolled-back", Some(3))]);
    insta::assert_snapshot!(run(
        &mut home.with(&fake, &["deploy", "dev", "v42", "-q", "-o", "json"]),
        Some(&fake)
    ));
}

#[test]
fn a_rollback_that_takes_long_is_not_waited_for() {
    let (home, fake) = (project(), scripted(vec![failed("rolling-back", Some(3))]));
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42", "-q"]), Some(&fake));
    assert!(
        shown.starts_with("exit 6\n") && shown.contains("the release before is being put back"),
        "{shown}"
    );
}

#[test]
fn a_failure_at_the_end_of_its_time_is_a_time_out() {
    let mut late = answer("failed", &[]);
    late.release.as_mut().unwrap().reason =
        Some("it is not done after 1 s: 0 of 2 instances are ready".into());
    let shown = run(&mut project().with(&scripted(vec![late]), &["deploy", "dev", "v42", "-q"]), None);
    assert!(shown.starts_with("exit 7\n") && shown.contains("0 of 2 instances are ready"), "{shown}");
}

#[test]
fn what_would_change_without_changing_it() {
    let home = project();
    let fake = scripted(Vec::new());
    insta::assert_snapshot!(run(&mut home.with(&fake, &["deploy", "dev", "v42", "-n"]), Some(&fake)));
    insta::assert_snapshot!(run(
        &mut home.with(&fake, &["deploy", "dev", "v42", "-n", "-o", "json"]),
        Some(&fake)
    ));
    assert!(fake.script().deploys.iter().all(|deploy| deploy.dry_run));
    assert!(fake.script().follows.is_empty());
    fake.script().described.summary =
        Some(EnvironmentSummary { release: answer("deploying", &[]).release, ..Default::default() });
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v43", "-n"]), Some(&fake));
    let lock = "release `shop/dev/42` (`v42`) is being deployed by dana since 2026-11-22T04:40:00Z";
    assert!(shown.contains(&format!("{lock}; until it has ended, no other can begin\n")), "{shown}");
}

#[test]
fn nobody_waits_with_no_wait() {
    let (home, fake) = (project(), scripted(Vec::new()));
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42", "--no-wait", "-q"]), Some(&fake));
    assert_eq!(
        shown,
        "exit 0\n--- stdout\nshop/dev: release 42 (v42) has begun; watch it: skpr deploy --follow shop/dev/42\n--- stderr\n"
    );
    assert!(fake.script().follows.is_empty());
}

#[test]
fn what_was_just_begun_is_waited_for_until_the_cluster_shows_it() {
    let home = project();
    let unknown = Failure::new(ErrorKind::NotFound, "`shop/dev` has no release 42: its newest is 41");
    let fake = Fake::scripted(Script {
        planned: planned(),
        refusals: HashMap::from([("follow", [unknown.clone()].into())]),
        follow: [Part { answers: vec![succeeded()], cut: None }].into(),
        ..Script::default()
    });
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42"]), Some(&fake));
    assert!(shown.starts_with("exit 0\n") && !shown.contains("connection lost"), "{shown}");
    assert!(fake.script().refusals["follow"].is_empty() && fake.script().follows.len() == 1);
    // A number that somebody typed is wrong at once.
    fake.script().refusals.insert("follow", [unknown].into());
    let shown = run(&mut home.with(&fake, &["deploy", "--follow", "shop/dev/42"]), Some(&fake));
    assert!(shown.starts_with("exit 3\n"), "{shown}");
}

fn locked() -> Failure {
    Failure::new(ErrorKind::Locked, "release 41 (`v41`) of `shop/dev` is being deployed by robin since 10 s")
}

#[test]
fn somebody_elses_deploy_is_named_and_can_be_waited_for() {
    let home = project();
    let fake = Fake::scripted(Script {
        planned: planned(),
        refusals: HashMap::from([("deploy", [locked(), locked()].into())]),
        follow: [
            Part { answers: vec![succeeded()], cut: None },
            Part { answers: vec![succeeded()], cut: None },
        ]
        .into(),
        ..Script::default()
    });
    let refused = run(&mut home.with(&fake, &["deploy", "dev", "v42"]), Some(&fake));
    assert!(!refused.contains("SETTING"), "a plan of what is refused: {refused}");
    insta::assert_snapshot!(refused);
    insta::assert_snapshot!(run(
        &mut home.with(&fake, &["deploy", "dev", "v42", "--lock-wait"]),
        Some(&fake)
    ));
    assert_eq!(fake.script().follows[0].release, 0, "the newest is the one that holds the lock");
    let fake = Fake::scripted(Script {
        planned: planned(),
        refusals: HashMap::from([("deploy", [locked(), locked()].into())]),
        ..Script::default()
    });
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42", "-q", "--lock-wait", "1s"]), Some(&fake));
    assert!(shown.starts_with("exit 8\n") && shown.contains("by robin since 10 s, still"), "{shown}");
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let home = project();
    let cut = Arc::new(Notify::new());
    cut.notify_one();
    let fake = Fake::scripted(Script {
        planned: planned(),
        follow: [
            Part { answers: vec![answer("deploying", &[instance("web-a", 42, true)])], cut: Some(cut) },
            Part {
                answers: vec![answer("deploying", &[instance("web-a", 42, true)]), succeeded()],
                cut: None,
            },
        ]
        .into(),
        ..Script::default()
    });
    let shown = run(&mut home.with(&fake, &["deploy", "dev", "v42"]), Some(&fake));
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    assert_eq!(shown.matches("connection lost, reconnecting…\n").count(), 1, "{shown}");
    assert_eq!(shown.matches("connected again\n").count(), 1, "{shown}");
    assert_eq!(fake.script().deploys.len(), 2, "it was asked what would change, and then begun once");
    assert!(fake.script().follows.iter().all(|follow| follow.release == 42));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_deploy_alone_and_says_how_to_come_back() {
    let (home, fake) = (project(), scripted(vec![answer("deploying", &[instance("web-a", 42, false)])]));
    let mut child = home
        .with(&fake, &["deploy", "dev", "v42"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("web-a (v42): starting") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    let interrupt = Command::new("/bin/kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let expected =
        "shop/dev/42 goes on without this command; watch it again: skpr deploy --follow shop/dev/42\n";
    assert!(rest.ends_with(expected), "{rest}");
    // And back again, from anywhere.
    for id in [&["--follow", "shop/dev/42"][..], &["--follow", "dev/42"], &["dev", "--follow", "42"]] {
        fake.script().follow.push_back(Part { answers: vec![succeeded()], cut: None });
        let mut arguments = vec!["deploy", "-q"];
        arguments.extend(id);
        let shown = run(Home::new().with(&fake, &arguments).env("SKPR_PROJECT", "shop"), None);
        assert!(shown.starts_with("exit 0\n--- stdout\nshop/dev: release 42 (v42) by dana"), "{shown}");
        assert_eq!(fake.script().follows.last().unwrap().release, 42);
    }
    for wrong in ["42", "a/b/c/1", "shop/dev/x", "0"] {
        let shown = run(&mut Home::new().with(&fake, &["deploy", "--follow", wrong]), None);
        assert!(shown.starts_with("exit 2\n"), "{wrong}: {shown}");
    }
}

/// Release 42 as it ended; today another one runs.
fn long_over(state: &str) -> FollowResponse {
    let mut over = answer(state, &[instance("web-z", 43, true)]);
    over.ready = 0;
    if state != "succeeded" && state != "superseded" {
        let release = over.release.as_mut().unwrap();
        release.reason = Some("instance `web-a` ended with exit code 3".into());
        (release.instance, release.exit_code) = (Some("web-a".into()), Some(3));
    }
    over
}

#[test]
fn of_a_release_that_is_over_only_what_is_recorded_is_said() {
    let follow = |state: &str, more: &[&str]| {
        let fake = scripted(vec![long_over(state)]);
        let mut arguments = vec!["deploy", "--follow", "shop/dev/42"];
        arguments.extend(more);
        run(&mut Home::new().with(&fake, &arguments), Some(&fake))
    };
    let who = "by dana, begun 2026-11-22T04:40:00Z and ended 2026-11-22T04:40:30Z,";
    assert_eq!(
        follow("succeeded", &[]),
        format!("exit 0\n--- stdout\nshop/dev: release 42 (v42) {who} succeeded\n--- stderr\n")
    );
    assert_eq!(
        follow("rolled-back", &[]),
        format!(
            "exit 6\n--- stdout\n--- stderr\nerror: release 42 (`v42`) of `shop/dev` {who} failed: instance `web-a` ended with exit code 3; it was rolled back\nhint: skpr logs shop/dev --instance web-a --since 2026-11-22T04:40:00Z\n"
        )
    );
    let superseded = follow("superseded", &[]);
    assert!(superseded.starts_with("exit 6\n") && superseded.contains(who), "{superseded}");
    for state in ["succeeded", "failed", "rolled-back", "superseded"] {
        let json = follow(state, &["-o", "json"]);
        assert!(!json.contains("web-z") && !follow(state, &[]).contains("web-z"), "{json}");
        assert!(json.contains("\"wanted\": null") && json.contains("\"instances\": []"), "{json}");
    }
}

#[test]
fn an_id_beside_a_version_is_no_deploy() {
    let shown =
        run(&mut Home::new().with(&scripted(Vec::new()), &["deploy", "--follow", "dev", "v1.0"]), None);
    assert_eq!(
        shown,
        "exit 2\n--- stdout\n--- stderr\nerror: --follow takes the id of a deploy alone: `dev` is none of `v1.0`\nhint: skpr deploy --follow dev watches it; skpr deploy dev v1.0 begins one and watches it\n"
    );
}

#[test]
fn success_is_not_believed_while_an_instance_runs_another_version() {
    let fake =
        scripted(vec![answer("succeeded", &[instance("web-a", 42, true), instance("old-a", 41, true)])]);
    let shown = run(&mut project().with(&fake, &["deploy", "dev", "v42", "-q"]), Some(&fake));
    assert!(shown.starts_with("exit 6\n") && shown.contains("instance `old-a` runs `v41`"), "{shown}");
}

#[test]
fn the_version_is_what_git_says() {
    let (home, fake) = (project(), scripted(vec![succeeded()]));
    let deploy = |arguments: &[&str]| {
        let mut all = vec!["deploy", "-q", "--no-wait"];
        all.extend(arguments);
        run(&mut with_path(&home, &fake, &all), Some(&fake)).replace(home.0.path().to_str().unwrap(), "HOME")
    };
    insta::assert_snapshot!(deploy(&["dev"]));
    git(&home, &["init", "--quiet"]);
    insta::assert_snapshot!(deploy(&["dev"]));
    home.write(".gitignore", "ca.crt\nconfig\n");
    git(&home, &["add", "."]);
    git(&home, &["commit", "--quiet", "--message", "one"]);
    git(&home, &["tag", "v1.0.0"]);
    assert!(deploy(&["dev"]).starts_with("exit 0\n"));
    assert_eq!(fake.script().deploys.last().unwrap().version, "v1.0.0");
    home.write(".gitignore", "ca.crt\nconfig\nmore\n");
    insta::assert_snapshot!(deploy(&["dev"]));
    assert_eq!(fake.script().deploys.last().unwrap().version, "v1.0.0-dirty");
    let missing = Failure::new(ErrorKind::NotFound, "there is no version `v1.0.0-dirty` in the repository");
    fake.script().refusals.insert("deploy", [missing].into());
    let shown = deploy(&["dev", "--allow-dirty"]);
    let why =
        "; standalone, only what is committed can be deployed, also with --allow-dirty\nhint: git commit,";
    assert!(shown.starts_with("exit 3\n") && shown.contains(why), "{shown}");
    let before = fake.script().deploys.len();
    insta::assert_snapshot!(deploy(&["prod"]));
    assert!(deploy(&["prod", "--allow-dirty"]).starts_with("exit 2\n"));
    assert_eq!(fake.script().deploys.len(), before, "nothing was sent");
    assert_eq!(deploy(&["dev", "--allow-dirty"]).lines().last(), Some("--- stderr"));
    assert!(deploy(&["prod", "v1.0.0"]).starts_with("exit 0\n"));
    let shown = run(home.with(&fake, &["deploy", "dev", "-q"]).env("PATH", "/nonexistent"), Some(&fake));
    assert!(shown.contains("error: git is not installed") && shown.starts_with("exit 2\n"), "{shown}");
}

#[test]
fn what_is_wrong_here_is_found_before_anything_is_sent() {
    let (home, fake) = (project(), scripted(Vec::new()));
    let deploy = |arguments: &[&str]| {
        let mut all = vec!["deploy"];
        all.extend(arguments);
        run(&mut home.with(&fake, &all), Some(&fake)).replace(home.0.path().to_str().unwrap(), "HOME")
    };
    insta::assert_snapshot!(deploy(&["dve", "v1"]));
    insta::assert_snapshot!(deploy(&["blog/dev", "v1"]));
    for (arguments, expected) in [
        (&["dev", "v1", "--timeout", "soon"][..], "--timeout `soon` is not a length of time"),
        (&["dev", "v1", "--timeout", "0s"], "between `1s` and `24h`"),
        (&["dev", ""], "the version is empty"),
        (&["dev", "release/1.0"], "an image's tag has no `/` and no `+`"),
        (&["dev", "v1\u{1b}[2J"], "error: `v1\\u{1b}[2J` cannot be a version\n"),
        (&[], "required"),
    ] {
        let shown = deploy(arguments);
        assert!(shown.starts_with("exit 2\n") && shown.contains(expected), "{shown}");
    }
    home.write(".skpr.yml", &MANIFEST.replace("health:", "heatlh:"));
    let shown = deploy(&["dev", "v1"]);
    assert!(shown.starts_with("exit 5\n") && shown.contains("`heatlh`"), "{shown}");
    std::fs::remove_file(home.0.path().join(".skpr.yml")).unwrap();
    assert!(deploy(&["dev", "v1"]).starts_with("exit 5\n"));
    assert!(fake.script().deploys.is_empty());
}

#[test]
fn rollbacks_are_shown_and_watched_as_deploys() {
    let (home, fake) = (Home::new(), scripted(vec![succeeded()]));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["rollback", "dev", "v42"]), Some(&fake)));
    let script = fake.script();
    assert_eq!(script.rollbacks.iter().map(|rollback| rollback.dry_run).collect::<Vec<_>>(), [true, false]);
    assert_eq!(script.rollbacks[1].version.as_deref(), Some("v42"));
}
