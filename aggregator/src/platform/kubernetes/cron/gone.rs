//! What becomes of runs that go on when their environment is taken away from skpr. Pure.

use super::status::TaskStatuses;
use crate::environment::EnvironmentKey;
use crate::event::Event;
use crate::run::{self, Outcome, Run};
use jiff::Timestamp;

/// Their Jobs go with the environment, or run on where nobody looks: how they end is not known.
pub(in crate::platform::kubernetes) fn ended_with(
    key: &EnvironmentKey,
    tasks: &TaskStatuses,
    now: Timestamp,
) -> Vec<Event> {
    let running = tasks.values().flat_map(|status| &status.running).filter(|run| run.began.is_some());
    let end = |run: &Run| {
        let reason = Some("its environment was deleted while it ran".to_owned());
        let ended = run.began.map(|began| now.max(began));
        let run = Run { outcome: Some(Outcome::Unknown), ended, reason, ..run.clone() };
        run::told(key, &run, now)
    };
    running.map(end).collect()
}
