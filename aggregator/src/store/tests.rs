//! The store as a whole, against a plain model.

mod events;
mod faults;
mod model;
mod readers;
mod support;
