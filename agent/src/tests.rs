//! The agent against a scripted aggregator over real TLS. Every wait has a limit; nothing sleeps to be in step.

mod aggregator;
mod link;
mod tail;
mod whole;

use std::time::Duration;

/// Far above what anything here takes on a loaded machine, backoff included.
const PATIENCE: Duration = Duration::from_secs(20);

/// What comes, or a failed test.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not happen in time")
}
