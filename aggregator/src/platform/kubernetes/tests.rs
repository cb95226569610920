//! The watch against a scripted API server.

use super::*;
use crate::inventory::{Presence, tests::key};
use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use serde_json::{Value, json};
use skpr_proto::{NodeName, PodUid};
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

type Lines = mpsc::Sender<Result<Bytes, Infallible>>;

/// One request of the watch: its query, and a way to answer.
struct Call {
    query: String,
    reply: tokio::sync::oneshot::Sender<http::Response<Body>>,
}

struct Server {
    calls: mpsc::Receiver<Call>,
    inventories: watch::Receiver<Arc<Inventory>>,
    told: mpsc::Receiver<event::Event>,
    known: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

fn start() -> Server {
    start_with(|_| Some(404))
}

/// `environments` says with which code the n-th request for environments fails; none lists that there are none.
fn start_with(environments: fn(usize) -> Option<u16>) -> Server {
    let (sender, calls) = mpsc::channel(16);
    let sender = Arc::new(Mutex::new(sender));
    let asked = Arc::new(AtomicUsize::new(0));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (sender, asked) = (sender.lock().unwrap().clone(), Arc::clone(&asked));
        async move {
            if request.uri().path() != "/api/v1/pods" {
                let is_environments = request.uri().path().ends_with("/environments");
                let code = match is_environments {
                    true => environments(asked.fetch_add(1, Ordering::Relaxed)),
                    // A server that knows no events about health.
                    false => Some(404),
                };
                let Some(code) = code else {
                    let end = json!({"type": "BOOKMARK", "object": {"apiVersion": "skpr.io/v1alpha1", "kind": "Environment",
                        "metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}},
                        "spec": {"project": "x", "environment": "y", "version": "v1"}}});
                    let line = Ok::<_, Infallible>(Bytes::from(format!("{end}\n")));
                    let lines = futures::stream::iter([line]).chain(futures::stream::pending());
                    return Ok(http::Response::new(Body::from_stream(lines)));
                };
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "the server could not find it", "reason": "NotFound", "code": code});
                let answer = http::Response::builder().status(code).body(Body::from(status.to_string()));
                return Ok(answer.unwrap());
            }
            let (reply, answer) = tokio::sync::oneshot::channel();
            let query = request.uri().query().unwrap_or_default().to_owned();
            sender.send(Call { query, reply }).await.unwrap();
            Ok::<_, tower::BoxError>(answer.await?)
        }
    });
    let client = Client::new(service, "default");
    let (out, inventories) = watch::channel(Arc::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (events, told) = mpsc::channel(16);
    let known: Arc<AtomicBool> = Arc::default();
    let objects = watch::channel(Arc::default()).0;
    let out = Outputs { inventory: out, objects, known: Arc::clone(&known), events };
    tasks.spawn(super::watch(client, out, stop.clone()));
    Server { calls, inventories, told, known, stop, tasks }
}

impl Server {
    async fn call(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(300), self.calls.recv()).await.unwrap().unwrap()
    }

    /// Waits until what is published is as wanted.
    async fn until(&mut self, wanted: impl FnMut(&Arc<Inventory>) -> bool) -> Arc<Inventory> {
        let found = tokio::time::timeout(Duration::from_secs(3600), self.inventories.wait_for(wanted)).await;
        found.unwrap().unwrap().clone()
    }

    /// Answers a call that lists by streaming, with these pods.
    async fn list(&mut self, pods: &[Value]) -> Lines {
        let call = self.call().await;
        assert!(call.query.contains("sendInitialEvents=true"), "{}", call.query);
        let lines = call.watch();
        for pod in pods {
            send(&lines, "ADDED", pod.clone()).await;
        }
        let end = json!({"metadata": {"resourceVersion": "10", "annotations": {"k8s.io/initial-events-end": "true"}},
            "spec": {"containers": []}, "kind": "Pod", "apiVersion": "v1"});
        send(&lines, "BOOKMARK", end).await;
        lines
    }
}

impl Call {
    fn watch(self) -> Lines {
        let (lines, stream) = mpsc::channel(64);
        let body = Body::from_stream(ReceiverStream::new(stream));
        drop(self.reply.send(http::Response::new(body)));
        lines
    }

    fn fail(self, code: u16, message: &str) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": "Invalid", "code": code});
        let response = http::Response::builder().status(code).body(Body::from(status.to_string())).unwrap();
        drop(self.reply.send(response));
    }
}

async fn send(lines: &Lines, kind: &str, object: Value) {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    lines.send(Ok(line.into())).await.unwrap();
}

