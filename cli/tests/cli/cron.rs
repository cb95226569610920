//! `cron`: tasks, runs, and what they print.

mod waiting;

use crate::fake::{Fake, Script, Tasks};
use crate::release::at;
use crate::{Home, run};
use skpr_proto::v1::{self, LogRecord, RecordKind, Run, RunsResponse};
use skpr_proto::{ErrorKind, Failure};

/// A run of `drush` that was due at the beginning.
fn due(id: &str, outcome: &str) -> Run {
    Run {
        id: id.into(),
        task: "drush".into(),
        trigger: "schedule".into(),
        due: at(0),
        outcome: outcome.into(),
        ..Run::default()
    }
}

fn ended(id: &str, outcome: &str, exit_code: Option<i32>) -> Run {
    Run {
        version: "v42".into(),
        began: at(2),
        ended: at(14),
        exit_code,
        instance: Some(format!("shop-prod-{id}-x2x1z")),
        ..due(id, outcome)
    }
}

fn running(id: &str) -> Run {
    Run { ended: None, outcome: "running".into(), ..ended(id, "running", None) }
}

fn because(run: Run, reason: &str) -> Run {
    Run { reason: Some(reason.into()), ..run }
}

fn by(run: Run, name: &str) -> Run {
    Run { trigger: "user".into(), by: name.into(), due: None, ..run }
}

fn answer(runs: Vec<Run>) -> RunsResponse {
    RunsResponse { runs, namespace: "sites".into(), ..RunsResponse::default() }
}

fn serving(tasks: Tasks) -> Fake {
    Fake::scripted(Script { cron: tasks, ..Script::default() })
}

fn told(runs: Vec<Run>) -> Fake {
    serving(Tasks { runs: [answer(runs)].into(), ..Tasks::default() })
}

fn line(index: usize, stream: &str, message: &str) -> LogRecord {
    LogRecord {
        time: at(3 + i64::try_from(index).unwrap()),
        instance: "shop-prod-drush-7-x2x1z".into(),
        stream: format!("cron.drush.{stream}"),
        sequence: index as u64 + 1,
        message: message.as_bytes().to_vec().into(),
        kind: RecordKind::Line.into(),
    }
}

/// Puts lines where the log of the environment is.
fn with_lines(fake: &Fake, lines: usize) {
    let mut state = fake.state.lock().unwrap();
    state.records = (0..lines).map(|index| line(index, "stdout", &format!("line {index}"))).collect();
    state.batch = 10;
}

fn tasks() -> v1::TasksResponse {
    let task = |name: &str, schedule: &str| v1::Task {
        name: name.into(),
        schedule: schedule.into(),
        timezone: "Australia/Sydney".into(),
        command: "drush cron".into(),
        timeout_seconds: 600,
        overlap: "forbid".into(),
        next: at(900),
        ..v1::Task::default()
    };
    let mut failing = task("drush", "*/15 * * * *");
    (failing.last, failing.running) =
        (Some(ended("drush-7", "failed", Some(3))), vec![by(running("drush-k2x9vq"), "dana")]);
    failing.last_success = at(-900);
    let mut suspended = task("tidy\u{1b}[2J", "30 3 * * MON-FRI");
    suspended.next = None;
    suspended.suspended = Some(v1::Suspension { by: "dana\u{9b}".into(), since: at(-7200) });
    suspended.last = Some(because(due("tidy-7", "suspended"), "it was suspended by dana"));
    let mut never = task("reports", "of a later version");
    (never.timezone, never.timeout_seconds) = ("UTC".into(), 0);
    v1::TasksResponse { tasks: vec![failing, never, suspended], now: at(60), ..v1::TasksResponse::default() }
}

