//! Tasks and their runs, as the CLI asks for them.

use super::agents::Shipping;
use super::deploys::{deploy_of, dev};
use super::*;
use crate::release::State;
use crate::run::{self, Outcome, Run, RunId};
use skpr_proto::v1::cron_client::CronClient;
use skpr_proto::v1::{
    EventsRequest, LogsRequest, RunRequest, RunsRequest, RunsResponse, SuspendRequest, TasksRequest,
};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tonic::Code;

const SETTINGS: &[u8] = br#"{"port":8080,"cron":{
    "drush":{"schedule":"*/15 * * * *","command":"drush cron","timezone":"Australia/Sydney","timeout":"10m"},
    "index":{"schedule":"@hourly","command":"./index","overlap":"allow"}}}"#;

/// A world with `web/dev` that has two tasks.
async fn with_tasks() -> World {
    with_tasks_in(tempfile::tempdir().unwrap()).await
}

async fn with_tasks_in(data: TempDir) -> World {
    let world = World::start_in(data, AT_ONCE).await;
    world.publish(&[]);
    let mut client = world.environments(world.token("admin.token")).await;
    let deploy = v1::DeployRequest { settings: SETTINGS.to_vec().into(), ..deploy_of("dev", "v1") };
    client.deploy(deploy).await.unwrap();
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    world
}

async fn cron(world: &World, token: &Token) -> CronClient<WithToken> {
    CronClient::with_interceptor(world.channel().await, token.clone())
}

async fn runs(world: &World, request: RunsRequest) -> Result<RunsResponse, Status> {
    let mut client = cron(world, &world.token("admin.token")).await;
    let request = RunsRequest { environment: request.environment.clone().or(environment("dev")), ..request };
    Ok(soon(client.runs(request)).await?.into_inner())
}

async fn run(world: &World, task: &str, arguments: &[&str]) -> Result<v1::Run, Status> {
    let mut client = cron(world, &world.new_token(&format!("dana-{}", world.calls()), "web/dev:cron")).await;
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    let request = RunRequest { environment: environment("dev"), task: task.into(), arguments };
    Ok(soon(client.run(request)).await?.into_inner().run.unwrap())
}

impl World {
    fn calls(&self) -> usize {
        std::fs::read_to_string(self.data.path().join("tokens")).unwrap().lines().count()
    }

    async fn tell_run(&self, run: &Run) {
        self.tell.send(run::told(&dev(), run, jiff::Timestamp::now())).await.unwrap();
    }
}

