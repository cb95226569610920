//! Deletions against an API server that a test scripts.

use super::*;
use crate::auth::granted;
use crate::platform::Platform as _;
use crate::platform::kubernetes::changes::tests::{OBJECT, deploy, platform};
use crate::platform::kubernetes::fake::path;
use crate::release::Deploy;
use serde_json::Value;

fn how(volumes: bool) -> Delete {
    Delete { dry_run: false, volumes, force: false, by: "ann".into() }
}

#[tokio::test]
async fn volumes_go_with_their_environment_by_its_one_deletion_and_only_its_own() {
    let (fake, platform, key) = platform();
    let grant = granted("ann", &key);
    let deleted = platform.delete(&grant, Delete { dry_run: true, ..how(true) }).await.unwrap();
    assert!(deleted.removed.contains(&"the volume `shop-dev-f` and its contents".to_owned()), "{deleted:?}");
    assert_eq!(fake.writes(), [""; 0]);
    platform.delete(&grant, how(true)).await.unwrap();
    let writes = [
        "PUT environments/shop.dev",
        "PATCH persistentvolumeclaims/shop-dev-f",
        "DELETE environments/shop.dev",
    ];
    assert_eq!(fake.writes(), writes);
    fake.collect();
    assert!(fake.get(&path(&key, Kind::Claim, "shop-dev-f")).is_null());
    assert!(!fake.get(&path(&key, Kind::Claim, "theirs")).is_null());
}

#[tokio::test]
async fn an_environment_that_is_not_deleted_keeps_its_volumes_and_its_policy() {
    for refused in ["DELETE environments/shop.dev", "PATCH persistentvolumeclaims/shop-dev-f"] {
        let (fake, platform, key) = platform();
        let before = fake.get(OBJECT)["spec"].clone();
        fake.forbid(refused);
        let failure = platform.delete(&granted("ann", &key), how(true)).await.unwrap_err();
        if refused.starts_with("PATCH") {
            assert!(failure.message.starts_with("nothing was deleted: the volume `shop-dev-f`"), "{failure}");
        }
        assert_eq!(fake.get(OBJECT)["spec"], before, "{refused}");
        fake.collect();
        assert!(!fake.get(&path(&key, Kind::Claim, "shop-dev-f")).is_null());
    }
}

#[tokio::test]
async fn who_deletes_is_written_down_and_no_reason_to_keep_it() {
    let (fake, platform, key) = platform();
    fake.forbid("DELETE environments/shop.dev");
    let spec = fake.get(OBJECT)["spec"].clone();
    platform.delete(&granted("ann", &key), how(false)).await.unwrap_err();
    assert_eq!(fake.get(OBJECT)["spec"], spec, "it was not deleted");
    fake.mend();
    fake.forbid("PUT environments/shop.dev");
    platform.delete(&granted("ann", &key), how(false)).await.unwrap();
    assert!(fake.get(OBJECT).is_null());
}

/// What is said of a deletion, when the spec and what was carried out of it say these.
async fn said(policy: &str, followed: Value, volumes: bool) -> Result<Deleted, Failure> {
    let (fake, platform, key) = platform();
    fake.change(OBJECT, |object| {
        object["spec"]["deletionPolicy"] = policy.into();
        object["status"] = json!({"deletionPolicy": followed});
    });
    let said = platform.delete(&granted("ann", &key), Delete { dry_run: true, ..how(volumes) }).await;
    let done = platform.delete(&granted("ann", &key), how(volumes)).await;
    assert_eq!(said, done);
    said
}

#[tokio::test]
async fn a_deletion_goes_by_what_was_carried_out_of_its_policy() {
    for (policy, followed) in [("Orphan", "Delete"), ("Delete", "DeleteAll"), ("Delete", "Orphan")] {
        let failure = said(policy, followed.into(), false).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Locked, "{policy} {followed}");
        assert!(failure.message.contains(&format!("still follows `{followed}`")), "{failure}");
    }
    let kept = |deleted: Deleted| deleted.kept.iter().any(|kept| kept.contains("shop-dev-f"));
    assert!(kept(said("Delete", "Delete".into(), false).await.unwrap()));
    assert!(kept(said("Orphan", "Orphan".into(), false).await.unwrap()));
    assert!(!kept(said("DeleteAll", "DeleteAll".into(), false).await.unwrap()));
    // Its volumes are made to go here.
    assert!(!kept(said("DeleteAll", "Delete".into(), true).await.unwrap()));
    assert_eq!(said("Delete", "Orphan".into(), true).await.unwrap_err().kind, ErrorKind::Locked);
    // Of an object that an earlier skpr looked after last, the spec is all there is.
    assert!(kept(said("Delete", Value::Null, false).await.unwrap()));
}

#[tokio::test]
async fn a_site_that_goes_on_running_keeps_its_volumes() {
    let failure = said("Orphan", "Orphan".into(), true).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Usage);
    assert!(failure.message.contains("goes on running") && failure.hint.unwrap().contains("DeleteAll"));
}

#[tokio::test]
async fn a_deploy_that_begins_while_a_deletion_is_agreed_to_is_its_lock() {
    let (fake, platform, key) = platform();
    let deploy = Deploy { by: "eve".into(), ..deploy("v2") };
    platform.deploy(&granted("eve", &key), deploy).await.unwrap();
    let grant = granted("ann", &key);
    let failure = platform.delete(&grant, how(false)).await.unwrap_err();
    assert!(failure.kind == ErrorKind::Locked && failure.message.contains("eve"), "{failure}");
    platform.delete(&grant, Delete { force: true, ..how(false) }).await.unwrap();
    assert_eq!(fake.writes().last().unwrap(), "DELETE environments/shop.dev");
}
