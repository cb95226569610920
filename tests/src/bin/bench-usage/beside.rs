//! The agent beside others who read the same 250 cgroups, each in a cgroup of its own that counts its CPU, all at the
//! same time.
//!
//! * `cAdvisor`: its engine and its `/metrics`, CPU and memory only, each cgroup every five to ten seconds (it adds up to
//!   as much again to its interval), scraped every fifteen, as Prometheus does by default. A second agent samples nothing, and shows what the first one's samples cost.
//! * `node_exporter` reads no cgroups, but what an agent reads of the node, when it is scraped.

use crate::aggregator::{Aggregator, curl};
use crate::cgroups::{Metered, Pods};
use anyhow::{Context as _, ensure};
use skpr_tests::fleet::{Fleet, node};
use skpr_tests::report::{Better, Figure};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CONTAINERS: usize = 250;
const MEASURED: Duration = Duration::from_secs(60);
const STIRRED_EVERY: Duration = Duration::from_secs(5);
/// In stirs.
const SCRAPED_EVERY: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody else's program and where it serves what it reads.
struct Peer {
    name: &'static str,
    metered: Metered,
    url: String,
}

pub(crate) fn measure(work: &Path) -> anyhow::Result<Vec<Figure>> {
    // Two nodes, so that two agents may speak; the second one's cgroups are nowhere.
    let fleet = Fleet { nodes: 2, pods_per_node: CONTAINERS, instances: 10 };
    let pods = Pods::make(fleet.pods_of(0))?;
    let aggregator = Aggregator::start(fleet, &work.join("data"))?;
    let sampling = agent(&aggregator, 0, "5s", &pods.root(), work)?;
    let without = agent(&aggregator, 1, "0", &pods.root(), work)?;
    let cadvisor = peer("cadvisor", &["-listen", "ADDRESS", "-only", &pods.prefix()])?;
    let exporter = peer("prometheus-node-exporter", &["--web.listen-address=ADDRESS", "--log.level=error"])?;
    skpr_tests::eventually("the agent's samples arrive", PATIENCE, || {
        pods.stir()?;
        let now = &aggregator.json(&["metrics", "e0", "-p", "p0"])?["now"];
        ensure!(now["instances"] == 5 && now["cpuMillicores"].is_number(), "there is {now}");
        Ok(Some(()))
    })?;
    if let Some(peer) = &cadvisor {
        skpr_tests::eventually("cAdvisor has found the cgroups", PATIENCE, || {
            let text = curl(&peer.url)?;
            let lines = text.lines().filter(|line| line.starts_with("container_memory_usage_bytes{"));
            let known = lines.filter(|line| line.contains(&pods.prefix())).count();
            ensure!(known > 2 * CONTAINERS, "{known} are known");
            Ok(Some(()))
        })?;
    }

    let all = [
        Some(&sampling),
        Some(&without),
        cadvisor.as_ref().map(|peer| &peer.metered),
        exporter.as_ref().map(|peer| &peer.metered),
    ];
    let counters = || all.map(|metered| metered.map(Metered::cpu).transpose());
    let before = counters();
    let begun = Instant::now();
    let mut stirs = 0;
    while begun.elapsed() < MEASURED {
        if stirs % SCRAPED_EVERY == 0 {
            for peer in [&cadvisor, &exporter].into_iter().flatten() {
                curl(&peer.url)?;
            }
        }
        pods.stir()?;
        stirs += 1;
        std::thread::sleep((STIRRED_EVERY * stirs).saturating_sub(begun.elapsed()));
    }
    let took = begun.elapsed().as_secs_f64();
    ensure!(pods.used()? == CONTAINERS, "not every container has used CPU");
    let mut millicores = Vec::new();
    for (before, after) in before.into_iter().zip(counters()) {
        millicores.push(before?.zip(after?).map(|(before, after)| (after - before) / took * 1000.0));
    }
    let [Some(agent), Some(idle), of_cadvisor, of_exporter] = millicores.try_into().unwrap_or([None; 4])
    else {
        anyhow::bail!("the agents were not measured");
    };
    let per_hundred = 100.0 / CONTAINERS as f64;
    let resident = (sampling.resident()?, without.resident()?);
    let memory = |peer: Option<&Peer>| peer.map(|peer| peer.metered.resident()).transpose();

    let of = |name: &str, value, unit| Figure::new(format!("agent: {name}"), value, unit, Better::Lower);
    let beside = |figure: Figure, peer: &str, value: Option<f64>| match value {
        Some(value) => figure.against(peer, value),
        None => figure.without(format!("{peer}: not installed")),
    };
    let cpu = of("CPU of 100 containers every 5 s", agent * per_hundred, "millicores").target(1.0);
    let whole = of("CPU of 250 containers and the node", agent, "millicores");
    Ok(vec![
        beside(cpu, "cAdvisor", of_cadvisor.map(|cpu| cpu * per_hundred)),
        of("of it what samples cost", (agent - idle) * per_hundred, "millicores"),
        beside(whole, "node_exporter, the node alone", of_exporter),
        beside(of("RSS", resident.0, "MiB"), "cAdvisor", memory(cadvisor.as_ref())?),
        of("RSS that samples add", resident.0 - resident.1, "MiB").target(4.0),
    ])
}

fn agent(
    aggregator: &Aggregator,
    number: usize,
    interval: &str,
    cgroups: &Path,
    work: &Path,
) -> anyhow::Result<Metered> {
    let node = node(number)?;
    let (token, logs, state) =
        (work.join(format!("{node}.token")), work.join("pods"), work.join(format!("{node}.state")));
    std::fs::write(&token, aggregator.agent_token(node.as_str())?)?;
    std::fs::create_dir_all(&logs)?;
    let path = |path: &Path| path.display().to_string();
    let arguments = [
        "--node".to_owned(),
        node.to_string(),
        "--aggregator".to_owned(),
        aggregator.address.clone(),
        "--ca".to_owned(),
        path(&aggregator.ca),
        "--token".to_owned(),
        path(&token),
        "--logs".to_owned(),
        path(&logs),
        "--state".to_owned(),
        path(&state),
        "--cgroups".to_owned(),
        path(cgroups),
        "--usage-interval".to_owned(),
        interval.to_owned(),
    ];
    Metered::start_own(node.as_str(), "skpr-agent", &arguments)
}

/// Starts it where `scripts/setup bench-usage` has put it; none when it is not there.
fn peer(name: &'static str, arguments: &[&str]) -> anyhow::Result<Option<Peer>> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let program = cache.context("find the cache's directory")?.join("skpr-bench").join(name);
    if !program.is_file() {
        return Ok(None);
    }
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
    let arguments: Vec<String> = arguments.iter().map(|text| text.replace("ADDRESS", &address)).collect();
    let metered = Metered::start(name, &program, &arguments)?;
    let peer = Peer { name, metered, url: format!("http://{address}/metrics") };
    skpr_tests::eventually(peer.name, PATIENCE, || curl(&peer.url).map(Some))?;
    Ok(Some(peer))
}
