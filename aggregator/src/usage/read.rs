//! Answers queries from rows in memory, spools and sealed files.
//!
//! - Rows in memory are looked at first, then the files: a row may be seen twice on its way, and counts once.
//! - An hour that is sealed is read from its cells where the question allows it, else from its rows. A damaged file is
//!   skipped, counted and said; of damaged cells the rows are read.
//! - Memory: the rows of one hour, or the cells of one day, and the answer.

use super::cell::{Cell, cells};
use super::counts::Counts;
use super::files::{self, DAY_HOURS, Kind, LoadError, Name, day_of, hour_of};
use super::pending::Pending;
use super::points::{Grid, Points, Query, ReadError, Summary};
use super::row::{Record, Row};
use super::{seal, spool, table};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where history is.
pub(super) struct Reader<'a> {
    pub(super) root: &'a Path,
    pub(super) pending: &'a Pending,
    pub(super) counts: &'a Counts,
    /// Before that there is nothing.
    pub(super) oldest: i64,
}

struct Reading<'a> {
    query: &'a Query,
    counts: &'a Counts,
    grid: Grid,
    directory: PathBuf,
    names: BTreeSet<Name>,
    /// Not in files perhaps.
    waiting: Vec<Row>,
    summary: Summary,
    /// Cells of the day that is being read.
    found: Vec<Cell>,
    damaged: u64,
}

impl Reader<'_> {
    /// Blocks.
    pub(super) fn read(&self, query: &Query) -> Result<Points, ReadError> {
        let grid = Grid::of(query, self.oldest)?;
        let mut waiting = self.pending.of(&query.environment);
        seal::in_order(&mut waiting);
        let directory = files::directory(self.root, &query.environment);
        let mut reading = Reading {
            query,
            counts: self.counts,
            grid,
            names: BTreeSet::new(),
            waiting,
            summary: Summary::new(grid, query.per_instance),
            found: Vec::new(),
            damaged: 0,
            directory,
        };
        // Twice: what was renamed while the directory was being read is missing in the first.
        for _ in 0..2 {
            reading.names.extend(files::list(&reading.directory).map_err(ReadError::List)?);
        }
        reading.read()?;
        Ok(reading.summary.finish(reading.damaged))
    }
}

