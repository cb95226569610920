//! Takes a round of samples from an agent, which may say anything.

use super::{Held, HeldContainer, Live, Moment, NODES, Node, Place, is_kept, present};
use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Pod, Presence};
use crate::usage::counts::{Counts, Outcome};
use crate::usage::row::{Amount, COUNTERS, Row};
use crate::usage::sample::{self, Rates, Small};
use crate::usage::totals::{Counters, Totals, throttling};
use skpr_proto::v1::{NodeSample, PodSample, Sample, Usage};
use skpr_proto::{NodeName, PodUid};
use std::sync::Arc;
use std::time::Duration;

/// The most pods of a node; Kubernetes supports 110, and some 500 are run.
const PODS: usize = 1_000;
/// The most containers of a pod.
const CONTAINERS: usize = 64;
/// How often a round may be, so that what an agent says of that cannot keep old samples fresh.
const INTERVALS: (u64, u64) = (1_000, 300_000);
/// How much an agent's clock and ours may differ in what they say about the time between two rounds: a round is late by
/// what the connection is. More, and the agent's clock is another one, as after the node's start.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How often a node's rounds are taken over time: twice as often as the shortest interval.
const ROUND_EVERY: Duration = Duration::from_millis(500);
/// How many rounds may come at once, as after a time without a connection.
const ROUNDS_AT_ONCE: u32 = 30;

/// How far the platform's clock may be ahead of or behind ours in what it says about when a pod was made.
const BIRTH_INEXACT_MILLIS: i64 = 10_000;

/// When a round was, by both clocks, and what bounds rates on its node.
#[derive(Clone, Copy)]
struct Round {
    at: Moment,
    interval: Duration,
    monotonic: u64,
    cores: u32,
}

impl Live {
    /// Takes what an agent says about its node. Returns the rows of it for history.
    pub(in crate::usage) fn take(
        &self,
        name: &NodeName,
        usage: Usage,
        at: Moment,
        inventory: &Inventory,
    ) -> Vec<(EnvironmentKey, Row)> {
        let (shortest, longest) = INTERVALS;
        let mut sample = usage.node.unwrap_or_default();
        self.counts.unknown(sample::clean_node(&mut sample));
        let round = Round {
            at,
            interval: Duration::from_millis(u64::from(usage.interval_millis).clamp(shortest, longest)),
            monotonic: usage.monotonic_nanos,
            cores: sample.cores,
        };
        self.counts.add(Outcome::Excess, usage.pods.len().saturating_sub(PODS) as u64);
        let mut nodes = self.lock();
        if nodes.len() >= NODES && !nodes.contains_key(name) {
            self.counts.add(Outcome::Excess, usage.pods.len().min(PODS) as u64);
            return Vec::new();
        }
        let node = nodes.entry(name.clone()).or_insert_with(|| Node::new(&round));
        if !node.takes_another(at) {
            self.counts.add(Outcome::Excess, usage.pods.len().min(PODS) as u64);
            return Vec::new();
        }
        node.take(round, sample);
        let (mut rows, mut added) = (Vec::new(), Vec::new());
        for pod in usage.pods.into_iter().take(PODS) {
            match claimed(&pod.uid, name, inventory) {
                Ok((uid, facts)) => {
                    let Some(taken) = node.instance(round, uid, facts, pod, &self.counts) else { continue };
                    // A run is only held: it is in no sum and no history.
                    if facts.task.is_some() {
                        continue;
                    }
                    rows.extend(taken.row.map(|row| (facts.environment.clone(), row)));
                    added.push((&facts.environment, taken.added));
                }
                Err(outcome) => self.counts.add(outcome, 1),
            }
        }
        let gone = |held: &Held| {
            !is_kept(held.at, held.interval, at.instant) || present(inventory, &held.uid, name).is_none()
        };
        node.instances.retain(|_, held| !gone(held));
        drop(nodes);
        self.add_totals(added);
        rows
    }
}

