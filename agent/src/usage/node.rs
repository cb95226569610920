//! What the whole node does, by `/proc`, which shows the node's also from within a container.

use super::parse::nanos;
use procfs::{CpuPressure, Current as _, CurrentSI as _, IoPressure, KernelStats, Meminfo, MemoryPressure};
use skpr_proto::v1;

/// One look. What the kernel does not tell is absent.
pub(super) fn sample() -> v1::NodeSample {
    let (cpu_nanos, cores) = KernelStats::current().map_or((None, 0), |stats| (busy(&stats), cores(&stats)));
    let memory = Meminfo::current().ok();
    v1::NodeSample {
        cpu_nanos,
        cores,
        memory_total_bytes: memory.as_ref().map(|memory| memory.mem_total),
        memory_working_set_bytes: memory.as_ref().and_then(working_set),
        cpu_pressure_micros: CpuPressure::current().ok().map(|pressure| pressure.some.total),
        memory_pressure_micros: MemoryPressure::current().ok().map(|pressure| pressure.some.total),
        io_pressure_micros: IoPressure::current().ok().map(|pressure| pressure.some.total),
    }
}

/// Waiting for a disk is idle, and what the hypervisor took is not ours.
fn busy(stats: &KernelStats) -> Option<u64> {
    let total = &stats.total;
    let ticks = [total.user, total.nice, total.system, total.irq.unwrap_or(0), total.softirq.unwrap_or(0)];
    let ticks = ticks.into_iter().fold(0, u64::saturating_add);
    nanos(ticks, 1_000_000_000 / procfs::ticks_per_second().max(1))
}

fn cores(stats: &KernelStats) -> u32 {
    u32::try_from(stats.cpu_time.len()).unwrap_or(u32::MAX)
}

/// As the kubelet has it of its root cgroup: what is not free, without the pages of files that were not used lately.
fn working_set(memory: &Meminfo) -> Option<u64> {
    Some(memory.mem_total.saturating_sub(memory.mem_free).saturating_sub(memory.inactive_file?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_node_says_what_it_does() {
        let before = sample();
        let after = sample();
        assert!(before.cores >= 1);
        assert!(before.cpu_nanos.unwrap() > 0);
        assert!(after.cpu_nanos >= before.cpu_nanos);
        let (total, working_set) =
            (after.memory_total_bytes.unwrap(), after.memory_working_set_bytes.unwrap());
        assert!(working_set > 0 && working_set < total);
    }
}
