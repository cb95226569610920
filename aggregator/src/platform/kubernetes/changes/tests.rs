//! What users change, against an API server that a test scripts.

use super::*;
use crate::auth::granted;
use crate::inventory::tests::key;
use crate::platform::kubernetes::desired::Kind;
use crate::platform::kubernetes::fake::{Fake, options, path};
use crate::platform::to;
use serde_json::json;
use skpr_proto::manifest;

pub(in crate::platform::kubernetes) const OBJECT: &str =
    "/apis/skpr.io/v1alpha1/namespaces/sites/environments/shop.dev";

/// An environment with a volume of its own, and one that somebody else made with its labels.
pub(in crate::platform::kubernetes) fn platform() -> (Fake, Kubernetes, EnvironmentKey) {
    let (fake, key) = (Fake::default(), key("sites", "shop", "dev"));
    let object = json!({"apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
        "spec": {"project": "shop", "environment": "dev", "image": "shop", "version": "v1"}});
    fake.put(OBJECT, DEPLOY, object);
    let labels = json!({"metadata": {"labels": resource::labels(&key.name)}});
    fake.put(&path(&key, Kind::Claim, "shop-dev-f"), access::CONTROLLER, labels.clone());
    fake.put(&path(&key, Kind::Claim, "theirs"), "kubectl", labels);
    let known = Arc::new(AtomicBool::new(true));
    let platform = Kubernetes { client: fake.client(), options: Arc::new(options()), known };
    (fake, platform, key)
}

pub(in crate::platform::kubernetes) fn deploy(version: &str) -> Deploy {
    Deploy {
        version: version.into(),
        image: Some("shop".into()),
        settings: manifest::Environment::default(),
        by: "ann".into(),
        timeout: release::TIMEOUT,
        returns: true,
        restores: None,
    }
}

#[tokio::test]
async fn a_deploy_remembers_what_was_scaled() {
    let (fake, platform, key) = platform();
    platform.scale(&granted("ann", &key), to(3, 3)).await.unwrap();
    assert_eq!(fake.get(OBJECT)["spec"]["scaled"]["by"], "ann");
    assert_eq!(platform.deploy(&granted("ann", &key), deploy("v2")).await, Ok(1));
    let spec = fake.get(OBJECT)["spec"].clone();
    assert!(spec["instances"].is_null());
    assert_eq!(spec["release"]["before"], json!({"instances": {"min": 3, "max": 3}}));
}

#[tokio::test]
async fn nothing_is_deployed_while_it_is_not_known_what_there_is() {
    let (fake, platform, key) = platform();
    platform.known.store(false, Ordering::Relaxed);
    for failure in [
        platform.is_known(&key).unwrap_err(),
        platform.check(&key, &deploy("v2")).await.unwrap_err(),
        platform.deploy(&granted("ann", &key), deploy("v2")).await.unwrap_err(),
    ] {
        assert_eq!(failure.kind, ErrorKind::Unavailable);
    }
    assert_eq!(fake.writes(), [""; 0]);
}
