//! Who is next: the containers, their turns, and what acknowledgements do to them.

use super::discover;
use super::follow::{Claim, Container, LogFile, Queued};
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

/// How often everything is looked at: what the watcher does not see waits no longer than this.
const RECONCILE_WATCHED: Duration = Duration::from_secs(2);
const RECONCILE_POLLED: Duration = Duration::from_secs(1);
/// While the kernel reports changes, one round in so many looks at every directory; the others leave out those that
/// have not changed for [`SETTLED`]. A look costs little, but a node has thousands of directories.
const DIRECTORY_ROUNDS: u64 = 15;
const SETTLED: Duration = Duration::from_secs(10);
/// How long to wait for another agent to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Of so many turns, one goes to files that are not in danger.
const CALM_TURN: u64 = 4;
/// Odd names that were told of, at most.
const MOST_WARNINGS: usize = 1000;

pub(super) struct Engine {
    pub(super) limits: Limits,
    /// Boxed, because each is taken out for its turn.
    pub(super) containers: BTreeMap<u64, Box<Container>>,
    pub(super) claimed: BTreeSet<PodUid>,
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
    watch: Watch,
    state: StateDirectory,
    root: PathBuf,
    by_directory: HashMap<PathBuf, u64>,
    /// When each pod's directory last changed.
    pods: HashMap<PathBuf, SystemTime>,
    root_modified: Option<SystemTime>,
    /// From the checkpoint, and not met yet.
    remembered: HashMap<Source, Position>,
    urgent: VecDeque<u64>,
    calm: VecDeque<u64>,
    turns: u64,
    last_id: u64,
    due: Option<Instant>,
    reconciled: Option<Instant>,
    rounds: u64,
    warned: HashSet<PathBuf>,
    warned_open: bool,
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
            tracing::warn!(path = %path.display(), %error, "cannot open a log file or directory, trying again each second");
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        let changes = self.watch.take();
        let polled = if self.watch.is_watching() { RECONCILE_WATCHED } else { RECONCILE_POLLED };
        if changes.everything || self.reconciled.is_none_or(|last| now >= last + polled) {
            self.rounds += 1;
            let every = changes.everything
                || !self.watch.is_watching()
                || self.rounds.is_multiple_of(DIRECTORY_ROUNDS);
            self.look_around(now, every);
        } else {
            for directory in changes.listed {
                self.look_at(&directory, true, now);
            }
            for directory in changes.grown {
                self.look_at(&directory, false, now);
            }
        }
        if self.due.is_some_and(|due| now >= due) {
            self.due = None;
            for id in std::mem::take(&mut self.settling) {
                self.with(id, |engine, container| {
                    engine.relist(container, now);
                    engine.queue(container);
                });
            }
        }
    }

    /// A container's directory changed: its names, or only the size of a file in it.
    fn look_at(&mut self, directory: &Path, names: bool, now: Instant) {
        let Some(&id) = self.by_directory.get(directory) else {
            if let (Some(pod), Some(name)) = (directory.parent(), directory.file_name()) {
                let (pod, name) = (pod.to_owned(), name.to_string_lossy().into_owned());
                if directory.is_dir() {
                    self.add(&pod, &name, directory, now);
                }
            }
            return;
        };
        self.with(id, |engine, container| {
            if names {
                engine.relist(container, now);
            }
            engine.refresh(container, now);
        });
    }

    pub(super) fn reconcile(&mut self, now: Instant) {
        self.look_around(now, true);
    }

    /// Looks at every file, and at every directory or at those that changed lately.
    fn look_around(&mut self, now: Instant, every: bool) {
        self.reconciled = Some(now);
        self.watch.establish();
        let settled = SystemTime::now().checked_sub(SETTLED).filter(|_| !every);
        let is_settled = |modified: Option<SystemTime>| {
            modified.zip(settled).is_some_and(|(modified, settled)| modified < settled)
        };
        self.scan(now, &is_settled);
        for id in self.container_ids() {
            self.with(id, |engine, container| {
                let looks = !is_settled(container.directory_modified);
                if looks && (container.claim != Claim::Ignored || !container.directory.is_dir()) {
                    match discover::is_stale(&container.directory, container.directory_modified) {
                        Ok(false) => {}
                        Ok(true) | Err(_) => engine.relist(container, now),
                    }
                }
                engine.refresh(container, now);
            });
        }
        self.expire_claims(now);
        self.close_idle();
        self.warned_open = false;
    }

    /// Looks for containers that are new.
    fn scan(&mut self, now: Instant, is_settled: &dyn Fn(Option<SystemTime>) -> bool) {
        if let Ok(true) = discover::is_stale(&self.root, self.root_modified) {
            let modified = std::fs::metadata(&self.root).and_then(|metadata| metadata.modified()).ok();
            let Ok(pods) = discover::subdirectories(&self.root) else { return };
            self.root_modified = modified;
            let mut known: HashMap<PathBuf, SystemTime> = HashMap::new();
            for (_, path) in pods {
                let modified = self.pods.get(&path).copied().unwrap_or(SystemTime::UNIX_EPOCH);
                known.insert(path, modified);
            }
            self.pods = known;
        } else if !self.root.is_dir() {
            self.watch.lost();
            self.pods.clear();
            self.root_modified = None;
            return;
        }
        let mut pods = std::mem::take(&mut self.pods);
        let mut failed = false;
        for (pod, modified) in &mut pods {
            let is_new = *modified == SystemTime::UNIX_EPOCH;
            if !is_new && is_settled(Some(*modified)) {
                continue;
            }
            match discover::is_stale(pod, Some(*modified)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    failed |= error.kind() != std::io::ErrorKind::NotFound;
                    continue;
                }
            }
            let now_modified = std::fs::metadata(pod).and_then(|metadata| metadata.modified());
            let containers = match discover::subdirectories(pod) {
                Ok(containers) => containers,
                Err(error) => {
                    failed |= error.kind() != std::io::ErrorKind::NotFound;
                    self.warn_open(pod, &error);
                    continue;
                }
            };
            for (name, directory) in containers {
                if !self.by_directory.contains_key(&directory) {
                    self.add(pod, &name, &directory, now);
                }
            }
            if let Ok(now_modified) = now_modified {
                *modified = now_modified;
            }
        }
        self.pods = pods;
        // Every directory was looked at: what the checkpoint knows beyond them does not exist any more.
        if !failed && !self.remembered.is_empty() {
            tracing::info!(sources = self.remembered.len(), "forgetting sources whose directories are gone");
            self.remembered.clear();
            self.dirty = true;
        }
    }

    fn add(&mut self, pod: &Path, name: &str, directory: &Path, now: Instant) {
        let pod = pod.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let source = match Source::from_directories(&pod, name) {
            Ok(source) => source,
            Err(error) => {
                if self.warned.len() < MOST_WARNINGS && self.warned.insert(directory.to_owned()) {
                    tracing::info!(%error, "not a container's log directory");
                }
                return;
            }
        };
        let id = self.next_id();
        let mut container = Container::new(id, source, directory.to_owned(), Claim::Unknown, now);
        if let Some(position) = self.remembered.remove(&container.source) {
            container.remember(position);
        }
        container.claim = self.first_claim(&container);
        container.wanted |= container.claim == Claim::Claimed;
        self.by_directory.insert(directory.to_owned(), id);
        self.containers.insert(id, Box::new(container));
        self.with(id, |engine, container| {
            engine.relist(container, now);
            engine.refresh(container, now);
        });
    }

    /// Looks at the sizes of a container's files, and at its time-outs.
    fn refresh(&mut self, container: &mut Container, now: Instant) {
        for file in &mut container.files {
            if file.gzip || file.vanished {
                continue;
            }
            let size = match &file.descriptor {
                // Cheaper than all that `metadata` asks for, and this runs for every file every two seconds.
                Some(descriptor) => {
                    rustix::fs::fstat(descriptor).ok().and_then(|stat| u64::try_from(stat.st_size).ok())
                }
                None => {
                    file.stuck_at = None;
                    std::fs::metadata(&file.path).ok().map(|metadata| metadata.len())
                }
            };
            if let Some(size) = size {
                file.resize(size);
            }
        }
        let timeout = self.limits.partial_timeout;
        let waited = |partial: &super::partial::Partial| now >= partial.touched + timeout;
        let all_read = !container.files.iter().any(LogFile::has_unread);
        container.flush |= all_read && container.partials.iter().flatten().any(waited);
        self.dirty |= container.release(now);
        self.queue(container);
    }

    /// Closes files that can be opened again by name, when there are too many.
    fn close_idle(&mut self) {
        let open: usize = self.containers.values().map(|container| container.files.len()).sum();
        let mut excess = open.saturating_sub(self.limits.open_files);
        for file in self.containers.values_mut().flat_map(|container| &mut container.files) {
            if excess == 0 {
                break;
            }
            if file.named && file.descriptor.is_some() && file.acked == file.size && file.read == file.size {
                file.descriptor = None;
                excess -= 1;
            }
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
                if !sent.refused {
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
