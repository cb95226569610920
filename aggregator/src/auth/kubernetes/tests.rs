//! Against an API server that is a function: it answers reviews from a table and counts them.

use super::*;
use crate::auth::tests::key;
use crate::auth::{Auth, Grant, Standing};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use skpr_proto::EnvironmentName;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::metadata::MetadataMap;

/// Answers one review: the body asked, the body answered.
type Answer = fn(&Value) -> (StatusCode, Value);

fn server(answer: Answer) -> (Auth, Arc<Mutex<Vec<Value>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let log = Arc::clone(&log);
        async move {
            let bytes = request.into_body().collect_bytes().await.unwrap();
            let review: Value = serde_json::from_slice(&bytes).unwrap();
            let (status, body) = answer(&review);
            log.lock().unwrap().push(review);
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    let account =
        AgentAccount { namespace: Label::parse("namespace", "skpr").unwrap(), name: "skpr-agent".into() };
    let reviews = Reviews::new(Client::new(service, "default"), account).unwrap();
    (Auth::Kubernetes(Box::new(reviews)), asked)
}

fn metadata(token: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    metadata
}

fn reviewed(review: &Value, status: Value) -> (StatusCode, Value) {
    let mut answer = review.clone();
    answer["status"] = status;
    (StatusCode::CREATED, answer)
}

/// `dev` may read and see web/dev in `a`; `lister` may see all of `b`; `admin` everything; agents are agents.
fn cluster(review: &Value) -> (StatusCode, Value) {
    let spec = &review["spec"];
    if review["kind"] == "TokenReview" {
        let audience = spec["audiences"][0].as_str().unwrap();
        let user =
            |name: &str| json!({"authenticated": true, "audiences": [audience], "user": {"username": name}});
        return reviewed(
            review,
            match (spec["token"].as_str().unwrap(), audience) {
                ("other-audience", _) => {
                    json!({"authenticated": true, "audiences": ["kubernetes"], "user": {"username": "dev"}})
                }
                ("no-audience", _) => json!({"authenticated": true, "user": {"username": "dev"}}),
                (agent, "skpr-aggregator") if agent.starts_with("agent-") => json!({
                    "authenticated": true, "audiences": [audience],
                    "user": {"username": "system:serviceaccount:skpr:skpr-agent",
                             "extra": {"authentication.kubernetes.io/node-name": [&agent[6..]]}},
                }),
                ("unbound", "skpr-aggregator") => user("system:serviceaccount:skpr:skpr-agent"),
                ("impostor", "skpr-aggregator") => user("system:serviceaccount:evil:skpr-agent"),
                (name @ ("dev" | "deployer" | "lister" | "admin" | "runner" | "half" | "keeper"), "skpr") => {
                    user(name)
                }
                _ => json!({"authenticated": false, "error": "no"}),
            },
        );
    }
    if !spec["nonResourceAttributes"].is_null() {
        assert_eq!(spec["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
        return reviewed(review, json!({"allowed": spec["user"] == "admin"}));
    }
    let what = &spec["resourceAttributes"];
    let part = |name: &str| what[name].as_str().unwrap_or("");
    let namespaces = (part("group"), part("resource"), part("verb"), part("namespace"));
    let is_pods = (part("group"), part("resource"), part("subresource")) == ("", "pods", "exec");
    assert!(
        part("group") == "skpr.io" || namespaces == ("", "namespaces", "create", "") || is_pods,
        "{what}"
    );
    let asked = (part("verb"), part("namespace"), part("subresource"), part("name"));
    let allowed = match spec["user"].as_str().unwrap() {
        "admin" => true,
        "runner" if is_pods => part("namespace") == "a",
        "runner" | "half" => matches!(asked, ("create", "a" | "b", "exec" | "files", "web.dev")),
        "keeper" => matches!(asked, ("create", "a", "cron", "web.dev")),
        "dev" => matches!(asked, ("get", "a", "" | "logs", "web.dev")),
        "deployer" => matches!(asked, ("create", "a", "deploy", "web.dev") | ("delete", "a", "", "web.dev")),
        "lister" => matches!(asked, ("list", "b", "", "")),
        _ => false,
    };
    reviewed(review, json!({"allowed": allowed}))
}

async fn user(auth: &Auth, token: &str) -> Arc<User> {
    auth.user(&metadata(token)).await.unwrap()
}

async fn grant(
    auth: &Auth,
    token: &str,
    candidates: &[EnvironmentKey],
) -> Result<Grant<crate::auth::ReadLogs>, Failure> {
    let name = EnvironmentName::parse("web", "dev").unwrap();
    let candidates = candidates.iter().map(|key| (key.clone(), Standing::Runs)).collect();
    auth.grant(&user(auth, token).await, &name, &candidates).await
}

#[tokio::test]
async fn to_run_something_and_to_reach_files_takes_the_right_on_the_environment_and_on_pods() {
    let name = EnvironmentName::parse("web", "dev").unwrap();
    for (who, namespace, may) in [
        ("runner", "a", true),
        ("runner", "b", false),
        ("half", "a", false),
        ("dev", "a", false),
        ("admin", "b", true),
    ] {
        let (auth, _) = server(cluster);
        let candidates = [(key(namespace, "web", "dev"), Standing::Runs)].into();
        let user = user(&auth, who).await;
        let granted = auth.grant::<crate::auth::Exec>(&user, &name, &candidates).await;
        assert_eq!(granted.is_ok(), may, "{who} {namespace}");
        let files = auth.grant::<crate::auth::Files>(&user, &name, &candidates).await;
        assert_eq!(files.is_ok(), may, "{who} {namespace}");
        if who != "dev" && !may {
            // Whoever may not even see it is told the same as of one that is not there.
            let missing = auth.grant::<crate::auth::Exec>(&user, &name, &Default::default()).await;
            assert_eq!(granted.unwrap_err(), missing.unwrap_err());
        }
    }
}

#[tokio::test]
async fn to_look_after_tasks_takes_a_right_of_its_own_and_none_on_pods() {
    let name = EnvironmentName::parse("web", "dev").unwrap();
    for (who, namespace, may) in [
        ("keeper", "a", true),
        ("keeper", "b", false),
        ("deployer", "a", false),
        ("runner", "a", false),
        ("dev", "a", false),
        ("admin", "b", true),
    ] {
        let (auth, asked) = server(cluster);
        let candidates = [(key(namespace, "web", "dev"), Standing::Managed)].into();
        let user = user(&auth, who).await;
        let granted = auth.grant::<crate::auth::Cron>(&user, &name, &candidates).await;
        assert_eq!(granted.is_ok(), may, "{who} {namespace}");
        let pods = |review: &Value| review["spec"]["resourceAttributes"]["resource"] == "pods";
        assert!(!asked.lock().unwrap().iter().any(pods));
        if let Ok(grant) = granted {
            assert_eq!(auth.recheck_grant(&grant).await, Ok(()));
        }
    }
}

#[tokio::test]
async fn a_token_counts_only_for_its_audience() {
    let (auth, _) = server(cluster);
    assert_eq!(user(&auth, "dev").await.name, "dev");
    for token in ["unknown", "other-audience", "no-audience", "agent-n1"] {
        let failure = auth.user(&metadata(token)).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotLoggedIn, "{token}");
        assert!(failure.hint.unwrap().contains("skpr login"));
    }
}

#[tokio::test]
async fn an_agent_is_bound_to_the_node_in_its_token() {
    let (auth, _) = server(cluster);
    let agent = auth.agent(&metadata("agent-n1")).await.unwrap();
    assert_eq!(agent.node.as_str(), "n1");
    assert_eq!(auth.recheck_agent(&agent).await, Ok(()));
    for (token, kind) in [
        ("dev", ErrorKind::NotLoggedIn),
        ("unbound", ErrorKind::NotAllowed),
        ("impostor", ErrorKind::NotAllowed),
        ("agent-Not A Node", ErrorKind::NotAllowed),
    ] {
        assert_eq!(auth.agent(&metadata(token)).await.unwrap_err().kind, kind, "{token}");
    }
}

#[tokio::test]
async fn a_grant_follows_rbac_and_hides_what_is_forbidden() {
    let (auth, _) = server(cluster);
    let (a, b) = (key("a", "web", "dev"), key("b", "web", "dev"));
    // One of two is allowed: that one is meant.
    let granted = grant(&auth, "dev", &[a.clone(), b.clone()]).await.unwrap();
    assert_eq!((granted.environment(), granted.user().name.as_str()), (&a, "dev"));
    assert_eq!(grant(&auth, "admin", &[a.clone(), b.clone()]).await.unwrap_err().kind, ErrorKind::Usage);
    // Forbidden and unknown, to one who may not list everything and to one who may.
    let forbidden = grant(&auth, "lister", &[a]).await.unwrap_err();
    assert_eq!(forbidden.kind, ErrorKind::NotAllowed);
    assert_eq!(grant(&auth, "lister", &[]).await.unwrap_err(), forbidden);
    assert_eq!(grant(&auth, "admin", &[]).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_new_environment_is_asked_for_where_it_would_be() {
    let (auth, _) = server(cluster);
    let (a, b) = (key("a", "web", "dev"), key("b", "web", "dev"));
    let managed = |key: &EnvironmentKey| [(key.clone(), Standing::Managed)].into();
    let none = Default::default();
    let deployer = user(&auth, "deployer").await;
    let made = auth.grant_deploy(&deployer, &a, &none).await.unwrap();
    assert_eq!((made.environment(), made.makes_namespace()), (&a, false));
    // One elsewhere, which the caller may not change, keeps nobody from a namespace of their own.
    assert_eq!(auth.grant_deploy(&deployer, &a, &managed(&b)).await.unwrap().environment(), &a);
    assert_eq!(auth.grant_deploy(&deployer, &b, &managed(&a)).await.unwrap().environment(), &a);
    let failure = auth.grant_namespace(made).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotAllowed);
    assert!(failure.message.contains("`a`"), "{failure}");
    for (token, home) in [("deployer", &b), ("dev", &a), ("lister", &b)] {
        let user = user(&auth, token).await;
        let unknown = auth.grant_deploy(&user, home, &none).await.unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::NotAllowed, "{token}");
    }
    let lister = user(&auth, "lister").await;
    let exists = auth.grant_deploy(&lister, &b, &managed(&b)).await.unwrap_err();
    assert_eq!(exists, auth.grant_deploy(&lister, &b, &none).await.unwrap_err());
    let admin = user(&auth, "admin").await;
    let made = auth.grant_deploy(&admin, &b, &none).await.unwrap();
    assert!(auth.grant_namespace(made).await.unwrap().makes_namespace());
    let right: Grant<crate::auth::Delete> = auth.grant(&deployer, &a.name, &managed(&a)).await.unwrap();
    assert_eq!(auth.recheck_grant(&right).await, Ok(()));
    assert!(auth.further::<crate::auth::ReadLogs, _>(&right).await.unwrap().is_none());
}

#[tokio::test]
async fn each_sees_what_they_may_see() {
    let (auth, _) = server(cluster);
    let all = BTreeSet::from([key("a", "web", "dev"), key("a", "web", "prod"), key("b", "shop", "prod")]);
    for (token, expected) in [
        ("admin", all.clone()),
        ("dev", BTreeSet::from([key("a", "web", "dev")])),
        ("lister", BTreeSet::from([key("b", "shop", "prod")])),
    ] {
        let user = user(&auth, token).await;
        assert_eq!(auth.visible(&user, all.clone()).await, Ok(expected), "{token}");
    }
}

#[tokio::test]
async fn answers_are_remembered_yes_and_no() {
    let (auth, asked) = server(cluster);
    for _ in 0..3 {
        grant(&auth, "dev", &[key("a", "web", "dev")]).await.unwrap();
        auth.user(&metadata("unknown")).await.unwrap_err();
    }
    assert_eq!(asked.lock().unwrap().len(), 3, "a token, a right, an unknown token");
}

#[tokio::test]
async fn an_api_server_in_trouble_lets_nobody_in_and_is_asked_again() {
    let (auth, asked) = server(|_| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcd", "code": 500});
        (StatusCode::INTERNAL_SERVER_ERROR, status)
    });
    for _ in 0..2 {
        let failure = auth.user(&metadata("dev")).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Unavailable);
        assert!(!failure.message.contains("etcd"), "internals stay in the log");
    }
    assert!(asked.lock().unwrap().len() >= 2);
}

