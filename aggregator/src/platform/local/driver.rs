//! One environment: carries out what is written of it, and writes down what it is told.
//!
//! * Each turn compares what is written with what is there and takes the next step; nothing is remembered between turns
//!   that a crash could lose. A command is answered once it is on the disk.
//! * Whatever goes wrong here is this environment's trouble: it is shown, tried again, and stops no other.
//! * Its tasks are looked at in each turn, and woken for when they are due: `cron.rs`.

mod change;

use super::command::Queued;
use super::cron::{Around, Tasks};
use super::front::Front;
use super::host::Host;
use super::instances::{Change, Instances};
use super::places::Places;
use super::plan::{self, Look, Step};
use super::publish::View;
use super::state::{self, Record};
use super::tell::{Teller, Who};
use super::words;
use crate::environment::EnvironmentKey;
use crate::inventory::{Managed, Wanted};
use crate::release::{self, Release, Request, State, Verdict};
use jiff::Timestamp;
use skpr_proto::EnvironmentName;
use skpr_proto::manifest::Environment;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often something is looked at that tells nothing by itself: the time of a release, a port that is taken.
const TICK: Duration = Duration::from_millis(500);
/// And when nothing is expected.
const IDLE: Duration = Duration::from_secs(60);
/// Whoever has not looked for so long was not there: the machine slept.
const AWAY: Duration = Duration::from_secs(120);

pub(super) struct Driver {
    host: Arc<Host>,
    key: EnvironmentKey,
    file: PathBuf,
    record: Record,
    instances: Instances,
    places: Places,
    front: Front,
    teller: Teller,
    tasks: Tasks,
    /// Why the last step could not be taken.
    trouble: Option<String>,
    /// Why what has become of it could not be written down; it is as it was until that can be done.
    unwritten: Option<String>,
    /// When it was looked at last, and since when it always was.
    looked: Timestamp,
    watching_since: Timestamp,
    waiting_for: Option<String>,
}

impl Driver {
    pub(super) fn new(host: Arc<Host>, name: &EnvironmentName, record: Record) -> Driver {
        let (key, file) = (host.key(name), state::place(&host.records, name));
        Driver {
            tasks: Tasks::open(&host, &key, &file),
            file,
            record,
            instances: Instances::new(Arc::clone(&host), key.clone()),
            places: Places::new(Arc::clone(&host), name.clone()),
            front: Front::default(),
            teller: Teller::new(key.clone(), host.events.clone()),
            trouble: None,
            unwritten: None,
            looked: Timestamp::now(),
            watching_since: Timestamp::now(),
            waiting_for: None,
            key,
            host,
        }
    }

    /// Runs until `stop` and until every instance has ended, or until the environment is gone. `asked` is what the
    /// manifest says, where there is one.
    pub(super) async fn run(
        mut self,
        asked: Option<Environment>,
        mut commands: mpsc::Receiver<Queued>,
        stop: CancellationToken,
    ) -> EnvironmentName {
        if let Some(settings) = &asked {
            self.begin_by_itself(settings).await;
        }
        // The last word may not have been told before a crash; told twice it is kept once.
        if let Some(newest) = self.record.releases.last() {
            self.teller.tell(release::told(&self.key, newest, Timestamp::now())).await;
        }
        while !stop.is_cancelled() {
            self.turn().await;
            if self.is_gone().await {
                return self.key.name;
            }
            self.publish();
            let is_made = !self.record.releases.is_empty();
            let pause = if self.is_expecting() { TICK } else { IDLE };
            tokio::select! {
                () = stop.cancelled() => {}
                Some(queued) = commands.recv() => {
                    self.command(queued.command).await;
                    if asked.is_none() && self.record.releases.is_empty() {
                        // It was to be made, and could not be.
                        self.host.publisher.remove(&self.key);
                        return self.key.name;
                    }
                }
                change = self.instances.change() => self.take(change).await,
                () = self.tasks.changed() => {}
                () = self.places.changed() => {}
                () = self.front.ended() => {}
                () = tokio::time::sleep(pause) => {
                    if let Some(settings) = asked.as_ref().filter(|_| !is_made) {
                        self.begin_by_itself(settings).await;
                    }
                }
            }
            // What else has happened is part of the same turn.
            while let Ok(change) = timeout(Duration::ZERO, self.instances.change()).await {
                self.take(change).await;
            }
        }
        self.front.serve(&BTreeSet::new(), &self.instances.routes).await;
        self.instances.stop();
        loop {
            self.look_at_tasks(true).await;
            self.publish();
            if self.instances.is_empty() && self.tasks.has_ended() {
                return self.key.name;
            }
            tokio::select! {
                change = self.instances.change() => self.take(change).await,
                () = self.tasks.changed() => {}
            }
        }
    }

