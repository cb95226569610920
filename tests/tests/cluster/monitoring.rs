//! Debian's real Prometheus scrapes the aggregator, and finds what `skpr metrics` says.

use super::deploy::Shop;
use super::setup::root;
use super::shop::{TIMEOUT, manifest};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skpr_tests::cli::debian_program;
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use skpr_tests::scrape::Scraper;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SCRAPE: Duration = Duration::from_secs(5);
/// Two samples are so far apart, and what is compared may differ by one of them at either end: of two minutes not 2 %.
const SAMPLES: &str = "usage.interval=2s";
/// How long is scraped, unless `SKPR_SCRAPE_SECONDS` says so.
const LASTS: Duration = Duration::from_secs(150);
const JOBS: [(&str, &str); 2] = [("skpr", "/metrics"), ("skpr-containers", "/metrics/containers")];

/// The right to read metrics, for a ServiceAccount of this namespace.
pub(crate) struct Right {
    cluster: Cluster,
    name: String,
}

impl Right {
    pub(crate) fn give(cluster: &Cluster, namespace: &Namespace) -> Result<Right> {
        namespace.kubectl(&["create", "serviceaccount", "prometheus"])?;
        let name = format!("prometheus.{}", namespace.name());
        let account = format!("--serviceaccount={}:prometheus", namespace.name());
        cluster.kubectl(&["create", "clusterrolebinding", &name, "--clusterrole=skpr-metrics", &account])?;
        Ok(Right { cluster: cluster.clone(), name })
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.cluster.kubectl(&["delete", "clusterrolebinding", &self.name]).ok();
    }
}

/// A running Prometheus; it ends when this is dropped.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!(
                "Prometheus says:\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
        }
    }
}

impl Prometheus {
    /// Starts it; it scrapes both paths, with the token in a file and the CA.
    fn start(scraper: &Scraper) -> Result<Prometheus> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("token"), &scraper.token)?;
        let rules = root().join("charts/skpr/files/rules.yaml");
        let mut text = format!(
            "global: {{scrape_interval: {0}s, scrape_timeout: {0}s, evaluation_interval: {0}s}}\nrule_files: [{1}]\nscrape_configs:\n",
            SCRAPE.as_secs(),
            rules.display()
        );
        for (job, path) in JOBS {
            text += &format!(
                "  - {{job_name: {job}, metrics_path: {path}, scheme: https, honor_labels: true, \
                 authorization: {{credentials_file: token}}, tls_config: {{ca_file: {ca}, server_name: localhost}}, \
                 static_configs: [{{targets: ['{address}']}}]}}\n",
                ca = scraper.ca.display(),
                address = scraper.address
            );
        }
        fs::write(folder.path().join("prometheus.yml"), text)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new(debian_program("prometheus"))
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log"))?)
            .spawn()
            .context("start Prometheus")?;
        Ok(Prometheus { process, address, folder })
    }

    fn api(&self, path: &str, arguments: &[(&str, &str)]) -> Result<Value> {
        let encode = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        let query: Vec<String> =
            arguments.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mut stream = TcpStream::connect(self.address).context("connect to Prometheus")?;
        write!(stream, "GET /api/v1/{path}?{} HTTP/1.0\r\nHost: localhost\r\n\r\n", query.join("&"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("find the body")?;
        let answer: Value = serde_json::from_str(body).with_context(|| format!("read `{body}`"))?;
        ensure!(answer["status"] == "success", "{path} {arguments:?}: {answer}");
        Ok(answer["data"].clone())
    }

    /// What a query gives now: each result's labels and value.
    fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let data = self.api("query", &[("query", query)])?;
        let results = data["result"].as_array().context("find the results")?;
        let value = |result: &Value| {
            let value = result["value"][1].as_str().and_then(|text| text.parse().ok());
            Ok((result["metric"].clone(), value.context("read a value")?))
        };
        results.iter().map(value).collect()
    }

    fn number(&self, query: &str) -> Result<f64> {
        let results = self.query(query)?;
        ensure!(results.len() == 1, "{query}: {results:?}");
        Ok(results[0].1)
    }
}

