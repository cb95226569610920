//! Things counted by labels, of which there are few: what became of calls, batches and events.

use super::text::{Labels, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many of each. Clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted<const N: usize>(Arc<Mutex<BTreeMap<[&'static str; N], u64>>>);

impl<const N: usize> Counted<N> {
    /// Begins with these at 0: of a series that is not there yet the first increase would not show.
    pub(crate) fn of(known: &[[&'static str; N]]) -> Counted<N> {
        Counted(Arc::new(Mutex::new(known.iter().map(|labels| (*labels, 0)).collect())))
    }

    pub(crate) fn add(&self, labels: [&'static str; N], more: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += more;
    }

    pub(super) fn rows(&self, names: &[&'static str]) -> Vec<(Labels, u64)> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = |values: &[&'static str; N]| {
            Labels::of(&names.iter().copied().zip(values.iter().copied()).collect::<Vec<_>>())
        };
        counted.iter().map(|(values, count)| (labels(values), *count)).collect()
    }
}

/// The value of such a row.
#[expect(clippy::trivially_copy_pass_by_ref, clippy::unnecessary_wraps, reason = "columns are read this way")]
pub(super) fn count(count: &u64) -> Option<Value> {
    Some(Value::Count(*count))
}
