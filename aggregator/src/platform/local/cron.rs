//! The tasks of one environment: begun when they are due or asked for, written down, and told of.
//!
//! * A run is on the disk as begun before its process starts, and nobody begins it after that; its end is told once it is on
//!   the disk. What a crash leaves of a run is found at the next start, and told as what it is: of unknown end.
//! * What is due is due by the settings of the release that runs, and runs in its files; nobody waits for a run but who asks.
//! * What cannot be read of tasks is left alone, and its environment runs without them.

mod asked;
mod execute;
mod plan;
mod runs;
mod written;

use super::clock::Clock;
use super::host::Host;
use super::places::Places;
use super::state::{self, Record};
use super::tell::Teller;
use super::words;
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind};
use crate::inventory::Pod;
use crate::release::{self, Release};
use crate::run::{self, Run, RunNow, Suspend, Suspended, TaskState};
use execute::EndedBy;
use jiff::Timestamp;
use plan::{Look, Place, Plan};
use runs::{Runs, What};
use skpr_proto::manifest::Task;
use skpr_proto::{ErrorKind, Failure, Label, PodUid};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use written::{MOST_RECENT, Written};

/// What is said of tasks whose file cannot be read; which it is and why stands in the log.
const UNREADABLE: &str = "what is known of tasks cannot be read, and the aggregator's log says why";
/// Why nothing runs where no release has succeeded yet.
const NOTHING: &str = "nothing is deployed";
/// The settings have changed since it was decided to run it: only where it is not there can this be.
const GONE: &str = "its task is gone";

pub(super) struct Tasks {
    environment: EnvironmentKey,
    clock: Clock,
    file: PathBuf,
    /// None where it cannot be read.
    written: Option<Written>,
    runs: Runs,
    /// Why the next step could not be written down; nothing is done until it can be.
    unwritten: Option<String>,
    /// Until when nothing runs, as the clock was set back: of that it has been told.
    behind: Option<Timestamp>,
    /// What has become of runs and is still to be told, in order: there was no place for it.
    untold: VecDeque<Run>,
    /// When it was looked at last, and when it is to be again.
    looked: Timestamp,
    wake: Option<Timestamp>,
}

/// What tasks are decided by.
pub(super) struct Around<'a> {
    pub(super) record: &'a Record,
    pub(super) places: &'a mut Places,
    pub(super) teller: &'a Teller,
    /// Everything stops.
    pub(super) stopping: bool,
}

/// The release whose tasks there are, with where its files are.
struct Current<'a> {
    release: Option<&'a Release>,
    directory: Option<PathBuf>,
    trouble: Option<String>,
    tasks: BTreeMap<Label, Option<Task>>,
    closed: bool,
    /// None has succeeded, and one is under way.
    is_first: bool,
}

impl Tasks {
    /// Reads what is written of the tasks of the environment whose record is `record`.
    pub(super) fn open(host: &Arc<Host>, environment: &EnvironmentKey, record: &Path) -> Tasks {
        let file = written::place(record);
        let written = written::load(&file, &environment.name).inspect_err(|error| {
            tracing::error!(environment = %environment, error = format!("{error:#}"), "tasks are left alone");
        });
        let written = written.ok();
        Tasks {
            environment: environment.clone(),
            clock: host.clock.clone(),
            file,
            // A crash may have come before that was stored; told twice it is kept once.
            untold: written.iter().flat_map(Written::recent).cloned().collect(),
            written,
            runs: Runs::new(Arc::clone(host), environment.clone()),
            unwritten: None,
            behind: None,
            looked: host.clock.now(),
            wake: None,
        }
    }

    /// Deals with what is due and what has ended.
    pub(super) async fn look(&mut self, around: &mut Around<'_>) {
        self.tell(around.teller);
        let current = self.current(around);
        if current.closed {
            let by = if around.stopping { EndedBy::Stop } else { EndedBy::Deletion };
            self.runs.end_all(&by);
        }
        loop {
            self.looked = self.clock.now();
            let Some(plan) = self.with_look(&current, plan::plan) else { return };
            self.wake = plan.wake;
            self.mind_clock(&plan.written, around.teller);
            // One that could not even be started has ended already.
            if self.carry_out(plan, &current, &[], around.teller).await.is_err()
                || self.runs.ended().is_empty()
            {
                return;
            }
        }
    }

    /// Begins a run that a user asks for; it is on the disk when this returns.
    pub(super) async fn run_now(&mut self, wanted: RunNow, around: &mut Around<'_>) -> Result<Run, Failure> {
        self.look(around).await;
        let chance = super::random().map_err(|error| {
            tracing::warn!(error = format!("{error:#}"), "a run cannot be given a name");
            Failure::new(ErrorKind::Unavailable, "the run could not be given a name")
        })?;
        let current = self.current(around);
        let asked = self.with_look(&current, |look| asked::run_now(look, &wanted, chance));
        let (plan, run) = asked.ok_or_else(unreadable)??;
        self.carry_out(plan, &current, &wanted.arguments, around.teller).await?;
        Ok(run)
    }

