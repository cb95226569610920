//! Peers that lie: one end is the engine, the other says what the test tells it to.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod peer;
mod receiver;
mod sender;
