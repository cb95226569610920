//! How an instance is: what its supervisor tells after each change. Pure.

use crate::inventory::{Detail, End};
use jiff::Timestamp;
use skpr_proto::PodUid;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;

/// What keeps an instance from running whose program cannot be started.
const NOT_STARTED: &str = "RunContainerError";

/// How one instance is now.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Report {
    pub(in super::super) uid: PodUid,
    pub(in super::super) status: Status,
}

/// All that is known of a running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Status {
    pub(in super::super) ready: bool,
    /// The port it was given at its last start.
    pub(in super::super) port: Option<u16>,
    pub(in super::super) started: Option<Timestamp>,
    pub(in super::super) restarts: u32,
    pub(in super::super) out_of_memory_kills: u32,
    pub(in super::super) waiting: Option<&'static str>,
    pub(in super::super) message: Option<Arc<str>>,
    pub(in super::super) end: Option<End>,
}

impl Status {
    /// As the inventory shows it.
    pub(in super::super) fn detail(&self) -> Detail {
        Detail {
            started: self.started,
            restarts: self.restarts,
            out_of_memory_kills: self.out_of_memory_kills,
            waiting: self.waiting.map(Into::into),
            message: self.message.clone(),
            end: self.end.clone(),
            ..Detail::default()
        }
    }

    pub(super) fn started(&mut self, port: Option<u16>, now: Timestamp) {
        (self.port, self.started, self.waiting, self.message) = (port, Some(now), None, None);
    }

    pub(super) fn not_started(&mut self, why: &str) {
        (self.started, self.ready, self.port) = (None, false, None);
        (self.waiting, self.message) = (Some(NOT_STARTED), Some(why.into()));
    }

    pub(super) fn probed(&mut self, passed: Result<(), String>) {
        self.ready = passed.is_ok();
        self.message = passed.err().map(Into::into);
    }

    pub(super) fn ended(&mut self, end: End, killed_for_memory: u32) {
        (self.started, self.ready, self.port, self.message) = (None, false, None, None);
        self.out_of_memory_kills = self.out_of_memory_kills.saturating_add(killed_for_memory);
        self.end = Some(end);
    }
}

/// How a program ended; `killed` of its processes were killed because they used too much memory.
pub(in super::super) fn end(status: Option<ExitStatus>, killed: u32, now: Timestamp) -> End {
    let signal = status.and_then(|status| status.signal());
    let exit_code = match (status.and_then(|status| status.code()), signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128_i32.saturating_add(signal),
        (None, None) => 1,
    };
    let reason = match exit_code {
        0 => "Completed",
        _ if killed > 0 => "OOMKilled",
        _ => "Error",
    };
    End { at: Some(now), exit_code, reason: Some(reason.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_its_code_and_its_cause() {
        let now = Timestamp::UNIX_EPOCH;
        for (wait_status, killed, code, reason) in [
            (0, 0, 0, "Completed"),
            (3 << 8, 0, 3, "Error"),
            (9, 0, 137, "Error"),
            (9, 1, 137, "OOMKilled"),
            (1 << 8, 2, 1, "OOMKilled"),
        ] {
            let end = end(Some(ExitStatus::from_raw(wait_status)), killed, now);
            assert_eq!((end.exit_code, end.reason.as_deref()), (code, Some(reason)));
        }
    }
}
