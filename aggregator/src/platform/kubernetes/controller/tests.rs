//! The controller's rounds and what becomes of them, against an API server that a test scripts.

use super::*;
use crate::inventory::tests::key;
use crate::platform::kubernetes::changes::tests::OBJECT;
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