    /// Suspends or resumes tasks.
    pub(super) async fn suspend(
        &mut self,
        how: Suspend,
        around: &mut Around<'_>,
    ) -> Result<Suspended, Failure> {
        self.look(around).await;
        self.writable()?;
        let current = self.current(around);
        let asked = self.with_look(&current, |look| asked::suspend(look, &how));
        let (plan, suspended) = asked.ok_or_else(unreadable)??;
        self.carry_out(plan, &current, &[], around.teller).await?;
        Ok(suspended)
    }

    /// Returns when a run has ended, or when something is due. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        let wake = self.wake.filter(|_| self.unwritten.is_none());
        tokio::select! {
            () = self.runs.change() => {}
            () = self.clock.until(self.looked, wake) => {}
        }
    }

    /// Nothing runs, and nothing is left to be written down or told.
    pub(super) fn is_idle(&self) -> bool {
        self.is_written() && self.untold.is_empty()
    }

    /// Nothing runs; what cannot be written down or told of that is found at the next start.
    pub(super) fn has_ended(&self) -> bool {
        self.is_written() || self.unwritten.is_some() && !self.runs.is_live()
    }

    /// Nothing runs, and nothing is left to be written down.
    fn is_written(&self) -> bool {
        self.runs.is_empty() && self.written.as_ref().is_none_or(|written| written.running.is_empty())
    }

    /// Something is to be tried again.
    pub(super) fn is_held_up(&self) -> bool {
        self.unwritten.is_some() || !self.untold.is_empty()
    }

    /// Why tasks do not run when they are due.
    pub(super) fn trouble(&self) -> Option<String> {
        let why = self.trouble_of_all().or_else(|| self.behind.map(behind));
        why.map(|why| format!("its tasks do not run: {why}"))
    }

    fn trouble_of_all(&self) -> Option<String> {
        let unreadable = || self.written.is_none().then(|| UNREADABLE.to_owned());
        self.unwritten.clone().or_else(unreadable)
    }

    pub(super) fn states<'a>(&'a self, named: impl Iterator<Item = &'a Label>) -> BTreeMap<Label, TaskState> {
        let mut states = match &self.written {
            Some(written) => written.states(named),
            None => named.map(|name| (name.clone(), TaskState::default())).collect(),
        };
        let all = self.trouble_of_all();
        for (name, state) in &mut states {
            let clock = || self.written.as_ref()?.behind(name, self.looked).map(behind);
            state.trouble = all.clone().or_else(clock);
        }
        states
    }

    /// Tells once that the clock was set back. Told anew after a restart it is the same event.
    fn mind_clock(&mut self, written: &Written, teller: &Teller) {
        let until = written.all_behind(self.looked);
        if let Some(until) = until.filter(|_| self.behind.is_none()) {
            let text = format!("tasks do not run: {}", behind(until));
            tracing::warn!(environment = %self.environment, until = %until, "the clock was set back: tasks do not run until it has caught up");
            let id = format!("trouble/clock/{}", until.as_second() / 60);
            let body = Body { warning: true, ..Body::new(id, Kind::Trouble, text) };
            let event = Event { environment: self.environment.clone(), time: self.looked.into(), body };
            if !teller.offer(event) {
                // There was no place for it: the next look tells.
                return;
            }
        }
        self.behind = until;
    }

    pub(super) fn pods(&self) -> HashMap<PodUid, Pod> {
        self.runs.pods()
    }

    /// The releases whose files are in use.
    pub(super) fn releases(&self) -> impl Iterator<Item = u64> {
        self.runs.releases()
    }

    /// Removes what is known of the tasks of an environment whose record is `record`. Blocks.
    pub(super) fn remove(record: &Path) -> std::io::Result<()> {
        state::remove(&written::place(record))
    }

    fn current<'a>(&self, around: &mut Around<'a>) -> Current<'a> {
        let record = around.record;
        let release = release::good_before(&record.releases, u64::MAX);
        let (cron, wanted) = (release.map(|release| &release.settings.cron), record.settings.cron.as_ref());
        let tasks = match cron {
            Some(cron) => plan::tasks(cron.as_ref(), wanted),
            // Before the first has succeeded its tasks are there, and have nothing to run.
            None => plan::tasks(wanted, None),
        };
        let is_first =
            release.is_none() && record.releases.last().is_some_and(|newest| newest.state.is_open());
        let closed = around.stopping || record.deleting.is_some();
        let release = release.filter(|_| !closed && !tasks.is_empty());
        let directory = release.and_then(|release| around.places.of(release, &record.directory));
        let trouble = release.and_then(|release| around.places.trouble(release));
        Current { release, directory, trouble, tasks, closed, is_first }
    }

    /// None where what is written cannot be read.
    fn with_look<T>(&self, current: &Current<'_>, decide: impl FnOnce(&Look<'_>) -> T) -> Option<T> {
        let held = self.runs.held();
        Some(decide(&Look {
            written: self.written.as_ref()?,
            tasks: &current.tasks,
            place: current.place(),
            held: &held,
            ended: self.runs.ended(),
            now: self.looked,
        }))
    }

    /// Writes it down, and then does it.
    async fn carry_out(
        &mut self,
        mut plan: Plan,
        current: &Current<'_>,
        arguments: &[String],
        teller: &Teller,
    ) -> Result<(), Failure> {
        if self.written.as_ref() != Some(&plan.written) {
            // While the store does not take what is told, a stop would lose what only waits for it.
            if !teller.is_behind() {
                plan.written.forget(self.looked);
            }
            self.write(&plan.written).await?;
        }
        for name in &plan.anew {
            tracing::warn!(environment = %self.environment, task = %name, "the clock was far ahead once: the task is due anew from now on");
        }
        self.runs.taken(|id| !plan.written.has(id));
        self.written = Some(plan.written);
        for (id, next) in plan.end {
            self.runs.end(&id, &EndedBy::Replacement(next));
        }
        for run in &plan.start {
            match current.what(&run.task, arguments) {
                Some(what) => self.runs.start(run, what),
                None => self.runs.give_up(run, GONE),
            }
        }
        self.untold.extend(plan.told.into_iter().chain(plan.start));
        if let Some(excess) = self.untold.len().checked_sub(MOST_RECENT).filter(|excess| *excess > 0) {
            tracing::error!(environment = %self.environment, excess, "what became of runs is not kept: the store has taken nothing for too long");
            self.untold.drain(..excess);
        }
        self.tell(teller);
        Ok(())
    }

    /// Tells as much as there is place for. No run is waited for, nor is any left out.
    fn tell(&mut self, teller: &Teller) {
        while let Some(run) = self.untold.front() {
            if !teller.offer(run::told(&self.environment, run, self.looked)) {
                return;
            }
            self.untold.pop_front();
        }
    }

    async fn write(&mut self, written: &Written) -> Result<(), Failure> {
        let (file, copy) = (self.file.clone(), written.clone());
        let saved = tokio::task::spawn_blocking(move || written::save(&file, &copy)).await;
        let Err(error) = saved.map_err(anyhow::Error::from).flatten() else {
            self.unwritten = None;
            return Ok(());
        };
        let why = Some(format!("what becomes of tasks cannot be written down: {}", words::root(&error)));
        // It is tried again twice a second.
        if self.unwritten != why {
            tracing::error!(environment = %self.environment, error = format!("{error:#}"), "tasks cannot be written down");
            self.unwritten = why;
        }
        self.writable()
    }

    fn writable(&self) -> Result<(), Failure> {
        match &self.unwritten {
            None => Ok(()),
            Some(_) => Err(Failure::new(
                ErrorKind::Unavailable,
                "the change could not be written to the disk, and was not made",
            )),
        }
    }
}

