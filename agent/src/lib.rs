//! The agent of one node: follows the log files of the pods that the aggregator claims, and ships each line until it is
//! acknowledged. The files on the node are the only buffer. It also samples what these pods use, and where it is given a
//! [`runtime`] it serves sessions in them.
//!
//! [`run`] is the whole agent; `main` adds logging and signals, and the standalone aggregator runs it in-process. In
//! Kubernetes [`run_sessions`] runs beside it, which is what may start processes in pods.

mod agent;
mod checkpoint;
pub mod config;
mod descriptors;
mod health;
mod link;
pub mod recording;
mod report;
pub mod runtime;
mod sessions;
mod sftp;
mod ship;
pub mod ssh;
pub mod tail;
mod transfer;
pub mod usage;
mod worker;

pub use agent::{STOPS_WITHIN, run};
pub use config::{Address, Config};
pub use descriptors::raise_file_limit;
pub use health::{check as check_health, check_sessions};
pub use sessions::program::{Settings as SessionsSettings, run as run_sessions};
pub use sessions::{Incoming, serve_session};
pub use worker::{Reach, WorkerArgs, run as run_worker, serve_files, serve_transfer};

#[cfg(test)]
mod tests;
