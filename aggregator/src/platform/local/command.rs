//! What users ask of an environment's driver, and how it answers.

use super::git::Commit;
use crate::platform::{Delete, Deleted, Scale, Scaled};
use crate::release::Deploy;
use crate::run::{Run, RunNow, Suspend, Suspended};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for one driver: each waits for a write to the disk. Those beyond are told to come again.
pub(super) const QUEUE: usize = 16;

pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

#[derive(Debug)]
pub(super) enum Command {
    Deploy(Box<Deploy>, Commit, Reply<u64>),
    Scale(Scale, Reply<Scaled>),
    Delete(Delete, Reply<Deleted>),
    Run(RunNow, Reply<Run>),
    Suspend(Suspend, Reply<Suspended>),
}

/// Puts a command to a driver and waits for its answer.
pub(super) async fn ask<T>(
    driver: &mpsc::Sender<Command>,
    name: &EnvironmentName,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Failure> {
    let busy = || {
        Failure::new(ErrorKind::Unavailable, format!("`{name}` takes no changes at this moment"))
            .with_hint("try again in a moment")
    };
    let (reply, answer) = oneshot::channel();
    driver.try_send(command(reply)).map_err(|_| busy())?;
    answer.await.map_err(|_| busy())?
}
