//! `skpr shell` and `skpr exec`: what is run ends this program with its own exit code.

use super::call::suggest;
use crate::args::{AsUser, Exec, Place, Shell};
use crate::client::Access;
use crate::error::Error;
use crate::interrupt;
use crate::output::Output;
use crate::session::{Broken, Outcome, Run, Session, Wanted, command, run as converse};
use crate::settings::Settings;
use crate::terminal::{stdin_is_terminal, stdout_is_terminal};
use skpr_proto::v1::OpenedSession;
use skpr_proto::{ErrorKind, Failure, ssh};
use std::ffi::OsString;

/// What a program exits with whose connection broke, as `ssh` does.
pub(super) const BROKEN: u8 = 255;
/// What a shell exits with of what is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// What a shell adds to the number of the signal that ended a program.
const BY_SIGNAL: u8 = 128;

pub(super) async fn shell(verb: Shell, settings: &Settings, output: &Output) -> Result<(), Error> {
    let terminal = stdin_is_terminal() && stdout_is_terminal();
    let asked = Asked { place: verb.place, as_user: verb.as_user, command: None, terminal, banner: true };
    asked.run(settings, output).await
}

pub(super) async fn exec(verb: Exec, settings: &Settings, output: &Output) -> Result<(), Error> {
    let both = stdin_is_terminal() && stdout_is_terminal();
    let terminal = !verb.no_terminal && (verb.terminal || both);
    // A script that keeps stderr wants that of the program alone.
    let banner = output.error_terminal;
    let asked =
        Asked { place: verb.place, as_user: verb.as_user, command: Some(verb.command), terminal, banner };
    asked.run(settings, output).await
}

struct Asked {
    place: Place,
    as_user: AsUser,
    command: Option<Vec<OsString>>,
    terminal: bool,
    banner: bool,
}

impl Asked {
    async fn run(self, settings: &Settings, output: &Output) -> Result<(), Error> {
        if self.command.as_ref().is_some_and(|words| command(words).len() > ssh::LONGEST_COMMAND) {
            let failure =
                Failure::new(ErrorKind::Usage, "the command is longer than what can be passed to a program");
            output.report(&failure.with_hint("pass what is long on stdin").into());
            return Err(Error::Exit(CANNOT_RUN));
        }
        let access = settings.access()?;
        let (session, banner) = open(self.place, &access, settings, output).await?;
        if self.banner {
            output.note(&banner)
        } else {
            output.detail(&banner)
        }
        if self.terminal {
            // `kill` is to leave the terminal as it was.
            interrupt::exit_on_terminate()?;
        }
        let host_key = session.opened.host_key;
        let what = Run { command: self.command, user: self.as_user.user, terminal: self.terminal, host_key };
        match converse(session.relay, what).await {
            Ok(Outcome::Code(0)) => Ok(()),
            Ok(Outcome::Code(code)) => Err(Error::Exit(u8::try_from(code & 0xff).unwrap_or(BROKEN))),
            Ok(Outcome::Signal(name)) => {
                output.note(&format!("ended by signal {name}"));
                Err(Error::Exit(BY_SIGNAL.saturating_add(number(&name))))
            }
            Ok(Outcome::ClosedPipe) => Err(Error::ClosedPipe),
            Err(broken) => {
                output.report(&lost(&broken, &access));
                Err(Error::Exit(BROKEN))
            }
        }
    }
}

/// Opens a session; with it goes a line that says which instance it is.
pub(super) async fn open(
    place: Place,
    access: &Access,
    settings: &Settings,
    output: &Output,
) -> Result<(Session, String), Error> {
    let wanted = Wanted {
        environment: settings.environment(&place.target.environment)?,
        namespace: settings.namespace(place.target.namespace.as_deref())?,
        instance: place.instance,
    };
    match Session::open(access, &wanted).await {
        Ok(session) => {
            let banner = banner(&wanted, &session.opened);
            Ok((session, banner))
        }
        Err(error) => Err(not_opened(suggest(error, &wanted.environment, settings).await, output)),
    }
}

/// Which instance it is, in a line.
fn banner(wanted: &Wanted, opened: &OpenedSession) -> String {
    let production = if opened.production { ", production" } else { "" };
    let others = match opened.instances {
        0 | 1 => String::new(),
        count => format!(", one of {count}"),
    };
    format!(
        "{}: instance {}{others}, version {}{production}",
        wanted.environment, opened.instance, opened.version
    )
}

/// The error of a session that did not come about: 255 where it was the connection's fault.
pub(super) fn not_opened(error: Error, output: &Output) -> Error {
    match &error {
        Error::Failed { failure, .. } if failure.kind.retryable() => {
            output.report(&error);
            Error::Exit(BROKEN)
        }
        Error::Failed { .. } | Error::Exit(_) | Error::ClosedPipe => error,
    }
}

/// What to say when it broke.
pub(super) fn lost(broken: &Broken, access: &Access) -> Error {
    let message = match broken {
        Broken::Terminal(_) => "the terminal cannot be used".to_owned(),
        Broken::Output(_) => "what the program says cannot be written, and some of it is lost".to_owned(),
        Broken::Input(_) => "what the program is to read cannot be read: it was ended".to_owned(),
        Broken::Relay(_) | Broken::Cut | Broken::Ssh(_) | Broken::Refused | Broken::NotRun => {
            format!("the connection through `{}` was lost: how it ended is not known", access.endpoint)
        }
    };
    Error::new(Failure::new(ErrorKind::Unavailable, message), broken)
}

/// The number of a signal on Linux, where the process ran.
fn number(name: &str) -> u8 {
    let known = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
    ];
    let named = known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| name.strip_prefix("SIG")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_its_number() {
        for (name, expected) in [("TERM", 15), ("KILL", 9), ("SIG31", 31), ("nonsense", 0), ("SIG999", 0)] {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
