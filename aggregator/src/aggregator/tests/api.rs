//! As the CLI.

use super::*;
use skpr_proto::v1::agents_client::AgentsClient;
use skpr_proto::v1::{ListRequest, LogsRequest, WhoAmIRequest};
use tonic::Code;

async fn ship(world: &World, batches: Vec<v1::Batch>) {
    let count = batches.len() as u64;
    let last = batches.last().map_or(0, |batch| batch.id);
    let client: AgentsClient<_> = world.agents().await;
    let mut client = client;
    let mut acks = client.ship(tokio_stream::iter(batches)).await.unwrap().into_inner();
    let mut acknowledged = 0;
    while let Some(ack) = soon(acks.message()).await.unwrap() {
        assert_eq!(ack.refused, None);
        acknowledged = ack.id;
    }
    assert_eq!(acknowledged, last, "of {count}");
}

fn logs_of(name: &str) -> LogsRequest {
    LogsRequest { environment: environment(name), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_and_a_wrong_token_say_how_to_log_in() {
    let world = World::with_pods().await;
    let mut client = EnvironmentsClient::new(world.channel().await);
    let status = client.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(hint(&status).contains("skpr login"));
    for token in [Token("wrong".into()), world.token("agent.token")] {
        let status = history(&world, token, logs_of("dev")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(hint(&status).contains("skpr login"));
    }
    let audit = world.end().await;
    assert_eq!(audit.len(), 3);
    assert!(audit.iter().all(|line| line["decision"] == "denied"), "{audit:?}");
    assert!(!format!("{audit:?}").contains("wrong"), "a token in the audit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_sees_what_it_may() {
    let world = World::with_pods().await;
    ship(&world, vec![batch(1, OURS, 0, &["one", "two"])]).await;
    let reader = world.new_token("reader", "web/dev:list+logs");
    let other = world.new_token("other", "web/prod:list+logs");
    for (token, expected) in [(world.token("admin.token"), 1), (reader.clone(), 1), (other.clone(), 0)] {
        let list = world.environments(token).await.list(ListRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.environments.len(), expected);
    }
    assert_eq!(history(&world, reader.clone(), logs_of("dev")).await.unwrap(), ["one", "two"]);
    // Forbidden and unknown look alike, but to one who may list everything.
    let forbidden = history(&world, other.clone(), logs_of("dev")).await.unwrap_err();
    let unknown = history(&world, other, logs_of("nowhere")).await.unwrap_err();
    assert_eq!((forbidden.code(), unknown.code()), (Code::PermissionDenied, Code::PermissionDenied));
    assert_eq!(forbidden.message().replace("web/dev", "web/nowhere"), unknown.message());
    let not_there = history(&world, world.token("admin.token"), logs_of("nowhere")).await.unwrap_err();
    assert_eq!(not_there.code(), Code::NotFound);
    let whoami = world.environments(reader).await.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(whoami.name, "reader");
    // An environment that no longer runs stays readable.
    world.publish(&[]);
    assert_eq!(history(&world, world.token("admin.token"), logs_of("dev")).await.unwrap(), ["one", "two"]);
    let audit = world.end().await;
    let read = audit.iter().find(|line| line["records"] == 2 && line["audit"] == "Logs.Logs").unwrap();
    assert_eq!((read["environment"].as_str(), read["namespace"].as_str()), (Some("web/dev"), Some("sites")));
    assert_eq!((read["bytes"].as_u64(), read["ended"].as_str()), (Some(6), Some("completed")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_label_locks_nobody_out_of_an_environment() {
    let world = World::with_pods().await;
    ship(&world, vec![batch(1, OURS, 0, &["one"])]).await;
    let admin = world.token("admin.token");
    let mut foreign = pod("mine", "local");
    foreign.environment.namespace = Label::parse("namespace", "mallory").unwrap();
    let pods = [("u1", pod("web-1", "local")), ("u9", foreign)];
    let pods: HashMap<_, _> = pods.map(|(uid, pod)| (PodUid::parse(uid).unwrap(), pod)).into();
    world.publish.send_replace(Arc::new(Inventory::of(pods, &BTreeMap::new())));
    let ambiguous = history(&world, admin.clone(), logs_of("dev")).await.unwrap_err();
    assert_eq!(ambiguous.code(), Code::InvalidArgument);
    assert!(hint(&ambiguous).contains("--namespace"), "{}", hint(&ambiguous));
    let of = |namespace: &str| {
        let mut request = logs_of("dev");
        request.environment.as_mut().unwrap().namespace = Some(namespace.to_owned());
        request
    };
    assert_eq!(history(&world, admin.clone(), of("sites")).await.unwrap(), ["one"]);
    assert!(history(&world, admin.clone(), of("mallory")).await.unwrap().is_empty());
    assert_eq!(history(&world, admin.clone(), of("nowhere")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(history(&world, admin.clone(), of("../x")).await.unwrap_err().code(), Code::InvalidArgument);
    let listed =
        world.environments(admin.clone()).await.list(ListRequest::default()).await.unwrap().into_inner();
    let namespaces: Vec<_> = listed
        .environments
        .into_iter()
        .map(|summary| summary.environment.unwrap().namespace.unwrap())
        .collect();
    assert_eq!(namespaces, ["mallory", "sites"]);
    // The foreign pod is gone: what it left behind is no reason to ask.
    world.publish(&[("u1", "web-1", "local")]);
    assert_eq!(history(&world, admin, logs_of("dev")).await.unwrap(), ["one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_usage_errors() {
    let world = World::with_pods().await;
    let instant = |unix_nanos| Some(v1::Instant { unix_nanos });
    for (request, part) in [
        (LogsRequest { grep: vec!["(".into()], ..logs_of("dev") }, "`(`"),
        (LogsRequest { grep: vec!["a".into(); 100], ..logs_of("dev") }, "patterns"),
        (LogsRequest { cursor: vec![9; 3].into(), ..logs_of("dev") }, "cursor"),
        (LogsRequest { since: instant(2), until: instant(1), ..logs_of("dev") }, "before it begins"),
        (logs_of("../etc"), "environment"),
        (LogsRequest::default(), "no environment"),
    ] {
        let status = history(&world, world.token("admin.token"), request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{part}");
        assert!(status.message().contains(part), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_history_and_then_what_arrives() {
    let world = World::with_pods().await;
    ship(&world, vec![batch(1, OURS, 0, &["one"])]).await;
    let request = LogsRequest { follow: true, ..logs_of("dev") };
    let mut client = world.logs(world.token("admin.token")).await;
    let mut stream = client.logs(request).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert!(first.oldest_kept.is_some());
    let mut seen = vec![];
    let mut shipped = 1;
    let mut offset = 4;
    while seen.len() < 3 {
        let response = soon(stream.message()).await.unwrap().unwrap();
        seen.extend(response.records.iter().map(|record| (record.sequence, record.message.clone())));
        if response.live && shipped < 3 {
            shipped += 1;
            ship(&world, vec![batch(1, OURS, offset, &["more"])]).await;
            offset += 5;
        }
    }
    let sequences: Vec<_> = seen.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    drop(stream);
    // The stop ends promptly: nobody holds on to a reader whose client is gone.
    let audit = world.end().await;
    assert!(audit.iter().any(|line| line["ended"] == "disconnected" && line["records"] == 3), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_does_not_flood_the_audit() {
    let world = World::with_pods().await;
    let mut client = world.environments(Token("random".into())).await;
    for _ in 0..100 {
        let status = client.who_am_i(WhoAmIRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    let mut admin = world.environments(world.token("admin.token")).await;
    admin.who_am_i(WhoAmIRequest {}).await.unwrap();
    let audit = world.end().await;
    assert!(audit.len() < 100, "{}", audit.len());
    assert!(audit.iter().any(|line| line["user"] == "admin"), "who is known always gets a line");
}