/// The pod that a sample is about, if this node may speak for it.
fn claimed<'a>(uid: &str, node: &NodeName, inventory: &'a Inventory) -> Result<(PodUid, &'a Pod), Outcome> {
    let uid = PodUid::parse(uid).map_err(|_| Outcome::Malformed)?;
    let pod = inventory.pods.get(&uid).ok_or(Outcome::Unclaimed)?;
    if pod.node.as_ref() != Some(node) {
        return Err(Outcome::Foreign);
    }
    if pod.presence == Presence::Present { Ok((uid, pod)) } else { Err(Outcome::Unclaimed) }
}

impl Round {
    /// The time since an earlier round, if both clocks agree about it.
    fn since(&self, at: Moment, monotonic: u64) -> Option<Duration> {
        let ours = self.at.instant.checked_duration_since(at.instant)?;
        let theirs = Duration::from_nanos(self.monotonic.checked_sub(monotonic)?);
        (ours.abs_diff(theirs) <= CLOCKS_APART).then_some(theirs)
    }
}

impl Node {
    fn new(round: &Round) -> Node {
        Node {
            at: round.at,
            earlier: None,
            interval: round.interval,
            monotonic: round.monotonic,
            sample: NodeSample::default(),
            cpu_nanocores: None,
            window: None,
            instances: Default::default(),
            paid_until: round.at.instant,
        }
    }

    /// Whether a round more is within what an agent may send: what one sends must not take the room of all others.
    fn takes_another(&mut self, at: Moment) -> bool {
        let paid_until = self.paid_until.max(at.instant);
        let within = paid_until.saturating_duration_since(at.instant) < ROUND_EVERY * ROUNDS_AT_ONCE;
        if within {
            self.paid_until = paid_until + ROUND_EVERY;
        }
        within
    }

    fn take(&mut self, round: Round, sample: NodeSample) {
        self.window = round.since(self.at, self.monotonic).filter(|window| !window.is_zero());
        let added = |before: Option<u64>| sample.cpu_nanos?.checked_sub(before?);
        let added = added(self.sample.cpu_nanos).zip(self.window);
        self.cpu_nanocores = added.and_then(|(nanos, window)| sample::nanocores(nanos, window, sample.cores));
        self.sample = sample;
        self.earlier = Some(self.at).filter(|earlier| earlier.instant < round.at.instant);
        (self.at, self.interval, self.monotonic) = (round.at, round.interval, round.monotonic);
    }

