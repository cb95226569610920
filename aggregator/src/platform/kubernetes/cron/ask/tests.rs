//! What users ask of tasks, against an API server that a test scripts.

use super::super::job::facts_of;
use super::*;
use crate::auth::granted;
use crate::platform::Platform as _;
use crate::platform::kubernetes::changes::tests::{OBJECT, deploy, platform};
use crate::platform::kubernetes::fake::{Fake, path};

const JOBS: &str = "/apis/batch/v1/namespaces/sites/jobs/";

/// An environment with task `drush`, which is made, and a release.
fn world(overlap: &str) -> (Fake, Kubernetes, EnvironmentKey) {
    let (fake, platform, key) = platform();
    let cron = json!({"drush": {"schedule": "@daily", "command": "drush", "overlap": overlap}});
    fake.change(OBJECT, |object| {
        object["spec"]["cron"] = cron.clone();
        object["status"] = json!({"releases": [{"number": 1, "version": "v1", "image": "shop", "by": "ann",
            "state": "succeeded", "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60, "returns": true,
            "settings": {"cron": cron}}]});
    });
    let labels = resource::labels(&key.name);
    fake.put(
        &cron_path(&key),
        access::CONTROLLER,
        json!({"metadata": {"labels": labels}, "spec": {"suspend": false}}),
    );
    (fake, platform, key)
}

fn cron_path(key: &EnvironmentKey) -> String {
    path(key, Kind::CronJob, "shop-dev--drush")
}

fn run() -> RunNow {
    RunNow { task: Label::parse("task", "drush").unwrap(), arguments: vec![], by: "ann".into() }
}

fn suspend(suspended: bool, task: Option<&str>) -> Suspend {
    let task = task.map(|task| Label::parse("task", task).unwrap());
    Suspend { task, suspended, dry_run: false, by: "ann".into() }
}

/// Kubernetes' part: it begins a run by schedule.
fn begin(fake: &Fake, minute: i64) {
    let labels = json!({"skpr.io/project": "shop", "skpr.io/environment": "dev", "skpr.io/task": "drush"});
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "shop-dev--drush", "uid": "c"}]);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"labels": labels, "ownerReferences": owner},
        "spec": {}});
    fake.put(&format!("{JOBS}shop-dev--drush-{minute}"), "kube-controller-manager", job);
}

#[tokio::test]
async fn a_run_is_entered_with_its_cron_job_before_it_begins() {
    let (fake, platform, key) = world("forbid");
    let begun = platform.run_task(&granted("ann", &key), run()).await.unwrap();
    assert_eq!((begun.version.as_str(), begun.stage()), ("v1", "waiting"));
    let job = format!("shop-dev--drush-{}", begun.id.suffix());
    let expected = [
        format!("POST jobs/{job}"),
        "PATCH cronjobs/shop-dev--drush/status".to_owned(),
        format!("PATCH jobs/{job}"),
    ];
    assert_eq!(fake.writes(), expected);
    let made = fake.get(&format!("{JOBS}{job}"));
    assert_eq!(
        (&made["spec"]["suspend"], &made["metadata"]["annotations"]["skpr.io/by"]),
        (&json!(false), &json!("ann"))
    );
    let active = fake.get(&cron_path(&key))["status"]["active"].clone();
    assert_eq!((&active[0]["name"], &active[0]["uid"]), (&json!(job), &made["metadata"]["uid"]));
    // As it is seen, it is the same run.
    let (_, seen) = facts_of(&serde_json::from_value(made).unwrap()).unwrap();
    assert_eq!((seen.id, seen.trigger), (begun.id, begun.trigger));
}

#[tokio::test]
async fn one_that_may_not_run_beside_another_is_refused_naming_it() {
    let (fake, platform, key) = world("forbid");
    begin(&fake, 29_412_345);
    let failure = platform.run_task(&granted("ann", &key), run()).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Locked);
    assert!(
        failure
            .message
            .contains("run `drush-29412345` has been running by its schedule since 2026-11-24 00:00:00 UTC"),
        "{failure}"
    );
    assert_eq!(failure.hint.as_deref(), Some("skpr cron logs shop/dev drush-29412345 -f"));
    assert_eq!(fake.writes(), [""; 0]);
    fake.forget(&format!("{JOBS}shop-dev--drush-29412345"));
    let first = platform.run_task(&granted("bob", &key), RunNow { by: "bob".into(), ..run() }).await.unwrap();
    let failure = platform.run_task(&granted("ann", &key), run()).await.unwrap_err();
    assert!(failure.message.contains(&format!("bob has been running `{}` since", first.id)), "{failure}");
    // Where both may run, both do.
    let (fake, platform, key) = world("allow");
    begin(&fake, 29_412_345);
    platform.run_task(&granted("ann", &key), run()).await.unwrap();
}

