//! Rows as cells: what happened to one instance in one stretch of time, such that cells add up to longer stretches with
//! the same result as the rows would. Pure.
//!
//! - A counter that goes back has forgotten: what was counted stays counted, and it goes on from there.
//! - What was added between two cells belongs to the later one, and is known from the counters at their edges.

use super::row::{Amount, COUNTERS, PEAKS, Record, Row, SETTINGS, take};
use std::sync::Arc;

/// The width of the cells that are kept in files.
pub(super) const ROLLUP_MILLIS: i64 = 5 * 60 * 1000;

/// What rows of one instance say about one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) start: i64,
    pub(super) instance: Arc<str>,
    /// As its last row says.
    pub(super) ready: bool,
    pub(super) samples: Amount,
    /// When the CPU counter was first and last known, after `start`.
    pub(super) cpu_first: Amount,
    pub(super) cpu_last: Amount,
    pub(super) counters: [Counter; COUNTERS.len()],
    pub(super) peaks: [Amount; PEAKS.len()],
    pub(super) settings: [Amount; SETTINGS.len()],
}

/// What became of a counter in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) first: Amount,
    pub(super) last: Amount,
    /// By how much it went back in all: `last - first + gone_back` was added. Absent is 0.
    pub(super) gone_back: Amount,
}

impl Counter {
    fn observe(&mut self, value: Amount) {
        let Some(now) = value.get() else { return };
        match self.last.get() {
            None => self.first = value,
            Some(before) if now < before => {
                let gone_back = self.gone_back.get().unwrap_or_default();
                self.gone_back = Amount::from(gone_back.saturating_add(before - now));
            }
            Some(_) => {}
        }
        self.last = value;
    }

    /// What was added from the first value to the last.
    pub(super) fn added(&self) -> u64 {
        let (Some(first), Some(last)) = (self.first.get(), self.last.get()) else { return 0 };
        last.saturating_add(self.gone_back.get().unwrap_or_default()).saturating_sub(first)
    }
}

impl Cell {
    fn new(start: i64, instance: Arc<str>) -> Cell {
        Cell {
            start,
            instance,
            ready: false,
            samples: Amount::from(0),
            cpu_first: Amount::NONE,
            cpu_last: Amount::NONE,
            counters: Default::default(),
            peaks: Default::default(),
            settings: Default::default(),
        }
    }

    /// How often there was a sample, in milliseconds; none of a single one.
    pub(super) fn gap(&self) -> Option<i64> {
        let [samples, first, last] = [self.samples, self.cpu_first, self.cpu_last].map(Amount::get);
        i64::try_from(last?.checked_sub(first?)?.checked_div(samples?.checked_sub(1)?)?).ok()
    }

    fn observe(&mut self, row: &Row) {
        self.ready = row.ready;
        self.samples = Amount::from(self.samples.get().unwrap_or_default() + 1);
        if row.counters.first().is_some_and(|cpu| cpu.get().is_some()) {
            self.cpu_last = Amount::of(u64::try_from(row.time.saturating_sub(self.start)).ok());
            if self.cpu_first == Amount::NONE {
                self.cpu_first = self.cpu_last;
            }
        }
        for (counter, value) in self.counters.iter_mut().zip(row.counters) {
            counter.observe(value);
        }
        for (peak, value) in self.peaks.iter_mut().zip(row.peaks) {
            *peak = Amount::of(peak.get().max(value.get()));
        }
        // That there is none any more is a setting, too.
        self.settings = row.settings;
    }
}

/// Gives the cells of rows that are sorted by instance and time, in that order.
pub(super) fn cells<'a>(rows: impl IntoIterator<Item = &'a Row>, width: i64, mut each: impl FnMut(Cell)) {
    let mut open: Option<Cell> = None;
    for row in rows {
        let start = row.time.div_euclid(width).saturating_mul(width);
        let same = |cell: &Cell| cell.start == start && cell.instance == row.instance;
        let mut cell = match open.take() {
            Some(cell) if same(&cell) => cell,
            before => {
                before.into_iter().for_each(&mut each);
                Cell::new(start, Arc::clone(&row.instance))
            }
        };
        cell.observe(row);
        open = Some(cell);
    }
    open.into_iter().for_each(each);
}

impl Record for Cell {
    const TIME: &'static str = "start";
    const NAMES: &'static [&'static str] = &[
        "samples",
        "cpu_first_millis",
        "cpu_last_millis",
        "cpu_nanos_first",
        "cpu_nanos_last",
        "cpu_nanos_gone_back",
        "periods_first",
        "periods_last",
        "periods_gone_back",
        "throttled_periods_first",
        "throttled_periods_last",
        "throttled_periods_gone_back",
        "oom_kills_first",
        "oom_kills_last",
        "oom_kills_gone_back",
        "restarts_first",
        "restarts_last",
        "restarts_gone_back",
        "working_set_bytes_max",
        "not_reclaimable_bytes_max",
        "cache_bytes_max",
        "memory_limit_bytes",
        "cpu_share_millicores",
        "cpu_limit_millicores",
    ];

    fn time(&self) -> i64 {
        self.start
    }

    fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn numbers(&self) -> impl Iterator<Item = Amount> {
        let counters = self.counters.iter().flat_map(|c| [c.first, c.last, c.gone_back]);
        [self.samples, self.cpu_first, self.cpu_last]
            .into_iter()
            .chain(counters)
            .chain(self.peaks)
            .chain(self.settings)
    }

    fn of(time: i64, instance: Arc<str>, ready: bool, mut numbers: impl Iterator<Item = Amount>) -> Cell {
        let [samples, cpu_first, cpu_last] = take(&mut numbers);
        let counters = std::array::from_fn(|_| {
            let [first, last, gone_back] = take(&mut numbers);
            Counter { first, last, gone_back }
        });
        let peaks = take(&mut numbers);
        let settings = take(&mut numbers);
        Cell { start: time, instance, ready, samples, cpu_first, cpu_last, counters, peaks, settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[Option<u64>]) -> u64 {
        let mut counter = Counter::default();
        values.iter().for_each(|value| counter.observe(Amount::of(*value)));
        counter.added()
    }

    #[test]
    fn what_is_forgotten_is_not_counted_again() {
        assert_eq!(counted(&[Some(10), Some(15), None, Some(20)]), 10);
        assert_eq!(counted(&[Some(0), Some(2), Some(1), Some(1)]), 2);
        assert_eq!(counted(&[Some(0), Some(2), Some(1), Some(3)]), 4);
        assert_eq!(counted(&[Some(100)]), 0);
        assert_eq!(counted(&[None]), 0);
    }

    #[test]
    fn names_and_numbers_are_as_many() {
        let cell = Cell::new(0, "a".into());
        assert_eq!(cell.numbers().count(), Cell::NAMES.len());
    }
}
