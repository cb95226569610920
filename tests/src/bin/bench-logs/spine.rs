//! From the node's files to durable storage: speed and memory of agent and aggregator, and the CLI's window.

use crate::input::{Random, cri_line};
use crate::measure::{cpu_seconds, memory_mib, percentile, shell, wait_until};
use crate::peers;
use crate::programs::Aggregator;
use anyhow::Context as _;
use skpr_tests::report::{Better, Figure};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const INSTANCES: u64 = 8;
const NOT_AFTER: Duration = Duration::from_secs(600);
const WINDOWS: usize = 9;

/// Files of a fake node.
struct Node {
    logs: PathBuf,
    bytes: u64,
    lines: u64,
    first: jiff::Timestamp,
    span: Duration,
}

fn pod(logs: &Path, number: u64) -> PathBuf {
    logs.join(format!("local_prod-{number}_00000000-0000-0000-0000-{number:012}")).join("app")
}

/// Writes `bytes` of container log over `INSTANCES` files, spread over an hour that has passed.
fn fill(logs: &Path, bytes: u64) -> anyhow::Result<Node> {
    let span = Duration::from_secs(3000);
    let first = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3100);
    let mut total = Node { logs: logs.to_owned(), bytes: 0, lines: 0, first, span };
    let (mut text, mut line) = (Vec::new(), Vec::new());
    for number in 0..INSTANCES {
        let directory = pod(logs, number);
        std::fs::create_dir_all(&directory)?;
        let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(directory.join("0.log"))?);
        let mut random = Random::new(number + 1);
        let mut written = 0;
        let share = bytes / INSTANCES;
        while written < share {
            let progress = written as f64 / share as f64;
            let nanos = first.as_nanosecond() as i64 + (span.as_nanos() as f64 * progress) as i64;
            line.clear();
            cri_line(nanos, &mut random, &mut text, &mut line)?;
            file.write_all(&line)?;
            written += line.len() as u64;
            total.lines += 1;
        }
        file.flush()?;
        total.bytes += written;
    }
    Ok(total)
}

fn all_stored(aggregator: &Aggregator, records: u64) -> anyhow::Result<()> {
    wait_until("everything is stored", NOT_AFTER, || Ok(aggregator.stored_records()? >= records))
}

pub(crate) fn run(work: &Path, bytes: u64, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let node = fill(&work.join("pods"), bytes)?;
    let aggregator = Aggregator::start(&node.logs, &work.join("data"))?;
    let agent = aggregator.agent(&node.logs, &work.join("agent"))?;
    let (agent_pid, aggregator_pid) = (agent.0.id(), aggregator.process.0.id());
    let start = Instant::now();
    all_stored(&aggregator, node.lines)?;
    let wall = start.elapsed().as_secs_f64();
    let agent_cpu = cpu_seconds(agent_pid)?;
    let together = agent_cpu + cpu_seconds(aggregator_pid)?;
    let megabytes = node.bytes as f64 / 1e6;
    let mut agent_figure =
        Figure::new("agent", megabytes / agent_cpu, "MB raw per CPU-s", Better::Higher).target(150.0);
    if let Some(speed) = peers::rsyslog(work, &node.logs, node.lines, node.bytes)? {
        agent_figure = agent_figure.against("rsyslog imfile to a file", speed);
    }
    figures.push(
        Figure::new(
            "file to durable, sealing included",
            megabytes / together,
            "MB raw per CPU-s",
            Better::Higher,
        )
        .target(40.0),
    );
    figures.push(Figure::new("file to durable, wall", megabytes / wall, "MB/s", Better::Higher));
    figures.push(agent_figure);
    figures.push(
        Figure::new(
            "aggregator RSS at full speed",
            memory_mib(aggregator_pid, "VmHWM")?,
            "MiB",
            Better::Lower,
        )
        .target(150.0),
    );
    figures.push(Figure::new(
        "agent RSS at full speed",
        memory_mib(agent_pid, "VmHWM")?,
        "MiB",
        Better::Lower,
    ));
    window(&aggregator, &node, figures)?;
    drop(agent);
    size(aggregator, &node, figures)
}

