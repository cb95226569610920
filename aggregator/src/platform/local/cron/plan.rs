//! From a task's settings, what is written of it and what runs, to what begins, ends and is told now. Pure.
//!
//! * What was due is dealt with once: what is written says up to when it was, and that never goes back. Each time becomes one
//!   run, begun or not; of very many that nobody looked at the older become one together.
//! * A run that is written as running, and of which this process holds none, ran under a process before it that is gone, and
//!   ended with that: it is not begun again.

use super::written::{Entry, Timing, Written};
use crate::run::{self, Outcome, Run, RunId, words};
use jiff::{SignedDuration, Timestamp};
use skpr_proto::Label;
use skpr_proto::manifest::{Overlap, Task};
use std::collections::{BTreeMap, BTreeSet};

/// So many runs of one environment go on at once: one that never ends and may overlap must not fill the machine.
pub(super) const MOST_AT_ONCE: usize = 100;
/// What was looked at later than this was looked at by a clock that was wrong.
const WRONG_BY: SignedDuration = SignedDuration::from_hours(24);
/// Of one that was due before anything ran.
const FIRST: &str = "the first release was still being started";
/// Of a run whose process ended with this program's predecessor.
const LEFT_BEHIND: &str = "the aggregator ended while it ran, and it ended with it";

/// What is known of an environment's tasks when it is decided what happens next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) written: &'a Written,
    /// The tasks that there are, each with its settings in the release that runs; none for one that only comes with a release
    /// that is under way.
    pub(super) tasks: &'a BTreeMap<Label, Option<Task>>,
    pub(super) place: Place<'a>,
    /// The runs that this process holds, and those of them that have ended.
    pub(super) held: &'a BTreeSet<RunId>,
    pub(super) ended: &'a BTreeMap<RunId, Ending>,
    pub(super) now: Timestamp,
}

/// Where runs would run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In the files of this version.
    There(&'a str),
    /// They are being written.
    Coming,
    /// Nowhere yet: no release has succeeded, and one is under way.
    Starting,
    /// Nowhere, for this reason.
    Nowhere(&'a str),
    /// None may begin any more: all of it ends. What comes due is left as it is.
    Closed,
}

/// How a process of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) at: Timestamp,
    pub(super) outcome: Outcome,
    pub(super) exit_code: Option<i32>,
    pub(super) reason: Option<String>,
}

/// What is to be written, and done once it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) written: Written,
    /// Ended, or not begun: told once that is written.
    pub(super) told: Vec<Run>,
    /// Written as running, and started once they are.
    pub(super) start: Vec<Run>,
    /// To be ended, and what takes the place of each.
    pub(super) end: Vec<(RunId, RunId)>,
    /// Tasks whose clock was wrong, which begin anew.
    pub(super) anew: Vec<Label>,
    /// When to look again at the latest.
    pub(super) wake: Option<Timestamp>,
}

/// A task that is due.
struct DueTask<'a> {
    look: &'a Look<'a>,
    name: &'a Label,
    task: &'a Task,
    entry: Entry,
}

/// What becomes of a due time.
enum Fate {
    Begins,
    /// Not yet decided.
    Waits,
    DoesNot(Outcome, String),
}

/// The tasks of what runs, and those that come with what is being deployed.
pub(super) fn tasks(
    running: Option<&BTreeMap<Label, Task>>,
    wanted: Option<&BTreeMap<Label, Task>>,
) -> BTreeMap<Label, Option<Task>> {
    let coming = wanted.into_iter().flatten().map(|(name, _)| (name.clone(), None));
    let there = running.into_iter().flatten().map(|(name, task)| (name.clone(), Some(task.clone())));
    coming.chain(there).collect()
}

/// What happens next.
pub(super) fn plan(look: &Look<'_>) -> Plan {
    let mut plan = Plan::nothing(look.written);
    plan.take_ends(look);
    if look.place == Place::Closed {
        return plan;
    }
    plan.take_tasks(look);
    for (name, task) in look.tasks.iter().filter_map(|(name, task)| Some((name, task.as_ref()?))) {
        plan.settle(look, name, task);
    }
    plan
}

impl Plan {
    pub(super) fn nothing(written: &Written) -> Plan {
        Plan { written: written.clone(), told: vec![], start: vec![], end: vec![], anew: vec![], wake: None }
    }

    fn take_ends(&mut self, look: &Look<'_>) {
        for run in &look.written.running {
            let unknown = || Ending {
                at: look.now,
                outcome: Outcome::Unknown,
                exit_code: None,
                reason: Some(LEFT_BEHIND.to_owned()),
            };
            let ending = match look.ended.get(&run.id) {
                Some(ending) => ending.clone(),
                None if look.held.contains(&run.id) => continue,
                None => unknown(),
            };
            self.tell(ended(run, ending), look.now);
        }
    }

    /// Tasks come and go with the settings.
    fn take_tasks(&mut self, look: &Look<'_>) {
        self.written.tasks.retain(|name, _| look.tasks.contains_key(name));
        for name in look.tasks.keys() {
            let entry = self.written.tasks.entry(name.clone()).or_insert_with(|| Entry::new(look.now));
            if entry.looked.duration_since(look.now) > WRONG_BY {
                entry.begin_anew(look.now);
                self.anew.push(name.clone());
            }
            if look.tasks.get(name).is_some_and(Option::is_none) {
                entry.timing = None;
            }
        }
    }

