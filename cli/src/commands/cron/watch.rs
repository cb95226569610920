//! Looking at a run again and again until something has become of it, over as many connections as that takes.

use super::STALE;
use crate::client::Client;
use crate::commands::call::Cluster;
use crate::error::Error;
use crate::link::{Cut, Link};
use crate::output::Output;
use skpr_proto::v1;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// How often it is looked at: a task may be short.
const AT_FIRST: Duration = Duration::from_millis(250);
const INTERVAL: Duration = Duration::from_secs(1);
/// For so long it is looked at more often.
const FIRST: Duration = Duration::from_secs(5);
/// What this command has begun, an aggregator shows within that time.
const SHOWN_WITHIN: Duration = Duration::from_secs(90);

pub(super) struct Watch<'a> {
    cluster: &'a Cluster<'a>,
    run: String,
    link: Link<'a>,
    begun_here: bool,
    began: Instant,
    stale: bool,
}

impl<'a> Watch<'a> {
    /// `endless`: nobody waits for an end, so that a connection may be away for as long as it likes. `output` is told of that.
    pub(super) fn new(cluster: &'a Cluster<'a>, run: &str, endless: bool, output: &'a Output) -> Self {
        Watch {
            cluster,
            run: run.to_owned(),
            link: Link::on(&cluster.client, &cluster.access, output, endless),
            begun_here: false,
            began: Instant::now(),
            stale: false,
        }
    }

    /// It was begun by this very command.
    pub(super) fn begun_here(self) -> Self {
        Watch { begun_here: true, ..self }
    }

    /// Waits until it is as wanted.
    pub(super) async fn until(&mut self, wanted: impl Fn(&v1::Run) -> bool) -> Result<v1::Run, Error> {
        loop {
            match self.look().await {
                Ok(Some(run)) if wanted(&run) => return Ok(run),
                Ok(_) => {
                    let early = self.began.elapsed() < FIRST;
                    tokio::time::sleep(if early { AT_FIRST } else { INTERVAL }).await;
                }
                Err(cut) => self.link.wait(cut).await?,
            }
        }
    }

    /// None: whoever was asked knows nothing yet of what was begun.
    async fn look(&mut self) -> Result<Option<v1::Run>, Cut> {
        let client = self.link.client().await?;
        match call(&client, self.cluster, &self.run).await {
            Ok(answer) => {
                self.link.keep(client);
                self.link.answered();
                if answer.stale && !std::mem::replace(&mut self.stale, answer.stale) {
                    self.cluster.output.warn(STALE);
                }
                Ok(answer.runs.into_iter().next())
            }
            Err(status)
                if status.code() == Code::NotFound
                    && self.begun_here
                    && self.began.elapsed() < SHOWN_WITHIN =>
            {
                self.link.keep(client);
                Ok(None)
            }
            Err(status) => Err(self.link.cut(&status)),
        }
    }
}

/// Asks for one run.
pub(super) async fn call(
    client: &Client,
    cluster: &Cluster<'_>,
    run: &str,
) -> Result<v1::RunsResponse, tonic::Status> {
    let request = v1::RunsRequest {
        environment: Some(cluster.wire()),
        run: Some(run.to_owned()),
        ..v1::RunsRequest::default()
    };
    Ok(client.cron().runs(request).await?.into_inner())
}
