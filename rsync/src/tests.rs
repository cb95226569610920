//! Peers that lie: one end is the engine, the other says what the test tells it to.

pub(crate) mod peer;
mod receiver;
mod sender;
