//! What users ask of an environment's driver, and how it answers.

use super::git::Commit;
use crate::platform::{Delete, Deleted, Scale, Scaled};
use crate::release::Deploy;
use crate::run::{Run, RunNow, Suspend, Suspended};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Commands that may wait for one driver: each waits for a write to the disk. Those beyond wait for a place.
const QUEUE: usize = 16;
/// The places of them that those may take which are about tasks: programs ask for runs, and many of them at once.
const OF_TASKS: usize = 12;
/// How long a place is waited for. Whoever has none then is told to come again.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

#[derive(Debug)]
pub(super) enum Command {
    Deploy(Box<Deploy>, Commit, Reply<u64>),
    Scale(Scale, Reply<Scaled>),
    Delete(Delete, Reply<Deleted>),
    Run(RunNow, Reply<Run>),
    Suspend(Suspend, Reply<Suspended>),
}

/// A command on its way to a driver, with the place that it takes until it is carried out.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) command: Command,
    _place: Option<OwnedSemaphorePermit>,
}

/// The way to one driver. However much is asked of tasks, there is room for a deploy.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    driver: mpsc::Sender<Queued>,
    of_tasks: Arc<Semaphore>,
}

impl Commands {
    pub(super) fn new() -> (Commands, mpsc::Receiver<Queued>) {
        let (driver, queue) = mpsc::channel(QUEUE);
        (Commands { driver, of_tasks: Arc::new(Semaphore::new(OF_TASKS)) }, queue)
    }

    /// The driver has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_closed()
    }

    /// Puts a command to the driver and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        name: &EnvironmentName,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        timeout(PATIENCE, self.put(command(reply))).await.ok().flatten().ok_or_else(|| busy(name))?;
        answer.await.map_err(|_| busy(name))?
    }

    /// None where the driver has ended.
    async fn put(&self, command: Command) -> Option<()> {
        let place = match command {
            Command::Run(..) | Command::Suspend(..) => {
                Some(Arc::clone(&self.of_tasks).acquire_owned().await.ok()?)
            }
            Command::Deploy(..) | Command::Scale(..) | Command::Delete(..) => None,
        };
        self.driver.send(Queued { command, _place: place }).await.ok()
    }
}

fn busy(name: &EnvironmentName) -> Failure {
    Failure::new(ErrorKind::Unavailable, format!("`{name}` takes no changes at this moment"))
        .with_hint("try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::to;
    use skpr_proto::Label;
    use tokio::task::JoinSet;

    fn name() -> EnvironmentName {
        EnvironmentName::parse("shop", "dev").unwrap()
    }

    fn suspend(commands: &Commands) -> impl Future<Output = Result<Suspended, Failure>> + Send + use<> {
        let (commands, task) = (commands.clone(), Label::parse("task", "drush").ok());
        let how = Suspend { task, suspended: true, dry_run: true, by: "ann".into() };
        async move { commands.ask(&name(), |reply| Command::Suspend(how, reply)).await }
    }

    /// Answers everything, one after the other.
    async fn drive(mut queue: mpsc::Receiver<Queued>) {
        while let Some(queued) = queue.recv().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
            match queued.command {
                Command::Suspend(_, reply) => drop(reply.send(Ok(Suspended::default()))),
                Command::Scale(_, reply) => drop(reply.send(Err(Failure::new(ErrorKind::Locked, "heard")))),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_its_turn() {
        let (commands, queue) = Commands::new();
        let mut asking = JoinSet::new();
        (0..100).for_each(|_| drop(asking.spawn(suspend(&commands))));
        let mut driving = JoinSet::new();
        driving.spawn(drive(queue));
        assert!(asking.join_all().await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_runs_is_refused_in_the_end_and_refuses_no_deploy() {
        let (commands, queue) = Commands::new();
        let mut asking = JoinSet::new();
        (0..100).for_each(|_| drop(asking.spawn(suspend(&commands))));
        // The driver is busy with something else for longer than anybody waits.
        let begun = tokio::time::Instant::now();
        let refused = asking.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.kind, begun.elapsed()), (ErrorKind::Unavailable, PATIENCE));
        assert!(refused.message.contains("takes no changes at this moment"), "{refused}");
        let name = name();
        let mut scaling = Box::pin(commands.ask(&name, |reply| Command::Scale(to(1, 1), reply)));
        assert!(timeout(PATIENCE * 2, &mut scaling).await.is_err(), "it has a place");
        let mut driving = JoinSet::new();
        driving.spawn(drive(queue));
        assert_eq!(scaling.await.unwrap_err().message, "heard");
    }

    #[tokio::test]
    async fn a_driver_that_has_ended_takes_no_changes() {
        let (commands, queue) = Commands::new();
        drop(queue);
        assert!(commands.is_closed());
        assert_eq!(suspend(&commands).await.unwrap_err().kind, ErrorKind::Unavailable);
    }
}
