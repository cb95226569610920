//! HTTP: probes on a plain port, and what monitoring reads on a TLS port of its own.

mod containers;
mod counted;
mod metrics;
mod monitoring;
mod probes;
mod resource_metrics;
mod scrape;
mod text;

pub(crate) use counted::Counted;
pub(crate) use metrics::{Metrics, Sessions};
pub use monitoring::Monitoring;
pub(crate) use monitoring::monitor;
pub(crate) use probes::answer_probes;
pub use text::{Described, Family, Kind};

/// Every family that monitoring can read: what documentation, alerts and dashboards may speak of.
pub fn families() -> Vec<Described> {
    [metrics::families(), containers::families()].concat()
}
