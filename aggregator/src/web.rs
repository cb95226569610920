//! Plain HTTP for probes and monitoring: `/livez`, `/readyz`, `/metrics`. Nothing here shows a log line or needs a right.

mod metrics;

pub(crate) use metrics::Metrics;

use crate::aggregator::Shared;
use crate::health;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers until streams end: a probe can see the stop.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let ending = shared.stopping.ending.clone();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(shared);
    axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned()).await
}

async fn readyz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match health::unready(&shared) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn scrape(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match shared.metrics.encode(&shared) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
