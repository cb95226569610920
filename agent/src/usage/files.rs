//! Which files of a cgroup are read, how often, and what is taken from each: one table for v1 and one for v2. Pure.
//!
//! What changes all the time is read in each round or in every [`SLOW_EVERY`]th from files that stay open. The rest is read in
//! every [`RARE_EVERY`]th from files that do not: an open file of a cgroup holds a page or two of the kernel's memory, which
//! counts as the agent's, and to open one costs as much as to read it ten times.

use super::parse::{amount, keyed, nanos, number, pressure, value};
use super::values::{Stat, Values};

/// Slow files are read in every so many rounds, and rare ones: of the usual five seconds every two minutes and every six.
pub(super) const SLOW_EVERY: u32 = 24;
pub(super) const RARE_EVERY: u32 = 3 * SLOW_EVERY;

/// Of which hierarchy a file is. On v2 there is one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Unified,
    Cpu,
    Cpuacct,
    Memory,
    Pids,
}

/// How often a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Each,
    /// In each round in which CPU or memory has moved at all, and in the slow ones. It is by far the dearest file.
    WhenMoved,
    Slow,
    Rare,
}

impl Pace {
    /// Whether such a file stays open.
    pub(super) fn is_kept(self) -> bool {
        match self {
            Pace::Each | Pace::WhenMoved | Pace::Slow => true,
            Pace::Rare => false,
        }
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) controller: Controller,
    pub(super) name: &'static str,
    pub(super) pace: Pace,
    /// Takes in what the file says; of nothing it says that nothing is known.
    pub(super) take: fn(&mut Values, &[u8]),
}

const fn spec(controller: Controller, name: &'static str, pace: Pace, take: fn(&mut Values, &[u8])) -> Spec {
    Spec { controller, name, pace, take }
}

use Controller::{Cpu, Cpuacct, Memory, Pids, Unified};
use Pace::{Each, Rare, Slow, WhenMoved};

/// Of a container, whose kills the pod counts.
pub(super) static V2_CONTAINER: [Spec; 12] = v2(Rare);
/// Of a cgroup that has no pod above it.
pub(super) static V2_ALONE: [Spec; 12] = v2(Each);

/// v2, in the order in which they are read: `memory.stat` knows then whether anything has moved.
const fn v2(kills: Pace) -> [Spec; 12] {
    [
        spec(Unified, "cpu.stat", Each, v2_cpu_stat),
        spec(Unified, "memory.current", Each, |values, text| values.memory.usage = amount(text)),
        spec(Unified, "memory.stat", WhenMoved, v2_memory_stat),
        spec(Unified, "memory.events", kills, v2_memory_events),
        spec(Unified, "cpu.max", Rare, v2_cpu_max),
        spec(Unified, "cpu.weight", Rare, |values, text| values.cpu.weight = amount(text)),
        spec(Unified, "memory.peak", Rare, |values, text| values.peak_bytes = amount(text)),
        spec(Unified, "memory.max", Rare, |values, text| values.limit_bytes = amount(text)),
        spec(Unified, "cpu.pressure", Each, |values, text| values.cpu_pressure = pressure(text)),
        spec(Unified, "memory.pressure", Each, |values, text| values.memory_pressure = pressure(text)),
        spec(Unified, "io.pressure", Each, |values, text| values.io_pressure = pressure(text)),
        spec(Unified, "pids.current", Slow, |values, text| values.processes = amount(text)),
    ]
}

/// Of a pod only what its containers cannot say: what holds across their restarts, and how the kubelet weighs.
pub(super) static V2_POD: [Spec; 3] = [
    spec(Unified, "cpu.stat", Each, v2_cpu_stat),
    spec(Unified, "memory.events", Each, v2_memory_events),
    spec(Unified, "cpu.weight", Rare, |values, text| values.cpu.weight = amount(text)),
];

/// v1. Pressure is there where v2 is mounted beside it, as systemd does.
pub(super) static V1_CONTAINER: [Spec; 16] = [
    spec(Cpuacct, "cpuacct.usage", Each, v1_cpu_usage),
    spec(Memory, "memory.usage_in_bytes", Each, |values, text| values.memory.usage = amount(text)),
    spec(Memory, "memory.stat", WhenMoved, v1_memory_stat),
    spec(Cpu, "cpu.stat", Each, v1_cpu_stat),
    spec(Memory, "memory.oom_control", Each, v1_oom_control),
    spec(Memory, "memory.kmem.usage_in_bytes", Each, |values, text| values.kernel_bytes = amount(text)),
    spec(Cpuacct, "cpuacct.stat", Rare, v1_cpuacct_stat),
    spec(Cpu, "cpu.cfs_quota_us", Rare, |values, text| values.cpu.quota = amount(text)),
    spec(Cpu, "cpu.cfs_period_us", Rare, |values, text| values.cpu.period = amount(text)),
    spec(Cpu, "cpu.shares", Rare, |values, text| values.cpu.shares = amount(text)),
    spec(Memory, "memory.max_usage_in_bytes", Rare, |values, text| values.peak_bytes = amount(text)),
    spec(Memory, "memory.limit_in_bytes", Rare, |values, text| values.limit_bytes = amount(text)),
    spec(Pids, "pids.current", Slow, |values, text| values.processes = amount(text)),
    spec(Unified, "cpu.pressure", Each, |values, text| values.cpu_pressure = pressure(text)),
    spec(Unified, "memory.pressure", Each, |values, text| values.memory_pressure = pressure(text)),
    spec(Unified, "io.pressure", Each, |values, text| values.io_pressure = pressure(text)),
];

