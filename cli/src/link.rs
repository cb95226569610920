//! One long answer over as many connections as it takes: what following logs, events and releases have in common.
//!
//! Invariants: the user is told once that the connection was lost, and once that it is back; what will not change by
//! trying again ends it at once.

mod backoff;

use crate::client::{Access, Client, call_error, was_cut};
use crate::error::Error;
use crate::output::Output;
use backoff::Backoff;
use skpr_proto::ErrorKind;
use std::time::{Duration, Instant};
use tonic::Status;

/// Where somebody waits for an end, they are told after this long without a connection.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Link<'a> {
    access: &'a Access,
    output: &'a Output,
    /// Nobody waits for an end: it is tried again for as long as the user likes.
    endless: bool,
    /// A connection from before, not used up yet.
    open: Option<Client>,
    backoff: Backoff,
    /// Whether a connection ever came about.
    reached: bool,
    /// Whether the aggregator ever gave an answer that was no error.
    answered: bool,
    lost_since: Option<Instant>,
}

/// Why a connection ended early.
pub(crate) enum Cut {
    /// The server closed what has no end.
    Closed,
    /// A new connection may go on.
    Lost(Error),
    Final(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        match &error {
            Error::Failed { failure, .. } if failure.kind.retryable() => Cut::Lost(error),
            _ => Cut::Final(error),
        }
    }
}

impl<'a> Link<'a> {
    pub(crate) fn new(access: &'a Access, output: &'a Output, endless: bool) -> Self {
        Link {
            access,
            output,
            endless,
            open: None,
            backoff: Backoff::new(),
            reached: false,
            answered: false,
            lost_since: None,
        }
    }

    /// Goes on with a connection that has answered before.
    pub(crate) fn on(client: &Client, access: &'a Access, output: &'a Output, endless: bool) -> Self {
        Link {
            open: Some(client.clone()),
            reached: true,
            answered: true,
            ..Link::new(access, output, endless)
        }
    }

    /// A connection for the next attempt.
    pub(crate) async fn client(&mut self) -> Result<Client, Cut> {
        if let Some(client) = self.open.take() {
            return Ok(client);
        }
        let client = Client::connect(self.access).await?;
        self.reached = true;
        Ok(client)
    }

    /// An answer arrived. Whether it is the first of all.
    pub(crate) fn answered(&mut self) -> bool {
        if self.lost_since.take().is_some() {
            self.output.note("connected again");
        }
        self.backoff.reset();
        !std::mem::replace(&mut self.answered, true)
    }

    /// Keeps the connection for the next attempt.
    pub(crate) fn keep(&mut self, client: Client) {
        self.open = Some(client);
    }

    /// What the end of a call means.
    pub(crate) fn cut(&self, status: &Status) -> Cut {
        let error = call_error(status, &self.access.endpoint);
        let kind = ErrorKind::from_code(status.code());
        // What an aggregator says before its first answer, the user is told at once.
        let away = self.answered && matches!(kind, ErrorKind::Unavailable | ErrorKind::TimedOut);
        if was_cut(status) || away { Cut::Lost(error) } else { Cut::Final(error) }
    }

    /// Waits until it is time for the next attempt, or gives up.
    pub(crate) async fn wait(&mut self, cut: Cut) -> Result<(), Error> {
        match cut {
            Cut::Final(error) => return Err(error),
            Cut::Closed => {}
            Cut::Lost(error) => {
                // An address that never answered is more likely wrong than away.
                let given_up = self.lost_since.is_some_and(|since| since.elapsed() > PATIENCE);
                if !self.reached || (given_up && !(self.endless && self.answered)) {
                    return Err(error);
                }
                self.output.detail(error.text().trim_end().replace('\n', "; ").as_str());
            }
        }
        if self.lost_since.is_none() {
            self.lost_since = Some(Instant::now());
            self.output.note("connection lost, reconnecting…");
        }
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }
}