    /// Whether something is to happen that nobody will tell.
    fn is_expecting(&self) -> bool {
        let newest = self.record.releases.last();
        self.trouble.is_some()
            || self.unwritten.is_some()
            || self.tasks.is_held_up()
            || self.front.is_waiting()
            || self.places_trouble().is_some()
            || newest.is_some_and(|newest| newest.state.is_open() || newest.state == State::Failed)
    }

    /// The next step, and the one after it, until there is none to take now.
    async fn turn(&mut self) {
        loop {
            let step = self.step();
            self.instances.routes.set(self.instances.targets(&step.route));
            self.act(&step).await;
            if !self.judge().await {
                break;
            }
        }
        self.look_at_tasks(false).await;
        // By what is on the disk, and only then: what a crash would go back to has to be there.
        let running = self.instances.all().map(|running| running.release).chain(self.tasks.releases());
        self.places.keep(&self.record.releases, running).await;
    }

    async fn look_at_tasks(&mut self, stopping: bool) {
        let (record, places, teller) = (&self.record, &mut self.places, &self.teller);
        self.tasks.look(&mut Around { record, places, teller, stopping }).await;
    }

    fn step(&self) -> Step {
        plan::step(Look {
            releases: &self.record.releases,
            settings: &self.record.settings,
            before: self.record.before.as_ref(),
            instances: &self.instances.seen(),
            deleting: self.record.deleting.is_some(),
            now: Timestamp::now(),
        })
    }

    async fn act(&mut self, step: &Step) {
        let releases = plan::wanted(&self.record.releases);
        let serving: BTreeSet<u64> = self.instances.all().map(|running| running.release).collect();
        let serves = |(position, release): &(usize, &&Release)| {
            self.record.deleting.is_none() && (*position == 0 || serving.contains(&release.number))
        };
        let ports = releases.iter().enumerate().filter(serves);
        let ports = ports.filter_map(|(_, release)| release.settings.port).map(|port| port.get()).collect();
        self.front.serve(&ports, &self.instances.routes).await;
        for uid in &step.end {
            self.instances.end(uid);
        }
        let mut failed = None;
        for (number, index) in &step.start {
            let Some(release) = releases.iter().find(|release| release.number == *number) else { continue };
            let Some(directory) = self.places.of(release, &self.record.directory) else { continue };
            if let Err(error) = self.instances.start(release, *index, &directory).await {
                tracing::warn!(environment = %self.key, error = format!("{error:#}"), "an instance cannot be started");
                failed = Some(format!("an instance cannot be started: {}", words::root(&error)));
            }
        }
        if failed.is_some() || !step.start.is_empty() {
            self.trouble = failed;
        }
    }

    /// Writes down how the open release goes. Whether it has come to another state.
    async fn judge(&mut self) -> bool {
        let trouble = self.place_trouble_of_newest();
        let now = Timestamp::now();
        let away = now.duration_since(std::mem::replace(&mut self.looked, now)).unsigned_abs();
        if away >= AWAY {
            self.watching_since = now;
        }
        let verdict = release::verdict(
            &self.record.releases,
            Request {
                instances: &self.instances.states(),
                target: plan::target(&self.record.settings),
                trouble: trouble.or_else(|| self.front.trouble()).or_else(|| self.trouble.clone()).as_deref(),
                watching_since: self.watching_since,
                now,
            },
        );
        // Nobody is served by instances that nobody reaches: soon the port is there, or it is trouble.
        let verdict = match (verdict, self.front.waits_for().filter(|_| self.is_deploying())) {
            (Some(Verdict::Succeeded { .. }), Some(port)) => Some(Verdict::Waiting(port)),
            (verdict, _) => verdict,
        };
        self.waiting_for = match &verdict {
            Some(Verdict::Waiting(sentence)) => Some(sentence.clone()),
            Some(Verdict::Succeeded { .. } | Verdict::Failed { .. }) | None => None,
        };
        let Some(verdict) = verdict else { return false };
        let mut next = self.record.clone();
        if !release::advance(&mut next.releases, &verdict, Timestamp::now()) {
            return false;
        }
        change::settle(&mut next);
        let written = self.write(next).await.is_ok();
        if !written {
            // It has ended when that is written down, and is not made to fail by what will be again.
            self.waiting_for.clone_from(&self.unwritten);
        }
        written
    }

