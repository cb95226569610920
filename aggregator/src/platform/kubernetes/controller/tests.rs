//! The controller's rounds and what becomes of them, against an API server that a test scripts.

use super::*;
use crate::inventory::tests::key;
use crate::platform::kubernetes::changes::tests::OBJECT;
use crate::platform::kubernetes::cron::{Jobs, WatchedJob};
use crate::platform::kubernetes::fake::{Fake, options};
use crate::platform::kubernetes::objects::Environments;
use serde_json::json;

struct World {
    fake: Fake,
    controller: Controller,
    work: Work,
    told: mpsc::Receiver<event::Event>,
}

/// A controller that has just begun, with one environment.
fn world() -> World {
    let fake = Fake::default();
    fake.put(
        OBJECT,
        "kubectl",
        json!({"apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
        "spec": {"project": "shop", "environment": "dev", "image": "shop", "version": "v1"}}),
    );
    let mut environments = Environments::default();
    let object = serde_json::from_value(fake.get(OBJECT)).unwrap();
    environments.take(watcher::Event::Apply(object));
    let (events, told) = mpsc::channel(64);
    let controller = Controller {
        client: fake.client(),
        options: Arc::new(options()),
        inventory: watch::channel(Arc::default()).1,
        objects: watch::channel(Arc::new(environments.objects())).1,
        events,
    };
    let work = Work::new(&controller);
    World { fake, controller, work, told }
}

impl World {
    fn hear(&mut self, kinds: &[Kind]) {
        let listed = |kind: &Kind| [(*kind, Ok(watcher::Event::Init)), (*kind, Ok(watcher::Event::InitDone))];
        self.work.take_children(kinds.iter().flat_map(listed));
    }

