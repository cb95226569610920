//! How a running aggregator ends, in order and in time.

use super::Shared;
use crate::config::StopTimes;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// What is left of the time for closing the store, however long the server takes.
const FOR_THE_STORE: Duration = Duration::from_secs(10);

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Ends everything; an error says that something had to be cut off.
pub(super) async fn stop(shared: &Arc<Shared>, tasks: &mut Tasks, times: StopTimes) -> anyhow::Result<()> {
    let deadline = Instant::now() + times.timeout;
    tracing::info!(streams = shared.gate.len(), "stopping");
    shared.stopping.begun.cancel();
    // Calls that end by themselves cut the wait short.
    drop(timeout(times.grace, shared.gate.emptied()).await);
    shared.stopping.ending.cancel();

    let reserve = FOR_THE_STORE.min(times.timeout / 2);
    let served = timeout_at(deadline - reserve, join(tasks)).await;
    if served.is_err() {
        let late = shared.gate.holders();
        tracing::warn!(?late, "cut off what did not end in time");
        tasks.shutdown().await;
    }
    let closed = timeout_at(deadline, shared.store.close()).await;
    // What agents report is written by now but for the last seconds; it must not hold up the end either.
    if timeout_at(deadline, shared.usage.history().close()).await.is_err() {
        tracing::warn!("the last samples were not written in time");
    }
    // Its lines are few by now; a stdout that nobody reads must not hold up the end.
    let audit = shared.audit.clone();
    drop(timeout_at(deadline, tokio::task::spawn_blocking(move || audit.close())).await);
    anyhow::ensure!(closed.is_ok(), "the store did not close in time; what was acknowledged is safe");
    tracing::info!("stopped");
    Ok(())
}

async fn join(tasks: &mut Tasks) {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((task, Err(error))) => {
                tracing::warn!(task, error = format!("{error:#}"), "task failed while stopping")
            }
            Err(error) => tracing::error!(%error, "task ended abnormally"),
        }
    }
}
