//! When a task is due, and how late it may begin. Pure.

use super::{Outcome, Run};
use jiff::Timestamp;
use skpr_proto::Label;
use skpr_proto::manifest::Task;
use std::collections::VecDeque;
use std::time::Duration;

/// Times that are named singly; of more, as after a month away, only the newest are.
const NAMED: usize = 100;
/// Times that are counted: 70 days of one a minute.
const COUNTED: u64 = 100_000;
/// The longest that a run may begin after it was due.
const LATEST: Duration = Duration::from_secs(200);

/// When a task was due within a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Oldest first.
    pub times: Vec<Timestamp>,
    /// Those before them.
    pub older: Option<Older>,
}

/// Times that are too many to be named: one run stands for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    pub newest: Timestamp,
    /// At most [`COUNTED`].
    pub count: u64,
}

impl Older {
    /// The run that was due at the newest, and why neither it nor those before it began.
    pub fn not_begun(self, task: &Label, outcome: Outcome, reason: String) -> Run {
        let reason = match self.count {
            1 => reason,
            count => format!("{reason}; it stands for {count} that were due until then"),
        };
        Run::not_begun(task, self.newest, outcome, reason)
    }
}

/// When `task` was due after `after` and not after `until`.
pub fn due(task: &Task, after: Timestamp, until: Timestamp) -> Due {
    let (mut times, mut older, mut at) = (VecDeque::with_capacity(NAMED + 1), None, after);
    let mut counted = 0;
    while let Some(next) = task.next_after(at).filter(|next| *next <= until) {
        times.push_back(next);
        counted += 1;
        if times.len() > NAMED {
            older = times.pop_front();
        }
        if counted >= COUNTED {
            break;
        }
        at = next;
    }
    let count = counted - times.len() as u64;
    Due { times: times.into(), older: older.map(|newest| Older { newest, count }) }
}

/// How long after it is due a run may begin. Beyond that it is missed. Shorter than the time to the next, so that one that was
/// suspended is never made up for when it is resumed.
pub fn start_within(task: &Task) -> Duration {
    (task.schedule.shortest_gap() / 2).min(LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(schedule: &str) -> Task {
        serde_json::from_value(serde_json::json!({"schedule": schedule, "command": "x"})).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_span_has_its_end_and_not_its_beginning() {
        let found = due(&task("* * * * *"), at(60), at(180));
        assert_eq!(found, Due { times: vec![at(120), at(180)], ..Due::default() });
        assert_eq!(due(&task("* * * * *"), at(180), at(60)), Due::default());
        assert_eq!(due(&task("* * * * *"), at(60), at(119)), Due::default());
    }

    #[test]
    fn of_many_the_newest_are_named_and_the_rest_is_counted() {
        let found = due(&task("* * * * *"), at(0), at(60 * 1000));
        assert_eq!((found.times.len(), found.times[0]), (NAMED, at(54_060)));
        assert_eq!(found.times.last(), Some(&at(60_000)));
        let older = found.older.unwrap();
        assert_eq!(older, Older { newest: at(54_000), count: 900 });
        let label = Label::parse("task", "drush").unwrap();
        let said = |older: Older| {
            let run = older.not_begun(&label, Outcome::Missed, "nobody was there".to_owned());
            (run.due, run.reason.unwrap())
        };
        let all = "nobody was there; it stands for 900 that were due until then".to_owned();
        assert_eq!(said(older), (Some(at(54_000)), all));
        assert_eq!(said(Older { count: 1, ..older }).1, "nobody was there");
    }

    #[test]
    fn a_run_begins_before_the_next_is_due_or_not_at_all() {
        assert_eq!(start_within(&task("* * * * *")), Duration::from_secs(30));
        assert_eq!(start_within(&task("0 3 * * *")), LATEST);
        assert_eq!(start_within(&task("0,2 3 * * *")), Duration::from_secs(60));
    }
}
