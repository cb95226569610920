//! Durations and sizes as people type them.

use std::time::Duration;

/// `90s`, `5m`, `2h`, `30d`.
pub(super) fn duration(value: &str) -> Result<Duration, &'static str> {
    const RULE: &str = "is not a duration such as 90s, 5m, 2h or 30d";
    let (number, unit) = split(value).ok_or(RULE)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(RULE),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(RULE)
}

/// `512`, `64Ki`, `64Mi`, `10Gi`, `1Ti`.
pub(super) fn bytes(value: &str) -> Result<u64, &'static str> {
    const RULE: &str = "is not a size such as 512Ki, 64Mi or 10Gi";
    let (number, unit) = split(value).ok_or(RULE)?;
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => return Err(RULE),
    };
    number.checked_mul(1 << shift).ok_or(RULE)
}

fn split(value: &str) -> Option<(u64, &str)> {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at_checked(end)?;
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_checked() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(bytes("64Mi"), Ok(64 << 20));
        assert_eq!(bytes("512"), Ok(512));
        for bad in ["", "5", "m", "5 m", "-5m", "5w", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "Mi", "1MB", "18446744073709551615Ti", "ü"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
