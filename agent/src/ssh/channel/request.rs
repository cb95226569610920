//! What a client asks of a channel, within limits.

use super::super::signals::to_send;
use crate::runtime::{Command, Size, Start, Terminal, User};
use bytes::Bytes;
use russh::ChannelMsg;
use rustix::process::Signal;
use skpr_proto::ssh;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// Variables that a client may set, beside every `LC_…`. Others are ignored: they could change what programs load.
const VARIABLES: [&str; 3] = ["LANG", "LANGUAGE", "COLORTERM"];
/// How many of them, and how long.
const MOST_VARIABLES: usize = 32;
const LONGEST: usize = 256;
/// What a terminal is that says no name, or one that no terminal has.
const PLAIN: &str = "dumb";

/// The subsystem that serves files.
pub(in crate::ssh) const SFTP: &str = "sftp";

/// What a message means.
pub(super) enum Event {
    Data(Bytes),
    /// The client sends no more.
    End,
    Close,
    Resize(Size),
    Signal(Signal),
    /// The client has passed on so many bytes of what it was sent.
    Taken(u64),
    Run(Command),
    Nothing,
}

/// What was asked for before something is run.
#[derive(Default)]
pub(super) struct Asked {
    terminal: Option<Terminal>,
    variables: Vec<(String, String)>,
    /// The client wants to be told how much of what it sends was taken.
    pub(super) tell_taken: bool,
    /// The client tells how much of what it is sent it has passed on.
    pub(super) tells_taken: bool,
}

impl Asked {
    pub(super) fn take(&mut self, message: ChannelMsg) -> Event {
        match message {
            ChannelMsg::Data { data } => return Event::Data(data),
            ChannelMsg::Eof => return Event::End,
            ChannelMsg::Close => return Event::Close,
            ChannelMsg::RequestPty { term, col_width, row_height, terminal_modes, .. } => {
                let modes = terminal_modes.into_iter().map(|(mode, argument)| (mode as u8, argument));
                let (kind, size) = (kind(&term), Size::of(col_width, row_height));
                self.terminal = Some(Terminal { kind, size, modes: modes.collect() });
            }
            ChannelMsg::SetEnv { variable_name, .. } if variable_name == ssh::TELL_TAKEN => {
                self.tell_taken = true;
            }
            ChannelMsg::SetEnv { variable_name, .. } if variable_name == ssh::TELLS_TAKEN => {
                self.tells_taken = true;
            }
            ChannelMsg::SetEnv { variable_name, variable_value, .. }
                if is_taken(&variable_name, &variable_value) && self.variables.len() < MOST_VARIABLES =>
            {
                self.variables.push((variable_name, variable_value));
            }
            ChannelMsg::RequestShell { .. } => return Event::Run(Command::Shell),
            ChannelMsg::RequestSubsystem { name, .. } if name == SFTP => return Event::Run(Command::Files),
            ChannelMsg::Exec { command, .. } => return Event::Run(command_of(command)),
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                let size = Size::of(col_width, row_height);
                if let Some(terminal) = &mut self.terminal {
                    terminal.size = size;
                }
                return Event::Resize(size);
            }
            ChannelMsg::ExtendedData { data, ext: ssh::TAKEN } => {
                return ssh::bytes_taken(&data).map_or(Event::Nothing, Event::Taken);
            }
            ChannelMsg::Signal { signal } => return to_send(&signal).map_or(Event::Nothing, Event::Signal),
            // Of the others a server gets some, and acts on none.
            _ => {}
        }
        Event::Nothing
    }

    pub(super) fn start(self, command: Command, user: User) -> Start {
        Start { command, user, variables: self.variables, terminal: self.terminal }
    }
}

/// A line for a shell, or a program and its arguments.
fn command_of(mut command: Vec<u8>) -> Command {
    if command.len() > ssh::LONGEST_COMMAND {
        // It is not to be run in part.
        return Command::TooLong;
    }
    if let Some(words) = ssh::words_of(&command) {
        return Command::Program(words.into_iter().map(|word| OsString::from_vec(word.to_vec())).collect());
    }
    command.retain(|byte| *byte != 0);
    Command::Line(OsString::from_vec(command))
}

fn kind(term: &str) -> String {
    let possible = !term.is_empty()
        && term.len() <= 64
        && term.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte));
    if possible { term.to_owned() } else { PLAIN.to_owned() }
}

fn is_taken(name: &str, value: &str) -> bool {
    let known = VARIABLES.contains(&name)
        || name.strip_prefix("LC_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        });
    known && name.len() <= LONGEST && value.len() <= LONGEST && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_of_language_and_colour_are_taken() {
        for (name, value, taken) in [
            ("LANG", "C.UTF-8", true),
            ("LC_ALL", "de_DE", true),
            ("COLORTERM", "truecolor", true),
            ("LD_PRELOAD", "/tmp/x.so", false),
            ("PATH", "/tmp", false),
            ("LC_", "x", false),
            ("LC_a1", "x", true),
            ("LC_=", "x", false),
            ("LANG", "a\0b", false),
            ("", "", false),
        ] {
            assert_eq!(is_taken(name, value), taken, "{name}");
        }
        assert!(!is_taken("LANG", &"x".repeat(LONGEST + 1)));
    }

    #[test]
    fn a_flood_of_variables_is_cut_off() {
        let mut asked = Asked::default();
        for _ in 0..10_000 {
            let (variable_name, variable_value) = ("LC_ALL".to_owned(), "C".to_owned());
            asked.take(ChannelMsg::SetEnv { want_reply: false, variable_name, variable_value });
        }
        assert_eq!(asked.start(Command::Shell, User::Own).variables.len(), MOST_VARIABLES);
    }

    #[test]
    fn a_request_that_begins_with_nul_is_a_list_of_arguments() {
        let line = |text: &[u8]| command_of(text.to_vec());
        assert_eq!(line(b"echo 'a b'"), Command::Line("echo 'a b'".into()));
        assert_eq!(line(b""), Command::Line("".into()));
        assert_eq!(
            line(b"\0echo\0a b\0\0$x"),
            Command::Program(vec!["echo".into(), "a b".into(), "".into(), "$x".into()])
        );
        assert_eq!(line(&vec![b'x'; 1 << 20]), Command::TooLong);
    }

    #[test]
    fn what_no_terminal_is_called_is_a_plain_one() {
        for (asked, expected) in
            [("xterm-256color", "xterm-256color"), ("", PLAIN), ("a b", PLAIN), ("\u{1b}[2J", PLAIN)]
        {
            assert_eq!(kind(asked), expected);
        }
    }
}
