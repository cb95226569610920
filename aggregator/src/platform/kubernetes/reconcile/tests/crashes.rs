//! skpr is killed before or after each of its writes, and started again: what was begun comes to its end, once.

use super::*;
use crate::auth::granted;
use crate::platform::kubernetes::Kubernetes;
use crate::platform::kubernetes::changes::tests::deploy;
use crate::platform::kubernetes::fake::Cut;
use crate::platform::{Delete, Platform as _};
use crate::release::Deploy;
use skpr_proto::ErrorKind;
use skpr_proto::manifest::Environment as Settings;
use std::sync::atomic::AtomicBool;

/// More rounds than anything takes.
const ROUNDS: usize = 30;

/// More calls than anybody makes.
const CALLS: usize = 5;

fn empty() -> Site {
    let fake = Fake::default();
    fake.put("/api/v1/namespaces/sites", "kubectl", json!({}));
    Site::of(fake)
}

impl Site {
    fn platform(&self) -> Kubernetes {
        let known = Arc::new(AtomicBool::new(true));
        Kubernetes { client: self.fake.client(), options: Arc::new(options()), known }
    }

    /// Kubernetes' part: an instance of what the deployment says, which runs unless it is `v2`.
    fn start_instances(&mut self) {
        let deployment = self.fake.get(&self.path(Kind::Deployment));
        let template = &deployment["spec"]["template"];
        let Some(number) = template["metadata"]["labels"]["skpr.io/release"].as_str() else { return };
        let image = template["spec"]["containers"][0]["image"].as_str().unwrap();
        let version = image.rsplit(':').next().unwrap().to_owned();
        let number = number.parse().unwrap();
        self.runs(number);
        for instance in self.instances.values_mut() {
            instance.version = version.as_str().into();
            if version == "v2" {
                (instance.ready, instance.detail.restarts) = (false, 9);
            }
        }
    }

    /// Deploys, and asks again where no answer came: `Locked` says that it had been begun.
    async fn deploys(&self, deploy: Deploy) {
        for _ in 0..CALLS {
            match self.platform().deploy(&granted("ann", &self.key), deploy.clone()).await {
                Ok(_) => return,
                Err(failure) if failure.kind == ErrorKind::Locked => return,
                Err(_) => self.fake.mend(),
            }
        }
        panic!("it cannot be deployed");
    }

    async fn ends(&mut self) {
        for _ in 0..ROUNDS {
            match self.try_round().await {
                Ok(Some(done))
                    if done.status.releases.last().is_some_and(|newest| !newest.state.is_open()) =>
                {
                    return;
                }
                Ok(_) => {}
                Err(_) => self.fake.mend(),
            }
            self.start_instances();
        }
        panic!("no end: {}", self.fake.get(OBJECT)["status"]);
    }

    async fn deletes(&mut self) {
        for _ in 0..CALLS {
            let how = Delete { dry_run: false, volumes: true, force: false, by: "ann".into() };
            let deleted = self.platform().delete(&granted("ann", &self.key), how).await;
            self.fake.collect();
            let (site, claim) = (self.fake.get(OBJECT), path(&self.key, Kind::Claim, "shop-dev-f"));
            assert_eq!(site.is_null(), self.fake.get(&claim).is_null(), "either both go or none");
            match deleted {
                Ok(_) => return,
                Err(failure) if failure.message.contains("was not deployed") => return,
                Err(_) => self.fake.mend(),
            }
            // A controller that goes on loses nothing either.
            if !site.is_null() {
                self.try_round().await.unwrap();
            }
        }
        panic!("it cannot be deleted");
    }

    /// A deploy that goes well, one that fails and is taken back, and the end of it all. What is left, and the writes.
    async fn lives(&mut self) -> (Value, usize) {
        let settings = json!({"port": 80, "instances": {"min": 1, "max": 2},
            "volumes": {"f": {"path": "/f", "size": "1Gi"}}});
        let settings: Settings = serde_json::from_value(settings).unwrap();
        self.deploys(Deploy { settings: settings.clone(), ..deploy("v1") }).await;
        self.ends().await;
        self.deploys(Deploy { settings, ..deploy("v2") }).await;
        self.ends().await;
        // What cannot be read of the last answer is put right by the next round.
        self.try_round().await.ok();
        let object = self.fake.get(OBJECT);
        let releases = object["status"]["releases"].as_array().unwrap().iter();
        let history =
            releases.map(|release| json!([release["number"], release["version"], release["state"]]));
        let deployment = self.fake.get(&self.path(Kind::Deployment));
        let runs = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        let left = json!({"history": history.collect::<Vec<_>>(), "version": object["spec"]["version"], "runs": runs,
            "replicas": deployment["spec"]["replicas"]});
        self.deletes().await;
        (left, self.fake.writes().len())
    }
}

#[tokio::test]
async fn whatever_write_is_the_last_before_a_crash_everything_comes_to_its_end() {
    let (expected, writes) = empty().lives().await;
    let history = json!([[1, "v1", "succeeded"], [2, "v2", "rolled-back"]]);
    assert_eq!(
        (&expected["history"], &expected["version"], &expected["runs"]),
        (&history, &json!("v1"), &json!("shop:v1"))
    );
    assert!(writes > 15, "only {writes} writes");
    for cut in [Cut::Before, Cut::After] {
        for last in 0..writes {
            let mut site = empty();
            site.fake.cut_after(last, cut);
            let (left, _) = site.lives().await;
            assert_eq!(left, expected, "killed {cut:?} write {last}");
        }
    }
}
