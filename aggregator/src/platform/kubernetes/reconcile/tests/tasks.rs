//! Tasks and their runs, round by round.

use super::*;
use crate::platform::kubernetes::cron::{Jobs, WatchedJob};
use kube::runtime::watcher::Event;

const JOBS: &str = "/apis/batch/v1/namespaces/sites/jobs/";

impl Site {
    fn cron_job(&self, task: &str) -> Value {
        self.fake.get(&path(&self.key, Kind::CronJob, &format!("shop-dev--{task}")))
    }

    /// Kubernetes' part: a Job of a task that is as `status` says.
    fn job(&self, task: &str, minute: i64, status: Value) {
        let labels = json!({"skpr.io/project": "shop", "skpr.io/environment": "dev", "skpr.io/task": task});
        let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": format!("shop-dev--{task}"), "uid": "c"}]);
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "status": status, "spec": {},
            "metadata": {"labels": labels, "ownerReferences": owner}});
        self.fake.put(&format!("{JOBS}shop-dev--{task}-{minute}"), "kube-controller-manager", job);
    }

    /// What the watch of Jobs knows by now.
    fn hear_jobs(&mut self) {
        let mut jobs = Jobs::default();
        jobs.take(Event::Init);
        for job in self.fake.find(JOBS) {
            jobs.take(Event::InitApply(serde_json::from_value::<WatchedJob>(job).unwrap()));
        }
        jobs.take(Event::InitDone);
        self.seen = Some(jobs.seen(std::iter::empty()).unwrap().remove(&self.key).unwrap_or_default());
    }
}

fn cron(tasks: &[&str]) -> Value {
    // Rounds go by the clock of this machine: at no time that a test is likely to run at.
    let task = json!({"schedule": "0 0 29 2 *", "command": "x"});
    json!({"cron": tasks.iter().map(|name| ((*name).to_owned(), task.clone())).collect::<serde_json::Map<_, _>>()})
}

fn complete() -> Value {
    json!({"startTime": "2026-11-24T00:00:00Z", "completionTime": "2026-11-24T00:01:00Z",
        "conditions": [{"type": "Complete", "status": "True"}]})
}

