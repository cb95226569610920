//! `skpr shell` and `skpr exec`: what is run ends this program with its own exit code.

use super::call::suggest;
use crate::args::{AsUser, Exec, Place, Shell, WithTerminal};
use crate::client::Access;
use crate::error::Error;
use crate::interrupt;
use crate::output::Output;
use crate::session::{Broken, NotOpened, Outcome, Run, Session, Wanted, command, run as converse};
use crate::settings::Settings;
use crate::terminal::{stdin_is_terminal, stdout_is_terminal};
use skpr_proto::v1::OpenedSession;
use skpr_proto::{ErrorKind, Failure, ssh};
use std::ffi::OsString;

/// What a program exits with whose connection broke, as `ssh` does.
const BROKEN: u8 = 255;
/// What a shell exits with of what is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// What a shell adds to the number of the signal that ended a program.
const BY_SIGNAL: u8 = 128;

pub(super) async fn shell(verb: Shell, settings: &Settings, output: &Output) -> Result<(), Error> {
    let terminal = verb.with_terminal.wanted();
    let asked = Asked { place: verb.place, as_user: verb.as_user, command: None, terminal, banner: true };
    asked.run(settings, output).await
}

pub(super) async fn exec(verb: Exec, settings: &Settings, output: &Output) -> Result<(), Error> {
    let terminal = verb.with_terminal.wanted();
    // A script that keeps stderr wants that of the program alone.
    let banner = output.error_terminal;
    let asked =
        Asked { place: verb.place, as_user: verb.as_user, command: Some(verb.command), terminal, banner };
    asked.run(settings, output).await
}

impl WithTerminal {
    fn wanted(&self) -> bool {
        !self.no_terminal && (self.terminal || (stdin_is_terminal() && stdout_is_terminal()))
    }
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
            Err(broken) => Err(ended_early(&broken, &access, output)),
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
        Err(NotOpened::Refused(error)) => Err(suggest(error, &wanted.environment, settings).await),
        Err(NotOpened::Broken(error)) => Err(broken(&error, output)),
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

/// Reports an error that is the connection's fault, and ends with the code for that.
pub(super) fn broken(error: &Error, output: &Output) -> Error {
    output.report(error);
    Error::Exit(BROKEN)
}

/// What to say of a session that did not come to its end, and what to exit with: 255 unless nothing was started.
pub(super) fn ended_early(why: &Broken, access: &Access, output: &Output) -> Error {
    let failed = |kind: ErrorKind, message: &str| Error::new(Failure::new(kind, message), why);
    let nothing = |message: &str| failed(ErrorKind::Failed, message);
    match why {
        Broken::Terminal(_) => nothing("the terminal cannot be used, so nothing was started"),
        Broken::Refused => nothing("the instance's agent lets nobody in, so nothing was started"),
        Broken::NotRun => nothing("the instance's agent does not run it"),
        Broken::Ssh(russh::Error::UnknownKey) => {
            nothing("the instance's agent has another host key than the aggregator has told")
        }
        Broken::Output(_) => {
            broken(&nothing("what the program says cannot be written, and some of it is lost"), output)
        }
        Broken::Input(_) => {
            broken(&nothing("what the program is to read cannot be read: it was ended"), output)
        }
        Broken::Farewell(why) => {
            let failure = Failure::new(ErrorKind::Unavailable, why.clone())
                .with_hint("a deploy may have replaced it: try again");
            broken(&failure.into(), output)
        }
        Broken::Relay(_) | Broken::Cut | Broken::Ssh(_) => {
            let endpoint = &access.endpoint;
            let message = format!("the connection through `{endpoint}` was lost: how it ended is not known");
            broken(&failed(ErrorKind::Unavailable, &message), output)
        }
    }
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
