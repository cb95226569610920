//! `metrics.k8s.io`, as the API server asks for it: over TLS, with its front proxy's certificate.

use super::monitoring::exchange;
use super::*;
use crate::auth::front_proxy_tests::Ca;
use crate::inventory::Container;
use crate::tls::AskForCertificate;
use crate::usage::Usage;
use axum::body::Body;
use http::Response;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skpr_proto::v1::{ContainerSample, NodeSample, PodSample, Sample};

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/sites/pods";

/// Says that `ann` may list pods and get nodes, and nobody anything else.
fn reviewer() -> kube::Client {
    let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        let bytes = request.into_body().collect_bytes().await?;
        let mut review: Value = serde_json::from_slice(&bytes)?;
        let what = &review["spec"]["resourceAttributes"];
        assert_eq!(what["group"], "metrics.k8s.io");
        let allowed = review["spec"]["user"] == "ann"
            && ((what["verb"] == "list" && what["resource"] == "pods" && what["namespace"] == "sites")
                || (what["verb"] == "get" && what["resource"] == "nodes" && what["name"] == "local"));
        review["status"] = json!({"allowed": allowed});
        Ok::<_, tower::BoxError>(Response::new(Body::from(review.to_string())))
    });
    kube::Client::new(service, "default")
}

struct Served {
    world: World,
    usage: Usage,
    ca: Ca,
}

impl Served {
    async fn start() -> Served {
        let ca = Ca::new();
        let (_, front_proxies) = watch::channel(Some(Arc::new(ca.proxy(&["front-proxy"]))));
        let account =
            AgentAccount { namespace: Label::parse("namespace", "skpr").unwrap(), name: "skpr-agent".into() };
        let reviews = Reviews::new(reviewer(), account).unwrap().believing(front_proxies);
        let mut usage = None;
        let world = World::start_changed(tempfile::tempdir().unwrap(), AT_ONCE, |parts| {
            parts.auth = Auth::Kubernetes(Box::new(reviews));
            parts.monitoring.as_mut().unwrap().clients = Some(Arc::new(AskForCertificate::new()));
            usage = Some(parts.usage.clone());
        })
        .await;
        Served { world, usage: usage.unwrap(), ca }
    }

    /// Two rounds of samples of `web-1`, whose container uses half a core between them.
    fn sample(&self) {
        let labels: BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
        let pod = Pod {
            labels: Arc::new(labels),
            containers: [(
                "c1".into(),
                Container { name: Label::parse("container", "php").unwrap(), running: true },
            )]
            .into_iter()
            .collect(),
            ..pod("web-1", "local")
        };
        let pods = HashMap::from([(PodUid::parse("u1").unwrap(), pod)]);
        self.world.publish.send_replace(Arc::new(Inventory::of(pods, &BTreeMap::new())));
        for second in [100, 105] {
            let used = Some((second - 100) * 500_000_000);
            let sample =
                Sample { cpu_nanos: used, memory_working_set_bytes: Some(64 << 20), ..Sample::default() };
            let node = NodeSample {
                cores: 2,
                cpu_nanos: used,
                memory_working_set_bytes: Some(1 << 30),
                ..NodeSample::default()
            };
            let container = ContainerSample { id: "c1".into(), sample: Some(sample) };
            let pod = PodSample {
                uid: "u1".into(),
                total: Some(sample),
                containers: vec![container],
                ..PodSample::default()
            };
            let usage = v1::Usage {
                monotonic_nanos: second * 1_000_000_000,
                interval_millis: 5000,
                node: Some(node),
                pods: vec![pod],
            };
            self.usage.take(&NodeName::parse("local").unwrap(), usage);
        }
    }

    /// The code and the object of an answer.
    async fn get(
        &self,
        path: &str,
        client: Option<(CertificateDer<'static>, Vec<u8>)>,
        headers: &str,
    ) -> (u16, Value) {
        let client = client.map(|(certificate, key)| (certificate, PrivateKeyDer::try_from(key).unwrap()));
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
        let answer = exchange(&self.world, client, &request).await;
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
    }

    /// As the API server passes on what `ann` asks.
    async fn passed_on(&self, path: &str) -> (u16, Value) {
        self.get(path, Some(self.ca.client_with_key("front-proxy")), "x-remote-user: ann\r\n").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_front_proxy_is_answered() {
    let served = Served::start().await;
    served.sample();
    let masters = "x-remote-user: ann\r\nx-remote-group: system:masters\r\n";
    for path in ["/apis", PODS, "/apis/nothing"] {
        for client in
            [None, Some(served.ca.client_with_key("admin")), Some(Ca::new().client_with_key("front-proxy"))]
        {
            let (code, status) = served.get(path, client, masters).await;
            assert_eq!(
                (code, &status["kind"], &status["reason"]),
                (401, &json!("Status"), &json!("Unauthorized"))
            );
            assert_eq!(status["message"], "Unauthorized");
        }
        // The API server itself, on behalf of nobody.
        let proxy = Some(served.ca.client_with_key("front-proxy"));
        assert_eq!(served.get(path, proxy, "").await.0, 401);
    }
    served.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_read_what_they_may() {
    let served = Served::start().await;
    assert_eq!(served.passed_on(PODS).await.0, 503);
    served.sample();
    let (code, groups) = served.passed_on("/apis").await;
    assert_eq!((code, &groups["groups"][0]["name"]), (200, &json!("metrics.k8s.io")));
    let (code, pods) = served.passed_on(&format!("{PODS}?labelSelector=app%3Dweb")).await;
    assert_eq!((code, pods["items"].as_array().unwrap().len()), (200, 1), "{pods}");
    let pod = &pods["items"][0];
    let usage = json!([{"name": "php", "usage": {"cpu": "500m", "memory": "64Mi"}}]);
    assert_eq!((&pod["window"], &pod["containers"]), (&json!("5s"), &usage));
    let (_, none) = served.passed_on(&format!("{PODS}?labelSelector=app%21%3Dweb")).await;
    assert_eq!(none["items"], json!([]));
    let (code, node) = served.passed_on("/apis/metrics.k8s.io/v1beta1/nodes/local").await;
    assert_eq!((code, &node["kind"], &node["usage"]["memory"]), (200, &json!("NodeMetrics"), &json!("1Gi")));

    for (path, code, reason) in [
        (format!("{PODS}/web-1"), 403, "Forbidden"),
        ("/apis/metrics.k8s.io/v1beta1/pods".into(), 403, "Forbidden"),
        ("/apis/metrics.k8s.io/v1beta1/nodes".into(), 403, "Forbidden"),
        ("/apis/metrics.k8s.io/v2".into(), 404, "NotFound"),
        (format!("{PODS}?labelSelector=%3D"), 400, "BadRequest"),
        (format!("{PODS}?watch=true"), 405, "MethodNotAllowed"),
    ] {
        let (found, status) = served.passed_on(&path).await;
        assert_eq!(
            (found, &status["reason"], &status["code"]),
            (code, &json!(reason), &json!(code)),
            "{path}"
        );
    }
    served.world.end().await;
}
