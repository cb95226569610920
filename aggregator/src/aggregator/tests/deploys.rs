//! Deploys, rollbacks, scaling and deletion, as the CLI asks for them.

use super::*;
use crate::release::State;
use skpr_proto::v1::{
    DeleteRequest, DeployRequest, DescribeRequest, EventsRequest, FollowRequest, RollbackRequest,
    ScaleRequest,
};
use std::sync::atomic::Ordering;
use tonic::Code;

pub(super) fn dev() -> EnvironmentKey {
    crate::inventory::tests::key("sites", "web", "dev")
}

pub(super) fn deploy_of(name: &str, version: &str) -> DeployRequest {
    DeployRequest {
        environment: environment(name),
        version: version.into(),
        settings: br#"{"port":8080}"#.to_vec().into(),
        ..DeployRequest::default()
    }
}

async fn deploy(world: &World, token: &Token, request: DeployRequest) -> Result<v1::DeployResponse, Status> {
    let mut client = world.environments(token.clone()).await;
    Ok(soon(client.deploy(request)).await?.into_inner())
}

/// A world with `web/dev` at `v1`.
pub(super) async fn deployed() -> World {
    let world = World::start().await;
    world.publish(&[]);
    deploy(&world, &world.token("admin.token"), deploy_of("dev", "v1")).await.unwrap();
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    world
}

