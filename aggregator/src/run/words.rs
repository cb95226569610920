//! What users are told of runs, in the same words on every platform. Pure.

use super::{Run, RunId, Trigger};
use jiff::Timestamp;
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};

/// Why one that was due while its task was suspended did not begin.
pub fn suspended(by: &str) -> String {
    format!("it was suspended by {by}")
}

/// Why one was skipped: this one was before it.
pub fn skipped(holder: &RunId) -> String {
    format!("run `{holder}` still ran")
}

/// Why one was ended: this one came.
pub fn replaced(next: &RunId) -> String {
    format!("run `{next}` took its place")
}

/// The failure for whoever asks for a run beside one that allows no other.
pub fn locked(environment: &EnvironmentName, holder: &Run) -> Failure {
    let id = &holder.id;
    let since = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let since = holder.began.map_or_else(|| "just now".to_owned(), since);
    let who = match &holder.trigger {
        Trigger::Schedule => format!("run `{id}` has been running by its schedule since {since}"),
        Trigger::User(name) => format!("{} has been running `{id}` since {since}", name.escape_debug()),
    };
    let sentence = format!("task `{}` of `{environment}` is locked: {who}", holder.task);
    let hint = format!("skpr cron logs {environment} {id} -f");
    Failure::new(ErrorKind::Locked, sentence).with_hint(hint)
}

/// The failure for whoever names a task that is not there.
pub fn no_task(environment: &EnvironmentName, name: &Label) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("`{environment}` has no task `{name}`"))
        .with_hint(format!("skpr cron list {environment}"))
}
