//! Runs of tasks that have ended or did not begin, counted where their events are stored: each once.
//!
//! * Bounded: at most [`TASKS`] tasks are counted, and those that are gone are forgotten when somebody looks.

use crate::environment::EnvironmentKey;
use crate::inventory::Inventory;
use crate::run::{Outcome, Run};
use skpr_proto::Label;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tasks that are counted: those of 200 environments that have as many as they may. With 400 bytes each 8 MiB; the runs of
/// further ones are not counted.
const TASKS: usize = 20_000;

/// How many runs of each task went how. Clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunCounts(Arc<Mutex<BTreeMap<EnvironmentKey, ByTask>>>);

type ByTask = BTreeMap<Label, Numbers>;

/// In the order of [`Outcome::ALL`].
type Numbers = [u64; Outcome::ALL.len()];

impl RunCounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<EnvironmentKey, ByTask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a run whose last event has been stored.
    pub(super) fn count(&self, environment: &EnvironmentKey, run: &Run) {
        let Some(outcome) = run.outcome else { return };
        let mut all = self.lock();
        let is_known = all.get(environment).is_some_and(|tasks| tasks.contains_key(&run.task));
        if !is_known && all.values().map(BTreeMap::len).sum::<usize>() >= TASKS {
            return;
        }
        let tasks = all.entry(environment.clone()).or_default();
        let numbers = tasks.entry(run.task.clone()).or_default();
        let counted = Outcome::ALL.iter().zip(numbers).find(|(one, _)| **one == outcome);
        if let Some((_, number)) = counted {
            *number += 1;
        }
    }

    /// How many runs of a task there were, by outcome; every outcome is there.
    pub(crate) fn of(
        &self,
        environment: &EnvironmentKey,
        task: &Label,
    ) -> [(Outcome, u64); Outcome::ALL.len()] {
        let numbers = self.lock().get(environment).and_then(|tasks| tasks.get(task).copied());
        let mut numbers = numbers.unwrap_or_default().into_iter();
        Outcome::ALL.map(|outcome| (outcome, numbers.next().unwrap_or_default()))
    }

    /// Forgets the tasks that the inventory does not have.
    pub(crate) fn forget(&self, inventory: &Inventory) {
        // Until it is known what there is, nothing is gone.
        if !inventory.heard {
            return;
        }
        self.lock().retain(|key, tasks| {
            let managed = inventory.environments.get(key).and_then(|state| state.managed.as_ref());
            tasks.retain(|task, _| managed.is_some_and(|managed| managed.tasks.contains_key(task)));
            !tasks.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use crate::inventory::{EnvironmentState, Managed};
    use jiff::Timestamp;

    fn task(number: usize) -> Label {
        Label::parse("task", &format!("task-{number}")).unwrap()
    }

    fn ended(task: &Label, outcome: Outcome) -> Run {
        Run { outcome: Some(outcome), ..Run::due(task, Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn runs_are_counted_by_task_and_outcome_as_far_as_there_is_room() {
        let (counts, dev) = (RunCounts::default(), key("sites", "shop", "dev"));
        for number in 0..TASKS + 1 {
            counts.count(&dev, &ended(&task(number), Outcome::Failed));
            counts.count(&dev, &ended(&task(0), Outcome::Succeeded));
        }
        counts.count(&dev, &Run::due(&task(0), Timestamp::UNIX_EPOCH));
        let of = |number| -> Vec<u64> { counts.of(&dev, &task(number)).map(|(_, runs)| runs).to_vec() };
        assert_eq!(of(0), [TASKS as u64 + 1, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((of(TASKS - 1)[1], of(TASKS)[1]), (1, 0));
        assert_eq!(
            counts.of(&key("sites", "shop", "prod"), &task(0)),
            Outcome::ALL.map(|outcome| (outcome, 0))
        );

        // What is gone makes room; what was not heard of yet is not gone.
        counts.forget(&Inventory::default());
        assert_eq!(of(1)[1], 1);
        let managed = Managed { tasks: [(task(0), Default::default())].into(), ..Managed::default() };
        let state = EnvironmentState { managed: Some(Arc::new(managed)), ..EnvironmentState::default() };
        counts.forget(&Inventory::with(Default::default(), [(dev.clone(), state)].into()));
        counts.count(&dev, &ended(&task(TASKS), Outcome::Skipped));
        assert_eq!((of(0)[0], of(1)[1], of(TASKS)[7]), (TASKS as u64 + 1, 0, 1));
    }
}
