//! Who is next: the containers, their turns, and what acknowledgements do to them.

use super::follow::{Claim, Container, End, LogFile, Queued};
use super::gzip::Inflater;
use super::outbox::Window;
use super::read::Buffer;
use super::time::Clock;
use super::turn::Turn;
use super::watch::{Waker, Watch};
use super::{Counters, Limits};
use crate::checkpoint::{Checkpoint, Position, StateDirectory};
use skpr_proto::ids::{PodUid, Source};
use skpr_proto::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long to wait for another agent to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Of so many turns, one goes to files that are not in danger.
const CALM_TURN: u64 = 4;

pub(super) struct Engine {
    pub(super) limits: Limits,
    /// Boxed, because each is taken out for its turn.
    pub(super) containers: BTreeMap<u64, Box<Container>>,
    pub(super) claimed: BTreeSet<PodUid>,
    /// Those of them in which nothing runs any more.
    pub(super) ended: BTreeSet<PodUid>,
    /// A complete set of claims has arrived.
    pub(super) heard: bool,
    pub(super) window: Window,
    pub(super) buffer: Buffer,
    pub(super) inflater: Option<Inflater>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    pub(super) dirty: bool,
    /// Containers whose directory must be looked at again soon.
    pub(super) settling: HashSet<u64>,
    pub(super) watch: Watch,
    state: StateDirectory,
    pub(super) root: PathBuf,
    pub(super) by_directory: HashMap<PathBuf, u64>,
    /// When each pod's directory last changed.
    pub(super) pods: HashMap<PathBuf, SystemTime>,
    pub(super) root_modified: Option<SystemTime>,
    /// From the checkpoint, and not met yet.
    pub(super) remembered: HashMap<Source, Position>,
    urgent: VecDeque<u64>,
    calm: VecDeque<u64>,
    turns: u64,
    last_id: u64,
    pub(super) due: Option<Instant>,
    pub(super) reconciled: Option<Instant>,
    pub(super) rounds: u64,
    pub(super) warned: HashSet<PathBuf>,
    pub(super) warned_open: bool,
}

impl Engine {
    pub(super) fn open(logs: &Path, state: &Path, limits: Limits) -> anyhow::Result<Engine> {
        let state = StateDirectory::open(state, LOCK_WAIT)?;
        let mut remembered = HashMap::new();
        for position in state.load().sources {
            if let Some(Ok(source)) = position.source.as_ref().map(Source::try_from) {
                remembered.insert(source, position);
            }
        }
        let watch = Watch::new(logs, limits.watch);
        Ok(Engine {
            limits,
            containers: BTreeMap::new(),
            claimed: BTreeSet::new(),
            ended: BTreeSet::new(),
            heard: false,
            window: Window::default(),
            buffer: Buffer::default(),
            inflater: None,
            clock: Clock::default(),
            counters: Counters::default(),
            dirty: false,
            settling: HashSet::new(),
            watch,
            state,
            root: logs.to_owned(),
            by_directory: HashMap::new(),
            pods: HashMap::new(),
            root_modified: None,
            remembered,
            urgent: VecDeque::new(),
            calm: VecDeque::new(),
            turns: 0,
            last_id: 0,
            due: None,
            reconciled: None,
            rounds: 0,
            warned: HashSet::new(),
            warned_open: false,
        })
    }

    pub(super) fn waker(&self) -> Waker {
        self.watch.waker()
    }

    pub(super) fn wait(&mut self, timeout: Duration) {
        let due = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        self.watch.wait(due.map_or(timeout, |due| due.min(timeout)));
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn wake_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn container_ids(&self) -> Vec<u64> {
        self.containers.keys().copied().collect()
    }

    /// Takes one container out for a while, so that both it and the engine can change.
    pub(super) fn with<T>(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Engine, &mut Container) -> T,
    ) -> Option<T> {
        let mut container = self.containers.remove(&id)?;
        let result = act(self, &mut container);
        if container.gone && (container.is_finished() || container.claim == Claim::Ignored) {
            self.by_directory.remove(&container.directory);
            self.dirty = true;
        } else {
            self.containers.insert(id, container);
        }
        Some(result)
    }

    pub(super) fn queue(&mut self, container: &mut Container) {
        if container.queued == Queued::Urgent || !container.wants_turn() {
            return;
        }
        // One that was calm before is now in both queues; its second turn finds it gone from there.
        if container.is_endangered() {
            self.urgent.push_back(container.id);
            container.queued = Queued::Urgent;
        } else if container.queued == Queued::No {
            self.calm.push_back(container.id);
            container.queued = Queued::Calm;
        }
    }

    pub(super) fn warn_open(&mut self, path: &Path, error: &std::io::Error) {
        if !std::mem::replace(&mut self.warned_open, true) {
            tracing::warn!(path = %path.display(), %error, "cannot open a log file or directory, trying again in each round");
        }
    }

