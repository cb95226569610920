//! What is durably known of an environment's tasks: `environments/PROJECT.ENVIRONMENT.cron`.
//!
//! * It is of the form that the environment's record has, and is written like it: old or new, and on the disk when
//!   [`save`] returns. A run is in it before its process starts.
//! * A task is in it for as long as it is in the settings; a run until its end is told. A task that goes leaves its runs.

use super::super::state::{MOST_BYTES, decode, encode};
use crate::private_file;
use crate::run::{self, LATELY, Run, RunId, Suspension, TaskState};
use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use skpr_proto::manifest::{Schedule, Task, Zone};
use skpr_proto::{EnvironmentName, Label};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

const ENDING: &str = "cron";
/// How long the end of a run is told again at each start, where the store keeps up: it has long been stored by then.
const RECENT: SignedDuration = SignedDuration::from_secs(300);
/// A clock that is put right by less than that is not worth a word.
const BEHIND: SignedDuration = SignedDuration::from_secs(60);
/// The most of them: with 1 KiB each at most, the file is shorter than what is read again.
pub(super) const MOST_RECENT: usize = 10_000;

/// The tasks of one environment as they are written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    pub(super) environment: EnvironmentName,
    #[serde(default)]
    pub(super) tasks: BTreeMap<Label, Entry>,
    /// Runs that have begun and of which no end is known, oldest first.
    #[serde(default)]
    pub(super) running: Vec<Run>,
    /// Runs that ended lately, or did not begin: a crash may have come before that was stored as an event.
    #[serde(default)]
    pub(super) recent: VecDeque<Recent>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// What was due up to then has been dealt with. It never goes back, whatever the clock does.
    pub(super) looked: Timestamp,
    /// When it is due; none while it only comes with a release that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timing: Option<Timing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) suspended: Option<Suspension>,
    /// The newest run that has ended or did not begin, and when the last ended that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_success: Option<Timestamp>,
}

/// What of a task's settings says when it is due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Timing {
    schedule: Schedule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timezone: Option<Zone>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent {
    since: Timestamp,
    run: Run,
}

impl Written {
    pub(super) fn new(environment: &EnvironmentName) -> Written {
        Written {
            environment: environment.clone(),
            tasks: BTreeMap::new(),
            running: vec![],
            recent: VecDeque::new(),
        }
    }

    /// The runs of a task that go on.
    pub(super) fn running_of(&self, task: &Label) -> impl Iterator<Item = &Run> {
        self.running.iter().filter(move |run| run.task == *task)
    }

    /// Takes in how a run ended, or that it did not begin.
    pub(super) fn ended(&mut self, run: &Run, now: Timestamp) {
        self.running.retain(|other| other.id != run.id);
        self.recent.push_back(Recent { since: now, run: run.clone() });
        if self.recent.len() > MOST_RECENT {
            self.recent.pop_front();
        }
        if let Some(entry) = self.tasks.get_mut(&run.task) {
            run::remember(&mut entry.last, &mut entry.last_success, run);
        }
    }

    /// Forgets what was told long ago.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.recent.retain(|recent| now.duration_since(recent.since).abs() < RECENT);
    }

    /// What was told last, in the order of its becoming known.
    pub(super) fn recent(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.recent.iter().map(|recent| &recent.run)
    }

    /// Until when nothing runs of a task, where the clock is behind the time up to which it has been dealt with.
    pub(super) fn behind(&self, task: &Label, now: Timestamp) -> Option<Timestamp> {
        let looked = self.tasks.get(task)?.looked;
        (looked.duration_since(now) > BEHIND).then_some(looked)
    }

    /// The same of all tasks: when the last of them runs again.
    pub(super) fn all_behind(&self, now: Timestamp) -> Option<Timestamp> {
        self.tasks.keys().filter_map(|name| self.behind(name, now)).max()
    }

    /// As the inventory shows them: an entry for each task of the settings, and for each that still runs.
    pub(super) fn states<'a>(&'a self, named: impl Iterator<Item = &'a Label>) -> BTreeMap<Label, TaskState> {
        let running = self.running.iter().map(|run| &run.task);
        let names: BTreeSet<&Label> = named.chain(self.tasks.keys()).chain(running).collect();
        let state = |name: &Label| {
            let entry = self.tasks.get(name);
            TaskState {
                suspended: entry.and_then(|entry| entry.suspended.clone()),
                running: self.running_of(name).cloned().collect(),
                last: entry.and_then(|entry| entry.last.clone()),
                last_success: entry.and_then(|entry| entry.last_success),
                trouble: None,
                lately: self.recent().rev().filter(|run| run.task == *name).take(LATELY).cloned().collect(),
            }
        };
        names.into_iter().map(|name| (name.clone(), state(name))).collect()
    }

    pub(super) fn has(&self, run: &RunId) -> bool {
        self.running.iter().any(|other| other.id == *run)
    }
}

impl Entry {
    pub(super) fn new(now: Timestamp) -> Entry {
        Entry { looked: now, timing: None, suspended: None, last: None, last_success: None }
    }

