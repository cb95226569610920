//! When a task is due, and how late it may begin. Pure.

use jiff::Timestamp;
use skpr_proto::manifest::{Task, Zone};
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
    /// How many were before those; at most [`COUNTED`] are counted.
    pub before: u64,
    /// The newest of these.
    pub newest_before: Option<Timestamp>,
}

/// When `task` was due after `after` and not after `until`.
pub fn due(task: &Task, after: Timestamp, until: Timestamp) -> Due {
    let zone = task.timezone.clone().unwrap_or_else(Zone::utc);
    let (mut times, mut counted, mut at) = (VecDeque::with_capacity(NAMED + 1), 0, after);
    let mut newest_before = None;
    while let Some(next) = task.schedule.next_after(at, &zone).filter(|next| *next <= until && *next > at) {
        times.push_back(next);
        counted += 1;
        if times.len() > NAMED {
            newest_before = times.pop_front();
        }
        if counted >= COUNTED {
            break;
        }
        at = next;
    }
    Due { before: counted - times.len() as u64, newest_before, times: times.into() }
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
        assert_eq!((found.times.len(), found.before), (NAMED, 900));
        assert_eq!(found.times.last(), Some(&at(60_000)));
        assert_eq!((found.newest_before, found.times[0]), (Some(at(54_000)), at(54_060)));
    }

    #[test]
    fn a_run_begins_before_the_next_is_due_or_not_at_all() {
        assert_eq!(start_within(&task("* * * * *")), Duration::from_secs(30));
        assert_eq!(start_within(&task("0 3 * * *")), LATEST);
        assert_eq!(start_within(&task("0,2 3 * * *")), Duration::from_secs(60));
    }
}
