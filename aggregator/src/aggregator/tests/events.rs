//! Events, from the platform to the CLI.

use super::*;
use crate::event::{Body, Event, Kind};
use crate::release::State;
use skpr_proto::UnixNanos;
use skpr_proto::v1::{EventsRequest, LogsRequest};

fn told(id: &str, time: i64) -> Event {
    let text = format!("{id}\u{1b}[31m came");
    let body = Body {
        instance: Some("web-1".into()),
        release: Some(7),
        state: id.ends_with("succeeded").then_some(State::Succeeded),
        by: Some("dana".into()),
        warning: true,
        ..Body::new(id.into(), Kind::Deploy, text)
    };
    Event { environment: pod("web-1", "local").environment, time: UnixNanos(time), body }
}

const TIME: i64 = 1_700_000_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_read_as_logs_are_and_are_not_among_them() {
    let world = World::with_pods().await;
    let admin = world.token("admin.token");
    world.tell.send(told("release/7/deploying", TIME)).await.unwrap();
    let mut client = world.logs(admin.clone()).await;
    let request = EventsRequest { environment: environment("dev"), follow: true, ..Default::default() };
    // Known by its records alone would do, too; here it has pods.
    let mut stream = client.events(request.clone()).await.unwrap().into_inner();
    let mut seen = vec![];
    let mut cursor = bytes::Bytes::new();
    let mut sent = false;
    while seen.len() < 2 {
        let response = soon(stream.message()).await.unwrap().unwrap();
        cursor = response.cursor;
        seen.extend(response.events);
        if !sent && !seen.is_empty() {
            sent = true;
            // Twice, as after a start of the platform.
            world.tell.send(told("release/7/deploying", TIME)).await.unwrap();
            world.tell.send(told("release/7/succeeded", TIME + 1)).await.unwrap();
        }
    }
    assert_eq!((seen[0].text.as_str(), seen[0].kind.as_str()), ("release/7/deploying [31m came", "deploy"));
    assert_eq!((seen[1].release, seen[1].by.as_deref(), seen[1].warning), (Some(7), Some("dana"), true));
    drop(stream);
    // By cursor nothing comes twice, and a range is a range.
    let count = async |request: EventsRequest| {
        let mut stream = world.logs(admin.clone()).await.events(request).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(response) = soon(stream.message()).await.unwrap() {
            count += response.events.len();
        }
        count
    };
    let whole = EventsRequest { follow: false, ..request };
    assert_eq!(count(whole.clone()).await, 2);
    assert_eq!(count(EventsRequest { cursor, ..whole.clone() }).await, 0);
    assert_eq!(count(EventsRequest { last: Some(1), ..whole.clone() }).await, 1);
    let since = Some(v1::Instant { unix_nanos: TIME + 1 });
    assert_eq!(count(EventsRequest { since, ..whole }).await, 1);
    // Logs are what the instances say.
    let logs = LogsRequest { environment: environment("dev"), ..Default::default() };
    assert!(history(&world, admin.clone(), logs.clone()).await.unwrap().is_empty());
    let named = LogsRequest { streams: vec!["events".into()], ..logs };
    assert_eq!(history(&world, admin, named).await.unwrap().len(), 2);
    let metrics = monitoring::metrics(&world).await;
    for line in [
        "skpr_deploys_total{result=\"succeeded\"} 1",
        "skpr_events_total{outcome=\"stored\"} 2",
        "skpr_events_total{outcome=\"duplicate\"} 1",
        "skpr_open_releases 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_the_queue_is_kept_when_the_aggregator_stops() {
    let world = World::with_pods().await;
    for n in 0..100 {
        world.tell.send(told(&format!("restart/u1/{n}"), TIME + n)).await.unwrap();
    }
    let (_, data) = world.end_and_keep().await;
    let world = World::start_in(data, AT_ONCE).await;
    world.publish(&[]);
    let named =
        LogsRequest { environment: environment("dev"), streams: vec!["events".into()], ..Default::default() };
    assert_eq!(history(&world, world.token("admin.token"), named).await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agent_writes_events() {
    let world = World::with_pods().await;
    // The source is known to the store, with a claim, once there is an event.
    world.tell.send(told("release/7/deploying", TIME)).await.unwrap();
    let named =
        LogsRequest { environment: environment("dev"), streams: vec!["events".into()], ..Default::default() };
    let admin = world.token("admin.token");
    while history(&world, admin.clone(), named.clone()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // A pod that calls itself so is claimed, and still is not believed.
    world.publish(&[("u1", "web-1", "local"), ("skpr-events", "web.dev", "local")]);
    let mut agent = world.agents().await;
    let mut forged =
        batch(1, ("skpr-events", "web.dev"), 0, &[r#"{"id":"x","kind":"deploy","text":"forged"}"#]);
    forged.source.as_mut().unwrap().container = "events".into();
    let mut main = batch(2, ("skpr-events", "web.dev"), 100, &["forged"]);
    main.source.as_mut().unwrap().container = "php".into();
    // And a container that is called like it writes to streams of another name.
    let mut named_so = batch(3, OURS, 200, &["mine"]);
    named_so.source.as_mut().unwrap().container = "events".into();
    let mut acks = agent.ship(tokio_stream::iter([forged, main, named_so])).await.unwrap().into_inner();
    let mut refused = vec![];
    while let Some(ack) = soon(acks.message()).await.unwrap() {
        refused.push((ack.id, ack.refused.is_some()));
    }
    assert_eq!(refused, [(1, true), (2, true), (3, false)]);
    let found = history(&world, admin.clone(), named.clone()).await.unwrap();
    assert_eq!(found.len(), 1);
    let theirs = LogsRequest { streams: vec!["events.stdout".into()], ..named };
    assert_eq!(history(&world, admin, theirs).await.unwrap(), ["mine"]);
}
