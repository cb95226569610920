//! What the end-to-end tests stand on: a cluster, a node that is only files, a link that fails, and the programs as
//! they are installed.
//!
//! Nothing here knows how skpr works inside: it is driven by files, sockets, arguments and exit codes.

pub mod cli;
pub mod cluster;
pub mod fault;
pub mod fleet;
pub mod image;
pub mod inventory;
pub mod machine;
pub mod node;
pub mod numbers;
pub mod report;
pub mod scrape;
pub mod screen;
pub mod ssh;
pub mod tmux;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How often something outside this process is looked at again.
const POLL: Duration = Duration::from_millis(200);

/// Asks `question` until it answers; fails with what it said last once `timeout` has passed.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = question();
        if let Ok(Some(value)) = answer {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            match answer {
                Err(error) => return Err(error.context(format!("not within {timeout:?}: {what}"))),
                Ok(_) => bail!("not within {timeout:?}: {what}"),
            }
        }
        std::thread::sleep(POLL);
    }
}