#[tokio::test]
async fn of_two_that_are_asked_for_at_once_the_one_that_was_entered_first_begins() {
    for is_entered in [false, true] {
        let (fake, platform, key) = world("forbid");
        begin(&fake, 7);
        let other = format!("{JOBS}shop-dev--drush-7");
        fake.change(&other, |job| {
            job["metadata"]["creationTimestamp"] = json!(Timestamp::now());
            job["metadata"]["annotations"] = json!({"skpr.io/by": "bob"});
            job["spec"]["suspend"] = json!(true);
        });
        let uid = fake.get(&other)["metadata"]["uid"].clone();
        let active = if is_entered { json!([{ "uid": uid }]) } else { json!([]) };
        fake.change(&cron_path(&key), |cron_job| cron_job["status"] = json!({ "active": active }));
        let begun = platform.run_task(&granted("ann", &key), run()).await;
        assert_eq!(begun.is_err(), is_entered);
        assert_eq!(fake.find(JOBS).len(), if is_entered { 1 } else { 2 });
    }
}

#[tokio::test]
async fn one_that_takes_the_place_of_others_ends_them() {
    let (fake, platform, key) = world("replace");
    begin(&fake, 29_412_345);
    let begun = platform.run_task(&granted("ann", &key), run()).await.unwrap();
    let left: Vec<String> = fake.find(JOBS).iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert_eq!(left, [format!("\"shop-dev--drush-{}\"", begun.id.suffix())]);
}

#[tokio::test]
async fn what_cannot_be_entered_is_taken_back_and_has_run_nothing() {
    let (fake, platform, key) = world("forbid");
    fake.forbid("PATCH cronjobs/shop-dev--drush/status");
    platform.run_task(&granted("ann", &key), run()).await.unwrap_err();
    assert_eq!(fake.find(JOBS), [Value::Null; 0]);
    assert!(fake.writes().iter().all(|write| !write.starts_with("PATCH jobs/")));
    // Before there is a CronJob, there is nothing to be entered with.
    let (fake, platform, key) = world("forbid");
    fake.forget(&cron_path(&key));
    let failure = platform.run_task(&granted("ann", &key), run()).await.unwrap_err();
    assert_eq!((failure.kind, fake.writes()), (ErrorKind::Unavailable, vec![]));
}

#[tokio::test]
async fn a_suspension_stands_in_the_object_and_stays_over_a_deploy() {
    let (fake, platform, key) = world("forbid");
    let grant = granted("ann", &key);
    let done = platform.suspend(&grant, suspend(true, Some("drush"))).await.unwrap();
    assert_eq!((done.changed.len(), done.unchanged.len()), (1, 0));
    assert_eq!(fake.writes(), ["PUT environments/shop.dev", "PATCH cronjobs/shop-dev--drush"]);
    assert_eq!(fake.get(&cron_path(&key))["spec"]["suspend"], true, "at once");
    let again = platform.suspend(&grant, suspend(true, None)).await.unwrap();
    assert_eq!((again.changed.len(), again.unchanged.len(), fake.writes().len()), (0, 1, 0));

    platform.deploy(&granted("ann", &key), deploy("v2")).await.unwrap();
    assert_eq!(fake.get(OBJECT)["spec"]["suspended"]["drush"]["by"], "ann");
    // The deploy has no tasks; what is suspended can be resumed all the same.
    let dry = Suspend { dry_run: true, ..suspend(false, None) };
    assert_eq!(platform.suspend(&grant, dry).await.unwrap().changed.len(), 1);
    platform.suspend(&grant, suspend(false, None)).await.unwrap();
    assert!(fake.get(OBJECT)["spec"]["suspended"].is_null());
    let failure = platform.suspend(&grant, suspend(true, Some("other"))).await.unwrap_err();
    assert!(
        failure.kind == ErrorKind::NotFound && failure.message.contains("has no task `other`"),
        "{failure}"
    );
}
