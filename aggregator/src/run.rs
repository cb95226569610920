//! Runs: executions of tasks, and how each goes. Pure, and the same for every platform.
//!
//! * A run's id is made before it begins: of its task and the minute at which it is due, or by chance where a user asks for
//!   it. What is due at a minute is so the same run whoever finds it and how often: none happens twice, none is told twice.
//! * What is kept of a run are the events of its stages, each with the whole of what was known then; see [`told`].

pub mod command;
mod due;
mod id;
mod name;
mod told;
pub mod words;

pub use due::{Due, Older, due, start_within};
pub use id::RunId;
pub use name::name;
pub use told::told;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skpr_proto::Label;

/// One execution of a task, or what is known of one that was due and did not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub id: RunId,
    pub task: Label,
    pub trigger: Trigger,
    /// What it runs; empty where it did not begin.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// When it was to begin; none for one that a user asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// None: it did not begin, or not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// None: it waits to begin, or runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Of its program, where that is known; 128 + N for signal N.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What its output is stored under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why it went as it did, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What made a run begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// It was due.
    Schedule,
    /// This user asked for it.
    User(String),
}

/// How a run ended, or why it did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Succeeded,
    /// Its program ended with another code than 0, or could not be started.
    Failed,
    /// It was ended because it took longer than it may.
    TimedOut,
    /// It was killed because it used more memory than it may.
    OutOfMemory,
    /// It was ended because the next was due, which was to take its place.
    Replaced,
    /// It was due and did not begin.
    Missed,
    /// The same, because its task was suspended.
    Suspended,
    /// It was due while one before it ran, and the task forbids that both do.
    Skipped,
    /// Nobody saw its end.
    Unknown,
}

/// A task that takes no runs by itself until it is resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub by: String,
    pub since: Timestamp,
}

/// What is known of a task beyond its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    pub suspended: Option<Suspension>,
    /// Runs that have begun or wait to begin, oldest first.
    pub running: Vec<Run>,
    /// The newest that has ended, or did not begin.
    pub last: Option<Run>,
    /// When the last ended that succeeded.
    pub last_success: Option<Timestamp>,
    /// Those that ended last, at most [`LATELY`]: the store may not have their ends yet.
    pub lately: Vec<Run>,
    /// Why nothing runs when it is due, in one sentence.
    pub trouble: Option<String>,
}

/// Ends are stored within moments; a task of each minute has few of them that are not.
pub const LATELY: usize = 20;

/// A run that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunNow {
    pub task: Label,
    /// Put behind the task's command, each as one word.
    pub arguments: Vec<String>,
    pub by: String,
}

/// Tasks that a user wants suspended, or resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspend {
    /// None: all.
    pub task: Option<Label>,
    /// False: resumed.
    pub suspended: bool,
    /// Only say what would change.
    pub dry_run: bool,
    pub by: String,
}

/// The tasks that were changed by that, and those that were so already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspended {
    pub changed: Vec<Label>,
    pub unchanged: Vec<Label>,
}

impl Outcome {
    pub const ALL: [Outcome; 9] = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::OutOfMemory,
        Outcome::Replaced,
        Outcome::Missed,
        Outcome::Suspended,
        Outcome::Skipped,
        Outcome::Unknown,
    ];

    /// The name on the wire, in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed-out",
            Outcome::OutOfMemory => "out-of-memory",
            Outcome::Replaced => "replaced",
            Outcome::Missed => "missed",
            Outcome::Suspended => "suspended",
            Outcome::Skipped => "skipped",
            Outcome::Unknown => "unknown",
        }
    }

    /// Whether somebody may want to look: not where the task's own settings or a user had it so.
    pub fn is_failure(self) -> bool {
        match self {
            Outcome::Failed
            | Outcome::TimedOut
            | Outcome::OutOfMemory
            | Outcome::Missed
            | Outcome::Unknown => true,
            Outcome::Succeeded | Outcome::Replaced | Outcome::Suspended | Outcome::Skipped => false,
        }
    }

    /// Whether it ended, rather than never having begun.
    pub fn is_end(self) -> bool {
        match self {
            Outcome::Missed | Outcome::Suspended | Outcome::Skipped => false,
            Outcome::Succeeded
            | Outcome::Failed
            | Outcome::TimedOut
            | Outcome::OutOfMemory
            | Outcome::Replaced
            | Outcome::Unknown => true,
        }
    }
}

impl Run {
    /// One that is due at `due`; it has not begun.
    pub fn due(task: &Label, due: Timestamp) -> Run {
        Run { due: Some(due), ..Run::new(RunId::due(task, due), task, Trigger::Schedule) }
    }

    /// The same that did not begin, and why.
    pub fn not_begun(task: &Label, due: Timestamp, outcome: Outcome, reason: String) -> Run {
        Run { outcome: Some(outcome), reason: Some(reason), ..Run::due(task, due) }
    }

    /// One that a user asks for; it has not begun.
    pub fn asked(id: RunId, wanted: &RunNow) -> Run {
        Run::new(id, &wanted.task, Trigger::User(wanted.by.clone()))
    }

    fn new(id: RunId, task: &Label, trigger: Trigger) -> Run {
        Run {
            id,
            task: task.clone(),
            trigger,
            version: String::new(),
            due: None,
            began: None,
            ended: None,
            outcome: None,
            exit_code: None,
            instance: None,
            reason: None,
        }
    }

    /// Where it stands among the others: when it began, or was due, or else when it was over.
    pub fn time(&self) -> Option<Timestamp> {
        self.began.or(self.due).or(self.ended)
    }

    /// The name on the wire of how it goes.
    pub fn stage(&self) -> &'static str {
        match (self.outcome, self.began) {
            (Some(outcome), _) => outcome.name(),
            (None, Some(_)) => "running",
            (None, None) => "waiting",
        }
    }
}

impl TaskState {
    /// Takes in how a run ended, or that it did not begin.
    pub fn ended(&mut self, run: Run) {
        self.running.retain(|other| other.id != run.id);
        remember(&mut self.last, &mut self.last_success, &run);
        self.lately.push(run);
        if self.lately.len() > LATELY {
            self.lately.remove(0);
        }
    }
}

/// Takes a run that has ended, or did not begin, for the last one, and its end for the last success, where they are.
pub fn remember(last: &mut Option<Run>, last_success: &mut Option<Timestamp>, run: &Run) {
    if run.outcome == Some(Outcome::Succeeded) {
        *last_success = (*last_success).max(run.ended);
    }
    if last.as_ref().is_none_or(|last| last.time() <= run.time()) {
        *last = Some(run.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_also_one_that_was_asked_for_and_could_not_be_started() {
        let wanted =
            RunNow { task: Label::parse("task", "drush").unwrap(), arguments: vec![], by: "ann".into() };
        let at = |second| Timestamp::from_second(second).ok();
        let before = Run { began: at(60), ended: at(61), ..Run::due(&wanted.task, Timestamp::UNIX_EPOCH) };
        let mut state = TaskState { last: Some(before), ..TaskState::default() };
        let asked = Run::asked(RunId::asked(&wanted.task, 7), &wanted);
        let failed = Run { ended: at(90), outcome: Some(Outcome::Failed), ..asked };
        state.ended(failed.clone());
        assert_eq!(state.last, Some(failed));
    }
}