fn pod(name: &str, uid: &str, project: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "sites", "uid": uid, "resourceVersion": "5",
            "labels": {"skpr.io/project": project, "skpr.io/environment": "prod"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "php", "image": "shop:1.0"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    })
}

fn claims(inventory: &Arc<Inventory>) -> Vec<String> {
    inventory.claims_of(&NodeName::parse("n1").unwrap()).iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn pods_come_change_and_go() {
    let mut server = start();
    assert!(!server.inventories.borrow().heard);
    let lines = server.list(&[pod("a", "u1", "shop"), pod("b", "u2", "shop")]).await;
    let inventory = server.until(|inventory| inventory.heard).await;
    assert_eq!(claims(&inventory), ["u1", "u2"]);
    assert_eq!(inventory.environments[&key("sites", "shop", "prod")].ready(), 2);

    let mut changed = pod("a", "u1", "shop");
    changed["status"]["conditions"][0]["status"] = json!("False");
    send(&lines, "MODIFIED", changed).await;
    server.until(|inventory| inventory.environments.values().all(|state| state.ready() == 1)).await;

    send(&lines, "DELETED", pod("a", "u1", "shop")).await;
    let gone = |count| {
        move |inventory: &Arc<Inventory>| {
            inventory.pods.values().filter(|pod| pod.presence == Presence::Gone).count() == count
        }
    };
    let inventory = server.until(gone(1)).await;
    assert_eq!(inventory.environments[&key("sites", "shop", "prod")].instances.len(), 1);
    assert_eq!(claims(&inventory), ["u1", "u2"]);
    let within = |before: Instant| {
        before.elapsed() >= pods::GRACE - TICK && before.elapsed() <= pods::GRACE + TICK * 2
    };
    let before = Instant::now();
    tokio::time::sleep(pods::GRACE / 10).await;
    send(&lines, "DELETED", pod("b", "u2", "shop")).await;
    server.until(gone(2)).await;
    // Each has its own time.
    let later = Instant::now();
    let inventory = server.until(|inventory| inventory.pods.len() == 1).await;
    assert!(within(before) && inventory.heard);
    server.until(|inventory| inventory.pods.is_empty()).await;
    assert!(within(later));

    server.stop.cancel();
    server.tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_read_stops_nothing() {
    let mut server = start();
    let mut undecodable = pod("x", "u8", "shop");
    undecodable["spec"]["containers"] = json!("many");
    let lines =
        server.list(&[undecodable.clone(), pod("wrong", "u9", "Shop_1"), pod("a", "u1", "shop")]).await;
    assert_eq!(claims(&server.until(|inventory| inventory.heard).await), ["u1"]);
    send(&lines, "MODIFIED", undecodable).await;
    send(&lines, "ADDED", pod("b", "u2", "shop")).await;
    assert_eq!(claims(&server.until(|inventory| inventory.pods.len() == 2).await), ["u1", "u2"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_asked_for_pages() {
    let mut server = start();
    server.call().await.fail(422, "ListOptions is invalid: sendInitialEvents: Forbidden");
    let call = server.call().await;
    assert!(call.query.contains("limit=500") && !call.query.contains("sendInitialEvents"), "{}", call.query);
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": [pod("a", "u1", "shop")]});
    drop(call.reply.send(http::Response::new(Body::from(list.to_string()))));
    assert_eq!(claims(&server.until(|inventory| inventory.heard).await), ["u1"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stays_broken_is_stale_until_it_is_whole() {
    let mut server = start();
    let lines = server.list(&[pod("a", "u1", "shop"), pod("b", "u2", "shop")]).await;
    server.until(|inventory| inventory.heard).await;
    drop(lines);
    let broken = Instant::now();
    let stale = loop {
        tokio::select! {
            call = server.calls.recv() => call.unwrap().fail(500, "no"),
            changed = server.inventories.changed() => {
                changed.unwrap();
                let inventory = server.inventories.borrow_and_update().clone();
                if inventory.stale {
                    break inventory;
                }
            }
        }
    };
    assert!(broken.elapsed() >= watches::STALE_AFTER);
    assert_eq!(claims(&stale), ["u1", "u2"], "what was known stays");

    // The server has forgotten where we were: everything is listed again, and what is missing is gone.
    for _ in 0..5 {
        let call = server.call().await;
        if call.query.contains("sendInitialEvents=true") {
            let lines = call.watch();
            send(&lines, "ADDED", pod("b", "u2", "shop")).await;
            let end = json!({"metadata": {"resourceVersion": "20", "annotations": {"k8s.io/initial-events-end": "true"}},
                "kind": "Pod", "apiVersion": "v1"});
            send(&lines, "BOOKMARK", end).await;
            let inventory = server.until(|inventory| !inventory.stale).await;
            let inventory = if inventory.pods[&PodUid::parse("u1").unwrap()].presence == Presence::Gone {
                inventory
            } else {
                server.until(|i| i.pods[&PodUid::parse("u1").unwrap()].presence == Presence::Gone).await
            };
            assert_eq!(inventory.pods[&PodUid::parse("u2").unwrap()].presence, Presence::Present);
            return;
        }
        let lines = call.watch();
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410});
        send(&lines, "ERROR", gone).await;
    }
    panic!("nothing was listed again");
}

/// What is published of environments at first, and after how long.
async fn first_heard(environments: fn(usize) -> Option<u16>) -> (bool, bool, bool) {
    let mut server = start_with(environments);
    let begun = Instant::now();
    let _lines = server.list(&[pod("a", "u1", "shop")]).await;
    let inventory = server.until(|inventory| inventory.heard).await;
    (begun.elapsed() >= watches::STALE_AFTER, inventory.stale, server.known.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn environments_that_cannot_be_listed_are_not_no_environments() {
    let (late, stale, known) = (true, true, true);
    assert_eq!(first_heard(|_| None).await, (!late, !stale, known));
    // One failure at the start, and a definition that is served a moment later, are waited for.
    for code in [500, 404] {
        let once: fn(usize) -> Option<u16> = match code {
            500 => |asked| (asked == 0).then_some(500),
            _ => |asked| (asked == 0).then_some(404),
        };
        assert_eq!(first_heard(once).await, (!late, !stale, known), "{code}");
    }
    assert_eq!(first_heard(|_| Some(403)).await, (late, stale, !known));
    assert_eq!(first_heard(|_| Some(404)).await, (late, !stale, known), "there are none");
}

#[tokio::test(start_paused = true)]
async fn no_pod_takes_over_or_ends_another_ones_place() {
    let mut server = start();
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name: &str, uid: &str, namespace: &str| {
        let mut pod = pod(name, uid, "shop");
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": hash});
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node"}]);
        pod
    };
    let lines = server.list(&[mirror("static-n1", "u1", "sites")]).await;
    server.until(|inventory| inventory.heard).await;
    let forged = mirror("mine", "u2", "mallory");
    send(&lines, "ADDED", forged.clone()).await;
    send(&lines, "DELETED", forged).await;
    send(&lines, "ADDED", pod("b", "u3", "shop")).await;
    let inventory = server.until(|inventory| inventory.pods.len() == 2).await;
    let held = &inventory.pods[&skpr_proto::PodUid::parse(hash).unwrap()];
    assert_eq!((&*held.instance, held.presence), ("static-n1", Presence::Present));
    assert_eq!(held.environment, key("sites", "shop", "prod"));
}

#[tokio::test(start_paused = true)]
async fn of_runs_nothing_is_known_before_their_pods_are() {
    let (inventory, objects) = (watch::channel(Arc::default()).0, watch::channel(Arc::default()).0);
    let mut known =
        Watch::new(Outputs { inventory, objects, known: Arc::default(), events: mpsc::channel(1).0 });
    for event in [Event::Init, Event::InitDone] {
        known.take(Change::Job(Box::new(Ok(event))));
    }
    assert_eq!(known.runs(Instant::now()), None);
    for event in [Event::Init, Event::InitDone] {
        known.take(Change::Pod(Box::new(Ok(event))));
    }
    assert!(known.runs(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn restarts_and_kills_are_told_of_once() {
    let mut server = start();
    let restarted = |count: u32, reason: &str| {
        let mut pod = pod("a", "u1", "shop");
        let ended = json!({"terminated": {"exitCode": 137, "reason": reason, "finishedAt": jiff::Timestamp::now().to_string()}});
        pod["status"]["containerStatuses"] = json!([{"name": "php", "ready": true, "restartCount": count, "image": "", "imageID": "",
            "state": {"running": {}}, "lastState": ended}]);
        pod
    };
    let lines = server.list(&[restarted(1, "Error")]).await;
    server.until(|inventory| inventory.heard).await;
    send(&lines, "MODIFIED", restarted(1, "Error")).await;
    send(&lines, "MODIFIED", restarted(2, "OOMKilled")).await;
    let mut ids = vec![];
    for _ in 0..3 {
        ids.push(server.told.recv().await.unwrap().body.id);
    }
    assert_eq!(ids, ["restart/u1/1", "out-of-memory/u1/2", "restart/u1/2"]);
    let inventory = server.until(|i| i.pods.values().all(|pod| pod.detail.restarts == 2)).await;
    assert_eq!(inventory.pods.values().next().unwrap().detail.out_of_memory_kills, 1);
}
