//! One closed table of errors: kind ⇄ gRPC code ⇄ exit code ⇄ whether trying again may help.
//!
//! A [`Failure`] is what a caller is told: one sentence, and where it helps the next command. What else is known
//! stays in the log of the program that failed.

use crate::v1::ErrorDetail;
use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

/// Why a call failed, as far as the caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It was tried and did not work.
    Failed,
    /// The request makes no sense: a flag, a time, a regular expression.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// The caller is known and may not do this.
    NotAllowed,
    /// The caller is not known: no token, or one that is expired or meant for someone else.
    NotLoggedIn,
    /// A configuration file is wrong.
    InvalidConfiguration,
    /// A deploy did not become healthy.
    DeployFailed,
    /// It took longer than the caller allowed.
    TimedOut,
    /// Somebody else holds the lock.
    Locked,
    /// Not now: the other side is away, starting, full or overloaded.
    Unavailable,
}

impl ErrorKind {
    /// Every kind, for tests and documentation.
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::Failed,
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::NotAllowed,
        ErrorKind::NotLoggedIn,
        ErrorKind::InvalidConfiguration,
        ErrorKind::DeployFailed,
        ErrorKind::TimedOut,
        ErrorKind::Locked,
        ErrorKind::Unavailable,
    ];

    /// The name on the wire and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Failed => "failed",
            ErrorKind::Usage => "usage",
            ErrorKind::NotFound => "not-found",
            ErrorKind::NotAllowed => "not-allowed",
            ErrorKind::NotLoggedIn => "not-logged-in",
            ErrorKind::InvalidConfiguration => "invalid-configuration",
            ErrorKind::DeployFailed => "deploy-failed",
            ErrorKind::TimedOut => "timed-out",
            ErrorKind::Locked => "locked",
            ErrorKind::Unavailable => "unavailable",
        }
    }

    /// The gRPC code it travels as.
    pub fn code(self) -> Code {
        match self {
            ErrorKind::Failed => Code::Internal,
            ErrorKind::Usage => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::NotAllowed => Code::PermissionDenied,
            ErrorKind::NotLoggedIn => Code::Unauthenticated,
            ErrorKind::InvalidConfiguration => Code::FailedPrecondition,
            ErrorKind::DeployFailed => Code::Aborted,
            ErrorKind::TimedOut => Code::DeadlineExceeded,
            ErrorKind::Locked => Code::AlreadyExists,
            ErrorKind::Unavailable => Code::Unavailable,
        }
    }

    /// The kind behind a gRPC code; codes that skpr never sends are read as the nearest kind.
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => ErrorKind::Usage,
            Code::NotFound => ErrorKind::NotFound,
            Code::PermissionDenied => ErrorKind::NotAllowed,
            Code::Unauthenticated => ErrorKind::NotLoggedIn,
            Code::FailedPrecondition => ErrorKind::InvalidConfiguration,
            Code::Aborted => ErrorKind::DeployFailed,
            Code::DeadlineExceeded => ErrorKind::TimedOut,
            Code::AlreadyExists => ErrorKind::Locked,
            Code::Unavailable | Code::ResourceExhausted => ErrorKind::Unavailable,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => ErrorKind::Failed,
        }
    }

    /// What the CLI exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed | ErrorKind::Unavailable => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::NotAllowed | ErrorKind::NotLoggedIn => 4,
            ErrorKind::InvalidConfiguration => 5,
            ErrorKind::DeployFailed => 6,
            ErrorKind::TimedOut => 7,
            ErrorKind::Locked => 8,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn retryable(self) -> bool {
        match self {
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Locked => true,
            ErrorKind::Failed
            | ErrorKind::Usage
            | ErrorKind::NotFound
            | ErrorKind::NotAllowed
            | ErrorKind::NotLoggedIn
            | ErrorKind::InvalidConfiguration
            | ErrorKind::DeployFailed => false,
        }
    }
}

/// What a caller is told: the kind, one sentence with the value in backticks, and a hint (the next command) or none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: ErrorKind,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The failure of a flag, an argument or a value that the caller gave.
pub fn usage(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Usage, message)
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let detail =
            ErrorDetail { kind: failure.kind.name().to_owned(), hint: failure.hint.unwrap_or_default() };
        Status::with_details(failure.kind.code(), failure.message, Bytes::from(detail.encode_to_vec()))
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        let kind = ErrorKind::from_code(status.code());
        let hint = ErrorDetail::decode(status.details())
            .ok()
            .filter(|detail| detail.kind == kind.name() && !detail.hint.is_empty())
            .map(|detail| detail.hint);
        Failure { kind, message: status.message().to_owned(), hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            let failure = Failure::new(kind, "no such environment `dev`").with_hint("skpr list");
            let status = Status::from(failure.clone());
            assert_eq!(status.code(), kind.code());
            assert_eq!(Failure::from(&status), failure);
        }
    }

    #[test]
    fn details_that_are_not_ours_are_ignored() {
        let status = Status::with_details(Code::Internal, "broken", Bytes::from_static(b"\xff\xff\xff"));
        assert_eq!(Failure::from(&status), Failure::new(ErrorKind::Failed, "broken"));
    }

    #[test]
    fn names_and_codes_are_distinct() {
        for (i, a) in ErrorKind::ALL.iter().enumerate() {
            for b in ErrorKind::ALL.iter().skip(i + 1) {
                assert_ne!(a.name(), b.name());
                assert_ne!(a.code(), b.code());
            }
        }
    }
}
