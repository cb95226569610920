//! What history keeps of a sample of an instance.
//!
//! - Times are milliseconds since the Unix epoch, stamped by the aggregator, and strictly ascend for one instance.
//! - Numbers are below 2^63, as the files' columns have them, or absent.

use std::fmt;
use std::sync::Arc;

/// What a number has to stay below: times of CPU are nanoseconds, and 2^53 of those are a busy core's after 104 days.
pub(crate) const TOO_LARGE: u64 = 1 << 63;

/// A number below [`TOO_LARGE`], or none, in 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Amount(u64);

/// Counters: of a bucket counts what was added. Who writes them sees to it that they do not begin anew; one that goes back has
/// forgotten, as an aggregator that was started again.
pub(super) const COUNTERS: [&str; 5] = ["cpu_nanos", "periods", "throttled_periods", "oom_kills", "restarts"];
/// Where CPU and kills are among [`COUNTERS`].
pub(super) const CPU: usize = 0;
pub(super) const OOM_KILLS: usize = 3;
/// Gauges of which the highest value matters.
pub(super) const PEAKS: [&str; 3] = ["working_set_bytes", "not_reclaimable_bytes", "cache_bytes"];
/// Gauges of which the last value matters.
pub(super) const SETTINGS: [&str; 3] = ["memory_limit_bytes", "cpu_share_millicores", "cpu_limit_millicores"];
/// All numbers of a row, in the order of the columns.
pub(super) const NUMBERS: usize = COUNTERS.len() + PEAKS.len() + SETTINGS.len();

/// A sample of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub time: i64,
    pub instance: Arc<str>,
    pub ready: bool,
    /// As [`COUNTERS`] names them.
    pub counters: [Amount; COUNTERS.len()],
    pub peaks: [Amount; PEAKS.len()],
    pub settings: [Amount; SETTINGS.len()],
}

/// What stands in a file: a time, an instance, whether that was ready, and numbers that may be absent.
pub(super) trait Record: Sized {
    /// The column of the time.
    const TIME: &'static str;
    /// The columns of the numbers.
    const NAMES: &'static [&'static str];

    fn time(&self) -> i64;
    fn instance(&self) -> &Arc<str>;
    fn ready(&self) -> bool;
    fn numbers(&self) -> impl Iterator<Item = Amount>;
    /// `numbers` has as many as there are [`NAMES`](Record::NAMES).
    fn of(time: i64, instance: Arc<str>, ready: bool, numbers: impl Iterator<Item = Amount>) -> Self;
}

impl Amount {
    pub const NONE: Amount = Amount(u64::MAX);

    /// None also when the value is too large.
    pub fn of(value: Option<u64>) -> Amount {
        value.filter(|value| *value < TOO_LARGE).map_or(Amount::NONE, Amount)
    }

    pub fn get(self) -> Option<u64> {
        (self != Amount::NONE).then_some(self.0)
    }
}

impl Default for Amount {
    fn default() -> Amount {
        Amount::NONE
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl From<u64> for Amount {
    fn from(value: u64) -> Amount {
        Amount::of(Some(value))
    }
}

/// Fills an array, with nothing where the numbers end early.
pub(super) fn take<const N: usize>(numbers: &mut impl Iterator<Item = Amount>) -> [Amount; N] {
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}

impl Record for Row {
    const TIME: &'static str = "time";
    const NAMES: &'static [&'static str] = &[
        "cpu_nanos",
        "periods",
        "throttled_periods",
        "oom_kills",
        "restarts",
        "working_set_bytes",
        "not_reclaimable_bytes",
        "cache_bytes",
        "memory_limit_bytes",
        "cpu_share_millicores",
        "cpu_limit_millicores",
    ];

    fn time(&self) -> i64 {
        self.time
    }

    fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn numbers(&self) -> impl Iterator<Item = Amount> {
        self.counters.iter().chain(&self.peaks).chain(&self.settings).copied()
    }

    fn of(time: i64, instance: Arc<str>, ready: bool, mut numbers: impl Iterator<Item = Amount>) -> Row {
        let (counters, peaks) = (take(&mut numbers), take(&mut numbers));
        Row { time, instance, ready, counters, peaks, settings: take(&mut numbers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_small_and_its_columns_have_the_names_of_its_numbers() {
        assert!(size_of::<Row>() <= 128, "{}", size_of::<Row>());
        let names: Vec<_> = COUNTERS.iter().chain(&PEAKS).chain(&SETTINGS).copied().collect();
        assert_eq!(Row::NAMES, names);
        assert_eq!((COUNTERS[CPU], COUNTERS[OOM_KILLS]), ("cpu_nanos", "oom_kills"));
        assert_eq!(NUMBERS, names.len());
    }

    #[test]
    fn what_is_too_large_is_unknown() {
        assert_eq!(Amount::from(TOO_LARGE - 1).get(), Some(TOO_LARGE - 1));
        assert_eq!(Amount::from(TOO_LARGE).get(), None);
        assert_eq!(Amount::of(Some(u64::MAX)), Amount::NONE);
    }
}
