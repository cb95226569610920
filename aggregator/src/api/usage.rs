//! `Metrics.Read`: what an environment uses now, and what it used over a range.

pub(super) mod now;
mod points;

use super::target::{Target, heard};
use super::wire;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Grant, ReadMetrics};
use crate::environment::EnvironmentKey;
use crate::usage::{Points, Query, ReadError};
use jiff::Timestamp;
use points::Range;
use skpr_proto::error::usage as wrong;
use skpr_proto::v1::{Series, UsageRequest, UsageResponse};
use skpr_proto::{ErrorKind, Failure, UnixNanos};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Request;

/// More than a terminal asks for, and with 60 bytes each far below what the CLI takes.
const MOST_POINTS: usize = 50_000;
/// Names of instances in one question.
const MOST_NAMES: usize = 1_000;

pub(super) async fn read(
    shared: &Shared,
    request: &Request<UsageRequest>,
    access: &mut Access,
) -> Result<UsageResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let asked = request.get_ref();
    let target = Target::parse(asked.environment.as_ref())?;
    access.asked(target.name.to_string());
    let now = Timestamp::now();
    let range = Range::asked(asked, now)?;
    if asked.instances.len() > MOST_NAMES {
        return Err(wrong(format!("`{}` instances are more than can be asked for", asked.instances.len())));
    }
    let inventory = heard(shared)?;
    let grant: Grant<ReadMetrics> =
        shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    let key = grant.environment();
    access.allowed(Some(key));

    let wanted = |name: &str| asked.instances.is_empty() || asked.instances.iter().any(|one| one == name);
    let (usage, state) = (&shared.usage, inventory.environments.get(key));
    let together = usage.environment(key, wanted);
    let mut whole = Series {
        instance: String::new(),
        now: state.and_then(|state| now::of_environment(&together, state, wanted)),
        points: vec![],
    };
    let mut instances: BTreeMap<String, Series> = BTreeMap::new();
    if asked.per_instance {
        for (name, state) in state.iter().flat_map(|state| &state.instances).filter(|(name, _)| wanted(name))
        {
            // Of one that is there and not heard of nothing is known, which is not the same as that it has ended.
            let now = usage.instance(key, name).map(|usage| now::of_instance(&usage, state));
            let now = now.or_else(|| Some(now::of_silent(state)));
            let series = Series { instance: name.to_string(), now, points: vec![] };
            instances.insert(name.to_string(), series);
        }
    }
    let mut response = UsageResponse {
        now: Some(wire::instant(now)),
        namespace: Some(key.namespace.to_string()),
        sample_interval_millis: u32::try_from(together.interval.as_millis()).unwrap_or(u32::MAX),
        ..UsageResponse::default()
    };
    if let Some(range) = range {
        let all = history(shared, key, asked, range, false).await?;
        let (since, until) = (all.since, all.until);
        response.interval_seconds = u32::try_from(all.step / 1000).unwrap_or(u32::MAX);
        (response.since, response.until) = (Some(instant(since)), Some(instant(until)));
        response.oldest = (since > range.since + all.step).then(|| instant(since));
        whole.points = match all.series.first() {
            Some(series) => points::filled(&all, &series.points),
            None => points::filled(&all, &[]),
        };
        if asked.per_instance {
            let each = history(shared, key, asked, range, true).await?;
            let count = whole.points.len().max(1).saturating_mul(each.series.len().max(instances.len()));
            if count > MOST_POINTS {
                return Err(wrong(format!("`{count}` points are more than can be answered"))
                    .with_hint("ask for fewer: --interval, --since or --instance"));
            }
            for series in &each.series {
                let name = series.instance.as_deref().unwrap_or_default();
                let shown = instances
                    .entry(name.to_owned())
                    .or_insert_with(|| Series { instance: name.to_owned(), ..Series::default() });
                shown.points = points::filled(&each, &series.points);
            }
        }
    }
    access.sent(whole.points.len() * (1 + instances.len()), 0);
    Ok(UsageResponse { whole: Some(whole), instances: instances.into_values().collect(), ..response })
}

async fn history(
    shared: &Shared,
    key: &EnvironmentKey,
    asked: &UsageRequest,
    range: Range,
    per_instance: bool,
) -> Result<Points, Failure> {
    let query = Query {
        environment: key.clone(),
        since: range.since,
        until: range.until,
        step: range.step,
        instances: asked.instances.iter().map(|name| name.as_str().into()).collect(),
        per_instance,
    };
    shared.usage.history().read(query).await.map_err(|error| match error {
        ReadError::Range => wrong(error.to_string()),
        ReadError::TooManyBuckets { step, .. } => {
            wrong(error.to_string()).with_hint(format!("--interval {} or longer", words(step)))
        }
        ReadError::TooManyPoints => {
            wrong(error.to_string()).with_hint("ask for fewer: --interval, --since or --instance")
        }
        ReadError::List(_) | ReadError::Closed => {
            tracing::warn!(environment = %key, error = &error as &dyn std::error::Error, "usage cannot be read");
            Failure::new(ErrorKind::Unavailable, "the history of usage cannot be read now")
        }
    })
}

/// As `--interval` takes it.
fn words(step: Duration) -> String {
    let seconds = step.as_secs() + u64::from(step.subsec_nanos() > 0);
    if seconds.is_multiple_of(60) { format!("{}m", seconds / 60) } else { format!("{seconds}s") }
}

fn instant(millis: i64) -> skpr_proto::v1::Instant {
    UnixNanos(millis.saturating_mul(1_000_000)).into()
}
