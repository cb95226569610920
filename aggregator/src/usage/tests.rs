//! History as a whole: against a naive model, through faults, and as another reader sees its files. And what these share.

mod faults;
mod model;
mod readers;
mod support;

pub(super) use support::rows;
