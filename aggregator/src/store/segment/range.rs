//! Which rows of a segment are asked for, and what a row group's statistics say about that. Pure.

use skpr_proto::UnixNanos;

/// The rows asked for; every bound that is set must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// `time` not before this.
    pub since: Option<UnixNanos>,
    /// `time` before this.
    pub until: Option<UnixNanos>,
    /// `sequence` greater than this.
    pub after_sequence: Option<u64>,
    /// `sequence` at most this.
    pub up_to_sequence: Option<u64>,
    /// (`order_time`, `sequence`) greater than this.
    pub after: Option<(UnixNanos, u64)>,
}

/// Smallest and largest value of a column in a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: i64,
    pub(super) max: i64,
}

/// What is known about a row group before any of its pages is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) order_time: Bounds,
    pub(super) lag: Bounds,
    pub(super) sequence: Bounds,
}

/// How much of a row group is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    None,
    Some,
    All,
}

impl Range {
    pub fn contains(&self, order_time: UnixNanos, time: UnixNanos, sequence: u64) -> bool {
        self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
            && self.after_sequence.is_none_or(|after| sequence > after)
            && self.up_to_sequence.is_none_or(|last| sequence <= last)
            && self.after.is_none_or(|after| (order_time, sequence) > after)
    }

    pub(super) fn overlap(&self, statistics: &Statistics) -> Overlap {
        let Statistics { order_time, lag, sequence } = statistics;
        let earliest = order_time.min.saturating_sub(lag.max);
        let latest = order_time.max.saturating_sub(lag.min);
        let (first, last) = (sequence.min.max(0) as u64, sequence.max.max(0) as u64);
        // Each pair: the whole group is out, the whole group is in.
        let bounds = [
            self.since.map(|since| (latest < since.0, earliest >= since.0)),
            self.until.map(|until| (earliest >= until.0, latest < until.0)),
            self.after_sequence.map(|after| (last <= after, first > after)),
            self.up_to_sequence.map(|up_to| (first > up_to, last <= up_to)),
            self.after.map(|(time, sequence)| {
                let out = order_time.max < time.0 || (order_time.max == time.0 && last <= sequence);
                (out, order_time.min > time.0)
            }),
        ];
        if bounds.iter().flatten().any(|(out, _)| *out) {
            Overlap::None
        } else if bounds.iter().flatten().all(|(_, all)| *all) {
            Overlap::All
        } else {
            Overlap::Some
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds(values: impl Iterator<Item = i64> + Clone) -> Bounds {
        Bounds { min: values.clone().min().unwrap(), max: values.max().unwrap() }
    }

    proptest! {
        #[test]
        fn statistics_never_contradict_the_rows(
            rows in proptest::collection::vec((0i64..30, 0i64..5, 1u64..30), 1..6),
            since in proptest::option::of(-5i64..35),
            until in proptest::option::of(-5i64..35),
            after_sequence in proptest::option::of(0u64..31),
            up_to_sequence in proptest::option::of(0u64..31),
            after in proptest::option::of((0i64..31, 0u64..31)),
        ) {
            let range = Range {
                since: since.map(UnixNanos),
                until: until.map(UnixNanos),
                after_sequence,
                up_to_sequence,
                after: after.map(|(time, sequence)| (UnixNanos(time), sequence)),
            };
            let statistics = Statistics {
                order_time: bounds(rows.iter().map(|row| row.0)),
                lag: bounds(rows.iter().map(|row| row.1)),
                sequence: bounds(rows.iter().map(|row| row.2 as i64)),
            };
            let inside = rows.iter().filter(|(order, lag, sequence)| {
                range.contains(UnixNanos(*order), UnixNanos(order - lag), *sequence)
            }).count();
            match range.overlap(&statistics) {
                Overlap::None => prop_assert_eq!(inside, 0),
                Overlap::All => prop_assert_eq!(inside, rows.len()),
                Overlap::Some => {}
            }
        }
    }
}
