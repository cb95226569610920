//! This process: memory, CPU, files; under the names that every Prometheus library uses.

use crate::web::text::{Table, Value, counter, gauge};
use std::fs;

/// Clock ticks a second in `/proc/self/stat`: 100 for user space on every Linux, whatever the kernel ticks at.
const TICK_MILLIS: u64 = 10;

/// What `/proc` says; what cannot be read is left out.
pub(super) struct Process {
    resident_bytes: Option<u64>,
    cpu_millis: Option<u64>,
    open_files: Option<u64>,
}

pub(super) const TABLE: Table<Process> = Table {
    labels: &[],
    columns: &[
        gauge("process_resident_memory_bytes", "Resident memory", |own| own.resident_bytes.map(Value::Count)),
        counter("process_cpu_seconds", "CPU time, user and system", |own| {
            own.cpu_millis.map(Value::Thousandths)
        }),
        gauge("process_open_fds", "Open files", |own| own.open_files.map(Value::Count)),
    ],
};

impl Process {
    pub(super) fn now() -> Process {
        let read = |path| fs::read_to_string(path).ok();
        Process {
            resident_bytes: read("/proc/self/status").as_deref().and_then(resident),
            cpu_millis: read("/proc/self/stat").as_deref().and_then(cpu),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        }
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Fields 14 and 15. The second, the command's name, may hold spaces and parentheses.
fn cpu(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    ticks.checked_mul(TICK_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(cpu("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0"), Some(2000));
        assert_eq!((resident(""), cpu("")), (None, None));
    }
}
