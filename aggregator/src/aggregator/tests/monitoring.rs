//! Monitoring, as a scraper sees it: over TLS, with a token.

use super::*;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate and its key.
type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

async fn connect(world: &World) -> io::Result<TlsStream<TcpStream>> {
    connect_as(world, None).await
}

async fn connect_as(world: &World, client: Option<Identity>) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(world.data.path().join("ca.crt")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(world.monitoring).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The whole answer to one request with these header lines.
pub(super) async fn get(world: &World, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    exchange(world, None, &request).await
}

/// The whole answer to a request after which the connection closes.
pub(super) async fn exchange(world: &World, client: Option<Identity>, request: &str) -> String {
    let mut stream = connect_as(world, client).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn bearer(token: &Token) -> String {
    format!("authorization: Bearer {}\r\n", token.0)
}

/// What `/metrics` says to whoever may read it.
pub(super) async fn metrics(world: &World) -> String {
    let headers = format!("{}accept: application/openmetrics-text\r\n", bearer(&world.token("admin.token")));
    get(world, "/metrics", &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_for_those_who_have_the_right_to_them() {
    let world = World::with_pods().await;
    let answer = get(&world, "/metrics", "").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"), "{answer}");
    assert!(answer.ends_with("no token was sent\n"), "{answer}");
    let agent = get(&world, "/metrics", &bearer(&world.token("agent.token"))).await;
    assert!(agent.starts_with("HTTP/1.1 401"), "{agent}");
    let reader = get(&world, "/metrics", &bearer(&world.new_token("reader", "web/*:list+logs"))).await;
    assert!(reader.starts_with("HTTP/1.1 403") && reader.ends_with("you may not read metrics\n"), "{reader}");
    let scraper = get(&world, "/metrics", &bearer(&world.new_token("prometheus", "metrics"))).await;
    assert!(scraper.starts_with("HTTP/1.1 200") && scraper.contains("\nskpr_environments 1\n"), "{scraper}");
    // Neither is a probe's answer here, nor a metric on the plain port.
    assert!(get(&world, "/readyz", "").await.starts_with("HTTP/1.1 404"));
    assert!(end::get(&world, "/metrics").await.starts_with("HTTP/1.1 404"));

    let lines = world.end().await;
    let of = |user: &str| lines.iter().find(|line| line["user"] == user).unwrap();
    assert_eq!(
        (&of("prometheus")["audit"], &of("prometheus")["decision"]),
        (&"Monitoring.Metrics".into(), &"allowed".into())
    );
    assert_eq!(of("reader")["decision"], "denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_monitoring_out() {
    let world = World::start().await;
    let mut served = connect(&world).await.unwrap();
    let token = bearer(&world.token("admin.token"));
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text\r\n{token}\r\n");
    let mut ask = async || {
        served.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        while !answer.ends_with(b"# EOF\n") {
            assert_ne!(soon(served.read_buf(&mut answer)).await.unwrap(), 0, "it was cut off");
        }
    };
    ask().await;
    let mut silent = vec![];
    for _ in 0..100 {
        silent.push(connect(&world).await.unwrap());
    }
    // Those that have got nothing had to go, the oldest first; the one that is served stays.
    assert_eq!(soon(silent[0].read(&mut [0; 1])).await.unwrap_or(0), 0);
    ask().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environments_and_containers_are_shown_in_either_format() {
    let world = World::with_pods().await;
    samples::report(&world, samples::round(100, &[("u1", 10)])).await;
    samples::report(&world, samples::round(105, &[("u1", 12)])).await;
    let token = bearer(&world.token("admin.token"));
    let openmetrics = format!("{token}accept: application/openmetrics-text;version=1.0.0\r\n");
    let answer = get(&world, "/metrics", &openmetrics).await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    let dev = "{project=\"web\",environment=\"dev\",namespace=\"sites\"}";
    for line in [
        "# UNIT skpr_environment_cpu_seconds seconds".to_owned(),
        format!("skpr_environment_cpu_seconds_total{dev} 2.000000000"),
        format!("skpr_environment_memory_limit_bytes{dev} 268435456"),
        // The other instance's node says nothing.
        format!("skpr_environment_stale_instances{dev} 1"),
        format!("skpr_environment_instances{dev} 2"),
    ] {
        assert!(answer.contains(&format!("{line}\n")), "{line} in {answer}");
    }
    assert!(!answer.contains("skpr_container"), "{answer}");

    let plain = get(&world, "/metrics/containers", &token).await;
    assert!(plain.contains("content-type: text/plain; version=0.0.4") && !plain.contains("# EOF"), "{plain}");
    let labels = "{project=\"web\",environment=\"dev\",namespace=\"sites\",instance=\"web-1\",container=\"php\",node=\"local\"}";
    assert!(plain.contains(&format!("skpr_container_cpu_seconds_total{labels} 12.000000000\n")), "{plain}");
    let shards = ["0/2", "1/2"].map(|shard| format!("/metrics/containers?shard={shard}"));
    let (first, second) = (get(&world, &shards[0], &token).await, get(&world, &shards[1], &token).await);
    assert!(first.contains("web-1") != second.contains("web-1"), "{first}\n{second}");
    let wrong = get(&world, "/metrics/containers?shard=2/2", &token).await;
    assert!(wrong.starts_with("HTTP/1.1 400") && wrong.contains("shard=INDEX/OF"), "{wrong}");

    // Its series end with the instance, and what it has used stays.
    world.publish(&[("u2", "web-2", "elsewhere")]);
    assert!(!get(&world, "/metrics/containers", &token).await.contains("web-1"));
    let used = format!("skpr_environment_cpu_seconds_total{dev} 2.000000000\n");
    assert!(get(&world, "/metrics", &token).await.contains(&used));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_that_is_described_is_in_a_scrape_and_no_other() {
    let world = World::start().await;
    let headers = format!("{}accept: application/openmetrics-text\r\n", bearer(&world.token("admin.token")));
    for path in ["/metrics", "/metrics/containers"] {
        let scrape = get(&world, path, &headers).await;
        let shown: Vec<&str> =
            scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let described = web::families().into_iter().filter(|described| described.path == path);
        assert_eq!(shown, described.map(|described| described.family.name).collect::<Vec<_>>(), "{path}");
    }
}