/// What the node's lines take in the store, against what they take compressed as they are on the node.
fn size(mut aggregator: Aggregator, node: &Node, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    aggregator.process.stop()?;
    let report = skpr_aggregator::store::check(&aggregator.data.join("store"))?;
    anyhow::ensure!(report.is_whole(), "the store is damaged: {report}");
    let (packed, _) =
        shell(&format!("for f in {}/*/app/0.log; do zstd -q -3 -c $f; done | wc -c", node.logs.display()))?;
    let packed: f64 = packed.parse().context("parse the compressed size")?;
    // The newest records are in memory and in the write-ahead log, not in files yet.
    let sealed = report.records as f64 / node.lines as f64;
    let segments = aggregator.data.join("store/segments");
    let (on_disk, _) = shell(&format!("find {} -type f -exec cat {{}} + | wc -c", segments.display()))?;
    let on_disk: f64 = on_disk.parse().context("parse the stored size")?;
    figures.push(
        Figure::new("stored size, end to end", on_disk / 1e6 / sealed, "MB", Better::Lower)
            .against("zstd -3 of the node's files", packed / 1e6)
            .target_ratio(1.0),
    );
    Ok(())
}

/// 7 MB out of what is stored, as `skpr logs` prints it: first line and all, process start included.
fn window(aggregator: &Aggregator, node: &Node, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let share = 7e6 / node.bytes as f64;
    let (mut firsts, mut alls) = (Vec::new(), Vec::new());
    for number in 0..WINDOWS {
        let from = node.first
            + jiff::SignedDuration::try_from(node.span.mul_f64((number as f64 + 0.5) / WINDOWS as f64))?;
        let to = from + jiff::SignedDuration::try_from(node.span.mul_f64(share))?;
        let (since, until) = (from.to_string(), to.to_string());
        let start = Instant::now();
        let mut child = aggregator
            .skpr(&["logs", "prod", "-q", "--since", &since, "--until", &until])?
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::with_capacity(1 << 20, child.stdout.take().context("take the output")?);
        let mut line = Vec::new();
        output.read_until(b'\n', &mut line)?;
        firsts.push(start.elapsed().as_secs_f64() * 1e3);
        let rest = std::io::copy(&mut output, &mut std::io::sink())?;
        alls.push(start.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(child.wait()?.success() && rest > 1_000_000, "an empty window");
    }
    firsts.sort_by(f64::total_cmp);
    alls.sort_by(f64::total_cmp);
    figures.push(
        Figure::new("7 MB window, first line (CLI)", percentile(&firsts, 0.5), "ms", Better::Lower)
            .target(50.0),
    );
    figures.push(
        Figure::new("7 MB window, all (CLI)", percentile(&alls, 0.5), "ms", Better::Lower).target(100.0),
    );
    Ok(())
}

/// A thousand quiet files: what following them costs.
pub(crate) fn quiet(work: &Path, files: u64, seconds: u64, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let logs = work.join("pods");
    let (mut text, mut line) = (Vec::new(), Vec::new());
    for number in 0..files {
        let directory = pod(&logs, number);
        std::fs::create_dir_all(&directory)?;
        line.clear();
        let now = jiff::Timestamp::now().as_nanosecond() as i64;
        cri_line(now, &mut Random::new(number + 1), &mut text, &mut line)?;
        std::fs::write(directory.join("0.log"), &line)?;
    }
    let aggregator = Aggregator::start(&logs, &work.join("data"))?;
    let agent = aggregator.agent(&logs, &work.join("agent"))?;
    let pid = agent.0.id();
    all_stored(&aggregator, files)?;
    // Past what the start itself causes: inotify's echo of the first reads, checkpoints, and a closer look at
    // directories that are new.
    std::thread::sleep(Duration::from_secs(15));
    let before = cpu_seconds(pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let share = (cpu_seconds(pid)? - before) / seconds as f64 * 100.0;
    figures.push(
        Figure::new(format!("agent CPU, {files} quiet files"), share, "% of a core", Better::Lower)
            .target(0.2),
    );
    figures.push(
        Figure::new(format!("agent RSS, {files} files"), memory_mib(pid, "VmRSS")?, "MiB", Better::Lower)
            .target(20.0),
    );
    Ok(())
}
