//! What an environment or an instance uses now, for `skpr metrics`, `list` and `info`.
//!
//! Invariants: a number that cannot be is not known; what is not known is `-` and never 0; a stale number says so
//! wherever it is shown.

use crate::output::{Cell, number};
use crate::time;
use serde::Serialize;
use skpr_proto::v1::UsageNow;

/// Of a limit: worth a look, and about to hurt.
const HIGH: f64 = 0.80;
const CRITICAL: f64 = 0.95;
/// Above this, a sum of millicores is not one that any machine could have (a million cores).
const MOST_MILLICORES: f64 = 1e9;

/// In JSON and YAML.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pub cpu_millicores: Option<f64>,
    pub cpu_share_millicores: Option<u64>,
    pub cpu_limit_millicores: Option<u64>,
    pub memory_working_set_bytes: Option<u64>,
    pub memory_not_reclaimable_bytes: Option<u64>,
    pub memory_cache_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub throttled_ratio: Option<f64>,
    pub out_of_memory_kills: Option<u64>,
    pub restarts: u64,
    pub instances: u32,
    pub processes: Option<u64>,
    pub age_milliseconds: Option<u32>,
    pub stale: bool,
    pub cpu_pressure_ratio: Option<f64>,
    pub memory_pressure_ratio: Option<f64>,
    pub io_pressure_ratio: Option<f64>,
    pub missing_instances: u32,
}

impl From<&UsageNow> for Usage {
    fn from(now: &UsageNow) -> Self {
        Usage {
            cpu_millicores: millicores(now.cpu_millicores),
            cpu_share_millicores: now.cpu_share_millicores,
            cpu_limit_millicores: now.cpu_limit_millicores,
            memory_working_set_bytes: now.memory_working_set_bytes,
            memory_not_reclaimable_bytes: now.memory_not_reclaimable_bytes,
            memory_cache_bytes: now.memory_cache_bytes,
            memory_peak_bytes: now.memory_peak_bytes,
            memory_limit_bytes: now.memory_limit_bytes,
            throttled_ratio: ratio(now.throttled),
            out_of_memory_kills: now.oom_kills,
            restarts: now.restarts,
            instances: now.instances,
            processes: now.processes,
            age_milliseconds: now.age_millis,
            stale: now.stale,
            cpu_pressure_ratio: ratio(now.cpu_pressure),
            memory_pressure_ratio: ratio(now.memory_pressure),
            io_pressure_ratio: ratio(now.io_pressure),
            missing_instances: now.missing,
        }
    }
}

/// Not below 0, not beyond belief, and to a thousandth: more digits would be noise.
pub(super) fn millicores(value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..=MOST_MILLICORES).contains(value)).map(thousandths)
}

/// From 0 to 1.
pub(super) fn ratio(value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..=1.0).contains(value)).map(thousandths)
}

fn thousandths(value: f64) -> f64 {
    // -0 would be shown as such.
    (value * 1000.0).round() / 1000.0 + 0.0
}

impl Usage {
    /// `0.35/0.5`: used, and the share.
    pub(super) fn cpu(&self) -> String {
        let Some(used) = self.cpu_millicores else { return "-".to_owned() };
        match self.cpu_share_millicores {
            Some(share) => format!("{}/{}", number::cores(used), number::set_cores(share)),
            None => number::cores(used),
        }
    }

    /// `212Mi/512Mi`: the working set, and the most there may be.
    pub(super) fn memory(&self) -> String {
        let Some(used) = self.memory_working_set_bytes else { return "-".to_owned() };
        match self.memory_limit_bytes {
            Some(limit) => format!("{}/{}", number::bytes(used), number::bytes(limit)),
            None => number::bytes(used),
        }
    }

    pub(super) fn of_share(&self) -> Option<f64> {
        of(self.cpu_millicores, self.cpu_share_millicores)
    }

    pub(super) fn of_memory_limit(&self) -> Option<f64> {
        of(self.memory_working_set_bytes.map(|bytes| bytes as f64), self.memory_limit_bytes)
    }

