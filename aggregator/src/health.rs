//! Whether this aggregator should be sent callers.
//!
//! A disk that is full or failing does not make it unready: reads go on, and agents are told by their streams to come
//! back later. Sending callers elsewhere would only take the logs away from those who look for the cause.

use crate::aggregator::Shared;
use std::sync::Arc;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Why it should not be sent callers now; empty when it should.
pub(crate) fn unready(shared: &Shared) -> Option<&'static str> {
    if shared.stopping.begun.is_cancelled() {
        return Some("stopping");
    }
    if !shared.inventory.borrow().heard {
        return Some("the platform has not been heard from yet");
    }
    None
}

/// Keeps the gRPC health service current until the stop begins.
pub(crate) async fn publish(shared: Arc<Shared>, reporter: HealthReporter) {
    let mut inventory = shared.inventory.clone();
    loop {
        let status = match unready(&shared) {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        if shared.stopping.begun.is_cancelled() {
            // Stays until the streams end, so that its end is not taken for a failure.
            shared.stopping.ending.cancelled().await;
            return;
        }
        let platform_is_gone = tokio::select! {
            () = shared.stopping.begun.cancelled() => false,
            changed = inventory.changed() => changed.is_err(),
        };
        if platform_is_gone {
            shared.stopping.begun.cancelled().await;
        }
    }
}
