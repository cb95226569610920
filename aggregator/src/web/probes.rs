//! Plain HTTP for probes: `/livez` and `/readyz`. Nothing here tells what runs, and nothing needs a right.
//!
//! A connection is for one request and ends after [`CONNECTION_TIMEOUT`] whatever happens; when [`CONNECTIONS`] are open,
//! the oldest makes room for a new one, so that no one who holds on to them keeps a probe out.

use crate::aggregator::Shared;
use crate::health;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Open connections: a probe or two, and whoever else looks.
const CONNECTIONS: usize = 64;
/// From accept to the last byte. An answer takes a millisecond.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers under way may take at a stop.
const FAREWELL: Duration = Duration::from_secs(1);
/// After `accept` failed for want of files or memory, which passes; trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Answers until streams end: a probe can see the stop.
pub(crate) async fn answer_probes(listener: TcpListener, shared: Arc<Shared>) {
    let ending = shared.stopping.ending.clone();
    let router =
        Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz)).with_state(shared);
    let mut connections = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => {
                oldest.retain(|connection| !connection.is_finished());
                continue;
            }
        };
        let Ok((stream, _)) = accepted else {
            tokio::select! {
                () = ending.cancelled() => break,
                () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
            }
        };
        if oldest.len() >= CONNECTIONS
            && let Some(connection) = oldest.pop_front()
        {
            connection.abort();
        }
        oldest.push_back(connections.spawn(connection(stream, router.clone())));
    }
    // What is being answered is answered; who has asked nothing by now is not waited for.
    drop(tokio::time::timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await);
}

async fn connection(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    let served = http.keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // Whoever hangs up early or dawdles is told nothing and is worth no word.
    drop(tokio::time::timeout(CONNECTION_TIMEOUT, served).await);
}

async fn readyz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match health::unready(&shared) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
