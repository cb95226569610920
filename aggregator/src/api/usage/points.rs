//! Which points are asked for, and history's as the CLI is told them. Pure.

use super::instant;
use crate::usage::{Point, Points};
use jiff::Timestamp;
use skpr_proto::error::usage as wrong;
use skpr_proto::v1::{self, UsageRequest};
use skpr_proto::{Failure, UnixNanos};
use std::time::Duration;

/// Intervals that fall on what a clock shows.
const ROUND_SECONDS: [u64; 12] = [5, 10, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400];
/// What a chart in a terminal shows.
const USUAL_POINTS: u64 = 120;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) since: i64,
    pub(super) until: i64,
    pub(super) step: Duration,
}

impl Range {
    /// None when only what is used now is asked for.
    pub(super) fn asked(asked: &UsageRequest, now: Timestamp) -> Result<Option<Range>, Failure> {
        let millis = |time: v1::Instant| UnixNanos::from(time).0.div_euclid(1_000_000);
        let Some(since) = asked.since.map(millis) else {
            return match asked.until {
                Some(_) => Err(wrong("an end is asked for without a beginning")),
                None => Ok(None),
            };
        };
        let until = asked.until.map_or(now.as_millisecond(), millis);
        if since >= until {
            return Err(wrong("the range ends before it begins"));
        }
        let step = match asked.interval_seconds {
            0 => usual(until.abs_diff(since)),
            seconds => Duration::from_secs(seconds.into()),
        };
        Ok(Some(Range { since, until, step }))
    }
}

/// The shortest round interval that makes few points of so many milliseconds.
fn usual(millis: u64) -> Duration {
    let fits = |seconds: &&u64| millis <= **seconds * 1000 * USUAL_POINTS;
    let days = || millis.div_ceil(86_400_000 * USUAL_POINTS) * 86_400;
    Duration::from_secs(ROUND_SECONDS.iter().find(fits).copied().unwrap_or_else(days))
}

/// One point an interval, also where nothing is known.
pub(super) fn filled(points: &Points, known: &[Point]) -> Vec<v1::Point> {
    let step = points.step.max(1);
    let mut known = known.iter().peekable();
    let mut filled = vec![];
    let mut time = points.since;
    while time < points.until {
        let point = known.next_if(|point| point.time == time);
        filled.push(
            point.map_or_else(|| v1::Point { time: Some(instant(time)), ..v1::Point::default() }, told),
        );
        time += step;
    }
    filled
}

fn told(point: &Point) -> v1::Point {
    let covered = (point.covered_millis > 0).then_some(point.covered_millis as f64);
    v1::Point {
        time: Some(instant(point.time)),
        // Nanoseconds over milliseconds are millionths of a core.
        cpu_millicores: point.cpu_nanos.zip(covered).map(|(nanos, millis)| nanos as f64 / millis / 1000.0),
        working_set_bytes: point.working_set_bytes,
        not_reclaimable_bytes: point.not_reclaimable_bytes,
        instances: point.instances,
        throttled: (point.periods > 0)
            .then(|| point.throttled_periods.min(point.periods) as f64 / point.periods as f64),
        oom_kills: point.oom_kills,
        restarts: point.restarts,
        cpu_share_millicores: point.cpu_share_millicores,
        memory_limit_bytes: point.memory_limit_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(since: Option<i64>, until: Option<i64>, interval_seconds: u32) -> UsageRequest {
        let instant = |second: i64| v1::Instant { unix_nanos: second * 1_000_000_000 };
        UsageRequest {
            since: since.map(instant),
            until: until.map(instant),
            interval_seconds,
            ..UsageRequest::default()
        }
    }

    fn range(since: Option<i64>, until: Option<i64>, interval: u32) -> Result<Option<Range>, Failure> {
        Range::asked(&asked(since, until, interval), Timestamp::from_second(100_000).unwrap())
    }

    #[test]
    fn a_range_ends_now_unless_it_says() {
        assert_eq!(range(None, None, 0), Ok(None));
        let hour = Range { since: 96_400_000, until: 100_000_000, step: Duration::from_secs(30) };
        assert_eq!(range(Some(96_400), None, 0), Ok(Some(hour)));
        let minute = Range { since: 0, until: 60_000, step: Duration::from_secs(7) };
        assert_eq!(range(Some(0), Some(60), 7), Ok(Some(minute)));
        for (since, until) in [(Some(100_000), None), (Some(9), Some(9)), (None, Some(1))] {
            assert!(range(since, until, 0).is_err(), "{since:?} {until:?}");
        }
    }

    #[test]
    fn the_usual_interval_is_round_and_makes_few_points() {
        for (seconds, expected) in [
            (60, 5),
            (600, 5),
            (601, 10),
            (3600, 30),
            (86_400, 900),
            (30 * 86_400, 6 * 3600),
            (500 * 86_400, 5 * 86_400),
        ] {
            assert_eq!(usual(seconds * 1000).as_secs(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_gap_is_a_point_of_which_nothing_is_known() {
        let known = Point {
            time: 10_000,
            cpu_nanos: Some(2_500_000_000),
            covered_millis: 5_000,
            periods: 10,
            throttled_periods: 5,
            instances: 1,
            ..Point::default()
        };
        let points = Points { since: 0, until: 20_000, step: 5_000, series: vec![], damaged: 0 };
        let filled = filled(&points, &[known]);
        assert_eq!(filled.iter().map(|point| point.instances).collect::<Vec<_>>(), [0, 0, 1, 0]);
        assert_eq!((filled[2].cpu_millicores, filled[2].throttled), (Some(500.0), Some(0.5)));
        assert_eq!((filled[3].cpu_millicores, filled[3].time), (None, Some(instant(15_000))));
        let uncovered = told(&Point { cpu_nanos: Some(1), ..Point::default() });
        assert_eq!(uncovered.cpu_millicores, None);
    }
}