#[test]
fn tasks_for_people_and_programs() {
    let (home, fake) = (Home::new(), serving(Tasks { tasks: tasks(), ..Tasks::default() }));
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    insta::assert_snapshot!(shown(&["cron", "list", "prod", "--timezone", "Australia/Sydney"]));
    insta::assert_snapshot!(shown(&["cron", "list", "prod", "-o", "json"]));
    insta::assert_snapshot!(shown(&["cron", "list", "prod", "-o", "csv"]));
    assert!(shown(&["cron", "list", "prod", "-o", "yaml"]).starts_with("exit 0\n"));
    let names = shown(&["cron", "list", "prod", "-o", "name"]);
    assert_eq!(names, "exit 0\n--- stdout\ndrush\nreports\ntidy^[[2J\n--- stderr\n");
    for task in &mut fake.script().cron.tasks.tasks[..2] {
        (task.next, task.trouble) = (None, Some("the disk is full\u{1b}[2J".into()));
    }
    let troubled = shown(&["cron", "list", "prod"]);
    assert!(
        troubled.contains("warning: `drush`, `reports` do not run: the disk is full^[[2J\n"),
        "{troubled}"
    );
    assert!(troubled.contains("does not run; running drush-k2x9vq"), "{troubled}");
    fake.script().cron.tasks.stale = true;
    assert!(shown(&["cron", "list", "prod", "-q"]).contains("warning: the platform has not been heard from"));
    // What is data keeps its lines.
    fake.script().cron.tasks.tasks[0].command = "set -e\necho \u{1b}[2J".into();
    assert!(
        shown(&["cron", "list", "prod", "-o", "json", "-q"]).contains(r#""command": "set -e\necho ^[[2J""#)
    );
    // In a narrow terminal the name and the state stay.
    let narrow = run(home.with(&fake, &["cron", "list", "prod"]).env("COLUMNS", "60"), Some(&fake));
    assert!(!narrow.contains("TIMEZONE") && narrow.contains("STATE"), "{narrow}");
}

#[test]
fn where_there_are_no_tasks_the_way_to_one_is_said() {
    let (home, fake) = (Home::new(), serving(Tasks::default()));
    let shown = run(&mut home.with(&fake, &["cron", "list", "prod"]), Some(&fake));
    assert!(shown.starts_with("exit 0\n--- stdout\n--- stderr\nshop/prod has no tasks; "), "{shown}");
    let shown = run(&mut home.with(&fake, &["cron", "list", "prod", "-o", "json"]), Some(&fake));
    assert!(shown.starts_with("exit 0\n--- stdout\n[]\n--- stderr\n"), "{shown}");
}

fn history() -> Vec<Run> {
    vec![
        by(ended("drush-k2x9vq", "succeeded", Some(0)), "dana"),
        ended("drush-13", "failed", Some(3)),
        ended("drush-12", "failed", Some(143)),
        because(
            Run {
                version: String::new(),
                began: None,
                instance: None,
                ended: None,
                ..ended("drush-11", "failed", None)
            },
            "its image is not there",
        ),
        ended("drush-10", "timed-out", Some(143)),
        ended("drush-9", "out-of-memory", None),
        ended("drush-8", "replaced", None),
        because(due("drush-7", "missed"), "the cluster was away\u{1b}[2J"),
        because(due("drush-6", "suspended"), "it was suspended by dana"),
        because(due("drush-5", "skipped"), "`drush-4` still ran"),
        ended("drush-4", "unknown", None),
    ]
}

#[test]
fn history_for_people_and_programs() {
    let (home, fake) = (Home::new(), told(history()));
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    insta::assert_snapshot!(shown(&["cron", "history", "prod", "--timezone", "Australia/Sydney"]));
    insta::assert_snapshot!(shown(&["cron", "history", "prod", "-o", "csv"]));
    let json = shown(&["cron", "history", "prod", "-o", "json", "-q"]);
    let json: serde_json::Value =
        serde_json::from_str(json.split("--- stdout\n").nth(1).unwrap().split("--- stderr").next().unwrap())
            .unwrap();
    assert_eq!(json.as_array().unwrap().len(), 11);
    let expected = serde_json::json!({
        "id": "drush-k2x9vq", "task": "drush", "trigger": "user", "by": "dana", "version": "v42", "due": null,
        "began": "2026-11-22T04:40:02Z", "ended": "2026-11-22T04:40:14Z", "seconds": 12.0, "outcome": "succeeded",
        "exit_code": 0, "instance": "shop-prod-drush-k2x9vq-x2x1z", "reason": null,
    });
    assert_eq!(json[0], expected);
    assert!(shown(&["cron", "history", "prod", "-o", "yaml"]).contains("\n- id: drush-13\n"));
    let names = shown(&["cron", "history", "prod", "-o", "name", "-q"]);
    assert!(names.starts_with("exit 0\n--- stdout\ndrush-k2x9vq\ndrush-13\n"), "{names}");
}

#[test]
fn what_is_asked_for_reaches_the_aggregator() {
    let (home, fake) = (Home::new(), told(history()));
    let ask = |arguments: &[&str]| {
        let shown = run(&mut home.with(&fake, arguments), Some(&fake));
        assert!(shown.starts_with("exit 0\n"), "{shown}");
        (fake.script().cron.runs_requests.pop().unwrap(), shown)
    };
    let (request, shown) = ask(&["cron", "history", "prod"]);
    assert_eq!((request.last, request.since, request.failed, request.task), (20, None, false, None));
    assert!(shown.contains("from the oldest kept to now (UTC), the newest 20\n"), "{shown}");
    let arguments = ["--since", "2026-11-22 04:40", "--until", "2026-11-22 04:50", "--failed"];
    let (request, _) = ask(&[&["cron", "history", "prod", "drush"], &arguments[..]].concat());
    assert_eq!((request.since, request.until, request.last), (at(0), at(600), 0));
    assert_eq!((request.failed, request.task.as_deref()), (true, Some("drush")));
    let (request, shown) = ask(&["cron", "history", "prod", "tidy", "-n", "5"]);
    assert_eq!(request.last, 5);
    assert!(shown.contains("no run of `tidy` of shop/prod in that time\n"), "{shown}");
}

#[test]
fn a_history_longer_than_an_answer_is_asked_for_in_parts() {
    let run_at = |id: &str, second| Run { began: at(second), ..ended(id, "succeeded", Some(0)) };
    let all = [("a-5", 50), ("a-4", 40), ("a-3", 30), ("b-3", 30), ("a-2", 20), ("a-1", 10)];
    let runs = all.map(|(id, second)| run_at(id, second)).to_vec();
    let fake = serving(Tasks { runs: [answer(runs)].into(), page: 3, ..Tasks::default() });
    let home = Home::new();
    let names = |arguments: &[&str]| {
        let shown = run(
            &mut home.with(&fake, &[&["cron", "history", "prod", "-o", "name"], arguments].concat()),
            Some(&fake),
        );
        let (names, said) = shown.split_once("--- stderr").unwrap();
        (names.lines().skip(2).map(str::to_owned).collect::<Vec<_>>(), said.contains("older ones"))
    };
    let ids = |count: usize| all[..count].iter().map(|(id, _)| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&["-n", "6"]), (ids(6), false));
    assert_eq!(names(&["--since", "2026-11-22 04:30"]), (ids(6), false));
    assert_eq!(names(&["-n", "5"]), (ids(5), true));
    assert_eq!(names(&["-n", "3"]), (ids(3), true));
}

