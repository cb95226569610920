//! What is remembered of an environment's tasks in its status, beside what stands on their Jobs.
//!
//! * It is read by skpr alone. What an older or a newer skpr has written and cannot be read is forgotten, and keeps nobody
//!   from the rest of the status.

use crate::run::{Outcome, Run, Suspension};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use skpr_proto::Label;
use std::collections::BTreeMap;

/// The tasks of an environment, and those that were and of which something still runs.
pub(in crate::platform::kubernetes) type TaskStatuses = BTreeMap<Label, TaskStatus>;

/// What is decided is told again after a restart for so long; and what is decided within so long stands there together.
const TOLD_FOR: SignedDuration = SignedDuration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::platform::kubernetes) struct TaskStatus {
    /// Of each time at which it was due until then it is known what became of it.
    pub(super) looked: Timestamp,
    /// By this schedule: of another, nothing was looked at.
    pub(super) schedule: String,
    /// Since when nothing begins by itself, as it was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<Stopped>,
    /// Runs that have begun: should their Jobs vanish, that is how it is noticed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) running: Vec<Run>,
    /// The newest that has ended, or did not begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_success: Option<Timestamp>,
    /// What was decided last of runs that no Job stands for.
    #[serde(default, skip_serializing_if = "Decided::is_empty")]
    pub(super) decided: Decided,
}

/// A task was suspended, and perhaps was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stopped {
    pub(super) by: String,
    pub(super) since: Timestamp,
    /// When Kubernetes was let begin again what is due: later than when it was resumed, where something was due just before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

/// Runs of which it was decided how they went, to be told whoever comes to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Decided {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<Timestamp>,
    /// Their Jobs have vanished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ended: Vec<Run>,
    /// They did not begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unbegun: Vec<Unbegun>,
}

/// Some that did not begin for one reason: after a month away these are many, and an object has to stay small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unbegun {
    outcome: Outcome,
    reason: String,
    /// In seconds since the Unix epoch.
    due: Vec<i64>,
}

impl Stopped {
    pub(super) fn of(suspension: &Suspension) -> Stopped {
        Stopped { by: suspension.by.clone(), since: suspension.since, until: None }
    }

    pub(super) fn covers(&self, due: Timestamp) -> bool {
        self.since <= due && self.until.is_none_or(|until| due < until)
    }
}

impl Decided {
    fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.unbegun.is_empty()
    }

    /// Takes in what is decided now; what was decided a while ago has been told.
    pub(super) fn add(&mut self, ended: &[Run], unbegun: &[Run], now: Timestamp) {
        if ended.is_empty() && unbegun.is_empty() {
            return;
        }
        if self.at.is_none_or(|at| now.duration_since(at) >= TOLD_FOR) {
            *self = Decided { at: Some(now), ..Decided::default() };
        }
        self.ended.extend_from_slice(ended);
        for run in unbegun {
            let (Some(outcome), Some(due)) = (run.outcome, run.due) else { continue };
            let reason = run.reason.clone().unwrap_or_default();
            let same = |other: &&mut Unbegun| other.outcome == outcome && other.reason == reason;
            match self.unbegun.iter_mut().find(same) {
                Some(other) => other.due.push(due.as_second()),
                None => self.unbegun.push(Unbegun { outcome, reason, due: vec![due.as_second()] }),
            }
        }
    }

    /// The runs as they are told.
    pub(super) fn runs(&self, task: &Label) -> impl Iterator<Item = Run> {
        let unbegun = self.unbegun.iter().flat_map(|some| {
            let due = some.due.iter().filter_map(|second| Timestamp::from_second(*second).ok());
            due.map(|due| Run::not_begun(task, due, some.outcome, some.reason.clone()))
        });
        self.ended.iter().cloned().chain(unbegun)
    }
}

/// What can be read of it.
pub(in crate::platform::kubernetes) fn readable<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<TaskStatuses, D::Error> {
    let all = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let one = |(task, status)| {
        Some((Label::parse("task", task).ok()?, serde_json::from_value::<TaskStatus>(status).ok()?))
    };
    Ok(all.iter().map(|(task, status)| (task.as_str(), status.clone())).filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task() -> Label {
        Label::parse("task", "drush").unwrap()
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    fn missed(minute: i64) -> Run {
        Run::not_begun(&task(), at(minute), Outcome::Missed, "nobody was there".into())
    }

    #[test]
    fn what_is_decided_is_read_back_as_it_was_and_is_small() {
        let mut decided = Decided::default();
        let mut runs: Vec<Run> = (0..100).map(missed).collect();
        runs.push(Run::not_begun(&task(), at(100), Outcome::Suspended, "it was suspended by ann".into()));
        let vanished =
            Run { began: Some(at(7)), outcome: Some(Outcome::Unknown), ..Run::due(&task(), at(7)) };
        decided.add(std::slice::from_ref(&vanished), &runs, at(200));
        let text = serde_json::to_string(&decided).unwrap();
        assert!(text.len() < 2000, "{}", text.len());
        let back: Decided = serde_json::from_str(&text).unwrap();
        let told: Vec<Run> = back.runs(&task()).collect();
        assert_eq!(told, [vec![vanished], runs].concat());
    }

    #[test]
    fn what_was_decided_stands_there_until_something_is_decided_later() {
        let mut decided = Decided::default();
        let due = |decided: &Decided| decided.runs(&task()).filter_map(|run| run.due).collect::<Vec<_>>();
        decided.add(&[], &[missed(1)], at(1));
        decided.add(&[], &[], at(9));
        assert_eq!(due(&decided), [at(1)]);
        decided.add(&[], &[missed(2)], at(1) + SignedDuration::from_secs(59));
        assert_eq!(due(&decided), [at(1), at(2)]);
        decided.add(&[], &[missed(3)], at(2));
        assert_eq!(due(&decided), [at(3)]);
    }

    #[test]
    fn what_cannot_be_read_is_forgotten_and_the_rest_is_not() {
        let good = TaskStatus { looked: at(5), schedule: "* * * * * UTC".into(), ..TaskStatus::default() };
        let mut all = json!({"drush": good, "newer": {"looked": 7}, "Odd": good});
        assert_eq!(readable(all.clone()).unwrap(), [(task(), good)].into());
        all["drush"]["running"] = json!([{"id": 1}]);
        assert!(readable(all).unwrap().is_empty());
    }
}
