//! Both ends of the engine against each other, in one process: whole transfers, hostile peers, and stock rsync as the judge.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod against_rsync;
mod cases;
mod changing;
mod connections;
mod deletions;
mod harness;
mod transfers;
