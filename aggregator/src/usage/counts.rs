//! What became of samples, counted where it happens and shown at `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What became of a sample, of a pod's round or of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the pod's latest.
    Taken,
    /// Of a pod that runs on another node than the agent's.
    Foreign,
    /// Of a pod that no environment has, or has any more.
    Unclaimed,
    /// With an identifier that is none.
    Malformed,
    /// Of more pods or containers than one node or pod may have.
    Excess,
    /// Not after the one before it by the aggregator's clock, so that history leaves it out.
    Late,
    /// Dropped because the disk did not take rows for too long, or an hour has too many.
    Overflow,
    /// In history.
    Kept,
}

const OUTCOMES: [(Outcome, &str); 8] = [
    (Outcome::Taken, "taken"),
    (Outcome::Foreign, "foreign"),
    (Outcome::Unclaimed, "unclaimed"),
    (Outcome::Malformed, "malformed"),
    (Outcome::Excess, "excess"),
    (Outcome::Late, "late"),
    (Outcome::Overflow, "overflow"),
    (Outcome::Kept, "kept"),
];

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    unknown_values: AtomicU64,
    sealed_rows: AtomicU64,
    sealed_bytes: AtomicU64,
    expired_files: AtomicU64,
    damaged_files: AtomicU64,
    fault: AtomicBool,
}

/// What [`Counts`] count besides samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Values that were too large to be true.
    pub unknown_values: u64,
    pub sealed_rows: u64,
    pub sealed_bytes: u64,
    pub expired_files: u64,
    /// Files, or parts of them, that could not be read.
    pub damaged_files: u64,
    /// History cannot be written now.
    pub fault: bool,
}

impl Counts {
    pub(super) fn add(&self, outcome: Outcome, samples: u64) {
        let found = OUTCOMES.iter().zip(&self.outcomes).find(|((of, _), _)| *of == outcome);
        found.into_iter().for_each(|(_, counter)| add(counter, samples));
    }

    /// Values that were too large to be true.
    pub(super) fn unknown(&self, values: u64) {
        add(&self.unknown_values, values);
    }

    pub(super) fn sealed(&self, rows: u64, bytes: u64) {
        add(&self.sealed_rows, rows);
        add(&self.sealed_bytes, bytes);
    }

    pub(super) fn expired(&self, files: u64) {
        add(&self.expired_files, files);
    }

    pub(super) fn damaged(&self) {
        add(&self.damaged_files, 1);
    }

    pub(super) fn set_fault(&self, fault: bool) {
        self.fault.store(fault, Ordering::Relaxed);
    }

    /// Samples by what became of them.
    pub fn samples(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.iter().zip(&self.outcomes).map(|((_, name), counter)| (*name, get(counter)))
    }

    pub fn sample(&self, outcome: Outcome) -> u64 {
        let found = OUTCOMES.iter().zip(&self.outcomes).find(|((of, _), _)| *of == outcome);
        found.map_or(0, |(_, counter)| get(counter))
    }

    /// The other counters.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            unknown_values: get(&self.unknown_values),
            sealed_rows: get(&self.sealed_rows),
            sealed_bytes: get(&self.sealed_bytes),
            expired_files: get(&self.expired_files),
            damaged_files: get(&self.damaged_files),
            fault: self.fault.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
