//! skpr as it is installed: the chart on a real Kubernetes, the images, and the CLI beside them.
//!
//! They are heavy and need root or a cluster, so `make test` runs them as a step of its own; `scripts/test-kubernetes NAME`
//! runs one. `cluster/turn.rs` says which of them are alone on the cluster.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod cluster {
    pub(crate) mod adopt;
    pub(crate) mod autoscale;
    pub(crate) mod cron;
    pub(crate) mod deploy;
    pub(crate) mod exactly_once;
    pub(crate) mod fallback;
    pub(crate) mod files;
    pub(crate) mod follow;
    pub(crate) mod kills;
    pub(crate) mod metrics_api;
    pub(crate) mod monitoring;
    pub(crate) mod rights;
    pub(crate) mod rsync;
    pub(crate) mod sessions;
    pub(crate) mod setup;
    pub(crate) mod shop;
    pub(crate) mod stuck;
    pub(crate) mod terminals;
    pub(crate) mod tools;
    pub(crate) mod turn;
    pub(crate) mod usage;
}
