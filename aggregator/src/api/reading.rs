//! Reads of an environment's records that are streamed to a user: of its logs and of its events.
//!
//! The read is made from a [`Grant`]; there is no other way to one. While it follows, the right is asked for again.

use super::seats::Seat;
use super::target::Target;
use crate::aggregator::{Shared, stopping};
use crate::audit::Access;
use crate::auth::{Grant, Permission, ReadLogs};
use crate::record::{Chunk, Cursor, Filter, Read};
use crate::store::Reader;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use skpr_proto::error::usage;
use skpr_proto::v1::{self, Instant};
use skpr_proto::{ErrorKind, Failure, UnixNanos};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// How often a follower's right is asked for again.
const RECHECK: Duration = Duration::from_secs(60);

/// What is asked for, of logs and of events alike.
pub(super) struct Asked<'a> {
    pub(super) environment: Option<&'a v1::Environment>,
    pub(super) since: Option<UnixNanos>,
    pub(super) until: Option<UnixNanos>,
    pub(super) follow: bool,
    pub(super) to_now: bool,
    pub(super) last: Option<u32>,
    pub(super) cursor: Bytes,
}

/// A part of the answer.
pub(super) enum Told {
    /// Before anything is read.
    First {
        cursor: Bytes,
        oldest_kept: Option<Instant>,
        namespace: String,
    },
    Records(Chunk),
}

/// A call whose caller may have what it asks for.
pub(super) struct Opened {
    shared: Arc<Shared>,
    grant: Grant<ReadLogs>,
    reader: Reader,
    follow: bool,
    first: Option<Told>,
    /// Given back when the stream ends.
    _seat: Seat,
}

/// Finds out who asks and what for. `filter` is made once the caller may read.
pub(super) async fn open(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    asked: Asked<'_>,
    filter: impl FnOnce() -> Result<Filter, Failure>,
    access: &mut Access,
) -> Result<Opened, Failure> {
    let user = super::caller(shared, metadata, access).await?;
    let target = Target::parse(asked.environment)?;
    access.asked(target.name.to_string());
    let grant: Grant<ReadLogs> = shared.auth.grant(&user, &target.name, &target.recorded(shared)).await?;
    access.allowed(Some(grant.environment()));
    let seat = shared.seats.take(&user.name)?;
    let follow = asked.follow;
    let mut read = plan(&grant, &asked, filter()?)?;
    if read.follow && read.last == Some(0) && read.cursor.is_none() {
        // From now on: a client that comes back gets what it missed since now.
        read.cursor = Some(Cursor::Live { after: shared.store.head(grant.environment()) });
    }
    let first = Told::First {
        // Nothing has been sent yet: a client that comes back asks for the same.
        cursor: read.cursor.map_or(asked.cursor, |cursor| cursor.encode()),
        oldest_kept: shared.store.oldest(grant.environment()).map(Instant::from),
        namespace: grant.environment().namespace.to_string(),
    };
    let reader = shared.store.read(read);
    Ok(Opened { shared: Arc::clone(shared), grant, reader, follow, first: Some(first), _seat: seat })
}

/// What to read, from what was asked.
fn plan(grant: &Grant<ReadLogs>, asked: &Asked<'_>, filter: Filter) -> Result<Read, Failure> {
    if let (Some(since), Some(until)) = (asked.since, asked.until)
        && until < since
    {
        return Err(usage("the range ends before it begins"));
    }
    let cursor = match &asked.cursor {
        cursor if cursor.is_empty() => None,
        cursor => Some(Cursor::decode(cursor).map_err(|invalid| usage(invalid.to_string()))?),
    };
    Ok(Read {
        environment: grant.environment().clone(),
        since: asked.since,
        until: asked.until,
        follow: asked.follow,
        to_now: asked.to_now,
        last: asked.last.map(|last| usize::try_from(last).unwrap_or(usize::MAX)),
        filter,
        cursor,
    })
}

struct Sending<T> {
    opened: Opened,
    access: Access,
    forbidden: BoxFuture<'static, Failure>,
    answer: fn(Told) -> T,
}

/// The answers, each made by `answer`.
pub(super) fn stream<T: Send + 'static>(
    opened: Opened,
    access: Access,
    answer: fn(Told) -> T,
) -> BoxStream<'static, Result<T, Status>> {
    let forbidden = forbidden(Arc::clone(&opened.shared), opened.grant.clone());
    let sending = Sending { opened, access, forbidden, answer };
    stream::unfold(Some(sending), async |sending| {
        let mut sending = sending?;
        match sending.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(sending))),
            Ok(None) => {
                sending.access.completed();
                None
            }
            Err(failure) => Some((Err(sending.access.failed(failure)), None)),
        }
    })
    .boxed()
}

/// Resolves when the right is gone. A source of rights that cannot be asked now does not take it away.
pub(super) fn forbidden<R: Permission>(shared: Arc<Shared>, grant: Grant<R>) -> BoxFuture<'static, Failure> {
    Box::pin(async move {
        loop {
            tokio::time::sleep(RECHECK).await;
            match shared.auth.recheck_grant(&grant).await {
                Err(failure) if failure.kind == ErrorKind::NotAllowed => return failure,
                Ok(()) | Err(_) => {}
            }
        }
    })
}

impl<T> Sending<T> {
    async fn next(&mut self) -> Result<Option<T>, Failure> {
        if let Some(first) = self.opened.first.take() {
            return Ok(Some((self.answer)(first)));
        }
        let Opened { shared, reader, follow, .. } = &mut self.opened;
        let chunk = tokio::select! {
            biased;
            () = shared.stopping.ending.cancelled() => return Err(stopping()),
            failure = &mut self.forbidden => return Err(failure),
            chunk = reader.next() => chunk,
        };
        match chunk {
            Some(Ok(chunk)) => {
                let bytes = chunk.records.iter().map(|record| record.message.len()).sum();
                self.access.sent(chunk.records.len(), bytes);
                Ok(Some((self.answer)(Told::Records(chunk))))
            }
            Some(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "read of records failed");
                Err(Failure::new(ErrorKind::Failed, "the store could not be read; its log says why"))
            }
            // A follower has no end of its own: the store is closing.
            None if *follow => Err(stopping()),
            None => Ok(None),
        }
    }
}
