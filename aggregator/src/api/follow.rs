//! `Follow`: how a release goes, from now until it has ended. A disconnect cancels the watching and not the release.
//!
//! * What is told comes from the inventory alone, so that any aggregator tells the same, also after a start.
//! * A slow caller is told the newest there is and never a backlog.

mod answer;
mod last_lines;

use super::reading::forbidden;
use super::seats::Seat;
use super::target::{Target, heard};
use crate::aggregator::{Shared, stopping};
use crate::audit::Access;
use crate::auth::{Grant, ReadLogs, See};
use crate::inventory::Inventory;
use answer::{Answer, Asked};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use last_lines::LastLines;
use skpr_proto::v1::{FollowRequest, FollowResponse};
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Status};

/// Changes that come faster than this are told together.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// With nothing new the same is told again, so that whoever waits knows that somebody is there.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// A release may have been begun through another aggregator, whose write has not been seen here yet.
const BEGUN_WITHIN: Duration = Duration::from_secs(5);

/// A call whose caller may have what it asks for.
pub(super) struct Following {
    shared: Arc<Shared>,
    grant: Grant<See>,
    inventory: watch::Receiver<Arc<Inventory>>,
    asked: Asked,
    opened: Instant,
    /// When it was looked at last.
    looked: Option<Instant>,
    /// What was told last, and when.
    told: Option<(FollowResponse, Instant)>,
    last_lines: LastLines,
    /// The answer about its end has been given.
    ended: bool,
    forbidden: BoxFuture<'static, Failure>,
    /// Given back when the stream ends.
    _seat: Seat,
}

pub(super) async fn open(
    shared: &Arc<Shared>,
    request: &Request<FollowRequest>,
    access: &mut Access,
) -> Result<Following, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let asked = request.get_ref();
    let target = Target::parse(asked.environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<See> = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    let seat = shared.seats.take(&user.name)?;
    Ok(Following {
        shared: Arc::clone(shared),
        inventory: shared.inventory.clone(),
        asked: Asked::new(grant.environment().clone(), asked.release),
        opened: Instant::now(),
        looked: None,
        told: None,
        last_lines: LastLines::default(),
        ended: false,
        forbidden: forbidden(Arc::clone(shared), grant.clone()),
        grant,
        _seat: seat,
    })
}

pub(super) fn stream(
    following: Following,
    access: Access,
) -> BoxStream<'static, Result<FollowResponse, Status>> {
    stream::unfold(Some((following, access)), async |following| {
        let (mut following, mut access) = following?;
        match following.next().await {
            Ok(Some(response)) => {
                access.release(response.release.as_ref().map_or(0, |release| release.number));
                Some((Ok(response), Some((following, access))))
            }
            Ok(None) => {
                access.completed();
                None
            }
            Err(failure) => Some((Err(access.failed(failure)), None)),
        }
    })
    .boxed()
}

impl Following {
    async fn next(&mut self) -> Result<Option<FollowResponse>, Failure> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if let Some(looked) = self.looked {
                self.unless_over(sleep_until(looked + AT_MOST_EVERY)).await?;
            }
            self.looked = Some(Instant::now());
            let inventory = Arc::clone(&self.inventory.borrow_and_update());
            let again = match self.asked.look(&inventory) {
                Answer::Told(response) => match self.fresh(*response).await? {
                    Some(response) => return Ok(Some(response)),
                    None => self.told.as_ref().map_or_else(Instant::now, |(_, at)| *at) + AT_LEAST_EVERY,
                },
                // Until the platform has answered again nothing is known.
                Answer::Unknown => Instant::now() + AT_LEAST_EVERY,
                Answer::NotYet(failure) => {
                    let until = self.opened + BEGUN_WITHIN;
                    if Instant::now() >= until {
                        return Err(failure);
                    }
                    until
                }
                Answer::Over(failure) => return Err(failure),
            };
            self.wait(again).await?;
        }
    }

    /// The answer, unless it was given already and not long ago.
    async fn fresh(&mut self, mut response: FollowResponse) -> Result<Option<FollowResponse>, Failure> {
        if answer::has_failed(&response) {
            self.fetch_last_lines(&response).await?;
        }
        response.last_lines.clone_from(self.last_lines.lines());
        let ended = answer::has_ended(&response);
        if let Some((told, at)) = &self.told
            && *told == response
            && at.elapsed() < AT_LEAST_EVERY
        {
            return Ok(None);
        }
        self.ended = ended;
        self.told = Some((response.clone(), Instant::now()));
        Ok(Some(response))
    }

    /// What the instance that failed said last, where the caller may read it. Its last lines may still be on their way.
    async fn fetch_last_lines(&mut self, response: &FollowResponse) -> Result<(), Failure> {
        if self.last_lines.are_known() {
            return Ok(());
        }
        let mut lines = std::mem::take(&mut self.last_lines);
        let (shared, grant) = (Arc::clone(&self.shared), self.grant.clone());
        let fetch = async {
            // Whether the right to logs cannot be asked now or is not there: the release is what was asked for.
            let further = shared.auth.further::<ReadLogs, See>(&grant).await.unwrap_or_default();
            lines.fetch(&shared.store, further.as_ref(), response).await;
            lines
        };
        let fetched = self.unless_over(fetch).await?;
        self.last_lines = fetched;
        Ok(())
    }

    async fn wait(&mut self, until: Instant) -> Result<(), Failure> {
        let mut inventory = self.inventory.clone();
        let changed = async {
            tokio::select! {
                changed = inventory.changed() => changed.is_ok(),
                () = sleep_until(until) => true,
            }
        };
        if self.unless_over(changed).await? { Ok(()) } else { Err(stopping()) }
    }

    /// Waits, but not beyond the end of the aggregator or of the right.
    async fn unless_over<T>(&mut self, waited_for: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.shared.stopping.ending.cancelled() => Err(stopping()),
            failure = &mut self.forbidden => Err(failure),
            value = waited_for => Ok(value),
        }
    }
}

/// The failure for a release that is not there.
fn no_release(message: String, environment: &str) -> Failure {
    Failure::new(ErrorKind::NotFound, message).with_hint(format!("skpr releases {environment}"))
}
