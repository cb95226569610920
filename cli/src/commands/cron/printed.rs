//! What a run prints: all of it that is stored, and what comes until it has ended.
//!
//! Invariant: once a run has ended, its output has been shown when the log has said nothing new for a while; the last lines of a
//! process arrive after the news of its end.

use super::execution::Run;
use super::watch::Watch;
use crate::commands::call::Cluster;
use crate::commands::logs::Records;
use crate::commands::reading::Reading;
use crate::error::Error;
use crate::link::Link;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use skpr_proto::{UnixNanos, v1};
use std::time::Duration;

/// The clocks of nodes, and of what tells when a run began and ended, may differ by this.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// The output of what ended longer ago than that has arrived.
pub(super) const ARRIVED: SignedDuration = SignedDuration::from_mins(1);
/// That of what ended within that time has perhaps not, and is waited for.
const JUST_NOW: SignedDuration = SignedDuration::from_secs(5);
/// After the end, the log is silent for so long when all has been said.
const QUIET: Duration = Duration::from_millis(1500);
/// The log of a node has to be found first.
const QUIET_FROM_THE_START: Duration = Duration::from_secs(4);
/// Of so much output the node's agent may be behind, and a file that was rotated it finds within seconds.
const MUCH: u64 = 1 << 20;
const QUIET_OF_MUCH: Duration = Duration::from_secs(10);

/// What is wanted of it, and how.
pub(super) struct Wanted {
    /// The newest so many of what is there.
    pub lines: Option<u32>,
    /// `stdout` or `stderr`; else both.
    pub stream: Option<&'static str>,
    pub zone: TimeZone,
    pub raw: bool,
    /// Nobody waits for an end.
    pub endless: bool,
}

/// Shows what there is; whether that is anything. Of a run that has just ended the last lines are waited for.
pub(super) async fn show(cluster: &Cluster<'_>, run: &v1::Run, wanted: &Wanted) -> Result<bool, Error> {
    let link = Link::on(&cluster.client, &cluster.access, cluster.output, false);
    let is_coming = has_ended(run) && !ended_before(run, JUST_NOW);
    let mut reading = reading(cluster, run, wanted, link, is_coming);
    match is_coming {
        true => show_the_rest(&mut reading).await?,
        false => reading.run().await?,
    }
    Ok(reading.heard > 0)
}

/// Shows what there is and what comes, until the run has ended. How it ended, and whether there was anything.
pub(super) async fn follow(
    cluster: &Cluster<'_>,
    run: &v1::Run,
    wanted: &Wanted,
) -> Result<(v1::Run, bool), Error> {
    let link = Link::on(&cluster.client, &cluster.access, cluster.output, wanted.endless);
    let mut reading = reading(cluster, run, wanted, link, true);
    // Of two connections that are lost at once, the user is told once.
    let silent = cluster.output.silent();
    let mut watch = Watch::new(cluster, &run.id, wanted.endless, &silent);
    let ended = tokio::select! {
        read = reading.run() => {
            read?;
            watch.until(has_ended).await?
        }
        ended = watch.until(has_ended) => ended?,
    };
    show_the_rest(&mut reading).await?;
    Ok((ended, reading.heard > 0))
}

/// Goes on with the log of a run that has ended, until it says nothing more for a while. There is an end to it: nothing writes
/// any more.
async fn show_the_rest(reading: &mut Reading<'_, Records>) -> Result<(), Error> {
    loop {
        let heard = reading.heard;
        let quiet = match reading.source.bytes {
            _ if heard == 0 => QUIET_FROM_THE_START,
            bytes if bytes > MUCH => QUIET_OF_MUCH,
            _ => QUIET,
        };
        if let Ok(read) = tokio::time::timeout(quiet, reading.run()).await {
            return read;
        }
        if reading.heard == heard {
            return Ok(());
        }
    }
}

pub(super) fn has_ended(run: &v1::Run) -> bool {
    !Run::new(run).is_open()
}

/// Whether it ended longer ago than that.
pub(super) fn ended_before(run: &v1::Run, ago: SignedDuration) -> bool {
    let ended = Run::new(run).times.ended;
    ended.is_some_and(|ended| UnixNanos::from(Timestamp::now().checked_sub(ago).unwrap_or_default()) > ended)
}

fn reading<'a>(
    cluster: &'a Cluster<'_>,
    run: &v1::Run,
    wanted: &Wanted,
    link: Link<'a>,
    follow: bool,
) -> Reading<'a, Records> {
    let times = Run::new(run).times;
    let near = |time: UnixNanos, skew: SignedDuration| {
        let skew = i64::try_from(skew.as_nanos()).unwrap_or_default();
        v1::Instant::from(UnixNanos(time.0.saturating_add(skew)))
    };
    let stream = wanted.stream.map(|stream| format!("cron.{}.{stream}", run.task));
    let request = v1::LogsRequest {
        environment: Some(cluster.wire()),
        since: times.either().map(|time| near(time, -SKEW)),
        until: times.ended.filter(|_| !follow).map(|time| near(time, SKEW)),
        follow,
        last: wanted.lines,
        instances: run.instance.iter().cloned().collect(),
        streams: stream.into_iter().collect(),
        ..v1::LogsRequest::default()
    };
    let source =
        Records::of_instance(request, &cluster.environment, cluster.output, &wanted.zone, wanted.raw);
    Reading {
        source,
        follow,
        since: times.began.map(super::execution::instant),
        zone: wanted.zone.clone(),
        output: cluster.output,
        link,
        pending: None,
        heard: 0,
    }
}
