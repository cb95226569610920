//! What happens to log files on a node, one test each, with real files.

mod acknowledgement;
mod ends;
mod finding;
mod lines;
mod pods;
mod rotation;
mod truncation;

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