/// The code of each call: describe, follow, events, deploy, rollback, scale, delete.
async fn codes(world: &World, token: &Token, name: &str) -> [Code; 7] {
    let mut client = world.environments(token.clone()).await;
    let environment = environment(name);
    let code = |status: Option<Status>| status.map_or(Code::Ok, |status| status.code());
    let describe = DescribeRequest { environment: environment.clone() };
    let follow = FollowRequest { environment: environment.clone(), release: 0 };
    let events = EventsRequest { environment: environment.clone(), ..Default::default() };
    let rollback = RollbackRequest { environment: environment.clone(), dry_run: true, ..Default::default() };
    let scale = ScaleRequest { environment: environment.clone(), ..Default::default() };
    let delete = DeleteRequest { environment, dry_run: true, ..Default::default() };
    let deploy = DeployRequest { dry_run: true, ..deploy_of(name, "v2") };
    [
        code(soon(client.describe(describe)).await.err()),
        code(soon(client.follow(follow)).await.err()),
        code(soon(world.logs(token.clone()).await.events(events)).await.err()),
        code(soon(client.deploy(deploy)).await.err()),
        code(soon(client.rollback(rollback)).await.err()),
        code(soon(client.scale(scale)).await.err()),
        code(soon(client.delete(delete)).await.err()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_takes_its_right() {
    let world = deployed().await;
    let (no, ok) = (Code::PermissionDenied, Code::Ok);
    // With the right, a rollback finds nothing to go back to, and a scaling that names no number makes no sense.
    let (back, scale) = (Code::NotFound, Code::InvalidArgument);
    for (rights, expected) in [
        ("web/dev:list", [ok, ok, no, no, no, no, no]),
        ("web/dev:logs", [no, no, ok, no, no, no, no]),
        ("web/dev:deploy", [ok, ok, no, ok, back, scale, no]),
        ("web/dev:delete", [ok, ok, no, no, no, no, ok]),
        ("web/*:list+logs+deploy+delete", [ok, ok, ok, ok, back, scale, ok]),
        ("web/prod:list+logs+deploy+delete", [no; 7]),
        ("shop/*:list+logs+deploy+delete", [no; 7]),
    ] {
        let token = world.new_token(&rights.replace([':', '/', '*', '+'], "-"), rights);
        assert_eq!(codes(&world, &token, "dev").await, expected, "{rights}");
    }
    let rights = async |token: &Token| {
        let mut client = world.environments(token.clone()).await;
        soon(client.who_am_i(v1::WhoAmIRequest {})).await.unwrap().into_inner().rights
    };
    let reader = world.new_token("reader", "web/dev:logs,shop/*:list+deploy");
    assert_eq!(rights(&reader).await, ["web/dev:logs", "shop/*:list+deploy"]);
    let admin = world.token("admin.token");
    assert_eq!(rights(&admin).await, ["*"]);
    assert_eq!(codes(&world, &admin, "dev").await, [ok, ok, ok, ok, back, scale, ok]);
    assert_eq!(codes(&world, &admin, "nowhere").await[4..], [Code::NotFound; 3]);
    assert_eq!(world.platform.calls().len(), 1, "only what made it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_see_an_environment_learns_nothing_by_changing_it() {
    let world = deployed().await;
    let stranger = world.new_token("stranger", "shop/*:deploy+delete+list");
    let message = async |name: &str| {
        let mut client = world.environments(stranger.clone()).await;
        let delete = DeleteRequest { environment: environment(name), ..Default::default() };
        let scale = ScaleRequest { environment: environment(name), minimum: Some(1), ..Default::default() };
        let follow = FollowRequest { environment: environment(name), release: 0 };
        [
            client.deploy(deploy_of(name, "v2")).await.unwrap_err(),
            client.delete(delete).await.unwrap_err(),
            client.scale(scale).await.unwrap_err(),
            client.follow(follow).await.unwrap_err(),
        ]
        .map(|status| (status.code(), status.message().replace(name, "NAME"), hint(&status)))
    };
    assert_eq!(message("dev").await, message("nowhere").await);
    // Who may see it is told what is missing.
    let viewer = world.new_token("viewer", "web/dev:list");
    let status = deploy(&world, &viewer, deploy_of("dev", "v2")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "you may see `web/dev`, and not deploy to it")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_says_what_it_changes_and_a_dry_run_changes_nothing() {
    let world = World::start().await;
    world.publish(&[]);
    let deployer = world.new_token("ci", "web/*:deploy");
    let mut request = DeployRequest {
        image: Some("registry.example.com:5000/web".into()),
        settings: br#"{"port":8080,"env":{"KEY":"secret-1"}}"#.to_vec().into(),
        dry_run: true,
        ..deploy_of("dev", "v1")
    };
    let planned = deploy(&world, &deployer, request.clone()).await.unwrap();
    assert_eq!((planned.release, planned.created), (0, true));
    assert!(world.platform.calls().is_empty());
    request.dry_run = false;
    let begun = deploy(&world, &deployer, request.clone()).await.unwrap();
    assert_eq!((begun.release, begun.created, begun.version_before), (1, true, None));
    assert_eq!(begun.environment.unwrap().namespace.as_deref(), Some("sites"));
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    request.settings = br#"{"port":80,"env":{"KEY":"secret-2"}}"#.to_vec().into();
    (request.version, request.keep_failed, request.timeout_seconds) = ("v2".into(), true, 30);
    let second = deploy(&world, &deployer, request).await.unwrap();
    assert_eq!((second.release, second.created, second.version_before.as_deref()), (2, false, Some("v1")));
    let changes: Vec<_> = second
        .changes
        .iter()
        .map(|change| (change.setting.as_str(), change.before.as_deref(), change.after.as_deref()))
        .collect();
    let hidden = Some("(hidden)");
    assert_eq!(changes, [("env.KEY", hidden, hidden), ("port", Some("8080"), Some("80"))]);
    assert_eq!(
        world.platform.calls(),
        [
            "deploy v1 to sites:web/dev by ci for 600 s, returns true, restores None",
            "deploy v2 to sites:web/dev by ci for 30 s, returns false, restores None",
        ]
    );
    // What a viewer sees has no secrets either, and neither has the audit.
    let mut client = world.environments(deployer).await;
    let described = client.describe(DescribeRequest { environment: environment("dev") }).await.unwrap();
    let described = described.into_inner();
    assert_eq!(described.settings, br#"{"env":{"KEY":"(hidden)"},"port":80}"#.as_slice());
    let numbers: Vec<_> = described.releases.iter().map(|release| release.number).collect();
    assert_eq!(numbers, [2, 1]);
    let listed = client.list(v1::ListRequest::default()).await.unwrap().into_inner();
    let newest = listed.environments[0].release.clone().unwrap();
    assert_eq!((newest.number, newest.state.as_str(), newest.by.as_str()), (2, "deploying", "ci"));
    let audit = world.end().await;
    let of = |release: u64| {
        audit
            .iter()
            .find(|line| line["release"] == release && line["audit"] == "Environments.Deploy")
            .unwrap()
    };
    assert_eq!((of(2)["user"].as_str(), of(2)["decision"].as_str()), (Some("ci"), Some("allowed")));
    assert_eq!(
        (of(1)["environment"].as_str(), of(1)["ended"].as_str()),
        (Some("web/dev"), Some("completed"))
    );
    assert!(!format!("{audit:?}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_release_at_a_time_and_its_holder_is_named() {
    let world = deployed().await;
    let admin = world.token("admin.token");
    let other = world.new_token("dana", "web/dev:deploy+delete");
    deploy(&world, &admin, deploy_of("dev", "v2")).await.unwrap();
    let locked = deploy(&world, &other, deploy_of("dev", "v3")).await.unwrap_err();
    assert_eq!(locked.code(), Code::AlreadyExists);
    assert!(locked.message().contains("admin has been deploying `v2`"), "{}", locked.message());
    assert!(hint(&locked).contains("web/dev/2"), "{}", hint(&locked));
    let mut client = world.environments(other.clone()).await;
    let scale = ScaleRequest { environment: environment("dev"), maximum: Some(3), ..Default::default() };
    assert_eq!(client.scale(scale.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    let rollback = RollbackRequest { environment: environment("dev"), ..Default::default() };
    assert_eq!(client.rollback(rollback).await.unwrap_err().code(), Code::AlreadyExists);
    // What would change can be asked at any time. What serves is the release before.
    let dry = DeployRequest { dry_run: true, ..deploy_of("dev", "v3") };
    assert_eq!(deploy(&world, &other, dry).await.unwrap().version_before.as_deref(), Some("v1"));
    let delete = DeleteRequest { environment: environment("dev"), ..Default::default() };
    assert_eq!(client.delete(delete.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    let dry = DeleteRequest { dry_run: true, ..delete };
    let planned = client.delete(dry).await.unwrap().into_inner().under_way.unwrap();
    assert_eq!((planned.number, planned.by.as_str()), (2, "admin"));
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    let scaled = client.scale(scale).await.unwrap().into_inner();
    assert_eq!((scaled.minimum_before, scaled.maximum_before, scaled.minimum, scaled.maximum), (1, 1, 1, 3));
    let calls = world.platform.calls().len();
    let again = ScaleRequest { environment: environment("dev"), maximum: Some(3), ..Default::default() };
    assert_eq!(client.scale(again).await.unwrap().into_inner().maximum_before, 3);
    assert_eq!(world.platform.calls().len(), calls, "nothing to change, nothing to announce");
    let rollback = RollbackRequest { environment: environment("dev"), ..Default::default() };
    assert_eq!(client.rollback(rollback).await.unwrap().into_inner().release, 3);
    // Deleting it ends what is under way, where that is meant.
    let delete = DeleteRequest { environment: environment("dev"), force: true, ..Default::default() };
    assert_eq!(client.delete(delete).await.unwrap().into_inner().kept, ["volume `files`"]);
    assert_eq!(
        world.platform.calls()[2..],
        [
            "scale sites:web/dev to 1-3 by dana",
            "deploy v1 to sites:web/dev by dana for 600 s, returns true, restores Some(1)",
            "delete sites:web/dev by dana",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_whatever_program_sends_it() {
    let world = deployed().await;
    let admin = world.token("admin.token");
    let taken = DeployRequest {
        settings: br#"{"port":80,"domains":["www.example.com"]}"#.to_vec().into(),
        ..deploy_of("live", "v1")
    };
    deploy(&world, &admin, taken.clone()).await.unwrap();
    let settings =
        |json: &str| DeployRequest { settings: json.as_bytes().to_vec().into(), ..deploy_of("dev", "v2") };
    let deep = format!(r#"{{"env":{}"a"{}}}"#, "[".repeat(500), "]".repeat(500));
    for (request, code, part) in [
        (deploy_of("dev", ""), Code::InvalidArgument, "cannot be a version"),
        (deploy_of("dev", "-v"), Code::InvalidArgument, "`-v`"),
        (deploy_of("dev", "a/b"), Code::InvalidArgument, "`a/b`"),
        (deploy_of("dev", "v\u{1b}[31m"), Code::InvalidArgument, "v\\u{1b}"),
        (deploy_of("dev", &"v".repeat(129)), Code::InvalidArgument, "cannot be a version"),
        (deploy_of("dev", "missing"), Code::NotFound, "no version `missing`"),
        (deploy_of("all", "v1"), Code::FailedPrecondition, "reserved"),
        (deploy_of(&"x".repeat(60), "v1"), Code::FailedPrecondition, "at most 50"),
        (deploy_of("../etc", "v1"), Code::InvalidArgument, "environment"),
        (
            DeployRequest { environment: None, ..deploy_of("dev", "v2") },
            Code::InvalidArgument,
            "no environment",
        ),
        (
            DeployRequest { image: Some("web:latest".into()), ..deploy_of("dev", "v2") },
            Code::FailedPrecondition,
            "image",
        ),
        (
            DeployRequest { image: Some("a b\n".into()), ..deploy_of("dev", "v2") },
            Code::FailedPrecondition,
            "image",
        ),
        (
            DeployRequest { timeout_seconds: u32::MAX, ..deploy_of("dev", "v2") },
            Code::InvalidArgument,
            "a day",
        ),
        (settings(""), Code::FailedPrecondition, "settings"),
        (settings("[]"), Code::FailedPrecondition, "settings"),
        (settings(&deep), Code::FailedPrecondition, "settings"),
        (settings(r#"{"port":80,"colour":"red"}"#), Code::FailedPrecondition, "colour"),
        (settings(r#"{"instances":{"min":3,"max":1}}"#), Code::FailedPrecondition, "min"),
        (
            settings(&format!(r#"{{"env":{{"A":"{}"}}}}"#, "x".repeat(40_000))),
            Code::FailedPrecondition,
            "32768",
        ),
        (
            settings(r#"{"production":true,"port":80,"domains":["www.example.com"]}"#),
            Code::FailedPrecondition,
            "taken",
        ),
        (
            DeployRequest { version: "v2-dirty".into(), ..settings(r#"{"production":true}"#) },
            Code::InvalidArgument,
            "in no commit",
        ),
    ] {
        let status = deploy(&world, &admin, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{part}: {}", status.message());
        assert!(status.message().contains(part), "{part}: {}", status.message());
        assert!(!status.message().contains(char::is_control), "{:?}", status.message());
        assert!(!status.message().contains("web/live"), "{:?}", status.message());
    }
    // Ten megabytes are not even read.
    let flood = settings(&"x".repeat(10 << 20));
    assert_eq!(deploy(&world, &admin, flood).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(world.platform.calls().len(), 2);
    // Its own domain is no conflict.
    world.platform.turn(&crate::inventory::tests::key("sites", "web", "live"), State::Succeeded, |_| ());
    deploy(&world, &admin, taken).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_made_only_for_who_may_make_one() {
    let world = World::start().await;
    world.publish(&[]);
    world.platform.makes_namespace.store(true, Ordering::Relaxed);
    let deployer = world.new_token("ci", "web/*:deploy");
    let status = deploy(&world, &deployer, deploy_of("dev", "v1")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("namespace `sites`"), "{}", status.message());
    deploy(&world, &world.token("admin.token"), deploy_of("dev", "v1")).await.unwrap();
    // A namespace that is named is meant.
    let mut elsewhere = deploy_of("dev", "v1");
    elsewhere.environment.as_mut().unwrap().namespace = Some("mine".into());
    let begun = deploy(&world, &world.token("admin.token"), elsewhere).await.unwrap();
    assert_eq!((begun.release, begun.created), (1, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_on_somebody_s_pod_draws_no_deploy_to_its_namespace() {
    let world = World::start().await;
    let mut foreign = pod("mine", "local");
    foreign.environment.namespace = Label::parse("namespace", "mallory").unwrap();
    let pods = HashMap::from([(PodUid::parse("u9").unwrap(), foreign)]);
    world.publish.send_replace(Arc::new(Inventory::of(pods, &BTreeMap::new())));
    let begun = deploy(&world, &world.token("admin.token"), deploy_of("dev", "v1")).await.unwrap();
    assert_eq!(begun.environment.unwrap().namespace.as_deref(), Some("sites"));
    // And what was not deployed through skpr is not scaled by it.
    let mut client = world.environments(world.token("admin.token")).await;
    let mut scale = ScaleRequest { environment: environment("dev"), minimum: Some(1), ..Default::default() };
    scale.environment.as_mut().unwrap().namespace = Some("mallory".into());
    let status = client.scale(scale).await.unwrap_err();
    assert!(status.message().contains("not deployed through skpr"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_goes_on_when_its_caller_is_gone_and_a_stop_waits_for_it() {
    let world = deployed().await;
    let platform = Arc::clone(&world.platform);
    let closed = platform.gate.write().await;
    let mut client = world.environments(world.token("admin.token")).await;
    {
        let calling = client.deploy(deploy_of("dev", "v2"));
        let waits = tokio::time::timeout(Duration::from_millis(300), calling).await;
        assert!(waits.is_err(), "the platform has not answered");
    }
    drop(client);
    world.stop.cancel();
    drop(closed);
    let audit = world.end().await;
    assert_eq!(platform.calls().len(), 2, "{:?}", platform.calls());
    let line = audit.iter().find(|line| line["release"] == 2).unwrap();
    assert_eq!(line["ended"], "completed");
}
