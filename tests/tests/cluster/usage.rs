//! What skpr says that an instance uses, beside what the kernel and the kubelet say.

use super::deploy::Shop;
use super::monitoring::Right;
use super::shop::{TIMEOUT, manifest};
use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use skpr_tests::cluster::Breakable;
use skpr_tests::eventually;
use skpr_tests::scrape::value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often samples are taken, as the chart has it.
const ROUND_MILLIS: i64 = 5000;
/// What skpr may be off over a minute.
const MOST_OFF: f64 = 0.02;
/// The kernel charges memory to a cgroup by so many pages at once: one CPU's share of it.
const PAGE_SET: f64 = 64.0 * 4096.0;

/// The kernel's own counter of a pod's CPU time, looked at all the time.
struct Counter {
    seen: Arc<Mutex<Vec<(i64, f64)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Counter {
    /// The nodes of our own cluster have this machine's kernel, so that their cgroups are to be seen here.
    fn of_pod(uid: &str) -> Result<Counter> {
        let (file, unit) = find(uid)?;
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let before = now();
                if let Ok(nanos) = read(&file, unit) {
                    let at = i64::midpoint(before, now());
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push((at, nanos));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Counter { seen, stop, thread: Some(thread) })
    }

    /// What it was at a time.
    fn at(&self, time: i64) -> f64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let after = seen.partition_point(|(at, _)| *at < time);
        let ((before, low), (after, high)) = (seen[after - 1], seen[after]);
        low + (high - low) * (time - before) as f64 / (after - before).max(1) as f64
    }