    /// Deals with what was due, then with another schedule, which counts from now on.
    fn settle(&mut self, look: &Look<'_>, name: &Label, task: &Task) {
        let Some(before) = self.written.tasks.get(name).map(|entry| entry.timing.clone()) else { return };
        if let Some(due) = before.as_ref().and_then(|before| self.deal(look, name, &before.put_into(task))) {
            // One that waits for its files does so for as long as it may still begin.
            return self.wake_at(Some(late_after(task, due)));
        }
        let Some(entry) = self.written.tasks.get_mut(name) else { return };
        let timing = Some(Timing::of(task));
        if before != timing {
            entry.timing = timing;
            entry.looked = entry.looked.max(look.now);
        }
        let next = task.next_after(entry.looked);
        self.wake_at(next);
        // That the clock has caught up is worth a look.
        let caught_up = self.written.behind(name, look.now);
        self.wake_at(caught_up);
    }

    fn wake_at(&mut self, time: Option<Timestamp>) {
        self.wake = [self.wake, time].into_iter().flatten().min();
    }

    /// Decides about all that was due. What is left over, if anything: the first that is not decided.
    fn deal(&mut self, look: &Look<'_>, name: &Label, task: &Task) -> Option<Timestamp> {
        let case = DueTask { look, name, task, entry: self.written.tasks.get(name).cloned()? };
        let due = run::due(task, case.entry.looked, look.now);
        let last = due.times.last().copied()?;
        if let Some(older) = due.older
            && let Fate::DoesNot(outcome, reason) = self.fate(&case, older.newest)
        {
            self.tell(older.not_begun(name, outcome, reason), look.now);
        }
        let mut looked = case.entry.looked;
        let mut left = None;
        for time in due.times {
            match self.fate(&case, time) {
                Fate::Waits => {
                    left = Some(time);
                    break;
                }
                Fate::Begins => self.begin(look, task.overlap, Run::due(name, time)),
                Fate::DoesNot(outcome, reason) => {
                    self.tell(Run::not_begun(name, time, outcome, reason), look.now);
                }
            }
            looked = time;
        }
        // Of very many not all are found at once.
        let left = left.or_else(|| task.next_after(last).filter(|next| *next <= look.now));
        if let Some(entry) = self.written.tasks.get_mut(name) {
            entry.looked = if left.is_none() { look.now } else { looked };
        }
        left
    }

    fn fate(&self, case: &DueTask<'_>, due: Timestamp) -> Fate {
        let DueTask { look, name, task, entry } = case;
        if let Some(suspended) = &entry.suspended {
            return Fate::DoesNot(Outcome::Suspended, words::suspended(&suspended.by));
        }
        let is_late = look.now > late_after(task, due);
        let began_before = |run: &&Run| !is_late || run.began.is_some_and(|began| began <= due);
        if task.overlap == Overlap::Forbid
            && let Some(holder) = self.written.running_of(name).find(began_before)
        {
            return Fate::DoesNot(Outcome::Skipped, words::skipped(&holder.id));
        }
        if is_late {
            let within = run::start_within(task).as_secs();
            let reason = format!(
                "it could not begin within {within} s: skpr was away, the machine asleep, or its disk slow"
            );
            return Fate::DoesNot(Outcome::Missed, reason);
        }
        match look.place {
            Place::Coming | Place::Closed => Fate::Waits,
            Place::Starting => Fate::DoesNot(Outcome::Missed, FIRST.to_owned()),
            Place::Nowhere(reason) => Fate::DoesNot(Outcome::Missed, reason.to_owned()),
            Place::There(_) if self.written.running.len() >= MOST_AT_ONCE => {
                let reason =
                    format!("{MOST_AT_ONCE} runs of its environment were running, the most there may be");
                Fate::DoesNot(Outcome::Missed, reason)
            }
            Place::There(_) => Fate::Begins,
        }
    }

    /// Has a run begin; where it is to take the place of others, they end.
    pub(super) fn begin(&mut self, look: &Look<'_>, overlap: Overlap, run: Run) {
        let Place::There(version) = look.place else { return };
        if overlap == Overlap::Replace {
            let replaced = self.written.running_of(&run.task).map(|other| (other.id.clone(), run.id.clone()));
            self.end.extend(replaced.collect::<Vec<_>>());
        }
        let instance = format!("{}-{}", run::name(&self.written.environment, &run.task), run.id.suffix());
        let version = version.to_owned();
        let run = Run { began: Some(look.now), version, instance: Some(instance), ..run };
        self.written.running.push(run.clone());
        self.start.push(run);
    }

    fn tell(&mut self, run: Run, now: Timestamp) {
        self.written.ended(&run, now);
        self.told.push(run);
    }
}

fn ended(run: &Run, ending: Ending) -> Run {
    let Ending { at, outcome, exit_code, reason } = ending;
    // The clock may have been set back meanwhile.
    let at = run.began.map_or(at, |began| began.max(at));
    Run { ended: Some(at), outcome: Some(outcome), exit_code, reason, ..run.clone() }
}

/// The last moment at which what is due then may begin.
fn late_after(task: &Task, due: Timestamp) -> Timestamp {
    due.saturating_add(run::start_within(task)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