/// Fails on whatever `promtool` has to say about a scrape.
fn lint(scraper: &Scraper, path: &str) -> Result<usize> {
    let (head, text) = scraper.ask(path, "text/plain;version=0.0.4")?;
    ensure!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200"), "{path}: {head}");
    let mut promtool = Command::new(debian_program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    promtool.stdin.take().context("open a pipe")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "{path}: {}", String::from_utf8_lossy(&said));
    Ok(text.lines().filter(|line| !line.starts_with('#')).count())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_real_prometheus_finds_what_skpr_shows() {
    let shop = Shop::install_with(&[SAMPLES]);
    let (user, site, skpr) = (&shop.user, &shop.site, &shop.skpr);
    let _right = Right::give(&skpr.cluster, skpr.namespace()).unwrap();
    let scraper = skpr.scraper("prometheus").unwrap();
    // Nobody without the right.
    skpr.namespace().kubectl(&["create", "serviceaccount", "stranger"]).unwrap();
    let stranger = skpr.scraper("stranger").unwrap();
    let (head, text) = stranger.ask("/metrics", "*/*").unwrap();
    assert!(head.contains(" 403 ") && text == "you may not read metrics\n", "{head}\n{text}");

    manifest(user, "  dev: {instances: {min: 2, max: 2}, cpu: {share: 50m, limit: 200m}}\n").unwrap();
    user.skpr(&["deploy", "dev", "steady"]).unwrap().success().unwrap();
    let lasts = std::env::var("SKPR_SCRAPE_SECONDS").ok().and_then(|text| text.parse().ok());
    let lasts = lasts.map_or(LASTS, Duration::from_secs);
    let prometheus = Prometheus::start(&scraper).unwrap();
    let of_dev = format!("{{project=\"shop\",environment=\"dev\",namespace=\"{}\"}}", site.name());
    eventually("both paths are scraped, and both instances are in them", TIMEOUT, || {
        let fresh = format!(
            "count(skpr_container_cpu_seconds_total{of_dev}) - sum(skpr_environment_stale_instances{of_dev})"
        );
        Ok((prometheus.number(&fresh)? == 2.0 && prometheus.number("sum(up)")? == 2.0).then_some(()))
    })
    .unwrap();
    let began = Instant::now();
    // Not a wait for anything: what is measured takes this long.
    std::thread::sleep(lasts);

    // No scrape failed, each brought something, and no rule has an error.
    let range = format!("[{}s]", began.elapsed().as_secs());
    let scrapes = prometheus.query(&format!("count_over_time(up{range})")).unwrap();
    let expected = (lasts.as_secs() / SCRAPE.as_secs()) as f64;
    for (job, count) in &scrapes {
        assert!((count - expected).abs() <= 1.0, "{job}: {count} scrapes, not {expected}");
    }
    assert_eq!(prometheus.number(&format!("min(min_over_time(up{range}))")).unwrap(), 1.0);
    let samples = prometheus.query(&format!("min_over_time(scrape_samples_scraped{range})")).unwrap();
    assert!(samples.len() == 2 && samples.iter().all(|(_, samples)| *samples > 10.0), "{samples:?}");
    let longest = prometheus.number(&format!("max(max_over_time(scrape_duration_seconds{range}))")).unwrap();
    let targets = prometheus.api("targets", &[("state", "active")]).unwrap();
    for target in targets["activeTargets"].as_array().unwrap() {
        assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    }
    let rules = prometheus.api("rules", &[]).unwrap();
    let rules: Vec<&Value> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    // They take all CPU that they may have: that is seen, and waits for its time.
    let throttled = rules.iter().find(|rule| rule["name"] == "SkprThrottled").unwrap();
    assert_ne!(throttled["state"], "inactive", "{throttled}");

    // The rate, and what skpr says of the same time.
    let rate =
        prometheus.number(&format!("sum(rate(skpr_environment_cpu_seconds_total{of_dev}{range}))")).unwrap();
    let by_container =
        prometheus.number(&format!("sum(rate(skpr_container_cpu_seconds_total{of_dev}{range}))")).unwrap();
    let since = format!("{}s", began.elapsed().as_secs());
    let stdout = user.skpr(&["metrics", "dev", "-o", "json", "--since", &since, "--interval", "10s"]);
    let answer: Value = serde_json::from_str(&stdout.unwrap().success().unwrap().stdout).unwrap();
    let points: Vec<f64> = answer["points"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|point| point["cpuMillicores"].as_f64())
        .collect();
    let ours = points.iter().sum::<f64>() / points.len() as f64 / 1000.0;
    let counts: Vec<f64> = scrapes.iter().map(|(_, count)| *count).collect();
    let (series, lines) =
        (lint(&scraper, "/metrics").unwrap(), lint(&scraper, "/metrics/containers").unwrap());
    eprintln!(
        "{lasts:?}: {counts:?} scrapes, none failed, the longest {:.0} ms; {series} and {lines} series, promtool has nothing to say\n\
         CPU: Prometheus {rate:.4} cores ({by_container:.4} by container), skpr metrics {ours:.4}: {:+.2} %",
        longest * 1000.0,
        (rate / ours - 1.0) * 100.0
    );
    assert!((rate / ours - 1.0).abs() < 0.02, "{rate} {ours} {points:?}");
    assert!((by_container / ours - 1.0).abs() < 0.02, "{by_container} {ours}");

    // A pod that is killed takes its series along.
    let pod = site.pods("skpr.io/environment=dev").unwrap().remove(0);
    let of_pod = format!("count({{__name__=~\"skpr_container_.*\",instance=\"{pod}\"}})");
    let before = prometheus.number(&of_pod).unwrap();
    assert!(before >= 8.0, "{before} series");
    let total = format!("skpr_environment_cpu_seconds_total{of_dev}");
    let used = prometheus.number(&total).unwrap();
    site.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"]).unwrap();
    let killed = Instant::now();
    eventually("its series have ended", 2 * SCRAPE + Duration::from_secs(2), || {
        Ok(prometheus.query(&of_pod)?.is_empty().then_some(()))
    })
    .unwrap();
    eprintln!("{before} series of a killed pod ended within {:.1?}, {SCRAPE:?} a scrape", killed.elapsed());
    // What the environment has used goes on from there.
    assert!(prometheus.number(&total).unwrap() >= used);
    assert_eq!(
        prometheus.number(&format!("resets(skpr_environment_cpu_seconds_total{of_dev}[10m])")).unwrap(),
        0.0
    );
}
