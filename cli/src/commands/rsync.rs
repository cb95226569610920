//! `skpr rsync`: files to and from an environment, with nothing needed in the container.
//!
//! Invariants: nothing is deleted in a production environment that nobody agreed to; whatever ends a transfer, a file is the
//! old one or the new one, and the exit code is rsync's; names from elsewhere reach the terminal as harmless text.

mod engine;
mod options;
mod place;
mod progress;
mod report;
mod watch;

use super::call::{Cluster, suggest};
use crate::args::{Rsync, Target};
use crate::client::Access;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::session::{NotOpened, Session, Wanted};
use crate::settings::Settings;
use crate::terminal;
use engine::Broken;
use place::{Remote, Way};
use skpr_proto::v1::OpenedSession;
use skpr_proto::{ErrorKind, Failure, Purpose};
use skpr_rsync::Code;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Instant;
use watch::Watch;

/// rsync's exit codes for what the engine knows nothing of.
mod exit {
    pub(super) const USAGE: u8 = 1;
    /// There is nobody to transfer with: not allowed, not found, not logged in.
    pub(super) const NOT_BEGUN: u8 = 5;
    pub(super) const NO_CONNECTION: u8 = 10;
    pub(super) const NOT_WRITTEN: u8 = 11;
    pub(super) const BROKEN: u8 = 12;
    pub(super) const INTERRUPTED: u8 = 20;
    pub(super) const TIMED_OUT: u8 = 30;
}

pub(super) async fn run(verb: Rsync, settings: &Settings, output: &Output) -> Result<(), Error> {
    match transfer(&verb, settings, output).await {
        Ok(Code::Done) => Ok(()),
        Ok(code) => Err(Error::Exit(code as u8)),
        Err(error) => {
            output.report(&error);
            Err(Error::Exit(code_of(&error)))
        }
    }
}

/// The code of a transfer that did not come about.
fn code_of(error: &Error) -> u8 {
    match error {
        Error::ClosedPipe => 0,
        Error::Exit(code) => *code,
        Error::Failed { failure, .. } => match failure.kind {
            ErrorKind::Usage | ErrorKind::InvalidConfiguration => exit::USAGE,
            ErrorKind::Unavailable => exit::NO_CONNECTION,
            ErrorKind::TimedOut => exit::TIMED_OUT,
            ErrorKind::Failed
            | ErrorKind::NotFound
            | ErrorKind::NotAllowed
            | ErrorKind::NotLoggedIn
            | ErrorKind::DeployFailed
            | ErrorKind::Locked => exit::NOT_BEGUN,
        },
    }
}

async fn transfer(verb: &Rsync, settings: &Settings, output: &Output) -> Result<Code, Error> {
    let (way, local, remote) = place::sides(verb)?;
    let options = options::of(verb, way, options::tells(verb, output))?;
    agree(verb, way, &remote, settings, output).await?;
    let access = settings.access()?;
    let wanted = Wanted {
        environment: settings.environment(&remote.environment)?,
        namespace: settings.namespace(verb.namespace.as_deref())?,
        instance: verb.instance.clone(),
    };
    let session = match Session::open_for(&access, &wanted, Purpose::Files).await {
        Ok(session) => session,
        Err(NotOpened::Refused(error)) => return Err(suggest(error, &wanted.environment, settings).await),
        Err(NotOpened::Broken(error)) => return Err(error),
    };
    let there = remote.path(&session.opened.volumes, &wanted.environment)?;
    let opened = session.opened.clone();
    output.detail(&banner(&wanted, &opened));
    let (begun, watch) = (Instant::now(), Arc::new(Watch::new(verb, way, output)));
    let task =
        engine::Task { way, local: local.as_bytes().to_vec(), there, options, watch: Arc::clone(&watch) };
    let done = engine::run(session, task).await;
    watch.finish();
    match done {
        Ok(summary) => {
            let transfer = report::Transfer { verb, way, opened: &opened, summary, elapsed: begun.elapsed() };
            match transfer.say(&wanted.environment, watch.problems(), output) {
                Ok(()) | Err(Error::ClosedPipe) => Ok(summary.code),
                // The files are there; only what was to be said of it is not.
                Err(error) => {
                    output.report(&error);
                    Err(Error::Exit(exit::NOT_WRITTEN))
                }
            }
        }
        Err(broken) => {
            let (error, code) = explain(broken, verb, &access);
            output.report(&error);
            Err(Error::Exit(code))
        }
    }
}