/// Its containers say what their limits did to them, and count their kills: the pod's own cgroup has no processes.
pub(super) static V1_POD: [Spec; 2] = [
    spec(Cpuacct, "cpuacct.usage", Each, v1_cpu_usage),
    spec(Memory, "memory.oom_control", Rare, v1_oom_control),
];

const MICROSECOND: u64 = 1000;

fn v2_cpu_stat(values: &mut Values, text: &[u8]) {
    let cpu = &mut values.cpu;
    (cpu.nanos, cpu.user_nanos, cpu.system_nanos) = (None, None, None);
    (cpu.periods, cpu.throttled_periods, cpu.throttled_nanos) = (None, None, None);
    for (key, value) in keyed(text) {
        match key {
            b"usage_usec" => cpu.nanos = time(value, MICROSECOND),
            b"user_usec" => cpu.user_nanos = time(value, MICROSECOND),
            b"system_usec" => cpu.system_nanos = time(value, MICROSECOND),
            b"nr_periods" => cpu.periods = amount(value),
            b"nr_throttled" => cpu.throttled_periods = amount(value),
            b"throttled_usec" => cpu.throttled_nanos = time(value, MICROSECOND),
            _ => {}
        }
    }
}

fn v2_cpu_max(values: &mut Values, text: &[u8]) {
    let mut words = text.trim_ascii().split(|byte| *byte == b' ');
    (values.cpu.quota, values.cpu.period) = (words.next().and_then(amount), words.next().and_then(amount));
}

fn v2_memory_stat(values: &mut Values, text: &[u8]) {
    values.memory.stat = Stat {
        anonymous: value(text, b"\nanon "),
        file: value(text, b"\nfile "),
        inactive_file: value(text, b"\ninactive_file "),
        shared: value(text, b"\nshmem "),
        slab_unreclaimable: value(text, b"\nslab_unreclaimable "),
        kernel_stack: value(text, b"\nkernel_stack "),
        page_tables: value(text, b"\npagetables "),
    };
}

fn v2_memory_events(values: &mut Values, text: &[u8]) {
    values.oom_kills = keyed(text).find(|(key, _)| *key == b"oom_kill").and_then(|(_, kills)| amount(kills));
}

fn v1_cpu_usage(values: &mut Values, text: &[u8]) {
    values.cpu.nanos = time(text, 1);
}

fn v1_cpuacct_stat(values: &mut Values, text: &[u8]) {
    let tick = 1_000_000_000 / procfs::ticks_per_second().max(1);
    (values.cpu.user_nanos, values.cpu.system_nanos) = (None, None);
    for (key, value) in keyed(text) {
        match key {
            b"user" => values.cpu.user_nanos = time(value, tick),
            b"system" => values.cpu.system_nanos = time(value, tick),
            _ => {}
        }
    }
}

fn v1_cpu_stat(values: &mut Values, text: &[u8]) {
    let cpu = &mut values.cpu;
    (cpu.periods, cpu.throttled_periods, cpu.throttled_nanos) = (None, None, None);
    for (key, value) in keyed(text) {
        match key {
            b"nr_periods" => cpu.periods = amount(value),
            b"nr_throttled" => cpu.throttled_periods = amount(value),
            b"throttled_time" => cpu.throttled_nanos = time(value, 1),
            _ => {}
        }
    }
}

/// The totals include what is below.
fn v1_memory_stat(values: &mut Values, text: &[u8]) {
    let either = |total: &[u8], own: &[u8]| value(text, total).or_else(|| value(text, own));
    values.memory.stat = Stat {
        anonymous: either(b"\ntotal_rss ", b"\nrss "),
        file: either(b"\ntotal_cache ", b"\ncache "),
        inactive_file: either(b"\ntotal_inactive_file ", b"\ninactive_file "),
        shared: either(b"\ntotal_shmem ", b"\nshmem "),
        ..Stat::default()
    };
}

/// Counts the processes of this very cgroup and not of those below.
fn v1_oom_control(values: &mut Values, text: &[u8]) {
    v2_memory_events(values, text);
}

fn time(text: &[u8], unit: u64) -> Option<u64> {
    nanos(number(text)?, unit)
}