    /// Works on what is due until `span` has passed.
    async fn works(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.work.start(&self.controller);
            tokio::select! {
                Some(ended) = self.work.rounds.join_next() => self.work.take_ended(ended.unwrap()),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    fn status(&self) -> serde_json::Value {
        self.fake.get(OBJECT)["status"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn what_keeps_failing_is_told_and_a_release_s_time_goes_on() {
    let mut world = world();
    world.hear(&Kind::ALL);
    let said = "failed calling webhook \"w\": connection refused";
    world.fake.refuse("PATCH deployments/shop-dev", 500, said);
    world.works(Duration::from_secs(20)).await;
    assert_eq!(world.status()["trouble"], json!(null), "it may pass");
    world.works(Duration::from_secs(60)).await;
    let status = world.status();
    assert_eq!((&status["trouble"], &status["waitingFor"]), (&json!(said), &json!(said)));
    let dev = key("sites", "shop", "dev");
    assert_eq!(world.work.watching_since(&dev), world.work.since);
    world.work.teller.flush();
    let mut kinds = vec![];
    while let Ok(event) = world.told.try_recv() {
        kinds.push(event.body.kind);
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == event::Kind::Trouble).count(), 1, "{kinds:?}");
    // An API server that is away is nobody's fault, and nothing can be written either.
    world.fake.cut_after(0, crate::platform::kubernetes::fake::Cut::Before);
    world.fake.mend();
    world.works(Duration::from_secs(60)).await;
    assert_eq!(world.status()["trouble"], json!(null));
    world.fake.refuse("PATCH deployments/shop-dev", 503, "etcd is away");
    world.work.queue.add(&dev, How::Reconcile, Instant::now());
    world.works(Duration::from_secs(1)).await;
    assert!(world.work.watching_since(&dev) > world.work.since);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_cannot_be_listed_is_told() {
    let mut world = world();
    let (blind, others) = Kind::ALL.split_first().unwrap();
    world.hear(others);
    let status = json!({"status": "Failure", "message": "deployments.apps is forbidden", "reason": "Forbidden", "code": 403});
    let refused = || kube::Error::Api(Box::new(serde_json::from_value(status.clone()).unwrap()));
    let broken = |world: &mut World| {
        let error = watcher::Error::InitialListFailed(refused());
        world.work.take_children([(*blind, Err(error))].into_iter());
    };
    broken(&mut world);
    world.works(Duration::from_secs(29)).await;
    assert_eq!(world.fake.writes(), [""; 0]);
    broken(&mut world);
    assert!(world.work.due().is_some());
    world.works(Duration::from_secs(5)).await;
    let trouble = "skpr cannot read the cluster's deployments: deployments.apps is forbidden";
    assert_eq!(world.status()["trouble"], trouble);
    let made = world.fake.writes().into_iter().filter(|write| write != "PATCH environments/shop.dev/status");
    assert!(made.into_iter().all(|write| write.starts_with("POST events/")));
    world.hear(&[*blind]);
    world.works(Duration::from_secs(60)).await;
    assert_eq!((&world.status()["trouble"], &world.status()["state"]), (&json!(null), &json!("deploying")));
}

#[tokio::test]
async fn kubernetes_is_told_of_the_first_release_too_and_of_none_that_was_before() {
    let noticed = async |since: Timestamp| {
        let mut world = world();
        world.work.since = since;
        world.hear(&Kind::ALL);
        world.work.start(&world.controller);
        let ended = world.work.rounds.join_next().await.unwrap().unwrap();
        world.work.take_ended(ended);
        world
    };
    let world = noticed(Timestamp::now()).await;
    let notice = async {
        loop {
            let notices = world.fake.find("/apis/events.k8s.io/v1/namespaces/sites/events/");
            if let Some(notice) = notices.into_iter().next() {
                return notice;
            }
            tokio::task::yield_now().await;
        }
    };
    let notice = tokio::time::timeout(Duration::from_secs(10), notice).await.unwrap();
    assert_eq!((&notice["reason"], &notice["action"]), (&json!("Deploying"), &json!("Release1")));
    assert_eq!(notice["regarding"]["name"], "shop.dev");
    let hour = jiff::SignedDuration::from_hours(1);
    let world = noticed(Timestamp::now() + hour).await;
    assert_eq!(world.work.notices.waiting(), 0);
}

/// The object as it is now, with one run of its task that has ended as `told` says.
fn with_a_run(world: &World, told: bool) -> Arc<Objects> {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {},
        "metadata": {"name": "shop-dev--drush-29400000", "namespace": "sites", "uid": "j", "creationTimestamp": "2026-11-24T00:00:00Z",
            "labels": {"skpr.io/project": "shop", "skpr.io/environment": "dev", "skpr.io/task": "drush"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "shop-dev--drush", "uid": "c"}]},
        "status": {"startTime": "2026-11-24T00:00:00Z", "completionTime": "2026-11-24T00:01:00Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
    if told {
        let run = json!({"id": "drush-29400000", "task": "drush", "trigger": "schedule", "outcome": "succeeded",
            "began": "2026-11-24T00:00:00Z", "ended": "2026-11-24T00:01:00Z"});
        job["metadata"]["annotations"] = json!({"skpr.io/ended": run.to_string()});
    }
    let mut jobs = Jobs::default();
    jobs.take(watcher::Event::Init);
    jobs.take(watcher::Event::InitApply(serde_json::from_value::<WatchedJob>(job).unwrap()));
    jobs.take(watcher::Event::InitDone);
    let mut environments = Environments::default();
    environments.take(watcher::Event::Apply(serde_json::from_value(world.fake.get(OBJECT)).unwrap()));
    environments.take_runs(jobs.seen(std::iter::empty()), Timestamp::now());
    Arc::new(environments.objects())
}

impl World {
    fn told_of_runs(&mut self) -> Vec<String> {
        self.work.teller.flush();
        let all = std::iter::from_fn(|| self.told.try_recv().ok());
        all.filter(|event| event.body.kind == event::Kind::Run).map(|event| event.body.id).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_told_once_however_old_and_not_again_by_the_next_leader() {
    let cron = json!({"drush": {"schedule": "@yearly", "command": "x"}});
    let mut world = world();
    world.fake.change(OBJECT, |object| {
        object["spec"]["cron"] = cron.clone();
        object["metadata"]["generation"] = json!(2);
    });
    world.hear(&Kind::ALL);
    world.work.take_objects(with_a_run(&world, false));
    world.works(Duration::from_secs(2)).await;
    assert_eq!(world.told_of_runs(), ["run/drush-29400000/running", "run/drush-29400000/succeeded"]);
    let seen = with_a_run(&world, true);
    world.work.take_objects(Arc::clone(&seen));
    world.works(Duration::from_secs(2)).await;
    assert_eq!(world.told_of_runs(), [""; 0]);
    // Who takes over tells what is of the last hour, which this is not.
    world.work = Work::new(&world.controller);
    world.hear(&Kind::ALL);
    world.work.take_objects(seen);
    world.works(Duration::from_secs(2)).await;
    assert_eq!(world.told_of_runs(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_task_that_was_kept_for_its_run_goes_when_that_has_ended() {
    let mut world = world();
    world.hear(&Kind::ALL);
    world.works(Duration::from_secs(2)).await;
    let labels = json!({"skpr.io/project": "shop", "skpr.io/environment": "dev"});
    let cron_job = crate::platform::kubernetes::fake::path(
        &key("sites", "shop", "dev"),
        Kind::CronJob,
        "shop-dev--drush",
    );
    world.fake.put(&cron_job, "skpr-controller", json!({"metadata": {"labels": labels}}));
    let seen = serde_json::from_value(json!({"metadata": world.fake.get(&cron_job)["metadata"]})).unwrap();
    world.work.take_objects(with_a_run(&world, false));
    world.work.take_children([(Kind::CronJob, Ok(watcher::Event::Apply(seen)))].into_iter());
    world.works(Duration::from_secs(2)).await;
    assert!(!world.fake.get(&cron_job).is_null(), "how its run ended is only being written");
    world.work.take_objects(with_a_run(&world, true));
    world.works(Duration::from_secs(2)).await;
    assert!(world.fake.get(&cron_job).is_null());
}
