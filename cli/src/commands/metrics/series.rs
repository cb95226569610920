//! What the aggregator answered, as programs get it: names made harmless, numbers that cannot be left out.

use crate::commands::release::text;
use crate::commands::usage::{Usage, millicores, of, ratio};
use crate::output::csv_line;
use crate::time;
use serde::Serialize;
use skpr_proto::{EnvironmentName, UnixNanos, v1};
use std::time::Duration;

/// The answer. `docs/schemas/metrics.json` describes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    pub project: String,
    pub environment: String,
    pub namespace: Option<String>,
    /// The aggregator's time.
    pub time: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    /// Nothing older is kept.
    pub oldest: Option<String>,
    pub interval_seconds: u32,
    pub now: Option<Usage>,
    pub points: Vec<Point>,
    pub instance: Vec<Instance>,
    /// Between `since` and `until`.
    #[serde(skip)]
    pub seconds: Option<i64>,
    #[serde(skip)]
    pub at: Option<UnixNanos>,
    #[serde(skip)]
    pub sample_millis: u32,
    /// The range ended before now.
    #[serde(skip)]
    pub past: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    pub name: String,
    pub now: Option<Usage>,
    pub points: Vec<Point>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Point {
    pub time: String,
    pub cpu_millicores: Option<f64>,
    pub cpu_share_millicores: Option<u64>,
    pub memory_working_set_bytes: Option<u64>,
    pub memory_not_reclaimable_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub instances: u32,
    pub throttled_ratio: Option<f64>,
    /// None: nobody counts them.
    pub out_of_memory_kills: Option<u64>,
    pub restarts: u64,
}

impl From<&v1::Point> for Point {
    fn from(point: &v1::Point) -> Self {
        Point {
            time: time::rfc3339(point.time.map_or(UnixNanos(0), UnixNanos::from)),
            cpu_millicores: millicores(point.cpu_millicores),
            cpu_share_millicores: point.cpu_share_millicores,
            memory_working_set_bytes: point.working_set_bytes,
            memory_not_reclaimable_bytes: point.not_reclaimable_bytes,
            memory_limit_bytes: point.memory_limit_bytes,
            instances: point.instances,
            throttled_ratio: ratio(point.throttled),
            out_of_memory_kills: point.oom_kills,
            restarts: point.restarts,
        }
    }
}

impl Point {
    pub(super) fn of_share(&self) -> Option<f64> {
        of(self.cpu_millicores, self.cpu_share_millicores)
    }

    pub(super) fn of_memory_limit(&self) -> Option<f64> {
        of(self.memory_working_set_bytes.map(|bytes| bytes as f64), self.memory_limit_bytes)
    }
}

fn points(series: &v1::Series) -> Vec<Point> {
    series.points.iter().map(Point::from).collect()
}

/// Whether the range ended before now. Its end is moved to a round time.
pub(super) fn past(answer: &v1::UsageResponse) -> bool {
    let ends = answer.until.zip(answer.now);
    let nearly = i64::from(answer.interval_seconds).clamp(10, 300) * 1_000_000_000;
    ends.is_some_and(|(until, now)| until.unix_nanos.saturating_add(nearly) < now.unix_nanos)
}

impl Whole {
    pub(super) fn new(environment: &EnvironmentName, answer: v1::UsageResponse) -> Self {
        let at = |instant: Option<v1::Instant>| instant.map(UnixNanos::from);
        let (since, until) = (at(answer.since), at(answer.until));
        let past = past(&answer);
        let whole = answer.whole.unwrap_or_default();
        let nanos = since.zip(until).map(|(since, until)| until.0.saturating_sub(since.0));
        Whole {
            project: environment.project.to_string(),
            environment: environment.environment.to_string(),
            namespace: answer.namespace.as_deref().map(text),
            time: at(answer.now).map(time::rfc3339),
            since: since.map(time::rfc3339),
            until: until.map(time::rfc3339),
            oldest: at(answer.oldest).map(time::rfc3339),
            interval_seconds: answer.interval_seconds,
            now: whole.now.as_ref().map(Usage::from),
            points: points(&whole),
            instance: answer
                .instances
                .iter()
                .map(|series| Instance {
                    name: text(&series.instance),
                    now: series.now.as_ref().map(Usage::from),
                    points: points(series),
                })
                .collect(),
            seconds: nanos.map(|nanos| nanos / 1_000_000_000),
            at: at(answer.now),
            past,
            sample_millis: answer.sample_interval_millis,
        }
    }

    /// Nothing was heard for this long.
    pub(super) fn grow_old(&mut self, by: Duration) {
        let instances = self.instance.iter_mut().filter_map(|series| series.now.as_mut());
        for usage in self.now.iter_mut().chain(instances) {
            let by = u32::try_from(by.as_millis()).unwrap_or(u32::MAX);
            usage.stale = true;
            usage.age_milliseconds = usage.age_milliseconds.map(|age| age.saturating_add(by));
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.project, self.environment)
    }

    /// A line a point; those of the whole environment first, and without an instance.
    pub(super) fn csv(&self) -> String {
        let mut out = csv_line(CSV_HEADERS.into_iter());
        let whole = self.points.iter().map(|point| ("", point));
        let each = self.instance.iter();
        let each = each.flat_map(|series| series.points.iter().map(|point| (series.name.as_str(), point)));
        for (instance, point) in whole.chain(each) {
            let amount = |amount: Option<u64>| amount.map(|amount| amount.to_string()).unwrap_or_default();
            let share = |share: Option<f64>| share.map(|share| share.to_string()).unwrap_or_default();
            let fields = [
                point.time.clone(),
                self.project.clone(),
                self.environment.clone(),
                instance.to_owned(),
                share(point.cpu_millicores),
                amount(point.cpu_share_millicores),
                amount(point.memory_working_set_bytes),
                amount(point.memory_not_reclaimable_bytes),
                amount(point.memory_limit_bytes),
                point.instances.to_string(),
                share(point.throttled_ratio),
                amount(point.out_of_memory_kills),
                point.restarts.to_string(),
            ];
            out.push_str(&csv_line(fields.iter().map(String::as_str)));
        }
        out
    }
}

/// Programs rely on this order: what is new goes to the end.
const CSV_HEADERS: [&str; 13] = [
    "time",
    "project",
    "environment",
    "instance",
    "cpuMillicores",
    "cpuShareMillicores",
    "memoryWorkingSetBytes",
    "memoryNotReclaimableBytes",
    "memoryLimitBytes",
    "instances",
    "throttledRatio",
    "outOfMemoryKills",
    "restarts",
];