/// Which instance it is, in a line.
fn banner(wanted: &Wanted, opened: &OpenedSession) -> String {
    let production = if opened.production { ", production" } else { "" };
    format!("{}: instance {}, version {}{production}", wanted.environment, opened.instance, opened.version)
}

/// What ended a transfer early, in words and as rsync's code.
fn explain(broken: Broken, verb: &Rsync, access: &Access) -> (Error, u8) {
    let again = if verb.chosen.partial || verb.shown.partial_progress {
        "the same command goes on from there"
    } else {
        "the same command transfers what is missing; with --partial it also goes on within a file"
    };
    match broken {
        Broken::Interrupted => {
            let failure =
                Failure::new(ErrorKind::Failed, "interrupted: files are old or new, and none is mixed");
            (failure.with_hint(again).into(), exit::INTERRUPTED)
        }
        Broken::Relay => {
            let message = format!("the connection through `{}` was lost", access.endpoint);
            (Failure::new(ErrorKind::Unavailable, message).with_hint(again).into(), exit::BROKEN)
        }
        Broken::Engine(error) => {
            let code = error.code() as u8;
            let failure = match &error {
                skpr_rsync::Error::Ended | skpr_rsync::Error::Link(_) => {
                    let message = "the instance ended the transfer before it was done";
                    Failure::new(ErrorKind::Unavailable, message).with_hint(again)
                }
                skpr_rsync::Error::Version(_) => {
                    Failure::new(ErrorKind::Failed, error.to_string()).with_hint("skpr version -v")
                }
                _ => Failure::new(ErrorKind::Failed, error.to_string()),
            };
            match std::error::Error::source(&error) {
                Some(cause) => (Error::new(failure, cause), code),
                None => (failure.into(), code),
            }
        }
        Broken::System(error) => (error.into(), exit::BROKEN),
    }
}

/// Asks for what is destructive: deletions in an environment.
async fn agree(
    verb: &Rsync,
    way: Way,
    remote: &Remote,
    settings: &Settings,
    output: &Output,
) -> Result<(), Error> {
    if way == Way::Pull || !verb.chosen.delete || verb.chosen.dry_run || verb.chosen.yes {
        return Ok(());
    }
    let target = Target { environment: remote.environment.clone(), namespace: verb.namespace.clone() };
    let cluster = Cluster::connect(&target, settings, output).await?;
    let production = match cluster.describe().await {
        Ok(described) => described.summary.is_none_or(|summary| summary.production),
        // Whoever may not see what it is may have to do with production.
        Err(Error::Failed { failure, .. })
            if matches!(failure.kind, ErrorKind::NotAllowed | ErrorKind::NotFound) =>
        {
            true
        }
        Err(error) => return Err(error),
    };
    let environment = &cluster.environment;
    let name = &environment.environment;
    if !terminal::can_ask() {
        // What a script says of anything but production is meant.
        return if production {
            let message =
                format!("`{environment}` is production, and there is no terminal to ask on about --delete");
            Err(usage(message).with_hint("-n shows what would go; -y agrees to it").into())
        } else {
            Ok(())
        };
    }
    let agreed = if production {
        let question =
            format!("{environment} is production. Type `{name}` to delete what the source does not have: ");
        terminal::ask(&question)?.trim() == name.as_str()
    } else {
        let answer =
            terminal::ask(&format!("Delete what the source does not have in {environment}? [y/N] "))?;
        matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    };
    if agreed {
        Ok(())
    } else {
        Err(Failure::new(ErrorKind::Failed, "nothing was transferred, and nothing deleted").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_about_has_one_of_rsyncs_codes() {
        for kind in ErrorKind::ALL {
            let code = code_of(&Failure::new(kind, "x").into());
            assert!([1, 5, 10, 30].contains(&code), "{kind:?}: {code}");
        }
    }
}
