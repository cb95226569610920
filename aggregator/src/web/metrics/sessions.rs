//! Sessions with instances: how many, how they ended, how much they moved.

use crate::web::counted::{Counted, count};
use crate::web::text::{Table, counter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts sessions. Clones count the same.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    pub(super) ended: Counted<1>,
    now: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

pub(super) const TABLE: Table<u64> = Table {
    labels: &["outcome"],
    columns: &[counter("skpr_sessions", "Sessions that have ended, by how", count)],
};

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            ended: Counted::of(&[["completed"], ["broken"]]),
            now: Arc::default(),
            bytes: Arc::default(),
        }
    }
}

impl Sessions {
    pub(crate) fn opened(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn passed(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, completed: bool) {
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.ended.add([if completed { "completed" } else { "broken" }], 1);
    }

    /// How many there are now, and the bytes that all have moved, both ways.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.now.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
