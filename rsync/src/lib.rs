//! The delta engine: what the two ends of a transfer of files do, over any pair of byte streams.

pub mod chmod;
mod error;
pub mod filter;
mod name;
mod wire;

pub use error::{Code, Error, Problem};
pub use name::{BadName, Name, TreePath, escape};