#[test]
fn what_the_history_does_not_show_is_said() {
    let (home, fake) = (Home::new(), told(history()));
    let said = |change: &dyn Fn(&mut RunsResponse), arguments: &[&str]| {
        let mut changed = answer(history());
        change(&mut changed);
        fake.script().cron.runs = [changed].into();
        run(&mut home.with(&fake, &[&["cron", "history", "prod"], arguments].concat()), Some(&fake))
    };
    assert!(said(&|answer| answer.more = true, &[]).ends_with("--until TIME those before a time\n"));
    let kept = |answer: &mut RunsResponse| answer.oldest_kept = at(60);
    assert!(said(&kept, &[]).ends_with("nothing before 2026-11-22T04:41:00+00:00 is kept\n"));
    assert!(said(&kept, &["--since", "2026-11-22 04:40"]).contains("nothing before"));
    assert!(!said(&kept, &["--since", "2026-11-22 04:42"]).contains("nothing before"));
    let stale = said(&|answer| answer.stale = true, &["-q"]);
    assert!(stale.contains("--- stderr\nwarning: the platform has not been heard from"), "{stale}");
    assert!(said(&|_| (), &["--since", "noon"]).starts_with("exit 2\n"));
}

#[test]
fn the_output_of_a_run_is_read_by_its_instance() {
    let (home, fake) = (
        Home::new(),
        told(vec![ended("drush-7", "failed", Some(3)), ended("drush-6", "succeeded", Some(0))]),
    );
    fake.state.lock().unwrap().records =
        vec![line(0, "stdout", "cleared\u{1b}[2J"), line(1, "stderr", "PHP Warning")];
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    insta::assert_snapshot!(shown(&["cron", "logs", "prod", "drush-7"]));
    let request = fake.requests().pop().unwrap();
    assert_eq!(request.instances, ["shop-prod-drush-7-x2x1z"]);
    assert_eq!((request.follow, request.last, request.streams.len()), (false, None, 0));
    let (since, until) = (request.since.unwrap().unix_nanos, request.until.unwrap().unix_nanos);
    assert!(since < at(0).unwrap().unix_nanos && until > at(14).unwrap().unix_nanos);
    assert_eq!(request.environment.unwrap().namespace.as_deref(), Some("sites"));
    let json = shown(&["cron", "logs", "prod", "drush-7", "-o", "json", "--stream", "stderr", "-n", "5"]);
    assert!(
        json.contains("\"instance\":\"shop-prod-drush-7-x2x1z\",\"stream\":\"cron.drush.stdout\""),
        "{json}"
    );
    let request = fake.requests().pop().unwrap();
    assert_eq!((request.streams, request.last), (vec!["cron.drush.stderr".to_owned()], Some(5)));
    // By the task's name it is the newest that began.
    let newest = shown(&["cron", "logs", "prod", "drush"]);
    assert!(newest.contains("--- stderr\nthe newest run of `drush` is `drush-7`\n"), "{newest}");
    assert!(shown(&["cron", "logs", "prod", "drush-7", "-o", "name"]).starts_with("exit 2\n"));
}

