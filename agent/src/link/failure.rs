//! Why there is no connection, and saying so once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

/// Why connecting failed or a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("read the {what} `{}`", path.display())]
    ReadFile { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{}` holds no token: it must be one line of printable text", path.display())]
    NotAToken { path: PathBuf },
    #[error("`{}` is no certificate authority: {cause}", path.display())]
    NotACertificate { path: PathBuf, cause: String },
    #[error("the aggregator's address is not HOST:PORT")]
    NotAnAddress,
    #[error("reach the aggregator")]
    Connect(#[source] std::io::Error),
    #[error("agree on TLS with the aggregator")]
    Secure(#[source] std::io::Error),
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("speak HTTP/2 with the aggregator")]
    Http(#[source] tonic::transport::Error),
    #[error("{what} took longer than {} s", limit.as_secs())]
    TimedOut { what: &'static str, limit: Duration },
    /// The aggregator, or the connection below it, ended a call. tonic's own rendering of a status repeats itself.
    #[error("the aggregator ended {call}: {:?}: {}", status.code(), status.message())]
    Call { call: &'static str, status: Box<Status> },
    #[error("the aggregator ended {call}")]
    Ended { call: &'static str },
    #[error("the aggregator acknowledged batch {id}, but the last one sent was {sent}")]
    AckOutOfRange { id: u64, sent: u64 },
    #[error("the tail thread ended")]
    TailEnded,
}

impl LinkError {
    pub(crate) fn call(call: &'static str) -> impl FnOnce(Status) -> LinkError {
        move |status| LinkError::Call { call, status: Box::new(status) }
    }

    /// Whether the aggregator refused who we are: trying again soon cannot help, somebody must act.
    pub(crate) fn denied(&self) -> bool {
        match self {
            LinkError::Call { status, .. } => {
                matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
            }
            LinkError::ReadFile { .. }
            | LinkError::NotAToken { .. }
            | LinkError::NotACertificate { .. }
            | LinkError::NotAnAddress
            | LinkError::Connect(_)
            | LinkError::Secure(_)
            | LinkError::Tls(_)
            | LinkError::Http(_)
            | LinkError::TimedOut { .. }
            | LinkError::Ended { .. }
            | LinkError::AckOutOfRange { .. }
            | LinkError::TailEnded => false,
        }
    }

    /// The whole chain of causes in one line.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            // hyper and tonic put a cause into the text as well as behind `source`.
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text
    }
}

/// So many different failures are told apart; the oldest is forgotten first.
const REMEMBERED: usize = 8;

/// Logs each distinct failure once until things are good again, so that an aggregator that is away for an hour costs
/// a node two lines and not hundreds.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    made: VecDeque<String>,
}

impl Complaints {
    /// Logs the failure unless it was logged since the last good connection.
    pub(crate) fn complain(&mut self, error: &LinkError) {
        let text = error.chain();
        if !self.is_new(&text) {
            tracing::debug!(error = %text, "no connection to the aggregator, as before");
        } else if error.denied() {
            tracing::error!(error = %text, "the aggregator refuses this agent; trying again each minute");
        } else {
            tracing::warn!(error = %text, "no connection to the aggregator; trying again");
        }
    }

    /// Whether nothing has been complained about.
    pub(crate) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// Things are good: the next failure is news again.
    pub(crate) fn forget(&mut self) {
        self.made.clear();
    }

    fn is_new(&mut self, text: &str) -> bool {
        if self.made.iter().any(|made| made == text) {
            return false;
        }
        if self.made.len() == REMEMBERED {
            self.made.pop_front();
        }
        self.made.push_back(text.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_news_once() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_new("refused"));
        assert!(!complaints.is_new("refused"));
        assert!(complaints.is_new("timed out"));
        assert!(!complaints.is_new("refused"));
        complaints.forget();
        assert!(complaints.is_new("refused"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut complaints = Complaints::default();
        for i in 0..100 {
            assert!(complaints.is_new(&i.to_string()));
        }
        assert_eq!(complaints.made.len(), REMEMBERED);
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        let source = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(LinkError::Connect(source).chain(), "reach the aggregator: connection refused");
        let status = LinkError::call("Ship")(Status::unavailable("the disk is full"));
        assert_eq!(status.chain(), "the aggregator ended Ship: Unavailable: the disk is full");
        assert!(!status.denied());
        assert!(LinkError::call("Ship")(Status::unauthenticated("expired")).denied());
    }
}