    pub(super) fn next_batch(&mut self, now: Instant) -> Option<v1::Batch> {
        let mut blocked = 0;
        while self.window.bytes() < self.limits.window_bytes {
            self.turns += 1;
            let calm_first = self.turns.is_multiple_of(CALM_TURN);
            let next = if calm_first { self.calm.pop_front() } else { self.urgent.pop_front() };
            let id = next.or_else(|| self.urgent.pop_front()).or_else(|| self.calm.pop_front())?;
            let turn = self.with(id, |engine, container| {
                let queued = std::mem::replace(&mut container.queued, Queued::No);
                if queued == Queued::No || !container.reads() {
                    return Turn::Idle;
                }
                let turn = engine.turn(container, now);
                match turn {
                    Turn::Batch(_) | Turn::Yield | Turn::Blocked => engine.requeue(container),
                    Turn::Idle => {}
                }
                turn
            });
            match turn {
                Some(Turn::Batch(batch)) => return Some(batch),
                Some(Turn::Blocked) => {
                    blocked += 1;
                    if blocked > self.urgent.len() + self.calm.len() {
                        // Whoever used it is not there any more.
                        self.inflater = None;
                        blocked = 0;
                    }
                }
                Some(Turn::Yield | Turn::Idle) | None => blocked = 0,
            }
        }
        None
    }

    fn requeue(&mut self, container: &mut Container) {
        if !container.has_partial() || self.relieve(container) {
            self.queue(container);
        }
        // Otherwise it goes on at the next look: what cannot be emitted must not grow fast either.
    }

    /// Makes room when incomplete messages take too much: the largest are emitted as they are, until what is left
    /// takes half, so that the next time is not soon. One save makes all their places durable. False: it could not.
    fn relieve(&mut self, container: &mut Container) -> bool {
        let taken = |container: &Container| if container.flush { 0 } else { container.partial_bytes() };
        let mut sizes: Vec<(usize, u64)> =
            self.containers.values().map(|other| (taken(other), other.id)).collect();
        sizes.push((taken(container), container.id));
        let mut left: usize = sizes.iter().map(|(bytes, _)| bytes).sum();
        if left <= self.limits.partial_bytes {
            return true;
        }
        sizes.sort_unstable();
        let mut chosen = Vec::new();
        while left > self.limits.partial_bytes / 2
            && let Some((bytes, id)) = sizes.pop()
        {
            left -= bytes;
            let added = self.get_mut(container, id).is_some_and(Container::cut);
            chosen.push((id, added));
        }
        let saved = self.save_with(Some(container));
        if let Err(error) = &saved {
            tracing::error!(error = format!("{error:#}"), "cannot write the checkpoint");
        }
        for (id, added) in chosen {
            let Some(one) = self.get_mut(container, id) else { continue };
            one.flush = saved.is_ok();
            if added && saved.is_err() {
                one.cuts.pop();
            }
            if id != container.id {
                self.with(id, |engine, one| engine.queue(one));
            }
        }
        saved.is_ok()
    }

    /// One of the containers, where one is out of its place at the moment.
    fn get_mut<'a>(&'a mut self, container: &'a mut Container, id: u64) -> Option<&'a mut Container> {
        if id == container.id { Some(container) } else { self.containers.get_mut(&id).map(Box::as_mut) }
    }

    pub(super) fn acknowledged(&mut self, id: u64) {
        let now = self.reconciled.unwrap_or_else(Instant::now);
        while let Some(sent) = self.window.pop_up_to(id) {
            self.dirty = true;
            if !sent.refused {
                self.counters.shipped_records += sent.records;
            }
            self.with(sent.container, |engine, container| {
                container.in_flight = container.in_flight.saturating_sub(1);
                if sent.end {
                    container.end = End::Said;
                } else if !sent.refused {
                    container.acked_time = Some(sent.last_time);
                }
                if sent.gap {
                    container.gap = container.gap.take().filter(|gap| !gap.sent);
                }
                container.advance(&sent.resume);
                container.release(now);
                engine.queue(container);
            });
        }
    }

    pub(super) fn refused(&mut self, id: u64, why: &str) {
        let Some(sent) = self.window.refuse(id) else { return };
        self.counters.refused_records += sent.records;
        let container = sent.container;
        if let Some(container) = self.containers.get(&container) {
            tracing::warn!(source = %container.source, why, "records were refused");
        }
        if self.window.is_oldest(id) {
            self.acknowledged(id);
        }
    }

    pub(super) fn rewind(&mut self) {
        self.window.clear();
        self.inflater = None;
        for id in self.container_ids() {
            self.with(id, |engine, container| {
                let lost = container.rewind();
                if lost > 0 {
                    engine.gap(container, lost, "the file was truncated before it was acknowledged");
                }
                engine.queue(container);
            });
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        if self.dirty { self.save_with(None) } else { Ok(()) }
    }

    /// Writes the checkpoint, with one container that is out of its place at the moment.
    pub(super) fn save_with(&mut self, container: Option<&Container>) -> anyhow::Result<()> {
        let mut sources: Vec<Position> = self
            .containers
            .values()
            .map(Box::as_ref)
            .chain(container)
            .filter_map(Container::position)
            .collect();
        sources.extend(self.remembered.values().cloned());
        self.state.save(&Checkpoint { sources })?;
        self.dirty = false;
        Ok(())
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.counters;
        for container in self.containers.values() {
            let files = container.files.len() as u64;
            if container.reads() {
                counters.followed_files += files;
                counters.backlog_bytes += container.files.iter().map(LogFile::backlog).sum::<u64>();
            } else {
                counters.held_files += files;
            }
        }
        counters
    }
}