impl Reading<'_> {
    fn read(&mut self) -> Result<(), ReadError> {
        let (first, last) = (hour_of(self.grid.from()), hour_of(self.grid.until - 1));
        let hours: BTreeSet<i64> = self
            .names
            .iter()
            .flat_map(|name| name.hour..name.end())
            .chain(self.waiting.iter().map(|row| hour_of(row.time)))
            .filter(|hour| (first..=last).contains(hour))
            .collect();
        if !self.grid.takes_rollups() {
            return hours.into_iter().try_for_each(|hour| {
                self.hour(hour)?;
                self.summary.settle();
                Ok(())
            });
        }
        let days: BTreeSet<i64> = hours.iter().map(|hour| day_of(*hour)).collect();
        for day in days {
            let merged = self.cells(&Name { hour: day, kind: Kind::Day }).unwrap_or_default();
            let others = hours.range(day..day + DAY_HOURS).filter(|hour| !merged.contains(hour));
            others.copied().try_for_each(|hour| self.hour(hour))?;
            let mut found = std::mem::take(&mut self.found);
            found.sort_by(|a, b| (&a.instance, a.start).cmp(&(&b.instance, b.start)));
            found.iter().try_for_each(|cell| self.summary.add(cell))?;
            self.summary.settle();
        }
        Ok(())
    }

    fn has(&self, hour: i64, kind: Kind) -> bool {
        self.names.contains(&Name { hour, kind })
    }

    fn hour(&mut self, hour: i64) -> Result<(), ReadError> {
        let waits = self.waiting.iter().any(|row| hour_of(row.time) == hour);
        if !self.has(hour, Kind::Rows) && (waits || self.has(hour, Kind::Spool)) {
            if self.spool(hour)? {
                return Ok(());
            }
            // It was sealed meanwhile.
            self.names.extend([Kind::Rows, Kind::Cells].map(|kind| Name { hour, kind }));
        }
        let cells = Name { hour, kind: Kind::Cells };
        if self.grid.takes_rollups() && self.cells(&cells).is_some() {
            return Ok(());
        }
        self.rows(&Name { hour, kind: Kind::Rows })
    }

    fn wants(query: &Query, instance: &str) -> bool {
        query.instances.is_empty() || query.instances.iter().any(|wanted| **wanted == *instance)
    }

    /// Adds the rows of an hour that is not sealed; false when it is by now.
    fn spool(&mut self, hour: i64) -> Result<bool, ReadError> {
        let name = Name { hour, kind: Kind::Spool };
        let bytes = match files::load(&self.directory, &name) {
            Ok(bytes) => bytes,
            Err(LoadError::Missing) => {
                let rows = self.directory.join(Name { hour, kind: Kind::Rows }.to_string());
                if rows.exists() {
                    return Ok(false);
                }
                // Nothing of it is written yet.
                Default::default()
            }
            Err(error) => {
                self.skip(&name, &error);
                Default::default()
            }
        };
        let waiting = self.waiting.iter().filter(|row| hour_of(row.time) == hour);
        let wanted = |row: &Row| Self::wants(self.query, &row.instance) && self.matters(row);
        let mut rows: Vec<Row> = waiting.filter(|row| wanted(row)).cloned().collect();
        spool::replay(&bytes, |row| {
            if wanted(&row) {
                rows.push(row);
            }
        });
        seal::in_order(&mut rows);
        self.add(&rows)?;
        Ok(true)
    }

    fn matters(&self, row: &Row) -> bool {
        (self.grid.from()..self.grid.until).contains(&row.time)
    }

    fn rows(&mut self, name: &Name) -> Result<(), ReadError> {
        let mut rows = Vec::new();
        let (from, until) = (self.grid.from(), self.grid.until);
        let decoded = self.decode(name, |row: Row| {
            if (from..until).contains(&row.time) {
                rows.push(row);
            }
            true
        });
        if decoded.is_some() { self.add(&rows) } else { Ok(()) }
    }

    fn add(&mut self, rows: &[Row]) -> Result<(), ReadError> {
        let mut added = Ok(());
        let Reading { summary, found, grid, .. } = self;
        cells(rows, grid.width, |cell| {
            if grid.takes_rollups() {
                found.push(cell);
            } else if added.is_ok() {
                added = summary.add(&cell);
            }
        });
        added
    }

    /// Takes the cells of a file; none when it cannot be read, else the hours that it has.
    fn cells(&mut self, name: &Name) -> Option<Vec<i64>> {
        if !self.names.contains(name) {
            return None;
        }
        let (from, until) = (self.grid.from(), self.grid.until);
        let mut found = std::mem::take(&mut self.found);
        let before = found.len();
        let hours = self.decode(name, |cell: Cell| {
            if (from..until).contains(&cell.start) {
                found.push(cell);
            }
            true
        });
        if hours.is_none() {
            // What comes in its place is complete.
            found.truncate(before);
        }
        self.found = found;
        hours
    }

    fn decode<R: Record>(&mut self, name: &Name, each: impl FnMut(R) -> bool) -> Option<Vec<i64>> {
        let query = self.query;
        let decoded = files::load(&self.directory, name).and_then(|bytes| {
            let hours = table::decode(bytes, |instance| Self::wants(query, instance), each);
            hours.map_err(|error| LoadError::Damaged(error.to_string()))
        });
        match decoded {
            Ok(hours) => Some(hours),
            // Expired, or merged into the day's file after that was looked for: then its rows are read.
            Err(LoadError::Missing) => None,
            Err(error) => {
                self.skip(name, &error);
                None
            }
        }
    }

    fn skip(&mut self, file: &Name, error: &LoadError) {
        self.damaged += 1;
        self.counts.damaged();
        tracing::warn!(environment = %self.query.environment, %file, %error, "a usage file is skipped");
    }
}