    /// `waits for CPU 12% and I/O 3% of the time`: of what holds it up for at least a hundredth.
    fn waits(&self) -> Option<String> {
        let all = [
            ("CPU", self.cpu_pressure_ratio),
            ("memory", self.memory_pressure_ratio),
            ("I/O", self.io_pressure_ratio),
        ];
        let long = |(of, ratio): (&str, Option<f64>)| {
            ratio.filter(|ratio| *ratio >= 0.01).map(|ratio| format!("{of} {}", number::percent(ratio)))
        };
        let waits: Vec<String> = all.into_iter().filter_map(long).collect();
        (!waits.is_empty()).then(|| format!("waits for {} of the time", waits.join(" and ")))
    }

    /// What the numbers leave out: `stale 25s`, or `2 of 3` when they are of so many instances.
    pub(super) fn caveat(&self) -> Option<String> {
        let age = self.age_milliseconds.map(|age| time::span(i64::from(age / 1000)));
        match (self.stale, age, self.missing_instances) {
            (true, Some(age), _) => Some(format!("stale {age}")),
            (true, None, _) => Some("stale".to_owned()),
            (false, _, 0) => None,
            (false, _, missing) => {
                Some(format!("{} of {}", self.instances, self.instances.saturating_add(missing)))
            }
        }
    }

    /// The colour for CPU: near the limit, the instances are held up.
    pub(super) fn cpu_colour(&self) -> Option<&'static str> {
        self.colour(of(self.cpu_millicores, self.cpu_limit_millicores))
    }

    /// The colour for memory: at the limit, the instances are killed.
    pub(super) fn memory_colour(&self) -> Option<&'static str> {
        self.colour(self.of_memory_limit())
    }

    fn colour(&self, of_limit: Option<f64>) -> Option<&'static str> {
        match of_limit {
            // What was is dim, not alarming.
            _ if self.stale => Some("2"),
            Some(ratio) if ratio >= CRITICAL => Some("31"),
            Some(ratio) if ratio >= HIGH => Some("33"),
            _ => None,
        }
    }
}

/// What is used as a part of what is set; none without that.
pub(super) fn of(used: Option<f64>, set: Option<u64>) -> Option<f64> {
    let set = set.filter(|set| *set > 0)?;
    Some(used? / set as f64)
}

pub(super) fn cell(text: String, colour: Option<&'static str>) -> Cell {
    match colour.filter(|_| !text.is_empty()) {
        Some(colour) => Cell::coloured(text, colour),
        None => Cell::new(text),
    }
}

/// CPU among other things of an environment or an instance.
pub(super) fn cpu_cell(usage: Option<&Usage>) -> Cell {
    usage.map_or_else(|| Cell::new("-"), |usage| cell(marked(usage.cpu(), usage), usage.cpu_colour()))
}

/// Memory, likewise.
pub(super) fn memory_cell(usage: Option<&Usage>) -> Cell {
    usage.map_or_else(|| Cell::new("-"), |usage| cell(marked(usage.memory(), usage), usage.memory_colour()))
}

/// There is nothing to add to what is not known.
fn marked(text: String, usage: &Usage) -> String {
    match usage.caveat() {
        Some(caveat) if text != "-" => format!("{text} ({caveat})"),
        _ => text,
    }
}