    /// Thousandths of a core between two times.
    fn millicores(&self, from: i64, until: i64) -> f64 {
        (self.at(until) - self.at(from)) / (until - from) as f64 / 1e3
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The file with the counter of a pod's own cgroup, of either version, and its unit in nanoseconds.
fn find(uid: &str) -> Result<(PathBuf, f64)> {
    for (name, uid, unit) in
        [("cpuacct.usage", uid.to_owned(), 1.0), ("cpu.stat", uid.replace('-', "_"), 1e3)]
    {
        let like = format!("*pod{uid}*");
        let output = Command::new("find").args(["/sys/fs/cgroup", "-path", &like, "-name", name]).output()?;
        let found = String::from_utf8(output.stdout)?;
        if let Some(shortest) = found.lines().min_by_key(|path| path.len()) {
            return Ok((PathBuf::from(shortest), unit));
        }
    }
    anyhow::bail!("the pod `{uid}` has no cgroup here")
}

fn read(file: &Path, unit: f64) -> Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let number = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap_or(&text);
    Ok(number.trim().parse::<f64>()? * unit)
}

/// Milliseconds since the Unix epoch.
fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// What `skpr metrics` says of the environment `dev`.
fn metrics(shop: &Shop, arguments: &[&str]) -> Result<Value> {
    let stdout = shop.user.skpr(&[&["metrics", "dev", "-o", "json"], arguments].concat())?.success()?.stdout;
    serde_json::from_str(&stdout).context("read the answer")
}

/// A sample as skpr shows it: when it came, and the CPU since the one before.
#[derive(Clone, Copy)]
struct Seen {
    at: i64,
    millicores: f64,
}

fn latest(shop: &Shop) -> Result<Seen> {
    let asked = now();
    let answer = metrics(shop, &[])?;
    // The answer is from some moment of the call.
    let answered = i64::midpoint(asked, now());
    let age = answer["now"]["ageMilliseconds"].as_i64().context("find the age")?;
    let millicores = answer["now"]["cpuMillicores"].as_f64().context("find the CPU")?;
    Ok(Seen { at: answered - age, millicores })
}

fn timestamp(millis: i64) -> String {
    Timestamp::from_millisecond(millis).unwrap().to_string()
}

/// Deploys a version to `dev`; the name, node and UID of its one pod.
fn deploy(shop: &Shop, version: &str, most: &str) -> (String, String, String) {
    manifest(&shop.user, &format!("  dev: {{memory: {{min: 16Mi, max: {most}}}}}\n")).unwrap();
    shop.user.skpr(&["deploy", "dev", version]).unwrap().success().unwrap();
    let pod = shop.site.pods("skpr.io/environment=dev").unwrap().pop().unwrap();
    let of_pod = |path: &str| shop.site.field(&format!("pod/{pod}"), path).unwrap();
    let (node, uid) = (of_pod(".spec.nodeName"), of_pod(".metadata.uid"));
    (pod, node, uid)
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn cpu_over_a_minute_is_what_the_kernel_counted() {
    let shop = Shop::together();
    let what = "CPU time as the nodes' kernel counts it";
    if shop.skpr.cluster.breakable_for(what).is_none() {
        return;
    }
    // Busy for one second of two, so that a window that is off by a second shows.
    let (_, _, uid) = deploy(&shop, "busy", "32Mi");
    let counter = Counter::of_pod(&uid).unwrap();
    let first = eventually("there are two samples", TIMEOUT, || latest(&shop).map(Some)).unwrap();

    // About a minute, whose edges are not where samples come: history cuts at multiples of its interval.
    let clear = |edge: i64| (400..ROUND_MILLIS - 400).contains(&(edge - first.at).rem_euclid(ROUND_MILLIS));
    let range = |step: i64| {
        let since = ((now() + 2 * ROUND_MILLIS) / step + 1) * step;
        (since, since + step)
    };
    let ranges = (60..68).map(|seconds| range(seconds * 1000));
    let (since, until) = ranges.filter(|(since, until)| clear(*since) && clear(*until)).min().unwrap();
    let mut samples = vec![first];
    eventually("the minute is over", Duration::from_secs(180), || {
        let seen = latest(&shop)?;
        if samples.last().is_none_or(|last| seen.at - last.at > ROUND_MILLIS / 2) {
            samples.push(seen);
        }
        Ok((seen.at > until).then_some(()))
    })
    .unwrap();

    // What history says of the range is about the time from the last sample before it to the last one in it.
    let last_before = |edge: i64| samples.iter().rposition(|seen| seen.at < edge).unwrap();
    let (from, to) = (last_before(since), last_before(until));
    let rounds = &samples[from..=to];
    let (begun, ended) = (samples[from].at, samples[to].at);
    assert!((12..=14).contains(&(to - from)), "{} rounds in {} ms", to - from, ended - begun);
    let kernel = counter.millicores(begun, ended);
    let live =
        rounds.windows(2).map(|pair| pair[1].millicores * (pair[1].at - pair[0].at) as f64).sum::<f64>()
            / (ended - begun) as f64;
    let interval = format!("{}s", (until - since) / 1000);
    let answer = metrics(
        &shop,
        &["--since", &timestamp(since), "--until", &timestamp(until), "--interval", &interval],
    );
    let answer = answer.unwrap();
    assert_eq!(answer["points"].as_array().map(Vec::len), Some(1), "{answer}");
    let history = answer["points"][0]["cpuMillicores"].as_f64().unwrap();
    let off = |value: f64| value / kernel - 1.0;
    eprintln!(
        "CPU over {:.1} s: the kernel {kernel:.1} m, skpr live {live:.1} m ({:+.2} %), history {history:.1} m ({:+.2} %)",
        (ended - begun) as f64 / 1e3,
        off(live) * 100.0,
        off(history) * 100.0
    );
    assert!(kernel > 200.0 && off(live).abs() < MOST_OFF && off(history).abs() < MOST_OFF);
    let usage = &answer["now"];
    assert_eq!((usage["memoryLimitBytes"].as_u64(), usage["instances"].as_u64()), (Some(32 << 20), Some(1)));
    assert_eq!(usage["cpuShareMillicores"].as_u64(), Some(50), "{usage}");
    let listed = shop.user.skpr(&["list"]).unwrap().success().unwrap().stdout;
    assert!(listed.contains("/0.05"), "{listed}");
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn memory_that_has_grown_is_what_the_kubelet_says() {
    let shop = Shop::together();
    let (pod, node, _) = deploy(&shop, "growing", "320Mi");
    let kubelet = || -> Result<f64> {
        let raw = shop.skpr.cluster.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/nodes/{node}/proxy/stats/summary"),
        ])?;
        let summary: Value = serde_json::from_str(&raw)?;
        let pods = summary["pods"].as_array().context("find the pods")?;
        let found =
            pods.iter().find(|other| other["podRef"]["name"] == pod.as_str()).context("find the pod")?;
        found["containers"][0]["memory"]["workingSetBytes"].as_f64().context("find the working set")
    };
    // It has grown when it stands still; the kubelet looks every ten seconds or so, and we every five.
    let (ours, kubelet) = eventually("the kubelet says the same", TIMEOUT, || {
        let ours =
            metrics(&shop, &[])?["now"]["memoryWorkingSetBytes"].as_f64().context("find the working set")?;
        let kubelet = kubelet()?;
        ensure!(ours >= 200.0 * f64::from(1 << 20), "skpr says {ours}");
        ensure!((ours - kubelet).abs() <= PAGE_SET, "skpr says {ours}, the kubelet {kubelet}");
        Ok(Some((ours, kubelet)))
    })
    .unwrap();
    eprintln!("working set: skpr {ours} bytes, the kubelet {kubelet}");
}

/// Waits until a sample that was taken after this moment counts so many kills.
#[track_caller]
fn counted(shop: &Shop, kills: u64) {
    let since = now();
    eventually(&format!("{kills} kills are counted"), TIMEOUT, || {
        let asked = now();
        let answer = metrics(shop, &["--since", "30m"])?;
        let age = answer["now"]["ageMilliseconds"].as_i64().context("find the age")?;
        ensure!(asked - age > since, "the sample is old: {answer}");
        let counted = answer["now"]["outOfMemoryKills"].as_u64();
        ensure!(counted == Some(kills), "{counted:?} are");
        // History knows them as what was added in its intervals.
        let points = answer["points"].as_array().context("find the points")?;
        let added = points.iter().filter_map(|point| point["outOfMemoryKills"].as_u64()).sum::<u64>();
        ensure!(added == kills, "history has {added}");
        Ok(Some(()))
    })
    .unwrap();
}

/// Kills a program of ours on a node, and waits until it was started again.
fn restart(shop: &Shop, own: Breakable<'_>, (pod, node): (&str, &str), process: &str) {
    let restarts = || -> Result<u64> {
        let count = shop
            .skpr
            .namespace()
            .field(&format!("pod/{pod}"), ".status.containerStatuses[0].restartCount")?;
        count.parse().with_context(|| format!("read `{count}`"))
    };
    let before = restarts().unwrap();
    own.kill(node, process).unwrap();
    eventually(&format!("{process} is started again"), TIMEOUT, || Ok((restarts()? > before).then_some(())))
        .unwrap();
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn three_kills_count_three_across_restarts() {
    let shop = Shop::install();
    let cluster = shop.skpr.cluster.clone();
    let what = "kills for memory, counted while our programs are killed";
    let Some(own) = cluster.breakable_for(what) else { return };
    let (pod, node, _) = deploy(&shop, "fragile", "32Mi");
    let in_pod = |command: &[&str]| {
        // What is killed, or ends with its container, fails.
        shop.site.kubectl(&[&["exec", &pod, "-c", "app", "--"], command].concat()).ok();
    };
    let agents = shop.skpr.namespace();
    let agent = ["get", "pods", "-l", "app.kubernetes.io/name=skpr-agent", "--field-selector"];
    let on_node = format!("spec.nodeName={node}");
    let agent = agents
        .kubectl(&[&agent[..], &[&on_node, "-o", "jsonpath={.items[0].metadata.name}"]].concat())
        .unwrap();
    counted(&shop, 0);
    // A killed aggregator loses what it has not written yet, and then knows of a kill only by a sample before it.
    let _right = Right::give(&cluster, shop.skpr.namespace()).unwrap();
    let scraper = shop.skpr.scraper("prometheus").unwrap();
    let written = || -> Result<Option<f64>> {
        Ok(value(&scraper.get("/metrics")?, "skpr_usage_samples_total{outcome=\"kept\"}"))
    };
    let before = written().unwrap().unwrap_or_default();
    eventually("samples are written", TIMEOUT, || Ok(written()?.filter(|written| *written > before)))
        .unwrap();

    // The first process, which is the end of the container; then a child, which its parent survives.
    in_pod(&["kill", "-USR1", "1"]);
    eventually("the container is started again", TIMEOUT, || {
        let status = shop.site.field(&format!("pod/{pod}"), ".status.containerStatuses[0]")?;
        let status: Value = serde_json::from_str(&status)?;
        Ok((status["restartCount"] == 1 && status["ready"] == true).then_some(()))
    })
    .unwrap();
    counted(&shop, 1);
    restart(&shop, own, (&agent, &node), "skpr-agent");
    counted(&shop, 1);
    in_pod(&["tail", "/dev/zero"]);
    counted(&shop, 2);
    let (aggregator, on) = shop.skpr.aggregator().unwrap();
    restart(&shop, own, (&aggregator, &on), "skpr-aggregator");
    counted(&shop, 2);
    in_pod(&["tail", "/dev/zero"]);
    counted(&shop, 3);
    let listed = metrics(&shop, &[]).unwrap();
    assert_eq!(listed["now"]["restarts"].as_u64(), Some(1), "{listed}");
}
