//! One run, from its start to the end of all that it started.
//!
//! Whatever becomes of it, an [`Ending`] is returned; what it wrote is in its log by then.

use super::super::clock::Clock;
use super::super::former::Note;
use super::super::host::{Equipment, Host, Made};
use super::super::output::{LogFile, ROTATE_AT};
use super::super::process::{Launch, Process, blocking};
use super::super::supervisor;
use super::super::words;
use super::plan::Ending;
use crate::run::{self, Outcome, RunId};
use jiff::Timestamp;
use skpr_proto::Source;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// What is to run.
pub(super) struct Execution {
    pub(super) host: Arc<Host>,
    pub(super) source: Source,
    pub(super) note: Note,
    pub(super) equipment: Equipment,
    /// The release's files.
    pub(super) directory: PathBuf,
    pub(super) command: Vec<OsString>,
    pub(super) timeout: Option<Duration>,
    /// Is set when it is to end.
    pub(super) end: watch::Receiver<Option<EndedBy>>,
}

/// What ends a run but itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// It took longer than it may.
    Timeout,
    /// This one takes its place.
    Replacement(RunId),
    /// Its environment goes.
    Deletion,
    /// Everything stops.
    Stop,
}

/// Runs it to its end, which may be brought about.
pub(super) async fn execute(execution: Execution) -> Ending {
    let Execution { host, source, note, equipment, directory, command, timeout, end } = execution;
    let Equipment { recipe, volumes } = equipment;
    let (maker, pod, limits) = (Arc::clone(&host), source.clone(), recipe.limits.clone());
    let made = blocking(move || maker.make(&pod, &note, &limits, &volumes)).await;
    let made = made.unwrap_or_else(|| Err(io::Error::other("everything is ending")));
    let Made { logs, cgroup, .. } = match made {
        Ok(made) => made,
        Err(error) => return failed(&host.clock, format!("it cannot be started: {}", words::why(&error))),
    };
    let launch = Launch {
        name: &source.pod,
        wrapper: &host.wrapper(cgroup.as_ref()),
        command: &command,
        directory: &directory,
        variables: &recipe.variables,
        cgroup: cgroup.as_ref(),
    };
    let log = LogFile::new(logs, 0, ROTATE_AT);
    let ending = match Process::start(launch, &host.spawner).await {
        Err(error) => failed(&host.clock, launch.not_started(&error, log).await),
        Ok(mut process) => {
            process.capture(log);
            let local = process.whereabouts(recipe.limits.cpu_share);
            host.whereabouts.send_modify(|all| _ = all.insert(source.uid.clone(), local));
            let ending = watch_over(process, timeout, end, &host.clock).await;
            host.whereabouts.send_modify(|all| _ = all.remove(&source.uid));
            ending
        }
    };
    if let Some(cgroup) = cgroup {
        blocking(move || cgroup.remove()).await;
    }
    ending
}

async fn watch_over(
    mut process: Process,
    timeout: Option<Duration>,
    mut end: watch::Receiver<Option<EndedBy>>,
    clock: &Clock,
) -> Ending {
    let late = async {
        match timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let (status, by) = tokio::select! {
        biased;
        status = process.ended() => (status, None),
        by = asked(&mut end) => (process.end().await, Some(by)),
        () = late => (process.end().await, Some(EndedBy::Timeout)),
    };
    let (at, killed) = (clock.now(), process.killed_for_memory());
    process.finish().await;
    ending(status, killed, by, at)
}

/// Returns when it is to end. Whoever could say so being gone is as good.
async fn asked(end: &mut watch::Receiver<Option<EndedBy>>) -> EndedBy {
    let by = end.wait_for(Option::is_some).await.ok().and_then(|by| by.clone());
    by.unwrap_or(EndedBy::Stop)
}

fn ending(status: io::Result<ExitStatus>, killed: u32, by: Option<EndedBy>, at: Timestamp) -> Ending {
    let known = status.as_ref().ok().copied();
    let (exit_code, nobody_knows) = match &status {
        Ok(_) => (Some(supervisor::end(known, killed, at).exit_code), None),
        Err(error) => (None, Some(format!("its end was not seen: {}", words::why(error)))),
    };
    let (outcome, reason) = match (by, exit_code) {
        (Some(EndedBy::Timeout), _) => (Outcome::TimedOut, None),
        (Some(EndedBy::Replacement(next)), _) => (Outcome::Replaced, Some(run::words::replaced(&next))),
        (Some(EndedBy::Deletion), _) => (Outcome::Failed, Some("its environment was deleted".to_owned())),
        (Some(EndedBy::Stop), _) => (Outcome::Failed, Some("skpr was stopped while it ran".to_owned())),
        (None, None) => (Outcome::Unknown, nobody_knows),
        (None, Some(0)) => (Outcome::Succeeded, None),
        (None, Some(_)) if killed > 0 => (Outcome::OutOfMemory, None),
        (None, Some(_)) => (Outcome::Failed, None),
    };
    Ending { at, outcome, exit_code, reason }
}

/// One that could not be started.
pub(super) fn failed(clock: &Clock, reason: String) -> Ending {
    Ending { at: clock.now(), outcome: Outcome::Failed, exit_code: None, reason: Some(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skpr_proto::Label;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn an_end_is_told_by_what_brought_it_about() {
        let next = RunId::due(&Label::parse("task", "t").unwrap(), Timestamp::UNIX_EPOCH);
        let code = |code: i32| Ok(ExitStatus::from_raw(code << 8));
        let signal = |signal: i32| Ok(ExitStatus::from_raw(signal));
        for (status, killed, by, outcome, exit_code) in [
            (code(0), 0, None, Outcome::Succeeded, Some(0)),
            (code(3), 0, None, Outcome::Failed, Some(3)),
            (signal(11), 0, None, Outcome::Failed, Some(139)),
            (signal(9), 1, None, Outcome::OutOfMemory, Some(137)),
            (code(0), 1, None, Outcome::Succeeded, Some(0)),
            (code(0), 0, Some(EndedBy::Timeout), Outcome::TimedOut, Some(0)),
            (signal(15), 0, Some(EndedBy::Replacement(next)), Outcome::Replaced, Some(143)),
            (signal(15), 0, Some(EndedBy::Deletion), Outcome::Failed, Some(143)),
            (code(0), 0, Some(EndedBy::Stop), Outcome::Failed, Some(0)),
            (Err(io::ErrorKind::Other.into()), 0, None, Outcome::Unknown, None),
        ] {
            let said = format!("{status:?} {killed} {by:?}");
            let ending = ending(status, killed, by, Timestamp::UNIX_EPOCH);
            assert_eq!((ending.outcome, ending.exit_code), (outcome, exit_code), "{said}");
        }
    }
}
