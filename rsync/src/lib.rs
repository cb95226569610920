//! The delta engine: what the two ends of a transfer of files do, over any pair of byte streams.
//!
//! ```text
//!   sender                                          receiver
//!   tree ── walk ─┐   ◄── digests of directories ── tree
//!                 ├─ tell ── entries that differ ─► entries ── compare, make, ask
//!   files ── search ┐ ◄── sums of the base ──────── flights ── files in the air
//!                   └ answer ── copies and data ──► apply ── temporary file, hash, attributes, rename
//! ```
//!
//! [`serve`] is the end beside the container's files; [`push`] and [`pull`] are the user's end. All block, and use threads of
//! their own while they run. Neither end trusts the other: `docs/rsync-protocol.md` says what each checks.

pub mod change;
pub mod chmod;
mod content;
mod digest;
mod entry;
mod error;
mod file;
pub mod filter;
mod index;
mod link;
mod message;
mod name;
pub mod options;
mod place;
mod receive;
mod search;
mod send;
mod session;
mod signature;
pub mod stats;
mod transfer;
mod tree;
mod wire;

pub use entry::{Kind, Time};
pub use error::{Code, Error, Problem};
pub use link::Link;
pub use name::{BadName, Name, TreePath, escape};
pub use place::{Base, Inside};
pub use session::{Event, Watcher};
pub use transfer::{Local, Policy, Summary, VERSION, pull, push, refusal, serve};

#[cfg(test)]
mod tests;
