//! What a run prints: all of it that is stored, and what comes until it has ended.
//!
//! Invariant: the last lines of a process arrive after the news of its end; they are waited for until its node has said that
//! all is stored. Where nobody says so, the wait ends when nothing new has come for a while, and the user is told.

use super::execution::Run;
use super::watch::Watch;
use crate::commands::call::Cluster;
use crate::commands::logs::Records;
use crate::commands::reading::Reading;
use crate::error::Error;
use crate::link::Link;
use crate::output::Output;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use skpr_proto::{UnixNanos, v1};
use std::pin::pin;
use std::time::Duration;

/// The clocks of nodes, and of what tells when a run began and ended, may differ by this.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// A node that says nothing for so long, neither lines nor that there are no more, is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was shown of a run.
pub(super) struct Shown {
    /// The run, as it was heard of last.
    pub run: v1::Run,
    /// There was something.
    pub anything: bool,
    /// It has ended, and its last lines may be missing.
    pub unfinished: bool,
}

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

/// Shows what there is. Of a run that has just ended the last lines are waited for.
pub(super) async fn show(cluster: &Cluster<'_>, run: &v1::Run, wanted: &Wanted) -> Result<Shown, Error> {
    if run.output_coming {
        return follow(cluster, run, wanted).await;
    }
    let link = Link::on(&cluster.client, &cluster.access, cluster.output, false);
    let mut reading = reading(cluster, run, wanted, link, false);
    reading.run().await?;
    Ok(Shown { run: run.clone(), anything: reading.heard > 0, unfinished: false })
}

/// Shows what there is and what comes, until the run has ended and all has been said.
pub(super) async fn follow(cluster: &Cluster<'_>, run: &v1::Run, wanted: &Wanted) -> Result<Shown, Error> {
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
    let unfinished = ended.output_coming && !arrives(&mut reading, &mut watch).await?;
    reading.rest().await?;
    Ok(Shown { run: ended, anything: reading.heard > 0, unfinished })
}

/// Goes on with the log of a run that has ended until all that it printed is stored. False: nobody says so.
async fn arrives(reading: &mut Reading<'_, Records>, watch: &mut Watch<'_>) -> Result<bool, Error> {
    let mut stored = pin!(watch.until(|run| !run.output_coming));
    loop {
        let heard = reading.heard;
        tokio::select! {
            stored = &mut stored => return stored.map(|_| true),
            read = reading.run() => read?,
            () = tokio::time::sleep(PATIENCE) => {
                if reading.heard == heard {
                    return Ok(false);
                }
            }
        }
    }
}

/// Says that lines may be missing.
pub(super) fn warn_unfinished(run: &Run, output: &Output) {
    let id = &run.id;
    output.warn(&format!("the node of run `{id}` is not heard from: its last lines may come later"));
}

pub(super) fn has_ended(run: &v1::Run) -> bool {
    !Run::new(run).is_open()
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
