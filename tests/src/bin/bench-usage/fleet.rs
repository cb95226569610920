//! What a thousand nodes cost one aggregator: thirty instances each, every five seconds, over real connections.

use crate::aggregator::Aggregator;
use crate::crowd::{Crowd, INTERVAL};
use crate::median;
use anyhow::{Context as _, ensure};
use skpr_tests::fleet::Fleet;
use skpr_tests::report::{Better, Figure};
use std::path::Path;
use std::time::{Duration, Instant};

const FLEET: Fleet = Fleet { nodes: 1000, pods_per_node: 30, instances: 10 };
const MEASURED: Duration = Duration::from_secs(60);
/// As Prometheus does by default.
const SCRAPED_EVERY: Duration = Duration::from_secs(15);
const TIMES: usize = 15;
const PATIENCE: Duration = Duration::from_secs(120);
/// What metrics-server says of itself, of a cluster's nodes: "1 mili core of CPU and 2 MB of memory for each node".
const METRICS_SERVER: &str = "metrics-server, by its README,";

pub(crate) fn measure(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let aggregator = Aggregator::start(FLEET, &work.join("data"))?;
    let mut crowd = Crowd::gather(&aggregator, FLEET)?;
    let nodes = FLEET.nodes as u64;
    skpr_tests::eventually("every node has reported twice", PATIENCE, || {
        Ok((crowd.rounds() > 2 * nodes).then_some(()))
    })
    .with_context(|| aggregator.said())?;
    crowd.check().with_context(|| aggregator.said())?;

    let (begun, cpu, rounds) = (Instant::now(), aggregator.cpu()?, crowd.rounds());
    let mut scrapes = 0;
    while begun.elapsed() < MEASURED {
        aggregator.scrape("/metrics")?;
        scrapes += 1;
        std::thread::sleep((SCRAPED_EVERY * scrapes).saturating_sub(begun.elapsed()));
    }
    let took = begun.elapsed().as_secs_f64();
    let (cores, rounds) = ((aggregator.cpu()? - cpu) / took, crowd.rounds() - rounds);
    let expected = took / INTERVAL.as_secs_f64() * nodes as f64;
    ensure!(rounds as f64 > 0.97 * expected, "only {rounds} of {expected:.0} rounds were sent");
    crowd.check().with_context(|| aggregator.said())?;

    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..TIMES {
        let (text, took) = aggregator.scrape("/metrics")?;
        size = text.len();
        times.push(took);
    }
    let scrape = median(times);
    let list = |arguments: &[&str], least: usize| -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let (text, took) = aggregator.skpr(arguments)?;
            ensure!(text.lines().count() > least, "{arguments:?} lists too little");
            ensure!(!text.contains("stale"), "{arguments:?} lists what is stale");
            times.push(took);
        }
        Ok(median(times))
    };
    let one = list(&["list", "-p", "p0"], skpr_tests::fleet::ENVIRONMENTS_PER_PROJECT)?;
    let all = list(&["list", "--all"], FLEET.environments())?;
    let resident = aggregator.most_resident()?;
    let per_node = |value: f64| value / nodes as f64;
    let of = |name: &str, value, unit| {
        Figure::new(format!("1,000 nodes × 30: {name}"), value, unit, Better::Lower)
    };
    Ok(vec![
        of("aggregator's CPU", cores, "cores").target(0.5),
        of("its CPU for each node", per_node(cores * 1000.0), "millicores").against(METRICS_SERVER, 1.0),
        of("its RSS at most", resident, "MiB").target(250.0),
        of("its RSS for each node", per_node(resident), "MiB").against(METRICS_SERVER, 2.0),
        of("/metrics", scrape, "ms").target(200.0),
        of("/metrics", size as f64 / 1024.0, "KiB"),
        of("skpr list of a project", one, "ms").target(150.0),
        of("skpr list --all, 3,000 environments", all, "ms"),
    ])
}
