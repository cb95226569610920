//! What runs the environments. Each platform publishes an [`Inventory`](crate::inventory::Inventory) through a `watch`
//! channel: readers always see the newest whole one, and a slow reader delays nobody.

pub mod kubernetes;
pub mod local;