async fn monitor(auth: &Auth, token: &str) -> Result<(), Failure> {
    let user = auth.scraper(metadata(token).as_ref()).await?;
    auth.monitor(&user).await.map(drop)
}

#[tokio::test]
async fn metrics_are_for_those_whom_rbac_lets_read_them() {
    let (auth, _) = server(cluster);
    monitor(&auth, "admin").await.unwrap();
    assert_eq!(monitor(&auth, "lister").await.unwrap_err().kind, ErrorKind::NotAllowed);
    let unknown = monitor(&auth, "unknown").await.unwrap_err();
    assert_eq!((unknown.kind, unknown.hint), (ErrorKind::NotLoggedIn, None));
}

/// What the API server of [`in_trouble`] does.
static TROUBLE: Mutex<Option<StatusCode>> = Mutex::new(None);

fn in_trouble(review: &Value) -> (StatusCode, Value) {
    let trouble = *TROUBLE.lock().unwrap();
    trouble.map_or_else(
        || cluster(review),
        |status| {
            (status, json!({"kind": "Status", "status": "Failure", "message": "no", "code": status.as_u16()}))
        },
    )
}

#[tokio::test(start_paused = true)]
async fn while_kubernetes_cannot_be_asked_and_only_then_its_last_yes_counts_for_monitoring() {
    let (auth, _) = server(in_trouble);
    let trouble = |status| *TROUBLE.lock().unwrap() = status;
    monitor(&auth, "admin").await.unwrap();
    assert!(monitor(&auth, "lister").await.is_err());
    let kind = async |token| monitor(&auth, token).await.err().map(|failure| failure.kind);
    // To be told that one may not ask is an answer.
    tokio::time::advance(KEEP).await;
    trouble(Some(StatusCode::FORBIDDEN));
    assert_eq!(kind("admin").await, Some(ErrorKind::Unavailable));
    trouble(Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(kind("admin").await, None);
    for stranger in ["lister", "deployer"] {
        assert_eq!(kind(stranger).await, Some(ErrorKind::Unavailable), "{stranger}");
    }
    // Nobody else gets by on it.
    assert!(auth.user(&metadata("admin")).await.is_err());
    tokio::time::advance(ALLOWANCE - KEEP - Duration::from_secs(1)).await;
    assert_eq!(kind("admin").await, None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(kind("admin").await, Some(ErrorKind::Unavailable));
    trouble(None);
    assert_eq!(kind("admin").await, None);
}

#[tokio::test(start_paused = true)]
async fn strangers_cannot_make_the_api_server_review_without_limit() {
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counting, peak) = (Arc::clone(&under_way), Arc::clone(&most));
    // It never answers.
    let service = tower::service_fn(move |_: Request<Body>| {
        let (counting, peak) = (Arc::clone(&counting), Arc::clone(&peak));
        async move {
            peak.fetch_max(counting.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        }
    });
    let account =
        AgentAccount { namespace: Label::parse("namespace", "skpr").unwrap(), name: "skpr-agent".into() };
    let auth = Auth::Kubernetes(Box::new(Reviews::new(Client::new(service, "default"), account).unwrap()));
    let started = tokio::time::Instant::now();
    let calls = (0..2000).map(|i| {
        let token = metadata(&format!("random-{i}"));
        let auth = &auth;
        async move { auth.user(&token).await.unwrap_err().kind }
    });
    let kinds = futures::future::join_all(calls).await;
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Unavailable));
    assert_eq!(most.load(Ordering::Relaxed), TOKEN_REVIEWS);
    assert!(started.elapsed() <= REVIEW_TIMEOUT, "{:?}", started.elapsed());
}
