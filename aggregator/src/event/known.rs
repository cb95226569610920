//! Which events of one environment are stored already, as far as that is remembered. Pure.
//!
//! * Bounded: it remembers the newest [`KEPT`] by their time, and knows from when on that is all of them. What is older
//!   has to be looked up.
//! * An event that is remembered is known by its id alone, also when it is told with another time.

use sha2::{Digest as _, Sha256};
use skpr_proto::UnixNanos;
use std::collections::BTreeSet;

/// Events remembered for an environment: with 16 bytes each, and as much again for the tree, 16 KiB.
pub(super) const KEPT: usize = 512;

/// An event's id, shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64);

impl Id {
    pub(super) fn of(text: &str) -> Id {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Id(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// Whether an event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    No,
    /// It is older than what is remembered.
    Perhaps,
}

#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Every event of this time or later is in `ids`.
    since: UnixNanos,
    ids: BTreeSet<(UnixNanos, Id)>,
}

impl Known {
    /// What the store has since `since`.
    pub(super) fn new(since: UnixNanos) -> Known {
        Known { since, ids: BTreeSet::new() }
    }

    pub(super) fn is_stored(&self, time: UnixNanos, id: Id) -> Stored {
        if self.ids.iter().any(|(_, known)| *known == id) {
            Stored::Yes
        } else if time < self.since {
            Stored::Perhaps
        } else {
            Stored::No
        }
    }

    pub(super) fn insert(&mut self, time: UnixNanos, id: Id) {
        self.ids.insert((time, id));
        if self.ids.len() > KEPT
            && let Some((oldest, _)) = self.ids.pop_first()
        {
            self.forget_before(UnixNanos(oldest.0.saturating_add(1)));
        }
    }

    /// What is before `time` is not all there.
    pub(super) fn forget_before(&mut self, time: UnixNanos) {
        self.since = self.since.max(time);
    }

    /// The time of the oldest that is remembered.
    pub(super) fn oldest(&self) -> Option<UnixNanos> {
        self.ids.first().map(|(time, _)| *time)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_remembered_is_known_by_its_id_and_what_is_older_has_to_be_looked_up() {
        let mut known = Known::new(UnixNanos(100));
        assert_eq!(known.is_stored(UnixNanos(100), Id::of("a")), Stored::No);
        assert_eq!(known.is_stored(UnixNanos(99), Id::of("a")), Stored::Perhaps);
        known.insert(UnixNanos(50), Id::of("a"));
        assert_eq!(known.is_stored(UnixNanos(7), Id::of("a")), Stored::Yes);
        assert_eq!(known.is_stored(UnixNanos(100), Id::of("b")), Stored::No);
    }

    proptest! {
        /// Whatever is told in whatever order: a "no" is never wrong.
        #[test]
        fn nothing_that_was_stored_is_taken_for_new(
            told in prop::collection::vec((0..2000i64, 0..3000u32), 0..2000),
        ) {
            let mut known = Known::new(UnixNanos(0));
            let mut stored = BTreeSet::new();
            for (time, id) in told {
                // An id has one time here; see above for the others.
                let (time, id) = (UnixNanos(i64::from(id) % 1000 + time / 2000), Id::of(&id.to_string()));
                match known.is_stored(time, id) {
                    Stored::Yes => prop_assert!(stored.contains(&id)),
                    Stored::No => prop_assert!(!stored.contains(&id)),
                    Stored::Perhaps => {}
                }
                stored.insert(id);
                known.insert(time, id);
                prop_assert!(known.len() <= KEPT);
            }
        }
    }
}