    /// Takes a pod's samples.
    fn instance(
        &mut self,
        round: Round,
        uid: PodUid,
        facts: &Pod,
        mut pod: PodSample,
        counts: &Counts,
    ) -> Option<Taken> {
        let place = Place { environment: facts.environment.clone(), instance: Arc::clone(&facts.instance) };
        let before = self.instances.get(&place).map(Box::as_ref).filter(|before| before.uid == uid);
        if before.is_some_and(|before| before.at.instant == round.at.instant) {
            // It is in the round twice.
            counts.add(Outcome::Malformed, 1);
            return None;
        }
        counts.add(Outcome::Excess, pod.containers.len().saturating_sub(CONTAINERS) as u64);
        pod.containers.truncate(CONTAINERS);
        let mut total = pod.total;
        let mut unknown: u64 = total.iter_mut().map(sample::clean).sum();
        let mut all = Vec::with_capacity(pod.containers.len());
        let most = facts.containers.len().min(pod.containers.len());
        let mut containers: Vec<HeldContainer> = Vec::with_capacity(most);
        let mut named: Vec<Sample> = Vec::with_capacity(most);
        let window = before.and_then(|before| round.since(before.at, before.monotonic));
        for container in pod.containers {
            let mut sample = container.sample.unwrap_or_default();
            unknown += sample::clean(&mut sample);
            all.push(sample);
            let Some((id, known)) = facts.containers.get(container.id.as_str()) else { continue };
            if containers.iter().any(|known| known.id == *id) {
                counts.add(Outcome::Malformed, 1);
                continue;
            }
            let earlier = before.and_then(|before| before.containers.iter().find(|c| c.id == *id));
            let earlier = earlier.map(|earlier| earlier.sample.whole());
            let rates = earlier.and_then(|earlier| Rates::between(&earlier, &sample, window, round.cores));
            let (id, name, small) = (Arc::clone(id), known.name.clone(), Small::of(sample));
            named.push(sample);
            containers.push(HeldContainer { id, name, sample: small, rates });
        }
        counts.unknown(unknown);
        let mut sample = sample::of_instance(total.as_ref(), &named, &all)?;
        if pod.misses_last_kills {
            // The platform knows of those, and of no others.
            let ended = u64::from(facts.detail.out_of_memory_kills);
            sample.oom_kills = sample.oom_kills.map(|kills| kills.saturating_add(ended));
        }
        let earlier = before.map(|before| before.sample.whole());
        let mut rates = earlier.and_then(|earlier| Rates::between(&earlier, &sample, window, round.cores));
        if let (Some(rates), false) = (&mut rates, containers.is_empty()) {
            // Two containers may wait at the same time.
            rates.pressures =
                sample::most_pressures(containers.iter().filter_map(|container| container.rates));
        }
        let of_pod = total.is_some_and(|total| total.cpu_nanos.is_some());
        let told = Counters::of(&sample, facts.detail.restarts, of_pod, round.at.instant);
        let counters = before.map_or(told, |before| told.or(&before.counters));
        if let (Some(rates), Some(before)) = (&mut rates, before)
            && !before.counters.cpu_compares(before.at.instant, &told)
        {
            rates.cpu_nanocores = None;
        }
        let is_later = before.is_none_or(|before| before.at.wall < round.at.wall);
        let Round { at, interval, monotonic, .. } = round;
        let kept = before.map(|before| before.kept).unwrap_or_default();
        let containers = containers.into_boxed_slice();
        let small = Small::of(sample);
        let mut held =
            Held { uid, at, interval, monotonic, sample: small, counters, rates, containers, kept };
        let added = self.added(round, before, facts, &held);
        let row = row(at.wall, facts, &sample, held.kept.grow(&told, &sample, &added));
        self.instances.insert(place, Box::new(held));
        counts.add(Outcome::Taken, 1);
        if !is_later {
            counts.add(Outcome::Late, 1);
        }
        Some(Taken { row: is_later.then_some(row), added })
    }

    /// What an instance has used since its sample before, or since it began if that was after this node's round before.
    fn added(&self, round: Round, before: Option<&Held>, pod: &Pod, now: &Held) -> Totals {
        let earlier = match (before, self.earlier) {
            (Some(before), _) => before.counters,
            (None, Some(earlier)) if is_born_after(pod, earlier) => now.counters.at_birth(earlier.instant),
            (None, _) => return Totals::default(),
        };
        let mut added = now.counters.since(&earlier, round.cores, CLOCKS_APART);
        if now.containers.is_empty() {
            added.add(&throttling(before.map(|before| before.sample.whole()), &now.sample.whole()));
        }
        for container in &now.containers {
            let known = before.and_then(|before| before.containers.iter().find(|c| c.id == container.id));
            added.add(&throttling(known.map(|known| known.sample.whole()), &container.sample.whole()));
        }
        added
    }
}

fn is_born_after(pod: &Pod, moment: Moment) -> bool {
    let born = pod.detail.created.map(|created| created.as_millisecond());
    born.is_some_and(|born| born >= moment.wall.saturating_sub(BIRTH_INEXACT_MILLIS))
}

/// What becomes of a pod's samples.
struct Taken {
    /// What history keeps; none when it has a later one.
    row: Option<Row>,
    added: Totals,
}

fn row(time: i64, pod: &Pod, sample: &Sample, counters: [Amount; COUNTERS.len()]) -> Row {
    let peaks =
        [sample.memory_working_set_bytes, sample.memory_not_reclaimable_bytes, sample.memory_cache_bytes];
    let settings = [sample.memory_limit_bytes, sample.cpu_share_millicores, sample.cpu_limit_millicores];
    Row {
        time,
        instance: Arc::clone(&pod.instance),
        ready: pod.ready,
        counters,
        peaks: peaks.map(Amount::of),
        settings: settings.map(Amount::of),
    }
}