#[tokio::test]
async fn a_task_changes_with_the_deploy_and_stays_suspended() {
    let mut site = site(cron(&["drush"]));
    site.hear_jobs();
    site.round().await;
    let made = site.cron_job("drush");
    let image = |job: &Value| {
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!((image(&made), &made["spec"]["suspend"]), (json!("shop:v1"), &json!(false)));
    let suspended = json!({"drush": {"by": "ann", "since": "2026-11-24T00:00:00Z"}});
    site.edit(json!({"suspended": suspended}));
    let done = site.round().await;
    assert_eq!(
        (site.cron_job("drush")["spec"]["suspend"].clone(), done.status.releases.len()),
        (json!(true), 1)
    );
    site.edit(json!({"version": "v2"}));
    site.round().await;
    let made = site.cron_job("drush");
    assert_eq!((image(&made), &made["spec"]["suspend"]), (json!("shop:v2"), &json!(true)));
    // Nothing has been due just now: it is let go at once.
    site.edit(json!({"suspended": null}));
    site.round().await;
    assert_eq!(site.cron_job("drush")["spec"]["suspend"], false);
}

#[tokio::test]
async fn a_task_that_is_removed_goes_when_what_runs_of_it_has_ended() {
    let mut site = site(cron(&["drush", "other"]));
    site.hear_jobs();
    site.round().await;
    site.job("drush", 29_400_000, json!({"startTime": "2026-11-24T00:00:00Z"}));
    site.hear_jobs();
    site.edit(cron(&[]));
    site.round().await;
    assert!(site.cron_job("other").is_null());
    assert_eq!(site.cron_job("drush")["spec"]["suspend"], true);
    site.job("drush", 29_400_000, complete());
    site.hear_jobs();
    site.round().await;
    let job = site.fake.get(&format!("{JOBS}shop-dev--drush-29400000"));
    let told = job["metadata"]["annotations"]["skpr.io/ended"].as_str().unwrap();
    assert!(told.contains("\"outcome\":\"succeeded\""), "{told}");
    site.hear_jobs();
    let done = site.round().await;
    assert!(site.cron_job("drush").is_null() && done.status.tasks.is_empty());
}

#[tokio::test]
async fn while_jobs_are_not_known_no_task_is_taken_away() {
    let mut site = site(cron(&["drush"]));
    site.round().await;
    site.edit(cron(&[]));
    let done = site.round().await;
    assert!(!site.cron_job("drush").is_null() && !done.saw_jobs);
    site.hear_jobs();
    site.round().await;
    assert!(site.cron_job("drush").is_null());
}

#[tokio::test]
async fn where_only_a_run_is_new_only_that_is_written() {
    let mut site = site(cron(&["drush"]));
    site.hear_jobs();
    site.round().await;
    site.runs(1);
    let done = site.round().await;
    site.job("drush", 29_400_000, complete());
    site.hear_jobs();
    site.fake.writes();
    site.scope = Scope::Runs(Box::new(done));
    let done = site.round().await;
    assert_eq!(
        site.fake.writes(),
        ["PATCH jobs/shop-dev--drush-29400000", "PATCH environments/shop.dev/status"]
    );
    assert_eq!(
        (done.status.state.as_deref(), done.telling.as_ref().map(Vec::len)),
        (Some("succeeded"), Some(1))
    );
    // What stands there is what there is to tell, and nothing is written again.
    site.hear_jobs();
    site.scope = Scope::Runs(Box::new(done));
    site.round().await;
    assert_eq!(site.fake.writes(), [""; 0]);
    // What is made of the environment is looked at when that is to change.
    site.edit(json!({"suspended": {"drush": {"by": "ann", "since": "2026-11-24T00:00:00Z"}}}));
    site.round().await;
    assert_eq!(site.cron_job("drush")["spec"]["suspend"], true);
}

#[tokio::test]
async fn what_the_watch_has_not_told_of_yet_is_not_missed() {
    let mut site = site(json!({"cron": {"drush": {"schedule": "* * * * *", "command": "x"}}}));
    site.hear_jobs();
    site.round().await;
    // Nobody has looked for three minutes, and in the first of them Kubernetes has begun a run.
    let minute = Timestamp::now().as_second() / 60 - 2;
    let looked = Timestamp::from_second(60 * minute - 30).unwrap();
    site.fake.change(OBJECT, |object| object["status"]["tasks"]["drush"]["looked"] = json!(looked));
    site.job("drush", minute, complete());
    let decided = |site: &Site| site.fake.get(OBJECT)["status"]["tasks"]["drush"]["decided"].clone();
    let done = site.round().await;
    assert!(!done.saw_jobs && done.look.is_some() && decided(&site).is_null());
    site.hear_jobs();
    site.round().await;
    let missed = decided(&site)["unbegun"][0]["due"].as_array().unwrap().clone();
    assert_eq!(missed[0], json!(60 * (minute + 1)), "{missed:?}");
}

#[tokio::test]
async fn a_task_that_cannot_be_made_is_said_and_stops_nothing() {
    let mut site = site(cron(&["drush"]));
    site.hear_jobs();
    site.fake.forbid("PATCH cronjobs/shop-dev--drush");
    let done = site.round().await;
    assert!(done.trouble.as_deref().is_some_and(|trouble| trouble.contains("is forbidden")));
    site.runs(1);
    assert_eq!(site.round().await.status.state.as_deref(), Some("succeeded"));
    site.fake.mend();
    assert_eq!(site.round().await.status.trouble, None);
    // One of that name that somebody else made is not touched.
    let theirs = path(&site.key, Kind::CronJob, "shop-dev--other");
    site.fake.put(&theirs, "kubectl", json!({"spec": {"schedule": "1 1 1 1 1"}}));
    let before = site.fake.get(&theirs);
    site.edit(cron(&["drush", "other"]));
    let trouble = site.round().await.status.trouble.unwrap();
    assert_eq!(trouble, "there is a CronJob `shop-dev--other` already that skpr did not make");
    assert_eq!(site.fake.get(&theirs), before);
}