    fn is_deploying(&self) -> bool {
        self.record.releases.last().is_some_and(|newest| newest.state == State::Deploying)
    }

    /// Makes a change durable, then tells of the release's new state.
    async fn write(&mut self, next: Record) -> anyhow::Result<()> {
        let (file, record) = (self.file.clone(), next.clone());
        let written = tokio::task::spawn_blocking(move || state::save(&file, &record)).await;
        if let Err(error) = written.map_err(anyhow::Error::from).flatten() {
            let why = Some(format!("its state cannot be written down: {}", words::root(&error)));
            // It is tried again twice a second.
            if self.unwritten != why {
                tracing::error!(environment = %self.key, error = format!("{error:#}"), "the state cannot be written");
                self.unwritten = why;
            }
            return Err(error);
        }
        let state = |record: &Record| record.releases.last().map(|newest| (newest.number, newest.state));
        let is_new = state(&next) != state(&self.record);
        (self.trouble, self.unwritten) = (None, None);
        self.record = next;
        if let Some(newest) = self.record.releases.last().filter(|_| is_new) {
            tracing::info!(environment = %self.key, release = newest.number, version = newest.version, state = newest.state.name(), "release");
            self.teller.tell(release::told(&self.key, newest, Timestamp::now())).await;
        }
        Ok(())
    }

    async fn take(&mut self, change: Change) {
        match change {
            Change::Ended(uid) => self.instances.ended(&uid),
            Change::Reported(report) => {
                let uid = report.uid.clone();
                if let Some((running, before)) = self.instances.report(report)
                    && !running.leaving
                {
                    let who = Who { uid: &uid, name: &running.name, release: running.release };
                    self.teller.changes(who, &before, &running.status).await;
                }
            }
        }
    }

    fn place_trouble_of_newest(&self) -> Option<String> {
        self.record.releases.last().and_then(|newest| self.places.trouble(newest))
    }

    fn places_trouble(&self) -> Option<String> {
        plan::wanted(&self.record.releases).iter().find_map(|release| self.places.trouble(release))
    }

    fn publish(&self) {
        let current = release::current(&self.record.releases);
        if current.is_none() && self.trouble.is_none() && self.unwritten.is_none() {
            return;
        }
        let settings = &self.record.settings;
        let instances = settings.instances.as_ref();
        let wanted = Wanted {
            production: settings.production == Some(true),
            minimum: instances.map_or(1, |instances| instances.min),
            maximum: instances.map_or(1, |instances| instances.max),
        };
        let trouble = self.unwritten.clone().or_else(|| self.trouble.clone());
        let trouble = trouble.or_else(|| self.front.trouble()).or_else(|| self.places_trouble());
        let trouble = trouble.or_else(|| self.tasks.trouble());
        let managed = Managed {
            image: None,
            version: current.map_or_else(String::new, |current| current.version.clone()),
            settings: settings.clone(),
            releases: self.record.releases.clone(),
            trouble,
            waiting_for: self.waiting_for.clone(),
            target: plan::target(settings),
            deleting: self.record.deleting.is_some(),
            created: None,
            serves: vec![],
            tasks: self.tasks.states(settings.cron.iter().flat_map(BTreeMap::keys)),
        };
        let pods = self.instances.pods().into_iter().chain(self.tasks.pods()).collect();
        let view = View { wanted, managed: Arc::new(managed), pods };
        self.host.publisher.publish(&self.key, view);
    }
}
