//! Makes workloads of environments while this aggregator holds the lease.
//!
//! * Woken by changes of environments, of what is made of them, of their pods, and by time; each only says which
//!   environment to look at. What to do is decided from what is written, by [`super::reconcile`].
//! * At most [`ROUNDS`] environments are worked on at once, each by one round; when the lease is lost, all of them end.
//! * One that fails is tried again by itself and keeps nobody.

use super::access::api_resource;
use super::attempt::{Ended, Failed, Failing, attempt};
use super::children::{Children, Seen};
use super::cron::{ended_with, told_runs};
use super::desired::Kind;
use super::done::{Done, Scope, are_runs_settled, is_settled, plan_runs};
use super::notices::Notices;
use super::objects::{Objects, concerned};
use super::queue::{How, Queue};
use super::reconcile::Round;
use super::resource::{MANAGED_BY, MANAGER};
use super::tell::Teller;
use super::told::{deleted, made, told};
use super::watches::{Line, follow, labelled};
use super::{ENVIRONMENT_LABEL, Options, PROJECT_LABEL};
use crate::environment::EnvironmentKey;
use crate::event;
use crate::inventory::Inventory;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Environments that are worked on at once: each round is a handful of requests one after the other, so this is as many
/// requests as the API server has from us at a time.
const ROUNDS: usize = 8;
/// How often a release that is under way is looked at for what time alone changes.
const OPEN_EVERY: Duration = Duration::from_secs(1);
/// How often what cannot be done is tried again: nobody says when a quota grows or a domain gets free.
const TROUBLED_EVERY: Duration = Duration::from_secs(30);
/// How soon is looked again whether events have found a place.
const BEHIND: Duration = Duration::from_millis(100);
/// How often everything is compared anew, for what no watch told.
const REST: Duration = Duration::from_secs(3600);
/// Changes of workloads that wait to be taken: metadata of some 2 KiB each. A full queue makes the watches wait.
const CHANGES: usize = 256;

#[derive(Clone)]
pub(super) struct Controller {
    pub(super) client: Client,
    pub(super) options: Arc<Options>,
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    pub(super) objects: watch::Receiver<Arc<Objects>>,
    pub(super) events: event::Sender,
}

