//! What the files of one cgroup say, and the sample that becomes of it. Pure.
//!
//! The three ways to look at memory: the *working set*, which Kubernetes acts on; what is *not reclaimable*, which the
//! OOM killer acts on; and the *cache* of files, which the kernel gives back when it is asked.

use super::weight::Formula;
use skpr_proto::v1;

/// The kernel's lower bound, which the kubelet sets where no CPU is requested.
const LEAST_SHARES: u64 = 2;

/// What is known of one cgroup; each value as its file said last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Values {
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) peak_bytes: Option<u64>,
    pub(super) limit_bytes: Option<u64>,
    /// v1 counts the kernel's own memory apart.
    pub(super) kernel_bytes: Option<u64>,
    pub(super) oom_kills: Option<u64>,
    pub(super) cpu_pressure: Option<u64>,
    pub(super) memory_pressure: Option<u64>,
    pub(super) io_pressure: Option<u64>,
    pub(super) processes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    pub(super) nanos: Option<u64>,
    pub(super) user_nanos: Option<u64>,
    pub(super) system_nanos: Option<u64>,
    pub(super) periods: Option<u64>,
    pub(super) throttled_periods: Option<u64>,
    pub(super) throttled_nanos: Option<u64>,
    /// Microseconds in each period; absent without a limit.
    pub(super) quota: Option<u64>,
    pub(super) period: Option<u64>,
    /// v1 has shares, v2 a weight.
    pub(super) shares: Option<u64>,
    pub(super) weight: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    pub(super) usage: Option<u64>,
    pub(super) stat: Stat,
}

/// Of `memory.stat`, with what is below.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stat {
    pub(super) anonymous: Option<u64>,
    /// Pages of files, and of what is shared.
    pub(super) file: Option<u64>,
    pub(super) inactive_file: Option<u64>,
    pub(super) shared: Option<u64>,
    pub(super) slab_unreclaimable: Option<u64>,
    pub(super) kernel_stack: Option<u64>,
    pub(super) page_tables: Option<u64>,
}

impl Cpu {
    fn limit_millicores(&self) -> Option<u64> {
        self.quota?.checked_mul(1000)?.checked_div(self.period?)
    }
}

impl Memory {
    /// Equal to the kubelet's.
    fn working_set(&self) -> Option<u64> {
        Some(self.usage?.saturating_sub(self.stat.inactive_file?))
    }
}

impl Stat {
    fn cache(&self) -> Option<u64> {
        Some(self.file?.saturating_sub(self.shared.unwrap_or(0)))
    }
}

impl Values {
    fn not_reclaimable(&self) -> Option<u64> {
        let stat = &self.memory.stat;
        let more =
            [stat.shared, stat.slab_unreclaimable, stat.kernel_stack, stat.page_tables, self.kernel_bytes];
        Some(more.into_iter().flatten().fold(stat.anonymous?, u64::saturating_add))
    }

    pub(super) fn share_millicores(&self, formula: Formula) -> Option<u64> {
        // The least that there is stands for a share that nobody asked for.
        let shares = |shares: u64| match shares {
            ..=LEAST_SHARES => 0,
            // The kubelet rounds down to shares: what is rounded up again is what was asked for.
            more => more.saturating_mul(1000).div_ceil(1024),
        };
        let share = self.cpu.shares.map(shares);
        share.or_else(|| self.cpu.weight.map(|weight| formula.millicores(weight))).filter(|share| *share > 0)
    }

    /// `formula` is how a v2 weight was made of a share.
    pub(super) fn sample(&self, formula: Formula) -> v1::Sample {
        v1::Sample {
            cpu_nanos: self.cpu.nanos,
            cpu_user_nanos: self.cpu.user_nanos,
            cpu_system_nanos: self.cpu.system_nanos,
            periods: self.cpu.periods,
            throttled_periods: self.cpu.throttled_periods,
            throttled_nanos: self.cpu.throttled_nanos,
            cpu_limit_millicores: self.cpu.limit_millicores(),
            cpu_share_millicores: self.share_millicores(formula),
            memory_usage_bytes: self.memory.usage,
            memory_working_set_bytes: self.memory.working_set(),
            memory_not_reclaimable_bytes: self.not_reclaimable(),
            memory_cache_bytes: self.memory.stat.cache(),
            // It is read more rarely than the usage, which it is never below.
            memory_peak_bytes: self.peak_bytes.map(|peak| peak.max(self.memory.usage.unwrap_or(0))),
            memory_limit_bytes: self.limit_bytes,
            oom_kills: self.oom_kills,
            cpu_pressure_micros: self.cpu_pressure,
            memory_pressure_micros: self.memory_pressure,
            io_pressure_micros: self.io_pressure,
            processes: self.processes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_set_is_never_below_zero_and_never_a_guess() {
        let set = |usage, inactive_file| {
            Memory { usage, stat: Stat { inactive_file, ..Stat::default() } }.working_set()
        };
        assert_eq!(set(Some(10), Some(3)), Some(7));
        assert_eq!(set(Some(3), Some(10)), Some(0));
        assert_eq!(set(Some(3), None), None);
        assert_eq!(set(None, Some(3)), None);
    }

    #[test]
    fn what_is_not_known_is_absent() {
        assert_eq!(Values::default().sample(Formula::Linear), v1::Sample::default());
    }

    #[test]
    fn a_limit_without_a_period_is_none() {
        let limit = |quota, period| Cpu { quota, period, ..Cpu::default() }.limit_millicores();
        assert_eq!(limit(Some(50_000), Some(100_000)), Some(500));
        assert_eq!(limit(Some(50_000), Some(0)), None);
        assert_eq!(limit(Some(u64::MAX), Some(100_000)), None);
        assert_eq!(limit(None, Some(100_000)), None);
    }

    #[test]
    fn a_peak_is_at_least_what_is_used() {
        let mut values = Values { peak_bytes: Some(5), ..Values::default() };
        values.memory.usage = Some(7);
        assert_eq!(values.sample(Formula::Linear).memory_peak_bytes, Some(7));
    }

    #[test]
    fn shares_of_v1_are_thousandths_of_a_core() {
        for (shares, millicores) in [(1024, 1000), (512, 500), (256, 250), (102, 100), (51, 50), (3, 3)] {
            let cpu = Cpu { shares: Some(shares), ..Cpu::default() };
            let values = Values { cpu, ..Values::default() };
            assert_eq!(values.share_millicores(Formula::Linear), Some(millicores), "{shares}");
        }
    }

    /// A pod that asked for nothing was once shown with a share of 0.002.
    #[test]
    fn the_least_share_is_none() {
        for cpu in [
            Cpu { shares: Some(2), ..Cpu::default() },
            Cpu { shares: Some(0), ..Cpu::default() },
            Cpu { weight: Some(1), ..Cpu::default() },
        ] {
            let values = Values { cpu, ..Values::default() };
            assert_eq!(values.share_millicores(Formula::Linear), None, "{cpu:?}");
        }
    }
}
