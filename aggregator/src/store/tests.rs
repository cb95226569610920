//! The store as a whole, against a plain model.

mod faults;
mod model;
mod readers;
mod support;