/// `0.35 cores (70% of its share), 212Mi of memory (41% of its max), waits for CPU 12% of the time`.
pub(super) fn sentence(usage: Option<&Usage>) -> String {
    let Some(usage) = usage else { return "-".to_owned() };
    let of = |ratio: Option<f64>, of: &str| {
        ratio.map(|ratio| format!(" ({} of its {of})", number::percent(ratio))).unwrap_or_default()
    };
    let cpu = usage
        .cpu_millicores
        .map(|used| format!("{} cores{}", number::cores(used), of(usage.of_share(), "share")));
    let memory = usage
        .memory_working_set_bytes
        .map(|used| format!("{} of memory{}", number::bytes(used), of(usage.of_memory_limit(), "max")));
    match [cpu, memory, usage.waits()].into_iter().flatten().collect::<Vec<_>>().join(", ") {
        known if known.is_empty() => "-".to_owned(),
        known => match usage.caveat() {
            Some(caveat) if usage.stale => format!("{known}; {caveat}"),
            Some(caveat) => format!("{known}; of {caveat} instances"),
            None => known,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage::from(&UsageNow {
            cpu_millicores: Some(351.23456),
            cpu_share_millicores: Some(500),
            cpu_limit_millicores: Some(2000),
            memory_working_set_bytes: Some(212 << 20),
            memory_limit_bytes: Some(512 << 20),
            ..UsageNow::default()
        })
    }

    #[test]
    fn known_and_unknown_amounts() {
        let usage = usage();
        assert_eq!(usage.cpu_millicores, Some(351.235));
        assert_eq!((usage.cpu(), usage.memory()), ("0.35/0.5".to_owned(), "212Mi/512Mi".to_owned()));
        assert_eq!(sentence(Some(&usage)), "0.35 cores (70% of its share), 212Mi of memory (41% of its max)");
        let waiting = Usage {
            cpu_pressure_ratio: Some(0.12),
            memory_pressure_ratio: Some(0.009),
            io_pressure_ratio: Some(0.03),
            ..Usage::default()
        };
        assert_eq!(sentence(Some(&waiting)), "waits for CPU 12% and I/O 3% of the time");
        let stale =
            Usage { stale: true, age_milliseconds: Some(25_400), cpu_millicores: None, ..usage.clone() };
        assert_eq!(sentence(Some(&stale)), "212Mi of memory (41% of its max); stale 25s");
        assert_eq!(marked(stale.memory(), &stale), "212Mi/512Mi (stale 25s)");
        assert_eq!(marked(stale.cpu(), &stale), "-");
        // Numbers of some are not old, and not those of all.
        let some = Usage { instances: 2, missing_instances: 1, ..usage.clone() };
        assert_eq!(marked(some.cpu(), &some), "0.35/0.5 (2 of 3)");
        assert!(sentence(Some(&some)).ends_with("; of 2 of 3 instances"));
        let busy = Usage { cpu_millicores: Some(1990.0), ..some };
        assert_eq!(busy.cpu_colour(), Some("31"));
        assert_eq!((sentence(None), sentence(Some(&Usage::default()))), ("-".to_owned(), "-".to_owned()));
        let unlimited = Usage { memory_limit_bytes: Some(0), ..usage };
        assert_eq!(unlimited.of_memory_limit(), None);
    }

    #[test]
    fn what_cannot_be_is_not_known() {
        for (value, expected) in [
            (f64::NAN, None),
            (f64::INFINITY, None),
            (-0.1, None),
            (1e12, None),
            (-0.0, Some(0.0)),
            (0.5, Some(0.5)),
        ] {
            assert_eq!(millicores(Some(value)), expected, "{value}");
        }
        assert_eq!((ratio(Some(1.5)), ratio(Some(1.0)), ratio(None)), (None, Some(1.0), None));
        assert!(!millicores(Some(-0.0)).unwrap().is_sign_negative());
    }

    #[test]
    fn colours_warn_near_the_limit_and_not_of_what_was() {
        let at = |bytes: u64, stale| {
            Usage {
                memory_working_set_bytes: Some(bytes),
                memory_limit_bytes: Some(100),
                stale,
                ..Usage::default()
            }
            .memory_colour()
        };
        assert_eq!((at(79, false), at(80, false), at(95, false)), (None, Some("33"), Some("31")));
        assert_eq!(at(99, true), Some("2"));
        let busy = Usage { cpu_millicores: Some(1900.0), ..usage() };
        assert_eq!((busy.cpu_colour(), usage().cpu_colour()), (Some("31"), None));
    }
}