#[test]
fn a_run_without_output_says_why() {
    let (home, fake) = (
        Home::new(),
        told(vec![
            because(due("drush-9", "suspended"), "it was suspended by dana"),
            due("drush-8", "waiting"),
            ended("drush-7", "succeeded", Some(0)),
            running("drush-6"),
            Run { instance: None, ..ended("drush-5", "unknown", None) },
        ]),
    );
    let shown = |run_: &str| run(&mut home.with(&fake, &["cron", "logs", "prod", run_]), Some(&fake));
    insta::assert_snapshot!(shown("drush-9"));
    assert!(shown("drush-8").contains("error: run `drush-8` waits to begin, so it has printed nothing\nhint: skpr cron logs shop/prod drush-8 -f"));
    assert_eq!(
        shown("drush-7"),
        "exit 0\n--- stdout\n--- stderr\nrun `drush-7` has printed nothing that is kept\n"
    );
    assert!(shown("drush-6").contains("has printed nothing so far\nrun `drush-6` still runs; -f"));
    assert!(shown("drush-5").ends_with("run `drush-5` has printed nothing\n"));
    let unknown = shown("nothing");
    assert!(
        unknown.starts_with("exit 3\n")
            && unknown.contains("no run and no run of a task `nothing` in `shop/prod`"),
        "{unknown}"
    );
    fake.script().cron.runs = [answer(vec![due("drush-9", "missed")])].into();
    let none = shown("drush");
    assert!(none.starts_with("exit 3\n") && none.contains("none has begun of the runs"), "{none}");
}

