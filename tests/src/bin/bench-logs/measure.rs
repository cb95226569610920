//! CPU time and memory of processes, from `/proc`.

use anyhow::Context as _;
use std::fs;
use std::time::{Duration, Instant};

/// `_SC_CLK_TCK` is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

fn stat_fields(pid: &str) -> anyhow::Result<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc stat")?;
    let (_, after_name) = stat.rsplit_once(") ").context("parse /proc stat")?;
    Ok(after_name.split(' ').map(|field| field.parse().unwrap_or(0)).collect())
}

/// CPU seconds, user and system, that a process has used so far.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let fields = stat_fields(&pid.to_string())?;
    let ticks = fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of this process's ended children.
fn children_cpu_seconds() -> anyhow::Result<f64> {
    let fields = stat_fields("self")?;
    let ticks = fields.get(13).copied().unwrap_or(0) + fields.get(14).copied().unwrap_or(0);
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of this process, its ended threads included.
fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A line of `/proc/PID/status` in MiB: `VmRSS`, `VmHWM`.
pub(crate) fn memory_mib(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read /proc status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("find the memory line")?;
    let kib: f64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .context("parse the memory line")?;
    Ok(kib / 1024.0)
}

/// Wall and CPU time of one piece of work in this process.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub wall: f64,
    pub cpu: f64,
}

pub(crate) fn own<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Spent)> {
    let (start, cpu) = (Instant::now(), own_cpu_seconds());
    let value = work()?;
    Ok((value, Spent { wall: start.elapsed().as_secs_f64(), cpu: own_cpu_seconds() - cpu }))
}

/// Runs a shell pipeline and returns what it printed.
pub(crate) fn shell(command: &str) -> anyhow::Result<(String, Spent)> {
    let (start, cpu) = (Instant::now(), children_cpu_seconds()?);
    let output = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", command])
        .output()
        .context("run bash")?;
    anyhow::ensure!(
        output.status.success(),
        "`{command}` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let spent = Spent { wall: start.elapsed().as_secs_f64(), cpu: children_cpu_seconds()? - cpu };
    Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), spent))
}

/// The middle one of several runs, by CPU.
pub(crate) fn median(mut runs: Vec<Spent>) -> Spent {
    runs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    runs.get(runs.len() / 2).copied().unwrap_or(Spent { wall: f64::NAN, cpu: f64::NAN })
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Polls until `ready` says yes; an error after `limit`.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while !ready()? {
        anyhow::ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