/// Asks until the answer is as it is to become.
async fn until(world: &World, request: RunsRequest, is_so: impl Fn(&RunsResponse) -> bool) -> RunsResponse {
    soon(async {
        loop {
            let found = runs(world, request.clone()).await.unwrap();
            if is_so(&found) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn stages(found: &RunsResponse) -> Vec<(&str, &str)> {
    found.runs.iter().map(|run| (run.id.as_str(), run.outcome.as_str())).collect()
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

/// A minute, well before now.
const MINUTE: i64 = 28_333_333;

/// A run of `drush` that was due `minute` minutes after that, and how it ended.
fn past(minute: i64, outcome: Option<Outcome>) -> Run {
    let begin = 60 * (MINUTE + minute);
    let task = Label::parse("task", "drush").unwrap();
    let run = Run { began: Some(at(begin + 1)), version: "v1".into(), ..Run::due(&task, at(begin)) };
    match outcome {
        Some(outcome) => {
            Run { ended: Some(at(begin + 5)), outcome: Some(outcome), exit_code: Some(3), ..run }
        }
        None => run,
    }
}

fn id(minute: i64) -> String {
    format!("drush-{}", MINUTE + minute)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_takes_its_right() {
    let world = with_tasks().await;
    let (no, ok) = (Code::PermissionDenied, Code::Ok);
    let codes = async |token: &Token, name: &str| {
        let mut client = cron(&world, token).await;
        let code = |status: Option<Status>| status.map_or(Code::Ok, |status| status.code());
        let environment = environment(name);
        let tasks = TasksRequest { environment: environment.clone() };
        let runs = RunsRequest { environment: environment.clone(), ..Default::default() };
        let run = RunRequest { environment: environment.clone(), task: "none".into(), arguments: vec![] };
        let suspend = SuspendRequest { environment, suspended: true, dry_run: true, ..Default::default() };
        [
            code(soon(client.tasks(tasks)).await.err()),
            code(soon(client.runs(runs)).await.err()),
            code(soon(client.run(run)).await.err()),
            code(soon(client.suspend(suspend)).await.err()),
        ]
    };
    // With the right, there is no such task to run.
    let none = Code::NotFound;
    for (rights, expected) in [
        ("web/dev:list", [ok, no, no, no]),
        ("web/dev:logs", [no, ok, no, no]),
        ("web/dev:cron", [ok, no, none, ok]),
        ("web/dev:deploy+exec", [ok, no, no, no]),
        ("web/*:list+logs+cron", [ok, ok, none, ok]),
        ("web/prod:list+logs+cron", [no; 4]),
    ] {
        let token = world.new_token(&rights.replace([':', '/', '*', '+'], "-"), rights);
        assert_eq!(codes(&token, "dev").await, expected, "{rights}");
    }
    // One that is not there is as one that may not be seen.
    let stranger = world.new_token("stranger", "shop/*:list+logs+cron");
    assert_eq!(codes(&stranger, "nowhere").await, [no; 4]);
    assert_eq!(codes(&world.token("admin.token"), "nowhere").await, [Code::NotFound; 4]);
    assert_eq!(world.platform.calls().len(), 1, "only what made it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_shown_with_when_they_are_due_and_how_they_go() {
    let world = with_tasks().await;
    let seer = world.new_token("seer", "web/dev:list");
    let tasks = async || {
        let request = TasksRequest { environment: environment("dev") };
        soon(cron(&world, &seer).await.tasks(request)).await.unwrap().into_inner()
    };
    let shown = tasks().await;
    assert_eq!((shown.namespace.as_str(), shown.stale, shown.production), ("sites", false, false));
    let [drush, index] = &shown.tasks[..] else { panic!("{shown:?}") };
    assert_eq!(
        (drush.name.as_str(), drush.schedule.as_str(), drush.command.as_str()),
        ("drush", "*/15 * * * *", "drush cron")
    );
    assert_eq!(
        (drush.timezone.as_str(), drush.timeout_seconds, drush.overlap.as_str()),
        ("Australia/Sydney", 600, "forbid")
    );
    assert_eq!((index.timezone.as_str(), index.timeout_seconds, index.overlap.as_str()), ("UTC", 0, "allow"));
    let (now, next) = (shown.now.unwrap().unix_nanos, drush.next.unwrap().unix_nanos);
    let quarter = 15 * 60 * 1_000_000_000;
    assert!(next > now && next <= now + quarter && next % quarter == 0, "{now} {next}");

    let mut keeper = cron(&world, &world.new_token("keeper", "web/dev:cron")).await;
    let request = SuspendRequest { environment: environment("dev"), suspended: true, ..Default::default() };
    let planned =
        keeper.suspend(SuspendRequest { dry_run: true, ..request.clone() }).await.unwrap().into_inner();
    assert_eq!(planned.changed, ["drush", "index"]);
    assert!(tasks().await.tasks.iter().all(|task| task.suspended.is_none()));
    let one = SuspendRequest { task: Some("index".into()), ..request.clone() };
    assert_eq!(keeper.suspend(one).await.unwrap().into_inner().changed, ["index"]);
    let both = keeper.suspend(request.clone()).await.unwrap().into_inner();
    assert_eq!((both.changed, both.unchanged), (vec!["drush".to_owned()], vec!["index".to_owned()]));
    let drush = tasks().await.tasks.remove(0);
    assert_eq!((drush.next, drush.suspended.unwrap().by.as_str()), (None, "keeper"));
    let metrics = monitoring::metrics(&world).await;
    let labels = "project=\"web\",environment=\"dev\",namespace=\"sites\",task=\"drush\"";
    assert!(metrics.contains(&format!("skpr_cron_suspended{{{labels}}} 1\n")), "{metrics}");
    let resume = SuspendRequest { suspended: false, task: Some("drush".into()), ..request };
    assert_eq!(keeper.suspend(resume.clone()).await.unwrap().into_inner().changed, ["drush"]);
    assert!(keeper.suspend(resume).await.unwrap().into_inner().changed.is_empty());
    assert!(tasks().await.tasks[0].next.is_some());

    // Each change is an event, and nothing else is.
    let request = EventsRequest { environment: environment("dev"), follow: true, ..Default::default() };
    let mut stream = world.logs(world.token("admin.token")).await.events(request).await.unwrap().into_inner();
    let mut events = vec![];
    while events.len() < 3 {
        events.extend(soon(stream.message()).await.unwrap().unwrap().events);
    }
    let texts: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.text.as_str())).collect();
    assert_eq!(
        texts,
        [
            ("task", "task `index` was suspended"),
            ("task", "task `drush` was suspended"),
            ("task", "task `drush` was resumed")
        ]
    );
    assert!(events.iter().all(|event| event.by.as_deref() == Some("keeper")));
    drop(stream);
    let lines = world.end().await;
    let audited: Vec<_> = lines.iter().filter(|line| line["audit"] == "Cron.Suspend").collect();
    assert_eq!(
        (audited.len(), &audited[1]["task"], &audited[1]["user"]),
        (5, &"index".into(), &"keeper".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_asked_for_is_found_at_once_and_goes_on_without_its_caller() {
    let world = with_tasks().await;
    let begun = run(&world, "drush", &["--uri", "a b", "$(c)"]).await.unwrap();
    assert_eq!((begun.trigger.as_str(), begun.outcome.as_str()), ("user", "running"));
    assert!(begun.by.starts_with("dana-") && begun.instance.is_some() && begun.due.is_none(), "{begun:?}");
    // Nothing of it is stored, and the platform knows it.
    let asked = RunsRequest { run: Some(begun.id.clone()), ..Default::default() };
    assert_eq!(runs(&world, asked.clone()).await.unwrap().runs, std::slice::from_ref(&begun));
    let refused = run(&world, "drush", &[]).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains(&begun.id)), (Code::AlreadyExists, true));
    let calls = world.platform.calls();
    let call =
        format!("run {} of sites:web/dev by {} with [\"--uri\", \"a b\", \"$(c)\"]", begun.id, begun.by);
    assert_eq!(calls[1..], [call]);

    for (task, arguments, code, part) in [
        ("drsh", vec![], Code::NotFound, "has no task `drsh`"),
        ("no task", vec![], Code::InvalidArgument, "no task"),
        ("index", vec!["x"; 101], Code::InvalidArgument, "`101` arguments"),
        ("index", vec!["a\0b"], Code::InvalidArgument, "NUL"),
    ] {
        let status = run(&world, task, &arguments).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(part), "{status:?}");
        if code == Code::NotFound {
            assert_eq!(hint(&status), "it has `drush`, `index`");
        }
    }
    assert_eq!(world.platform.calls().len(), 2, "the platform is not asked in vain");

    // A caller who goes before it has begun.
    let held = world.platform.gate.write().await;
    {
        let waits = async {
            while world.platform.waiting.load(Ordering::Relaxed) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = run(&world, "index", &[]) => panic!("{answer:?}"),
            () = soon(waits) => {}
        }
    }
    drop(held);
    let index = RunsRequest { task: Some("index".into()), ..Default::default() };
    let found = until(&world, index, |found| !found.runs.is_empty()).await;
    assert_eq!(found.runs[0].outcome, "running");

    let ended = world.platform.end_run(&dev(), &begun.id, Outcome::Failed, 3);
    let found = runs(&world, asked.clone()).await.unwrap();
    assert_eq!((found.runs[0].outcome.as_str(), found.runs[0].exit_code), ("failed", Some(3)));
    world.tell_run(&ended).await;
    until(&world, asked.clone(), |found| found.oldest_kept.is_some()).await;
    world.platform.remove(&dev());
    let found = runs(&world, asked).await.unwrap();
    assert_eq!(stages(&found), [(begun.id.as_str(), "failed")]);
    let unknown = RunsRequest { run: Some("drush-1".into()), ..Default::default() };
    let status = runs(&world, unknown).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "`web/dev` has no run `drush-1`"));

    let lines = world.end().await;
    let begun_by = lines.iter().find(|line| line["run"] == begun.id.as_str()).unwrap();
    assert_eq!((&begun_by["audit"], &begun_by["task"]), (&"Cron.Run".into(), &"drush".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_outlives_the_aggregator_and_the_environment() {
    let world = with_tasks().await;
    let task = Label::parse("task", "drush").unwrap();
    for minute in 0..20 {
        let outcome = if minute % 5 == 0 { Outcome::Failed } else { Outcome::Succeeded };
        // Its beginning, its end, and its end again.
        world.tell_run(&past(minute, None)).await;
        world.tell_run(&past(minute, Some(outcome))).await;
        world.tell_run(&past(minute, Some(outcome))).await;
    }
    let reason = "the aggregator was away".to_owned();
    world.tell_run(&Run::not_begun(&task, at(60 * (MINUTE + 20)), Outcome::Missed, reason.clone())).await;
    world.tell_run(&past(21, None)).await;
    let whole = RunsRequest::default();
    let found = until(&world, whole.clone(), |found| found.runs.len() == 22).await;
    assert_eq!(stages(&found)[..3], [(&*id(21), "unknown"), (&*id(20), "missed"), (&*id(19), "succeeded")]);
    assert_eq!((found.more, found.stale, found.namespace.as_str()), (false, false, "sites"));
    assert_eq!(found.runs[0].reason.as_deref(), Some("its end was not seen"));
    assert_eq!((found.runs[1].reason.as_ref(), found.runs[1].began), (Some(&reason), None));
    let two = runs(&world, RunsRequest { last: 2, ..whole.clone() }).await.unwrap();
    assert_eq!((two.runs.as_slice(), two.more), (&found.runs[..2], true));
    let failed = runs(&world, RunsRequest { failed: true, ..whole.clone() }).await.unwrap();
    let ids: Vec<_> = failed.runs.iter().map(|run| run.id.clone()).collect();
    assert_eq!(ids, [21, 20, 15, 10, 5, 0].map(id));
    let instant = |minute| Some(v1::Instant::from(skpr_proto::UnixNanos::from(at(60 * (MINUTE + minute)))));
    let range = RunsRequest { since: instant(3), until: instant(5), ..whole.clone() };
    let range = runs(&world, range).await.unwrap();
    assert_eq!(stages(&range), [(&*id(4), "succeeded"), (&*id(3), "succeeded")]);
    let backwards = RunsRequest { since: instant(5), until: instant(3), ..whole.clone() };
    assert_eq!(runs(&world, backwards).await.unwrap_err().code(), Code::InvalidArgument);
    let other = RunsRequest { task: Some("index".into()), ..whole.clone() };
    assert!(runs(&world, other.clone()).await.unwrap().runs.is_empty());
    let slip = RunsRequest { task: Some("idnex".into()), ..whole.clone() };
    let slip = runs(&world, slip).await.unwrap_err();
    assert_eq!((slip.code(), hint(&slip).as_str()), (Code::NotFound, "it has `index`, `drush`"));

    // Counted as stored, each once, and a series for each outcome of each task.
    let metrics = monitoring::metrics(&world).await;
    let of = |task: &str| format!("project=\"web\",environment=\"dev\",namespace=\"sites\",task=\"{task}\"");
    for (task, outcome, count) in [
        ("drush", "failed", 4),
        ("drush", "succeeded", 16),
        ("drush", "missed", 1),
        ("drush", "skipped", 0),
        ("index", "failed", 0),
    ] {
        let line = format!("skpr_cron_runs_total{{{},outcome=\"{outcome}\"}} {count}\n", of(task));
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(metrics.contains(&format!("skpr_cron_running_runs{{{}}} 0\n", of("drush"))), "{metrics}");
    assert!(!metrics.contains("skpr_cron_last_success_timestamp_seconds{"), "{metrics}");

    // What went as it should is among neither the logs nor the events.
    let admin = world.token("admin.token");
    let logs = LogsRequest { environment: environment("dev"), ..Default::default() };
    assert!(history(&world, admin.clone(), logs.clone()).await.unwrap().is_empty());
    let ordinary = LogsRequest { streams: vec!["runs".into()], ..logs.clone() };
    assert_eq!(history(&world, admin.clone(), ordinary).await.unwrap().len(), 21 + 16);
    let request = EventsRequest { environment: environment("dev"), ..Default::default() };
    let mut stream = world.logs(admin).await.events(request).await.unwrap().into_inner();
    let mut events = vec![];
    while let Some(response) = soon(stream.message()).await.unwrap() {
        events.extend(response.events);
    }
    let texts: BTreeSet<_> = events.iter().map(|event| event.text.as_str()).collect();
    assert_eq!((events.len(), texts.len()), (5, 5), "{texts:?}");
    drop(stream);

    // Told again after a start, by a platform that is not heard from yet.
    let (_, data) = world.end_and_keep().await;
    let world = World::start_in(data, AT_ONCE).await;
    world.tell_run(&past(0, Some(Outcome::Failed))).await;
    let stale = runs(&world, whole.clone()).await.unwrap();
    assert_eq!((stale.runs[0].outcome.as_str(), stale.stale), ("running", true));
    assert_eq!(stale.runs[1..], found.runs[1..]);
    assert_eq!(stale.oldest_kept, found.oldest_kept);
    // The environment is gone.
    world.publish(&[]);
    assert_eq!(runs(&world, whole.clone()).await.unwrap().runs, found.runs);
    let gone = runs(&world, RunsRequest { run: Some(id(7)), ..whole }).await.unwrap();
    assert_eq!(stages(&gone), [(&*id(7), "succeeded")]);
    assert!(!monitoring::metrics(&world).await.contains("skpr_cron_runs_total{"));
}

/// The store hears of an end later than the platform, and the newest of its task may be one that did not begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_end_is_not_stored_yet_went_as_the_platform_says() {
    let world = with_tasks().await;
    let task = Label::parse("task", "drush").unwrap();
    world.tell_run(&past(0, None)).await;
    until(&world, RunsRequest::default(), |found| stages(found) == [(&*id(0), "unknown")]).await;
    world.platform.change(&dev(), |managed| {
        let state = managed.tasks.entry(task.clone()).or_default();
        state.ended(past(0, Some(Outcome::Succeeded)));
        let due = at(60 * (MINUTE + 1));
        state.ended(Run::not_begun(&task, due, Outcome::Skipped, "one before it still ran".to_owned()));
    });
    let expected = [(id(1), "skipped"), (id(0), "succeeded")];
    let expected = expected.each_ref().map(|(id, stage)| (id.as_str(), *stage));
    until(&world, RunsRequest::default(), |found| stages(found) == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_task_succeeded_last_is_shown_to_monitoring() {
    let world = with_tasks().await;
    let begun = run(&world, "drush", &[]).await.unwrap();
    let labels = "project=\"web\",environment=\"dev\",namespace=\"sites\",task=\"drush\"";
    let running = format!("skpr_cron_running_runs{{{labels}}} 1\n");
    assert!(monitoring::metrics(&world).await.contains(&running));
    let ended = world.platform.end_run(&dev(), &begun.id, Outcome::Succeeded, 0);
    let millis = ended.ended.unwrap().as_millisecond();
    let line = format!(
        "skpr_cron_last_success_timestamp_seconds{{{labels}}} {}.{:03}\n",
        millis / 1000,
        millis % 1000
    );
    let metrics = monitoring::metrics(&world).await;
    assert!(metrics.contains(&line), "{line} in {metrics}");
    // A run that somebody asked for is an event, whatever became of it.
    world.tell_run(&Run { ended: None, outcome: None, exit_code: None, ..ended.clone() }).await;
    world.tell_run(&ended).await;
    let named =
        LogsRequest { environment: environment("dev"), streams: vec!["events".into()], ..Default::default() };
    let admin = world.token("admin.token");
    while soon(history(&world, admin.clone(), named.clone())).await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(RunId::parse(&begun.id).unwrap(), ended.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_output_of_a_run_has_ended_when_all_before_its_end_is_stored() {
    let world = World::with_pods().await;
    world.tell_run(&Run { instance: Some("web-1".into()), ..past(0, Some(Outcome::Succeeded)) }).await;
    let one = || RunsRequest { run: Some(id(0)), ..RunsRequest::default() };
    let stored = RunsRequest::default();
    until(&world, stored, |found| found.runs.iter().any(|run| run.ended.is_some())).await;
    let is_coming = async || runs(&world, one()).await.unwrap().runs[0].output_coming;
    let end = |id, of| v1::Batch { id, source: batch(0, of, 0, &[]).source, end: true, ..Default::default() };
    let mut shipping = Shipping::open(&world).await;
    shipping.send(batch(1, OURS, 0, &["a"])).await.unwrap();
    // Another node's agent cannot say it, and another pod's end is none of this one's.
    assert!(shipping.send(end(2, ("u2", "web-1"))).await.unwrap().refused.is_some());
    assert!(shipping.send(end(3, ("u2", "web-2"))).await.unwrap().refused.is_some());
    assert!(is_coming().await);
    assert_eq!(shipping.send(end(4, OURS)).await.unwrap(), v1::Ack { id: 4, refused: None });
    assert!(!is_coming().await);
    // Nobody sends anything of a pod that is forgotten.
    world.tell_run(&Run { instance: Some("web-9".into()), ..past(1, Some(Outcome::Succeeded)) }).await;
    let other = RunsRequest { run: Some(id(1)), ..RunsRequest::default() };
    let found = soon(async {
        loop {
            if let Ok(found) = runs(&world, other.clone()).await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(!found.await.runs[0].output_coming);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_behind_what_cannot_be_stored_is_not_acknowledged() {
    let world = World::with_pods().await;
    world.store.close().await;
    let mut shipping = Shipping::open(&world).await;
    let end = v1::Batch { id: 2, source: batch(0, OURS, 0, &[]).source, end: true, ..Default::default() };
    shipping.batches.send(batch(1, OURS, 0, &["a"])).await.unwrap();
    shipping.batches.send(end).await.unwrap();
    assert_eq!(soon(shipping.acks.message()).await.unwrap_err().code(), Code::Unavailable);
}
