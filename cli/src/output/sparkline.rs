//! A row of bars, one a character: how an amount went over time.
//!
//! Invariants: never wider than asked, whatever the values; what is not known is a blank and never a bar. The scale goes
//! from 0 to the greatest value, so that a steady load is a full row and not a flat line of nothing.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// For terminals without UTF-8: the higher, the more ink.
const ASCII_BARS: [char; 8] = ['_', '.', '-', '=', '+', '*', '%', '#'];

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letters {
    Utf8,
    Ascii,
}

impl Letters {
    /// As the locale says: the first of these that is set decides, and C is ASCII.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        if cfg!(windows) {
            return Letters::Utf8;
        }
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable);
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Letters::Utf8 } else { Letters::Ascii }
    }

    /// What stands for a part that was cut off.
    pub(crate) fn ellipsis(self) -> &'static str {
        match self {
            Letters::Utf8 => "…",
            Letters::Ascii => "..",
        }
    }
}

/// Values over time, oldest first. Of several that share a character the greatest shows: a peak is what one looks for.
pub(crate) fn sparkline(values: &[Option<f64>], width: usize, letters: Letters) -> String {
    let bars = match letters {
        Letters::Utf8 => BARS,
        Letters::Ascii => ASCII_BARS,
    };
    let known = |value: &Option<f64>| value.filter(|value| value.is_finite()).map(|value| value.max(0.0));
    let count = values.len();
    let columns = count.min(width);
    let column = |index: usize| {
        // Both products are of lengths in memory and on a screen.
        let from = index.saturating_mul(count) / columns;
        let to = (index + 1).saturating_mul(count) / columns;
        values.get(from..to).unwrap_or_default().iter().filter_map(known).reduce(f64::max)
    };
    let shown: Vec<Option<f64>> = (0..columns).map(column).collect();
    let greatest = shown.iter().flatten().copied().fold(0.0, f64::max);
    shown
        .iter()
        .map(|value| match value {
            None => ' ',
            Some(value) => {
                let share = if greatest > 0.0 { value / greatest } else { 0.0 };
                // 0 to 8 as an index; a cast of a float ends at the bounds of the integer.
                let level = ((share * 8.0).ceil() as usize).clamp(1, bars.len());
                bars.get(level - 1).copied().unwrap_or(' ')
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bars_gaps_and_peaks() {
        let of = |values: &[f64], width| {
            let values: Vec<_> = values.iter().map(|value| value.is_finite().then_some(*value)).collect();
            sparkline(&values, width, Letters::Utf8)
        };
        let gap = f64::NAN;
        for (values, width, expected) in [
            (&[][..], 9, ""),
            (&[1.0], 0, ""),
            (&[0.0, 0.0], 9, "▁▁"),
            (&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 9, "▁▁▂▃▄▅▆▇█"),
            (&[5.0, gap, 5.0], 9, "█ █"),
            (&[gap, gap], 9, "  "),
            // A peak survives being drawn in fewer characters, and a gap beside a value does not hide it.
            (&[1.0, 8.0, 1.0, gap, gap, gap], 3, "█▁ "),
            (&[-5.0, 1.0], 9, "▁█"),
        ] {
            assert_eq!(of(values, width), expected, "{values:?}");
        }
        assert_eq!(sparkline(&[Some(1.0), None, Some(8.0)], 3, Letters::Ascii), "_ #");
    }

    #[test]
    fn the_locale_says_what_can_be_shown() {
        let of = |set: &'static [(&str, &str)]| {
            Letters::of(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("LANG", "de_DE.UTF-8")]), Letters::Utf8);
        assert_eq!(of(&[("LANG", "en_US.utf8"), ("LC_ALL", "C")]), Letters::Ascii);
        assert_eq!(of(&[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8")]), Letters::Utf8);
        assert_eq!(of(&[]), Letters::Ascii);
    }

    proptest! {
        #[test]
        fn any_values_make_a_row_of_bars_that_fits(
            values in proptest::collection::vec(proptest::option::of(any::<f64>()), 0..300),
            width in 0usize..400,
            ascii in any::<bool>(),
        ) {
            let letters = if ascii { Letters::Ascii } else { Letters::Utf8 };
            let line = sparkline(&values, width, letters);
            let columns = values.len().min(width);
            prop_assert_eq!(line.chars().count(), columns);
            prop_assert!(line.chars().all(|bar| bar == ' ' || BARS.contains(&bar) || ASCII_BARS.contains(&bar)));
            prop_assert!(!ascii || line.is_ascii());
            let known = |value: &Option<f64>| value.is_some_and(f64::is_finite);
            // Something known is a bar somewhere, and nothing known is none.
            prop_assert_eq!(columns > 0 && values.iter().any(known), !line.trim().is_empty());
            if columns == values.len() {
                for (value, bar) in values.iter().zip(line.chars()) {
                    prop_assert_eq!(known(value), bar != ' ');
                }
            }
        }
    }
}
