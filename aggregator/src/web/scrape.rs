//! What monitoring reads: `/metrics` and `/metrics/containers`, for whoever has the right to that.
//!
//! [`SCRAPES`] are written at a time; others wait for their turn.

use super::containers::{Pieces, Shard};
use super::monitoring::Peer;
use super::text::Format;
use crate::aggregator::{Shared, stopping};
use crate::audit::Access;
use crate::auth::Monitor;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt as _, stream};
use skpr_proto::{ErrorKind, Failure};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of 30,000 containers one costs 15 MiB while it is read.
const SCRAPES: usize = 4;

#[derive(Clone)]
struct Scrapes {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
}

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/metrics/containers", get(containers))
        .with_state(Scrapes { shared, turns: Arc::new(Semaphore::new(SCRAPES)) })
}

async fn metrics(
    State(scrapes): State<Scrapes>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let mut access = Access::scrape(&scrapes.shared, "Monitoring.Metrics", peer.address);
    let (monitor, _turn) = match scrapes.allow(&headers, &mut access).await {
        Ok(allowed) => allowed,
        Err(failure) => return refuse(&failure, access),
    };
    let (shared, format) = (scrapes.shared, Format::accepted(&headers));
    // With many environments it is some milliseconds of work.
    let written = tokio::task::spawn_blocking(move || shared.metrics.encode(&shared, format, &monitor)).await;
    let Ok(text) = written else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    access.sent(0, text.len());
    access.completed();
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

async fn containers(
    State(scrapes): State<Scrapes>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut access = Access::scrape(&scrapes.shared, "Monitoring.Containers", peer.address);
    let (monitor, turn) = match scrapes.allow(&headers, &mut access).await {
        Ok(allowed) => allowed,
        Err(failure) => return refuse(&failure, access),
    };
    let shard = match Shard::parse(query.as_deref()) {
        Ok(shard) => shard,
        Err(message) => return refuse(&Failure::new(ErrorKind::Usage, message), access),
    };
    let (shared, format) = (scrapes.shared, Format::accepted(&headers));
    let gathered = tokio::task::spawn_blocking(move || {
        let inventory = Arc::clone(&shared.inventory.borrow());
        Pieces::new(&shared.usage, &inventory, format, shard, &monitor)
    })
    .await;
    let Ok(pieces) = gathered else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut sending = Sending { access, _turn: turn };
    let body = stream::iter(pieces.map(Some).chain([None])).filter_map(move |piece| {
        // The end was reached: nobody has hung up before.
        match &piece {
            Some(piece) => sending.access.sent(0, piece.len()),
            None => sending.access.completed(),
        }
        std::future::ready(piece.map(Ok::<_, Infallible>))
    });
    ([(header::CONTENT_TYPE, format.content_type())], Body::from_stream(body)).into_response()
}

/// What an answer holds until its last byte is sent.
struct Sending {
    access: Access,
    _turn: OwnedSemaphorePermit,
}

impl Scrapes {
    /// The right to read, and a turn to.
    async fn allow(
        &self,
        headers: &HeaderMap,
        access: &mut Access,
    ) -> Result<(Monitor, OwnedSemaphorePermit), Failure> {
        let user = self.shared.auth.scraper(headers).await?;
        access.user(&user);
        let monitor = self.shared.auth.monitor(&user).await?;
        access.allowed(None);
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_closed| stopping())?;
        Ok((monitor, turn))
    }
}

fn refuse(failure: &Failure, mut access: Access) -> Response {
    let status = match failure.kind {
        ErrorKind::NotLoggedIn => StatusCode::UNAUTHORIZED,
        ErrorKind::NotAllowed => StatusCode::FORBIDDEN,
        ErrorKind::Usage => StatusCode::BAD_REQUEST,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    access.refused(failure);
    let mut response = (status, format!("{}\n", failure.message)).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}