impl Controller {
    /// Works for as long as the lease is held.
    pub(super) async fn lead(mut self) -> anyhow::Result<()> {
        if self.inventory.wait_for(|inventory| inventory.heard).await.is_err() {
            return Ok(());
        }
        let (sender, mut changes) = mpsc::channel(CHANGES);
        let mut watches = JoinSet::new();
        for kind in Kind::ALL {
            let resource = api_resource(kind);
            let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource);
            let labels = labelled(&format!("{MANAGED_BY}={MANAGER},{PROJECT_LABEL},{ENVIRONMENT_LABEL}"));
            watches.spawn(follow(api, labels, move |event| Some((kind, event)), sender.clone()));
        }
        drop(sender);
        let mut work = Work::new(&self);
        let mut burst = Vec::new();
        loop {
            work.start(&self);
            let due = work.due();
            tokio::select! {
                ended = watches.join_next() => {
                    return match ended {
                        Some(Ok(Err(error))) => Err(error),
                        Some(Err(error)) => Err(error.into()),
                        Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a watch of workloads ended by itself")),
                    };
                }
                _ = changes.recv_many(&mut burst, CHANGES) => work.take_children(burst.drain(..)),
                changed = self.objects.changed() => {
                    if changed.is_err() { return Ok(()) }
                    let objects = Arc::clone(&self.objects.borrow_and_update());
                    work.take_objects(objects);
                }
                changed = self.inventory.changed() => {
                    if changed.is_err() { return Ok(()) }
                    let inventory = Arc::clone(&self.inventory.borrow_and_update());
                    work.take_inventory(inventory);
                }
                Some(ended) = work.rounds.join_next() => work.take_ended(ended?),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}

struct Work {
    queue: Queue,
    children: Children,
    /// Whether the kinds of workloads are heard of.
    lines: BTreeMap<Kind, Line>,
    objects: Arc<Objects>,
    inventory: Arc<Inventory>,
    done: BTreeMap<EnvironmentKey, Done>,
    /// Since when environments are looked after.
    since: Timestamp,
    failing: BTreeMap<EnvironmentKey, Failing>,
    rounds: JoinSet<Ended>,
    teller: Teller,
    notices: Notices,
}

impl Work {
    fn new(controller: &Controller) -> Work {
        let mut work = Work {
            queue: Queue::default(),
            children: Children::default(),
            lines: BTreeMap::new(),
            objects: Arc::default(),
            inventory: Arc::clone(&controller.inventory.borrow()),
            done: BTreeMap::new(),
            since: Timestamp::now(),
            failing: BTreeMap::new(),
            rounds: JoinSet::new(),
            teller: Teller::new(controller.events.clone()),
            notices: Notices::new(controller.client.clone(), &controller.options.identity),
        };
        work.take_objects(Arc::clone(&controller.objects.borrow()));
        work
    }

    /// Starts rounds as far as they are due and there is room.
    fn start(&mut self, controller: &Controller) {
        self.teller.flush();
        let now = Instant::now();
        // What is there has to be known, or it would be asked for one by one.
        let blind = self.blind(now);
        while (self.children.heard() || blind.is_some())
            && self.rounds.len() < ROUNDS
            && !self.teller.is_behind()
        {
            let Some((key, how)) = self.queue.pop(now) else { return };
            let scope = match how {
                How::Look if blind.is_none() => self.scope(&key, now),
                How::Look | How::Reconcile => Some(Scope::Whole),
            };
            let Some(scope) = scope else {
                self.queue.done(&key);
                self.rest(&key, now);
                continue;
            };
            let state = self.inventory.environments.get(&key);
            let round = Round {
                client: controller.client.clone(),
                options: Arc::clone(&controller.options),
                objects: Arc::clone(&self.objects),
                instances: state.map(|state| state.instances.clone()).unwrap_or_default(),
                children: self.children.of(&key),
                seen: self.objects.get(&key).and_then(|object| object.seen.clone()),
                scope,
                watching_since: self.watching_since(&key),
                key,
            };
            let failing = self.failing.get(&round.key).copied().unwrap_or_default();
            self.rounds.spawn(attempt(round, failing, blind.clone()));
        }
    }

    /// Why nothing can be done at all, once it will not pass by itself.
    fn blind(&self, now: Instant) -> Option<String> {
        self.unheard().find_map(|(kind, line)| {
            Some(format!("skpr cannot read the cluster's {}: {}", kind.names().3, line.lasting(now)?))
        })
    }

    fn unheard(&self) -> impl Iterator<Item = (&Kind, &Line)> {
        self.lines.iter().filter(|(kind, _)| !self.children.has_heard(**kind))
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.rounds.len() >= ROUNDS {
            return None;
        }
        if self.teller.is_behind() {
            return Some(now + BEHIND);
        }
        if self.children.heard() || self.blind(now).is_some() {
            return self.queue.next();
        }
        self.unheard().filter_map(|(_, line)| line.lasts_at(now)).min()
    }

    fn is_settled(&self, key: &EnvironmentKey) -> bool {
        let (Some(object), Some(done)) = (self.objects.get(key), self.done.get(key)) else {
            return false;
        };
        let state = self.inventory.environments.get(key);
        let none = BTreeMap::new();
        let instances = state.map_or(&none, |state| &state.instances);
        is_settled(object, done, instances, self.watching_since(key), Timestamp::now())
    }

    /// What there is to do for an environment that may be at rest; none if nothing.
    fn scope(&mut self, key: &EnvironmentKey, now: Instant) -> Option<Scope> {
        let is_settled = self.is_settled(key);
        let (Some(object), Some(done)) = (self.objects.get(key), self.done.get_mut(key)) else {
            return Some(Scope::Whole);
        };
        if !is_settled || now - done.whole >= pause(done) {
            return Some(Scope::Whole);
        }
        let runs = plan_runs(object, done, Timestamp::now())?;
        done.look = runs.look;
        // A task that was only kept for what ran of it can go now.
        let is_left = |(kind, name): &(Kind, String)| {
            *kind == Kind::CronJob && runs.can_go(key, object.managed.settings.cron.as_ref(), name)
        };
        if self.children.of(key).keys().any(is_left) {
            return Some(Scope::Whole);
        }
        (!are_runs_settled(&runs, object, done)).then(|| Scope::Runs(Box::new(done.clone())))
    }

    /// While the API server was away, nobody could help a release.
    fn watching_since(&self, key: &EnvironmentKey) -> Timestamp {
        self.failing.get(key).and_then(|failing| failing.away).unwrap_or(self.since)
    }

    /// When an environment at rest is looked at again.
    fn rest(&mut self, key: &EnvironmentKey, now: Instant) {
        let Some(done) = self.done.get(key) else { return };
        let (how, at) = match done.is_open() {
            true => (How::Look, now + OPEN_EVERY),
            false => (How::Reconcile, now + pause(done)),
        };
        let wait = |look: Timestamp| {
            Duration::try_from(look.duration_since(Timestamp::now())).unwrap_or_default().min(REST)
        };
        match done.look.map(|look| now + wait(look)) {
            Some(look) if look < at => self.queue.add(key, How::Look, look),
            Some(_) | None => self.queue.add(key, how, at),
        }
    }

    fn take_children(&mut self, changes: impl Iterator<Item = (Kind, watcher::Result<Seen>)>) {
        let now = Instant::now();
        for (kind, event) in changes {
            let line = self.lines.entry(kind).or_default();
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    line.broke(kind.names().3, &error);
                    continue;
                }
            };
            line.heard(&event);
            for (key, how) in self.children.take(kind, event) {
                if self.objects.contains_key(&key) {
                    self.queue.add(&key, how, now);
                }
            }
        }
    }

