//! Amounts of CPU and memory as people read them, in the units that `.skpr.yml` has.
//!
//! Invariant: whatever arrives, the text is short: no amount is longer than nine characters.

/// `0.35` cores, from thousandths.
pub(crate) fn cores(millicores: f64) -> String {
    let cores = millicores / 1000.0;
    match cores {
        // Nothing in the world has as many; NaN is not greater than anything.
        _ if !cores.is_finite() || cores < 0.0 => "-".to_owned(),
        _ if cores >= 99_999.5 => ">99999".to_owned(),
        _ if cores >= 99.95 => format!("{cores:.0}"),
        _ if cores >= 9.995 => format!("{cores:.1}"),
        _ => format!("{cores:.2}"),
    }
}

/// `0.5` cores that are set: with no more digits than it takes.
pub(crate) fn set_cores(millicores: u64) -> String {
    let whole = millicores / 1000;
    match millicores % 1000 {
        _ if whole > 99_999 => ">99999".to_owned(),
        0 => whole.to_string(),
        part => format!("{whole}.{part:03}").trim_end_matches('0').to_owned(),
    }
}

/// `212Mi`, `1.5Gi`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut amount = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        // What would be shown as 1024 is 1 of the next.
        if amount < 1023.5 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    let text = if amount < 9.95 { format!("{amount:.1}") } else { format!("{amount:.0}") };
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// `70%` of a share or a limit; what is there at all is never shown as nothing.
pub(crate) fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        percent if !percent.is_finite() || percent < 0.0 => "-".to_owned(),
        0.0 => "0%".to_owned(),
        percent if percent < 1.0 => "<1%".to_owned(),
        percent if percent >= 9_999.5 => ">9999%".to_owned(),
        percent => format!("{percent:.0}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_short_and_in_known_units() {
        for (millicores, expected) in [
            (0.0, "0.00"),
            (4.0, "0.00"),
            (351.0, "0.35"),
            (9_994.0, "9.99"),
            (9_996.0, "10.0"),
            (99_960.0, "100"),
            (f64::NAN, "-"),
            (f64::INFINITY, "-"),
            (-1.0, "-"),
            (1e300, ">99999"),
        ] {
            assert_eq!(cores(millicores), expected, "{millicores}");
        }
        for (millicores, expected) in
            [(500, "0.5"), (2000, "2"), (1250, "1.25"), (1, "0.001"), (0, "0"), (u64::MAX, ">99999")]
        {
            assert_eq!(set_cores(millicores), expected);
        }
        for (amount, expected) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (212 << 20, "212Mi"),
            (3 << 29, "1.5Gi"),
            ((1 << 20) - 1, "1Mi"),
            ((10 << 20) - 1, "10Mi"),
            (1000 << 20, "1000Mi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(bytes(amount), expected, "{amount}");
        }
        for (ratio, expected) in
            [(0.0, "0%"), (0.004, "<1%"), (0.7, "70%"), (1.346, "135%"), (f64::NAN, "-"), (1e9, ">9999%")]
        {
            assert_eq!(percent(ratio), expected, "{ratio}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_long(number in any::<f64>(), amount in any::<u64>()) {
            for text in [cores(number), percent(number), bytes(amount), set_cores(amount)] {
                prop_assert!((1..=9).contains(&text.len()), "{}", text);
            }
        }
    }
}
