//! The aggregator: takes records from agents, keeps them, and answers the CLI.
//!
//! Data flows `ingest` → `store` → `api`; `platform` says through `inventory` whose records are whose; `auth` says who
//! may read them. [`aggregator`] puts the parts together.

mod agents;
pub mod aggregator;
mod api;
mod audit;
pub mod auth;
pub mod batch;
pub mod commands;
pub mod config;
mod domains;
mod ends;
pub mod environment;
pub mod event;
pub mod fallback;
mod gate;
mod health;
pub mod host_key;
mod ingest;
pub mod inventory;
pub mod platform;
mod private_file;
pub mod record;
mod relay;
pub mod release;
pub mod run;
pub mod standalone;
pub mod store;
pub mod tls;
pub mod usage;
mod web;