    fn take_objects(&mut self, objects: Arc<Objects>) {
        let (now, at) = (Instant::now(), Timestamp::now());
        for (key, object) in objects.iter() {
            let before = self.objects.get(key);
            if before.is_some_and(|before| Arc::ptr_eq(before, object)) {
                continue;
            }
            if before.is_none_or(|before| before.uid != object.uid)
                && let Some(created) = object.managed.created
            {
                self.teller.tell([made(key, &object.uid, created)], at);
            }
            let same = before.is_some_and(|before| {
                (&before.uid, before.generation, &before.invalid)
                    == (&object.uid, object.generation, &object.invalid)
            });
            // A status that is not as it was left is looked at, too.
            self.queue.add(key, if same { How::Look } else { How::Reconcile }, now);
        }
        for key in concerned(&self.objects, &objects) {
            self.queue.add(&key, How::Reconcile, now);
        }
        let before = std::mem::replace(&mut self.objects, objects);
        for (key, object) in before.iter().filter(|(key, _)| !self.objects.contains_key(*key)) {
            self.queue.forget(key);
            self.done.remove(key);
            self.failing.remove(key);
            self.teller.tell_all(ended_with(key, &object.status.tasks, at));
            self.teller.tell([deleted(key, &object.uid, None, at)], at);
        }
    }

    fn take_inventory(&mut self, inventory: Arc<Inventory>) {
        let now = Instant::now();
        for key in self.objects.keys() {
            let before = self.inventory.environments.get(key).map(|state| &state.instances);
            let after = inventory.environments.get(key).map(|state| &state.instances);
            if before != after {
                self.queue.add(key, How::Look, now);
            }
        }
        self.inventory = inventory;
    }

    fn take_ended(&mut self, ended: Ended) {
        let (now, at) = (Instant::now(), Timestamp::now());
        let Ended { key, result } = ended;
        if !self.objects.contains_key(&key) {
            return self.queue.forget(&key);
        }
        match result {
            // The watch says so as well, and forgets it; one that is being deleted comes to its end by itself.
            Ok(None) => self.queue.done(&key),
            Ok(Some(done)) => {
                self.queue.done(&key);
                if let Some(failing) = self.failing.get_mut(&key) {
                    failing.mended();
                }
                self.tell(&key, done, at);
                self.rest(&key, now);
            }
            Err(Failed { cause, told }) => {
                let pause = self.queue.failed(&key, now).as_millis();
                let warns = self.failing.entry(key.clone()).or_default().failed(&cause, now, at);
                let cause = cause.reason();
                // What cannot be listed was said once for all of them.
                if warns && self.blind(now).is_none() {
                    tracing::warn!(environment = %key, cause, "nothing can be done for an environment");
                } else {
                    tracing::debug!(environment = %key, cause, pause, "an environment is tried again");
                }
                if let Some(done) = told {
                    self.tell(&key, done, at);
                }
            }
        }
    }

    /// Tells what is new, and remembers what was told.
    fn tell(&mut self, key: &EnvironmentKey, mut done: Done, at: Timestamp) {
        let before = self.done.get(key);
        let events = told(key, before, &done, at);
        let told_before = before.map(|before| before.told_runs.clone()).unwrap_or_default();
        let (runs, told_runs) = match done.telling.take() {
            Some(telling) => told_runs(key, &told_before, &telling, at),
            None => (vec![], told_before),
        };
        done.told_runs = told_runs;
        // Of one that is seen for the first time, what was before this was told by whoever looked after it then.
        let since = if before.is_some() { i128::MIN } else { self.since.as_nanosecond() };
        // Of runs only what went wrong: the others have Kubernetes' own notices.
        let warnings = runs.iter().map(|(event, _)| event).filter(|event| event.body.warning);
        let notices = events.iter().chain(warnings).filter(|event| i128::from(event.time.0) >= since);
        self.notices.publish(key, &done.uid, notices);
        self.teller.tell(events, at);
        let (news, again): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(_, is_news)| *is_news);
        self.teller.tell_all(news.into_iter().map(|(event, _)| event));
        self.teller.tell(again.into_iter().map(|(event, _)| event), at);
        self.done.insert(key.clone(), done.told());
    }
}

/// How long an environment at rest is left alone.
fn pause(done: &Done) -> Duration {
    let is_troubled = done.status.trouble.is_some() || done.obstacle.is_some();
    if is_troubled { TROUBLED_EVERY } else { REST }
}

#[cfg(test)]
mod tests;