/// One that begins `drush-k2x9vq` and has it go so.
fn beginning(looks: Vec<Run>) -> Fake {
    let begun = by(Run { instance: None, ..due("drush-k2x9vq", "waiting") }, "dana");
    let begun = v1::RunResponse { run: Some(begun), namespace: "sites".into() };
    let looks = looks.into_iter().map(|run| answer(vec![by(run, "dana")])).collect();
    let fake = serving(Tasks { begun: Some(begun), runs: looks, ..Tasks::default() });
    with_lines(&fake, 3);
    fake
}

#[test]
fn a_run_is_begun_and_named() {
    let (home, fake) = (Home::new(), beginning(Vec::new()));
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    let arguments = ["cron", "run", "prod", "drush", "-y", "--", "--uri", "a b", ""];
    insta::assert_snapshot!(shown(&arguments));
    let request = fake.script().cron.run_requests.pop().unwrap();
    assert_eq!(
        (request.task.as_str(), request.arguments),
        ("drush", vec!["--uri".into(), "a b".into(), String::new()])
    );
    assert!(shown(&["cron", "run", "prod", "drush", "-o", "json"]).contains("\"id\": \"drush-k2x9vq\""));
    let held = "`drush-12` of `drush` runs since 2026-11-22T04:40:00Z, by its schedule";
    let locked = Failure::new(ErrorKind::Locked, held);
    fake.script().refusals.insert("run", [locked].into());
    let refused = shown(&["cron", "run", "prod", "drush", "--wait"]);
    assert!(refused.starts_with("exit 8\n") && refused.contains(&format!("error: {held}\n")), "{refused}");
}

fn two_tasks(production: bool) -> Fake {
    let suspended = vec![("drush".to_owned(), false), ("tidy\u{1b}".to_owned(), true)];
    serving(Tasks { suspended, production, ..Tasks::default() })
}

#[test]
fn tasks_are_suspended_and_resumed_and_what_was_so_is_said() {
    let (home, fake) = (Home::new(), two_tasks(false));
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    insta::assert_snapshot!(shown(&["cron", "suspend", "dev", "-n"]));
    insta::assert_snapshot!(shown(&["cron", "suspend", "dev"]));
    insta::assert_snapshot!(shown(&["cron", "resume", "dev", "drush", "-o", "json"]));
    assert!(shown(&["cron", "resume", "dev", "drush"]).contains("--- stdout\ndrush: was not suspended\n"));
    assert!(shown(&["cron", "resume", "dev", "-y"]).contains("tidy^[: resumed\n"));
    fake.script().cron.suspended.clear();
    assert!(shown(&["cron", "resume", "dev"]).ends_with("--- stderr\nshop/dev has no tasks\n"));
    let unknown = Failure::new(ErrorKind::NotFound, "there is no task `x`").with_hint("skpr cron list dev");
    fake.script().refusals.insert("suspend", [unknown].into());
    assert!(shown(&["cron", "suspend", "dev", "x"]).starts_with("exit 3\n"));
}

#[test]
fn all_tasks_of_production_are_suspended_only_by_agreement() {
    let (home, fake) = (Home::new(), two_tasks(true));
    let shown = |arguments: &[&str]| run(&mut home.with(&fake, arguments), Some(&fake));
    let refused = shown(&["cron", "suspend", "prod"]);
    assert!(
        refused.starts_with("exit 2\n") && refused.contains("there is no terminal to ask on\nhint: "),
        "{refused}"
    );
    assert!(fake.script().cron.suspend_requests.iter().all(|request| request.dry_run));
    assert!(shown(&["cron", "suspend", "prod", "drush"]).contains("drush: suspended\n"));
    assert!(shown(&["cron", "resume", "prod"]).contains("drush: resumed\n"));
    assert!(shown(&["cron", "suspend", "prod", "-y"]).contains("drush: suspended\n"));
}
