//! How far each file of each source is in the store, and where its order times stand. Owned by the writer.

use serde::{Deserialize, Serialize};
use skpr_proto::Source;
use std::collections::HashMap;

/// The most files of one source that are told apart; the one written to the longest ago is forgotten first. A
/// container's log is rotated into a handful of files, and a resend reaches back no further than those.
const GENERATIONS: usize = 64;

/// A step back in time up to this keeps its stream's order; a bigger one is taken as a corrected clock.
pub(crate) const ORDER_SLACK: i64 = 10_000_000_000;

#[derive(Default)]
pub(super) struct Positions {
    sources: HashMap<Source, Progress>,
}

/// One source's progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Generation and committed position, the last written to at the end.
    generations: Vec<(u64, u64)>,
    /// The last order time of stdout and of stderr.
    order_times: [Option<i64>; 2],
}

impl Progress {
    pub(super) fn committed(&self, generation: u64) -> Option<u64> {
        self.generations.iter().rev().find(|(known, _)| *known == generation).map(|(_, position)| *position)
    }

    pub(super) fn commit(&mut self, generation: u64, position: u64) {
        match self.generations.iter().rposition(|(known, _)| *known == generation) {
            Some(index) => {
                let (_, before) = self.generations.remove(index);
                self.generations.push((generation, position.max(before)));
            }
            None => {
                if self.generations.len() >= GENERATIONS {
                    self.generations.remove(0);
                }
                self.generations.push((generation, position));
            }
        }
    }

    /// The order time of a record: its time, but not before its stream's previous one unless that is far away.
    pub(super) fn order(&mut self, stderr: bool, time: i64) -> i64 {
        let [stdout_last, stderr_last] = &mut self.order_times;
        let last = if stderr { stderr_last } else { stdout_last };
        let order = match *last {
            Some(last) if time < last && last.saturating_sub(time) <= ORDER_SLACK => last,
            _ => time,
        };
        *last = Some(order);
        order
    }

    pub(super) fn saw(&mut self, stderr: bool, order_time: i64) {
        let [stdout_last, stderr_last] = &mut self.order_times;
        *(if stderr { stderr_last } else { stdout_last }) = Some(order_time);
    }
}

impl Positions {
    pub(super) fn of(&mut self, source: &Source) -> &mut Progress {
        // Cloning a source copies four reference counts, no text.
        self.sources.entry(source.clone()).or_default()
    }

    pub(super) fn get(&self, source: &Source) -> Option<&Progress> {
        self.sources.get(source)
    }

    pub(super) fn set(&mut self, source: Source, progress: Option<Progress>) {
        match progress {
            Some(progress) => drop(self.sources.insert(source, progress)),
            None => drop(self.sources.remove(&source)),
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Source) -> bool) {
        self.sources.retain(|source, _| keep(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_step_back_keeps_the_order_and_a_big_one_is_a_corrected_clock() {
        let mut progress = Progress::default();
        let second = 1_000_000_000;
        assert_eq!(progress.order(false, 100 * second), 100 * second);
        assert_eq!(progress.order(false, 99 * second), 100 * second);
        assert_eq!(progress.order(true, 99 * second), 99 * second);
        assert_eq!(progress.order(false, 90 * second), 100 * second);
        assert_eq!(progress.order(false, 89 * second), 89 * second);
    }

    #[test]
    fn the_longest_unused_generation_is_forgotten() {
        let mut progress = Progress::default();
        for generation in 0..64 {
            progress.commit(generation, 5);
        }
        progress.commit(0, 6);
        progress.commit(64, 1);
        assert_eq!(progress.committed(0), Some(6));
        assert_eq!(progress.committed(1), None);
        assert_eq!(progress.committed(64), Some(1));
    }
}