impl Current<'_> {
    fn place(&self) -> Place<'_> {
        match (self.release, &self.trouble) {
            _ if self.closed => Place::Closed,
            (None, _) if self.is_first => Place::Starting,
            (None, _) => Place::Nowhere(NOTHING),
            (Some(_), Some(trouble)) => Place::Nowhere(trouble),
            (Some(_), None) if self.directory.is_none() => Place::Coming,
            (Some(release), None) => Place::There(&release.version),
        }
    }

    fn what<'a>(&'a self, task: &Label, arguments: &'a [String]) -> Option<What<'a>> {
        let task = self.tasks.get(task)?.as_ref()?;
        Some(What { task, arguments, release: self.release?, directory: self.directory.as_deref()? })
    }
}

/// Why nothing runs until then.
fn behind(until: Timestamp) -> String {
    let until = until.strftime("%Y-%m-%d %H:%M:%S UTC");
    format!(
        "the clock was set back, and nothing runs before the clock shows {until}, as what was due until then has been dealt with"
    )
}

fn unreadable() -> Failure {
    Failure::new(ErrorKind::Failed, "what is known of its tasks cannot be read, and they are left alone").with_hint(
        "the aggregator's log names the file: put a good copy of it back, or remove it, with which suspensions go that are in it, and start standalone again",
    )
}

#[cfg(test)]
mod tests;
