//! Which containers are read: those of claimed pods. The others are held open unread for a while, within a bound,
//! since the claim of a pod that lives only for a moment may come after its end.

use super::ClaimChange;
use super::engine::Engine;
use super::follow::{Claim, Container, End};
use skpr_proto::ids::PodUid;
use std::collections::BTreeSet;
use std::time::Instant;

impl Engine {
    pub(super) fn claim(&mut self, change: ClaimChange, now: Instant) {
        match change {
            ClaimChange::Complete(claimed) => {
                self.claimed = claimed;
                self.heard = true;
            }
            ClaimChange::Delta { claimed, released } => {
                self.claimed.retain(|uid| !released.contains(uid));
                self.claimed.extend(claimed);
            }
        }
        self.ended.retain(|uid| self.claimed.contains(uid));
        for id in self.container_ids() {
            self.with(id, |engine, container| engine.apply_claim(container, now));
        }
    }

    pub(super) fn ended(&mut self, pods: BTreeSet<PodUid>, now: Instant) {
        self.ended.extend(pods);
        for id in self.container_ids() {
            self.with(id, |engine, container| {
                if container.end == End::Open && engine.ended.contains(&container.source.uid) {
                    container.end = End::Wanted;
                    // What the kernel has not reported yet is part of it.
                    engine.relist(container, now);
                    engine.refresh(container, now);
                }
            });
        }
    }

    fn apply_claim(&mut self, container: &mut Container, now: Instant) {
        let claimed = self.claimed.contains(&container.source.uid);
        let next = match (claimed, container.claim) {
            (true, _) => Claim::Claimed,
            (false, Claim::Claimed) => Claim::Draining,
            // An earlier agent has read it: it was claimed, and what is left of it is still wanted.
            (false, Claim::Unknown) if self.heard && container.wanted => Claim::Draining,
            (false, unclaimed) => unclaimed,
        };
        let was = std::mem::replace(&mut container.claim, next);
        if claimed
            && !std::mem::replace(&mut container.wanted, true)
            && let Some(gap) = container.gap.take()
        {
            self.count_gap(container, gap.bytes, gap.reason);
            container.gap = Some(gap);
        }
        if was == Claim::Ignored && next == Claim::Claimed {
            self.relist(container, now);
        }
        self.queue(container);
    }

    /// What a container is to begin with.
    pub(super) fn first_claim(&self, container: &Container) -> Claim {
        if self.claimed.contains(&container.source.uid) { Claim::Claimed } else { Claim::Unknown }
    }

    /// Lets go of what nobody has claimed for too long, and of what is drained.
    pub(super) fn expire_claims(&mut self, now: Instant) {
        let mut held: Vec<(Instant, u64, usize)> = Vec::new();
        let mut expired = Vec::new();
        for container in self.containers.values() {
            match container.claim {
                Claim::Unknown if self.heard && now >= container.since + self.limits.claim_grace => {
                    expired.push(container.id)
                }
                Claim::Unknown => held.push((container.since, container.id, container.files.len())),
                Claim::Draining if container.is_finished() => expired.push(container.id),
                Claim::Claimed | Claim::Draining | Claim::Ignored => {}
            }
        }
        held.sort_unstable();
        let mut count: usize = held.iter().map(|(_, _, files)| files).sum();
        let mut let_go = 0;
        for (_, id, files) in held {
            if count <= self.limits.held_files {
                break;
            }
            count -= files;
            let_go += files;
            expired.push(id);
        }
        if let_go > 0 {
            tracing::warn!(let_go, held = count, "too many unclaimed log files, letting the oldest go");
        }
        for id in expired {
            self.with(id, |engine, container| engine.ignore(container));
        }
    }

    fn ignore(&mut self, container: &mut Container) {
        if container.claim == Claim::Unknown {
            self.counters.released_files += container.files.len() as u64;
        }
        container.resume = container.position();
        container.files.clear();
        container.claim = Claim::Ignored;
    }
}
