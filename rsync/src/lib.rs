//! The delta engine: what the two ends of a transfer of files do, over any pair of byte streams.

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
mod search;
mod signature;
pub mod stats;
mod tree;
mod wire;

pub use error::{Code, Error, Problem};
pub use name::{BadName, Name, TreePath, escape};