    /// Forgets what a clock that was far ahead has left: what comes now would never be newer.
    pub(super) fn begin_anew(&mut self, now: Timestamp) {
        self.looked = now;
        self.last = self.last.take().filter(|last| last.time().is_none_or(|time| time <= now));
        self.last_success = self.last_success.filter(|time| *time <= now);
    }
}

impl Timing {
    pub(super) fn of(task: &Task) -> Timing {
        Timing { schedule: task.schedule.clone(), timezone: task.timezone.clone() }
    }

    /// `task`, due as this says.
    pub(super) fn put_into(&self, task: &Task) -> Task {
        Task { schedule: self.schedule.clone(), timezone: self.timezone.clone(), ..task.clone() }
    }
}

/// Where what is known of the tasks is, of the environment whose record would be `record`.
pub(super) fn place(record: &Path) -> PathBuf {
    record.with_extension(ENDING)
}

/// What is written of an environment's tasks; nothing yet where there is no file.
pub(super) fn load(path: &Path, environment: &EnvironmentName) -> anyhow::Result<Written> {
    let read = || {
        let length = std::fs::metadata(path).map(|metadata| metadata.len());
        ensure!(length.is_ok_and(|length| length <= MOST_BYTES), "it is longer than {MOST_BYTES} bytes");
        let written: Written = decode(&std::fs::read_to_string(path)?)?;
        ensure!(written.environment == *environment, "it is of environment `{}`", written.environment);
        Ok(written)
    };
    if !path.try_exists().with_context(|| format!("look for `{}`", path.display()))? {
        return Ok(Written::new(environment));
    }
    read().with_context(|| format!("the file `{}` cannot be read", path.display()))
}

/// Blocks until it is on the disk.
pub(super) fn save(path: &Path, written: &Written) -> anyhow::Result<()> {
    private_file::write(path, &encode(written)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Outcome;

    fn written() -> Written {
        let task = Label::parse("task", "drush").unwrap();
        let settings = serde_json::json!({"schedule": "@daily", "command": "x", "timezone": "Europe/Berlin"});
        let settings: Task = serde_json::from_value(settings).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut written = Written::new(&EnvironmentName::parse("shop", "dev").unwrap());
        let suspended = Suspension { by: "ann".into(), since: now };
        let entry =
            Entry { timing: Some(Timing::of(&settings)), suspended: Some(suspended), ..Entry::new(now) };
        written.tasks.insert(task.clone(), entry);
        written.running.push(Run { began: Some(now), ..Run::due(&task, now) });
        let missed = Run::not_begun(&task, now, Outcome::Missed, "nothing is deployed".into());
        written.ended(&Run { id: RunId::asked(&task, 7), ..missed }, now);
        written
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (name, other) = (written().environment, EnvironmentName::parse("shop", "prod").unwrap());
        let path = place(&directory.path().join("shop.dev.json"));
        assert_eq!(load(&path, &name).unwrap(), Written::new(&name));
        save(&path, &written()).unwrap();
        assert_eq!(load(&path, &name).unwrap(), written());
        let error = format!("{:#}", load(&path, &other).unwrap_err());
        assert!(error.ends_with("shop.dev.cron` cannot be read: it is of environment `shop/dev`"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(load(&path, &name).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_runs_is_shown_also_of_a_task_that_is_gone() {
        let mut written = written();
        let drush = Label::parse("task", "drush").unwrap();
        let state = &written.states([].into_iter())[&drush];
        assert_eq!((state.running.len(), state.suspended.is_some()), (1, true));
        assert_eq!(state.last.as_ref().and_then(|run| run.outcome), Some(Outcome::Missed));
        written.tasks.clear();
        let new = Label::parse("task", "new").unwrap();
        let states = written.states([&new].into_iter());
        assert_eq!((states[&new].clone(), states[&drush].running.len()), (TaskState::default(), 1));
        assert!(states[&drush].suspended.is_none());
    }

    #[test]
    fn a_clock_that_is_more_than_a_minute_behind_is_noticed() {
        let (written, drush) = (written(), Label::parse("task", "drush").unwrap());
        let looked = written.tasks[&drush].looked;
        for (behind, expected) in [(0, None), (60, None), (61, Some(looked)), (-61, None)] {
            let now = looked - SignedDuration::from_secs(behind);
            assert_eq!((written.behind(&drush, now), written.all_behind(now)), (expected, expected));
        }
    }

    #[test]
    fn of_what_was_told_the_newest_are_kept() {
        let mut written = written();
        let (now, run) = (written.recent[0].since, written.recent[0].run.clone());
        for number in 0..MOST_RECENT {
            written.ended(&Run { exit_code: i32::try_from(number).ok(), ..run.clone() }, now);
        }
        assert_eq!(written.recent().count(), MOST_RECENT);
        assert_eq!(written.recent().next().and_then(|run| run.exit_code), Some(0));
    }

    #[test]
    fn what_was_told_is_forgotten_after_a_while() {
        let mut written = written();
        let now = written.recent[0].since;
        written.forget(now + RECENT / 2);
        assert_eq!(written.recent().count(), 1);
        written.forget(now + RECENT);
        assert_eq!(written.recent().count(), 0);
    }
}
