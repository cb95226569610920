//! Rows that wait for the disk.
//!
//! Readers see them: a row is here until after it is in a file, so that whoever looks here first and then at the files
//! misses none, and may see one twice.

use super::counts::{Counts, Outcome};
use super::row::Row;
use crate::environment::EnvironmentKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most rows: 30,000 instances have 180,000 in the 30 s between two flushes, so there is room for a flush that fails.
/// With 128 bytes each some 50 MiB. Over it rows are dropped and counted: the next one has the same counters.
const MOST_ROWS: usize = 400_000;

pub(super) struct Pending {
    waiting: Mutex<Waiting>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Waiting {
    environments: HashMap<EnvironmentKey, Rows>,
    count: usize,
}

#[derive(Default)]
struct Rows {
    new: Vec<Row>,
    /// Being written now.
    flushing: Arc<Vec<Row>>,
}

impl Pending {
    pub(super) fn new(counts: Arc<Counts>) -> Pending {
        Pending { waiting: Mutex::default(), counts }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, rows: Vec<(EnvironmentKey, Row)>) {
        let mut waiting = self.lock();
        let mut dropped = 0;
        for (environment, row) in rows {
            if waiting.count >= MOST_ROWS {
                dropped += 1;
                continue;
            }
            waiting.count += 1;
            waiting.environments.entry(environment).or_default().new.push(row);
        }
        drop(waiting);
        self.counts.add(Outcome::Overflow, dropped);
    }

    /// What waits, to be written. Each environment has to be told of afterwards.
    pub(super) fn take(&self) -> Vec<(EnvironmentKey, Arc<Vec<Row>>)> {
        let mut waiting = self.lock();
        waiting
            .environments
            .iter_mut()
            .map(|(environment, rows)| {
                rows.flushing = Arc::new(std::mem::take(&mut rows.new));
                (environment.clone(), Arc::clone(&rows.flushing))
            })
            .collect()
    }

    pub(super) fn written(&self, environment: &EnvironmentKey) {
        let mut waiting = self.lock();
        let Some(rows) = waiting.environments.get_mut(environment) else { return };
        let count = std::mem::take(&mut rows.flushing).len();
        if rows.new.is_empty() {
            waiting.environments.remove(environment);
        }
        waiting.count = waiting.count.saturating_sub(count);
    }

    pub(super) fn put_back(&self, environment: &EnvironmentKey) {
        let mut waiting = self.lock();
        let Some(rows) = waiting.environments.get_mut(environment) else { return };
        let flushing = std::mem::take(&mut rows.flushing);
        let mut back = Arc::try_unwrap(flushing).unwrap_or_else(|shared| shared.to_vec());
        back.append(&mut rows.new);
        rows.new = back;
    }

    /// The rows of an environment that are in no file perhaps.
    pub(super) fn of(&self, environment: &EnvironmentKey) -> Vec<Row> {
        let waiting = self.lock();
        let rows = waiting.environments.get(environment);
        rows.map_or_else(Vec::new, |rows| rows.flushing.iter().chain(&rows.new).cloned().collect())
    }
}
