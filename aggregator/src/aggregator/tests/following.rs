//! Following releases.

use super::deploys::{deploy_of, deployed, dev};
use super::*;
use crate::inventory::{Detail, InstanceState};
use crate::release::State;
use skpr_proto::v1::{FollowRequest, FollowResponse};
use tonic::{Code, Streaming};

async fn follow(world: &World, token: Token, release: u64) -> Result<Streaming<FollowResponse>, Status> {
    let request = FollowRequest { environment: environment("dev"), release };
    Ok(soon(world.environments(token).await.follow(request)).await?.into_inner())
}

fn state(response: &FollowResponse) -> &str {
    &response.release.as_ref().unwrap().state
}

async fn next(stream: &mut Streaming<FollowResponse>) -> FollowResponse {
    soon(stream.message()).await.unwrap().unwrap()
}

/// The environment's only instance, of that release.
fn run(world: &World, release: u64, ready: bool) {
    let detail = Detail { release: Some(release), ..Detail::default() };
    let instance = InstanceState { version: "v2".into(), ready, node: None, detail };
    world.publish.send_modify(|inventory| {
        let mut next = (**inventory).clone();
        let instances = &mut next.environments.get_mut(&dev()).unwrap().instances;
        instances.clear();
        instances.insert("web-1".into(), instance);
        *inventory = Arc::new(next);
    });
}

async fn begin(world: &World, version: &str) -> u64 {
    let mut client = world.environments(world.token("admin.token")).await;
    client.deploy(deploy_of("dev", version)).await.unwrap().into_inner().release
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_followed_to_its_end() {
    let world = deployed().await;
    let number = begin(&world, "v2").await;
    let mut stream = follow(&world, world.token("admin.token"), number).await.unwrap();
    let first = next(&mut stream).await;
    assert_eq!((state(&first), first.ready, first.wanted), ("deploying", 0, 1));
    world.platform.change(&dev(), |managed| managed.waiting_for = Some("1 instance starts".into()));
    let mut response = next(&mut stream).await;
    assert_eq!(response.waiting_for, "1 instance starts");
    run(&world, number, true);
    while response.ready == 0 {
        response = next(&mut stream).await;
    }
    assert_eq!(response.instances[0].release, Some(number));
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    while state(&response) == "deploying" {
        response = next(&mut stream).await;
    }
    assert_eq!((state(&response), response.waiting_for.as_str()), ("succeeded", ""));
    assert!(soon(stream.message()).await.unwrap().is_none(), "it ends");
    // One that has ended long ago is told once.
    let mut stream = follow(&world, world.token("admin.token"), 1).await.unwrap();
    assert_eq!(state(&next(&mut stream).await), "succeeded");
    assert!(soon(stream.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_is_told_together() {
    let world = deployed().await;
    begin(&world, "v2").await;
    let mut stream = follow(&world, world.token("admin.token"), 0).await.unwrap();
    next(&mut stream).await;
    let began = std::time::Instant::now();
    for n in 0..1000 {
        world.platform.change(&dev(), |managed| managed.waiting_for = Some(format!("{n}")));
        tokio::task::yield_now().await;
    }
    let (mut told, mut last) = (0, String::new());
    while last != "999" {
        last = next(&mut stream).await.waiting_for;
        told += 1;
    }
    let most = 2 + began.elapsed().as_millis() / 100;
    assert!(told <= most, "{told} answers in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_a_failure_gets_the_last_lines_if_it_may_read_them() {
    let world = World::with_pods().await;
    begin(&world, "v1").await;
    let mut agent = world.agents().await;
    let lines: Vec<String> = (0..30).map(|n| format!("line {n}")).collect();
    let mut shipped = batch(1, OURS, 0, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    shipped.time[0] = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap() + 1_000_000_000;
    let mut acks = agent.ship(tokio_stream::iter([shipped])).await.unwrap().into_inner();
    while soon(acks.message()).await.unwrap().is_some() {}
    world.platform.turn(&dev(), State::Failed, |release| {
        release.reason = Some("instance `web-1` ended with exit code 3".into());
        release.instance = Some("web-1".into());
        release.exit_code = Some(3);
    });
    for (rights, expected) in [("web/dev:list+logs", 20), ("web/dev:deploy", 0)] {
        let token = world.new_token(&rights.replace([':', '/', '+'], "-"), rights);
        let mut stream = follow(&world, token, 1).await.unwrap();
        let response = next(&mut stream).await;
        assert_eq!((state(&response), response.last_lines.len()), ("failed", expected), "{rights}");
        if let Some(last) = response.last_lines.last() {
            assert_eq!(last.message, b"line 29".as_slice());
        }
        assert_eq!(response.release.unwrap().exit_code, Some(3));
        assert!(soon(stream.message()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_following_and_the_next_start_goes_on_with_it() {
    let world = deployed().await;
    let number = begin(&world, "v2").await;
    let mut stream = follow(&world, world.token("admin.token"), number).await.unwrap();
    next(&mut stream).await;
    let before = Arc::clone(&world.publish.borrow());
    let (_, data) = world.end_and_keep().await;
    let ended = loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a follower was told that the release has come to its end"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    let world = World::start_in(data, AT_ONCE).await;
    // Before the platform has been heard from nothing is known, and that is not an end either.
    let early = follow(&world, world.token("admin.token"), number).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable);
    world.publish.send_replace(before);
    let mut stream = follow(&world, world.token("admin.token"), number).await.unwrap();
    assert_eq!(state(&next(&mut stream).await), "deploying");
    world.platform.turn(&dev(), State::Succeeded, |_| ());
    assert_eq!(state(&next(&mut stream).await), "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_that_is_deleted_or_has_no_such_release_says_so() {
    let world = deployed().await;
    begin(&world, "v2").await;
    let admin = world.token("admin.token");
    let mut unknown = follow(&world, admin.clone(), 9).await.unwrap();
    let status = soon(unknown.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("no release 9: its newest is 2"), "{}", status.message());
    assert_eq!(hint(&status), "skpr releases dev");
    let mut stream = follow(&world, admin.clone(), 2).await.unwrap();
    next(&mut stream).await;
    world.platform.remove(&dev());
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "`web/dev` was deleted"));
    assert_eq!(follow(&world, admin, 2).await.unwrap_err().code(), Code::NotFound);
}
