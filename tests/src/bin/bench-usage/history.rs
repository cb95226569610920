//! Thirty days of a sample every five seconds of a hundred instances: what they take on disk, and how long a question
//! about all of them takes.
//!
//! The rows go through the store itself, hour by hour, so that the files are those of an aggregator that has run for
//! thirty days.

use crate::aggregator::Aggregator;
use crate::median;
use anyhow::{Context as _, ensure};
use skpr_aggregator::usage::{Amount, Counts, History, Options, Row};
use skpr_tests::fleet::{Fleet, environment};
use skpr_tests::numbers::Numbers;
use skpr_tests::report::{Better, Figure};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FLEET: Fleet = Fleet { nodes: 10, pods_per_node: 10, instances: 100 };
const DAYS: i64 = 30;
const STEP_MILLIS: i64 = 5000;
const HOUR_MILLIS: i64 = 3_600_000;
const TIMES: usize = 11;
const PATIENCE: Duration = Duration::from_secs(300);
const SEED: u64 = 5;

/// An instance as it goes on: a site with visitors by day, that is restarted now and then.
struct Instance {
    name: Arc<str>,
    counters: [u64; 5],
    pages: u64,
}

impl Instance {
    fn row(&mut self, time: i64, numbers: &mut Numbers) -> Row {
        let [cpu, periods, throttled, kills, restarts] = &mut self.counters;
        // More by day than by night, in thousandths of a core.
        let hour = (time / HOUR_MILLIS % 24 - 12).unsigned_abs();
        let busy = numbers.below(40 + 30 * (12 - hour));
        *cpu += busy * 5_000_000 + numbers.below(1_000_000);
        *periods += 50;
        *throttled += u64::from(busy > 300) * numbers.below(10);
        self.pages = (self.pages + numbers.below(65)).saturating_sub(32).clamp(20_000, 200_000);
        if numbers.below(200_000) == 0 {
            (*kills, *restarts) = (*kills + 1, *restarts + 1);
            self.pages = 20_000;
        }
        let bytes = self.pages * 4096;
        Row {
            time,
            instance: Arc::clone(&self.name),
            ready: true,
            counters: self.counters.map(Amount::from),
            peaks: [bytes, bytes * 3 / 4, bytes / 5].map(Amount::from),
            settings: [1 << 30, 500, 2000].map(Amount::from),
        }
    }
}

pub(crate) fn measure(work: &Path) -> anyhow::Result<Vec<Figure>> {
    let data = work.join("data");
    let usage = data.join("usage");
    let rows = fill(&usage)?;
    let bytes = size(&usage)?;
    let aggregator = Aggregator::start(FLEET, &data)?;
    let ask = |arguments: &[&str], least: usize| -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let (text, took) = aggregator.skpr(&[&["metrics", "e0", "-p", "p0"], arguments].concat())?;
            ensure!(text.lines().count() >= least, "{arguments:?}: {text}");
            times.push(took);
        }
        Ok(median(times))
    };
    let found = aggregator.json(&["metrics", "e0", "-p", "p0", "--since", "30d"])?;
    let points = found["points"].as_array().context("read the points")?;
    let known = points.iter().filter(|point| point["instances"] == FLEET.instances).count();
    ensure!(known + 2 >= points.len() && known > 50, "{known} of {} points are known", points.len());
    let whole = ask(&["--since", "30d"], 2)?;
    let each = ask(&["--since", "30d", "--per-instance"], FLEET.instances)?;
    let day = ask(&["--since", "1d"], 2)?;
    let of = |name: &str, value, unit| {
        Figure::new(format!("30 days of 100 instances: {name}"), value, unit, Better::Lower)
    };
    Ok(vec![
        of("bytes of a sample on disk", bytes as f64 / rows as f64, "bytes"),
        of("all on disk", bytes as f64 / f64::from(1 << 20), "MiB"),
        of("skpr metrics --since 30d", whole, "ms").target(500.0),
        of("and of each instance", each, "ms"),
        of("skpr metrics --since 1d", day, "ms"),
        of("aggregator's RSS at most", aggregator.most_resident()?, "MiB"),
    ])
}

/// Puts thirty days until now into the store; how many rows that is.
fn fill(directory: &Path) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let open = || {
        let options = Options { directory: directory.to_owned(), ..Options::default() };
        History::open(options, Arc::new(Counts::default())).context("open the store")
    };
    let files = |kind: fn(&str) -> bool| -> anyhow::Result<usize> {
        Ok(names(directory)?.iter().filter(|name| kind(name)).count())
    };
    let history = open()?;
    let key = environment(0)?;
    let mut numbers = Numbers::new(SEED);
    let inventory = FLEET.inventory()?;
    let state = inventory.environments.get(&key).context("find the environment")?;
    let mut instances: Vec<Instance> = state
        .instances
        .keys()
        .map(|name| Instance {
            name: Arc::clone(name),
            counters: [0; 5],
            pages: 20_000 + numbers.below(100_000),
        })
        .collect();
    let now = jiff::Timestamp::now().as_millisecond();
    let mut time = now - DAYS * 24 * HOUR_MILLIS;
    let mut rows = 0;
    while time < now {
        let end = (time.div_euclid(HOUR_MILLIS) + 1) * HOUR_MILLIS;
        let mut hour = Vec::new();
        while time < end.min(now) {
            hour.extend(instances.iter_mut().map(|instance| (key.clone(), instance.row(time, &mut numbers))));
            time += STEP_MILLIS;
        }
        rows += hour.len() as u64;
        history.add(hour);
        runtime.block_on(history.flush());
    }
    // The hour that goes on, and perhaps the one before.
    skpr_tests::eventually("every hour is sealed", PATIENCE, || {
        Ok((files(|name| name.ends_with(".spool"))? <= 2).then_some(()))
    })?;
    runtime.block_on(history.close());
    // Days are merged once an hour, and at the start.
    let history = open()?;
    skpr_tests::eventually("every day is merged", PATIENCE, || {
        let days = files(|name| name.ends_with(".5m.parquet") && !name.contains('T'))?;
        Ok((days + 2 >= DAYS as usize).then_some(()))
    })?;
    runtime.block_on(history.close());
    Ok(rows)
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(self::names(&entry.path())?);
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn size(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
