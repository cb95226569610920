//! This process: memory, CPU, files; under the names that every Prometheus library uses.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fs;

/// Clock ticks a second in `/proc/self/stat`: 100 for user space on every Linux, whatever the kernel ticks at.
const TICKS: f64 = 100.0;

pub(super) fn register(registry: &mut Registry) {
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident) {
        let gauge = ConstGauge::new(bytes);
        registry.register("process_resident_memory_bytes", "Resident memory", gauge);
    }
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu) {
        let counter = ConstCounter::new(seconds);
        registry.register("process_cpu_seconds", "CPU time, user and system", counter);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let gauge = ConstGauge::new(i64::try_from(files.count()).unwrap_or(i64::MAX));
        registry.register("process_open_fds", "Open files", gauge);
    }
}

fn resident(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? * 1024)
}

/// Fields 14 and 15. The second, the command's name, may hold spaces and parentheses.
fn cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u32>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    Some(f64::from(ticks) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(cpu("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0"), Some(2.0));
        assert_eq!((resident(""), cpu("")), (None, None));
    }
}
