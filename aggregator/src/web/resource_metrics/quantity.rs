//! Amounts and times in the one form that Kubernetes writes them in. Pure.

use jiff::Timestamp;
use std::time::Duration;

/// Cores: the largest unit in which it is a whole number.
pub(super) fn cores(nanocores: u64) -> String {
    largest(nanocores, 1000, &["n", "u", "m", ""])
}

pub(super) fn bytes(bytes: u64) -> String {
    largest(bytes, 1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
}

fn largest(mut amount: u64, step: u64, units: &[&str]) -> String {
    if amount == 0 {
        return "0".to_owned();
    }
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if !amount.is_multiple_of(step) {
            break;
        }
        (amount, unit) = (amount / step, larger);
    }
    format!("{amount}{unit}")
}

/// To the millisecond: `5.002s`, `1m5s`.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let fraction = format!(".{:03}", millis % 1000);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let seconds = format!("{}{fraction}s", millis / 1000);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// To the second, as times in Kubernetes' objects are.
pub(super) fn time(millis: i64) -> String {
    Timestamp::from_second(millis.div_euclid(1000)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_numbers_of_the_largest_unit() {
        for (nanocores, text) in [
            (0, "0"),
            (123, "123n"),
            (1_500, "1500n"),
            (2_000, "2u"),
            (250_000_000, "250m"),
            (250_000_001, "250000001n"),
            (3_000_000_000, "3"),
            (3_000_000_000_000, "3000"),
        ] {
            assert_eq!(cores(nanocores), text);
        }
        for (amount, text) in
            [(0, "0"), (1000, "1000"), (4096, "4Ki"), (71_847_936, "70164Ki"), (1 << 30, "1Gi")]
        {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn times_are_those_of_kubernetes() {
        for (millis, text) in [
            (0, "0s"),
            (5000, "5s"),
            (5002, "5.002s"),
            (5100, "5.1s"),
            (65_000, "1m5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(time(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }
}
