//! Line written → line printed by `skpr logs -f`, at a steady rate.

use crate::measure::percentile;
use crate::programs::Aggregator;
use anyhow::Context as _;
use skpr_tests::report::{Better, Figure};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const LINES_PER_SECOND: u64 = 5000;
/// A writer wakes this often and writes what is due.
const TURN: Duration = Duration::from_millis(2);
const MARK: &str = "sent=";

pub(crate) fn run(work: &Path, seconds: u64, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let logs = work.join("pods");
    let directory = logs.join("local_prod-0_00000000-0000-0000-0000-000000000000").join("app");
    std::fs::create_dir_all(&directory)?;
    let mut file = std::fs::File::create(directory.join("0.log"))?;
    let aggregator = Aggregator::start(&logs, &work.join("data"))?;
    let agent = aggregator.agent(&logs, &work.join("agent"))?;
    let mut follower = aggregator.skpr(&["logs", "prod", "-f", "-q"])?.stdout(Stdio::piped()).spawn()?;
    let output = follower.stdout.take().context("take the follower's output")?;
    let epoch = Instant::now();
    let total = LINES_PER_SECOND * seconds;

    let reader = std::thread::Builder::new().spawn(move || -> anyhow::Result<Vec<f64>> {
        let mut delays = Vec::with_capacity(total as usize);
        let mut last = None;
        for line in BufReader::with_capacity(256 << 10, output).lines() {
            let line = line?;
            let arrived = epoch.elapsed().as_micros() as u64;
            let Some((_, rest)) = line.split_once(MARK) else { continue };
            let (sent, number) = rest.split_once(' ').context("a mark without a number")?;
            let (sent, number): (u64, u64) = (sent.parse()?, number.trim().parse()?);
            anyhow::ensure!(last.is_none_or(|last| number == last + 1), "line {number} after {last:?}");
            last = Some(number);
            delays.push((arrived.saturating_sub(sent)) as f64 / 1e3);
            if number + 1 == total {
                break;
            }
        }
        Ok(delays)
    })?;

    let mut number = 0;
    let start = Instant::now() + Duration::from_secs(2);
    std::thread::sleep(Duration::from_secs(2));
    let mut lines = Vec::new();
    while number < total {
        let due = (start.elapsed().as_secs_f64() * LINES_PER_SECOND as f64) as u64;
        lines.clear();
        let now = jiff::Timestamp::now();
        let sent = epoch.elapsed().as_micros();
        while number < due.min(total) {
            writeln!(lines, "{now:.9} stdout F GET /weather/{} 200 {MARK}{sent} {number}", number % 97)?;
            number += 1;
        }
        file.write_all(&lines)?;
        std::thread::sleep(TURN);
    }
    let mut delays = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    follower.kill()?;
    follower.wait()?;
    drop(agent);
    anyhow::ensure!(delays.len() as u64 == total, "{} of {total} lines arrived", delays.len());
    delays.sort_by(f64::total_cmp);
    figures.push(
        Figure::new(
            format!("live at {LINES_PER_SECOND} lines/s, p50"),
            percentile(&delays, 0.5),
            "ms",
            Better::Lower,
        )
        .target(50.0),
    );
    figures.push(
        Figure::new(
            format!("live at {LINES_PER_SECOND} lines/s, p99"),
            percentile(&delays, 0.99),
            "ms",
            Better::Lower,
        )
        .target(200.0),
    );
    Ok(())
}
