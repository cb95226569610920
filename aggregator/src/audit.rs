//! One JSON line on stdout for each authorised or denied call: who, what, where, the decision, how much, how it ended.
//!
//! - Never a token, never a message.
//! - Calls of strangers, who had no good token, get a few lines a minute; how many got none is in the next line.
//! - A line is written when its call has ended, by a thread of its own: a stalled reader of stdout stalls no call.

mod sparing;
mod writer;

pub(crate) use sparing::Sparing;
pub(crate) use writer::Audit;

use crate::aggregator::Shared;
use crate::auth::User;
use crate::environment::EnvironmentKey;
use crate::gate::Held;
use crate::run::RunId;
use serde::Serialize;
use skpr_proto::v1::Exit;
use skpr_proto::{ErrorKind, Failure, Label};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Code, Status};

/// Of the name that a client gave for a user in an instance.
const LONGEST_USER: usize = 256;

/// What a line says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) time: String,
    pub(crate) audit: &'static str,
    pub(crate) decision: &'static str,
    pub(crate) user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<String>,
    /// The release that was begun or followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<u64>,
    /// The task that was run, suspended or resumed, and the run that was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    /// Which session it was, as its events and recordings call it, where, what for, as whom its processes were to run, where
    /// the agent told another than the instance's own user, and how the last of them ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purpose: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_as: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) duration_seconds: f64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) ended: &'static str,
    /// Calls of strangers before this one that got no line.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unsaid: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Line {
    pub(crate) fn new(audit: &'static str, decision: &'static str) -> Line {
        Line {
            time: jiff::Timestamp::now().to_string(),
            audit,
            decision,
            user: String::new(),
            groups: Vec::new(),
            namespace: None,
            environment: None,
            release: None,
            task: None,
            run: None,
            session: None,
            instance: None,
            purpose: None,
            run_as: None,
            exit: None,
            peer: None,
            duration_seconds: 0.0,
            records: 0,
            bytes: 0,
            ended: "completed",
            unsaid: 0,
        }
    }
}

/// A user's call from its first moment to its last: holds the gate, and leaves its line and its count when dropped.
pub(crate) struct Access {
    shared: Arc<Shared>,
    held: Held,
    method: &'static str,
    is_call: bool,
    started: Instant,
    line: Line,
    code: Code,
}

impl Access {
    pub(crate) fn begin(shared: &Arc<Shared>, method: &'static str, peer: Option<SocketAddr>) -> Access {
        let held = shared.gate.enter(method.to_owned());
        // A call that ends without saying how was given up by its client.
        let line = Line { peer, ended: "disconnected", ..Line::new(method, "none") };
        Access {
            shared: Arc::clone(shared),
            held,
            method,
            is_call: true,
            started: Instant::now(),
            line,
            code: Code::Cancelled,
        }
    }

    /// The same for a request of monitoring, which is none of gRPC's calls.
    pub(crate) fn scrape(shared: &Arc<Shared>, name: &'static str, peer: Option<SocketAddr>) -> Access {
        let mut access = Access::begin(shared, name, peer);
        access.is_call = false;
        access
    }

    pub(crate) fn user(&mut self, user: &User) {
        self.line.user.clone_from(&user.name);
        self.line.groups.clone_from(&user.groups);
        self.held.rename(format!("{} of {}", self.method, user.name));
    }

    /// What is asked for, as the caller put it.
    pub(crate) fn asked(&mut self, environment: String) {
        self.line.environment = Some(environment);
    }

    pub(crate) fn allowed(&mut self, environment: Option<&EnvironmentKey>) {
        self.line.decision = "allowed";
        if let Some(key) = environment {
            self.line.namespace = Some(key.namespace.to_string());
            self.line.environment = Some(key.name.to_string());
        }
    }

    pub(crate) fn release(&mut self, number: u64) {
        self.line.release = Some(number);
    }

    pub(crate) fn task(&mut self, task: &Label) {
        self.line.task = Some(task.to_string());
    }

    pub(crate) fn run(&mut self, run: &RunId) {
        self.line.run = Some(run.to_string());
    }

    pub(crate) fn session(&mut self, instance: String, purpose: &'static str) {
        self.line.instance = Some(instance);
        self.line.purpose = Some(purpose);
    }

    /// What the session that was asked for is called.
    pub(crate) fn session_is(&mut self, id: String) {
        self.line.session = Some(id);
    }

    pub(crate) fn exit(&mut self, exit: &Exit) {
        self.line.exit = Some(match exit.signal {
            0 => exit.code.to_string(),
            signal => format!("signal {signal}"),
        });
        let user: String = exit.user.chars().take(LONGEST_USER).collect();
        self.line.run_as = Some(user).filter(|user| !user.is_empty());
    }

    pub(crate) fn sent(&mut self, records: usize, bytes: usize) {
        self.line.records += records as u64;
        self.line.bytes += bytes as u64;
    }

    pub(crate) fn completed(&mut self) {
        self.line.ended = "completed";
        self.code = Code::Ok;
    }

    pub(crate) fn failed(&mut self, failure: Failure) -> Status {
        self.refused(&failure);
        failure.into()
    }

    /// Notes how it failed, for callers that no [`Status`] is for.
    pub(crate) fn refused(&mut self, failure: &Failure) {
        let denied =
            matches!(failure.kind, ErrorKind::NotAllowed | ErrorKind::NotLoggedIn | ErrorKind::NotFound);
        if denied {
            self.line.decision = "denied";
        }
        self.cut_off(failure);
    }

    /// Notes why something did not come to its end that was allowed and has begun.
    pub(crate) fn cut_off(&mut self, failure: &Failure) {
        self.line.ended = failure.kind.name();
        self.code = failure.kind.code();
    }

    /// Leaves a line of its own that a session has begun: the last one is not written if this program is killed.
    pub(crate) fn session_begins(&self) {
        self.shared.audit.write(&Line { audit: "Sessions.Begin", ended: "open", ..self.line.clone() });
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.line.duration_seconds = self.started.elapsed().as_secs_f64();
        if self.is_call {
            self.shared.metrics.handled(self.method, self.code);
        }
        if self.line.user.is_empty() {
            let Some(unsaid) = self.shared.strangers.say() else { return };
            self.line.unsaid = unsaid;
        }
        self.shared.audit.write(&self.line);
    }
}
