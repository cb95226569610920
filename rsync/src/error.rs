//! What ends a transfer, and what only one file suffers from; both have one of rsync's exit codes.

use crate::name::{BadName, TreePath, escape};
use crate::wire::Malformed;
use rustix::io::Errno;
use std::io;

/// rsync's exit codes, as far as the engine knows their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    Done = 0,
    /// What was asked for cannot be meant.
    Usage = 1,
    /// A path that the transfer starts at cannot be used.
    Start = 3,
    /// The two ends do not understand each other, or one lies.
    Protocol = 12,
    /// Files cannot be written: no space, no right, a read-only file system.
    FileIo = 11,
    /// Some files or attributes were not transferred.
    Partial = 23,
    /// Some files vanished or changed while they were read.
    Vanished = 24,
    /// `--max-delete` stopped deletions.
    MaxDelete = 25,
    /// Nothing came from the other end for too long.
    Timeout = 30,
}

impl Code {
    pub fn from_number(number: u64) -> Option<Code> {
        use Code::{Done, FileIo, MaxDelete, Partial, Protocol, Start, Timeout, Usage, Vanished};
        [Done, Usage, Start, Protocol, FileIo, Partial, Vanished, MaxDelete, Timeout]
            .into_iter()
            .find(|code| u64::from(*code as u8) == number)
    }
}

/// What ends a transfer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the other end does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the other end speaks another version of the protocol: {0}")]
    Version(u16),
    #[error("the connection ended before the transfer was done")]
    Ended,
    #[error("nothing came from the other end for {0} s")]
    Timeout(u64),
    #[error("the connection failed")]
    Link(#[source] io::Error),
    #[error("cannot {doing} `{path}`")]
    Start { doing: &'static str, path: String, source: Errno },
    #[error("cannot {doing} `{path}`")]
    FileIo { doing: &'static str, path: String, source: Errno },
    #[error("{0}")]
    Refused(String),
    /// The other end's own words, made harmless for a terminal.
    #[error("the other end gave up: {text}")]
    Peer { code: Code, text: String },
    /// Another thread of this end has failed before and says why.
    #[error("the transfer was given up")]
    Stopped,
}

impl Error {
    pub fn code(&self) -> Code {
        match self {
            Error::Protocol(_) | Error::Version(_) | Error::Ended | Error::Link(_) | Error::Stopped => {
                Code::Protocol
            }
            Error::Timeout(_) => Code::Timeout,
            Error::Start { .. } => Code::Start,
            Error::FileIo { .. } => Code::FileIo,
            Error::Refused(_) => Code::Usage,
            Error::Peer { code, .. } => *code,
        }
    }

    /// The error and its cause in one line, for the other end.
    pub(crate) fn line(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Protocol(malformed.0)
    }
}

impl From<BadName> for Error {
    fn from(bad: BadName) -> Error {
        Error::Protocol(match bad {
            BadName::Empty => "an empty name",
            BadName::Dots => "a name of dots",
            BadName::Separator => "a slash or NUL in a name",
            BadName::TooLong => "a name or path that is too long",
        })
    }
}

/// What one file suffers from while the transfer goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: TreePath,
    pub text: String,
    /// What it makes of the exit code.
    pub code: Code,
}

impl Problem {
    /// A call on a file that failed.
    pub(crate) fn call(path: &TreePath, doing: &str, errno: Errno) -> Problem {
        let text = format!("cannot {doing}: {}", io::Error::from(errno));
        Problem { path: path.clone(), text, code: Code::Partial }
    }

    pub(crate) fn says(path: &TreePath, text: &str) -> Problem {
        Problem { path: path.clone(), text: text.to_owned(), code: Code::Partial }
    }

    pub(crate) fn vanished(path: &TreePath, text: &str) -> Problem {
        Problem { code: Code::Vanished, ..Problem::says(path, text) }
    }

    /// As it comes from a peer: its words cannot drive a terminal.
    pub(crate) fn foreign(path: TreePath, text: &[u8], code: Code) -> Problem {
        Problem { path, text: escape(text), code }
    }
}

/// Whether a failed write is about the place and not the file, so that all others would fail as well.
pub(crate) fn ends_all(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)
}
