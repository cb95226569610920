//! The one who changes files of history: appends to spools, seals them when their hour is over, merges days, and lets
//! the old expire.
//!
//! - An hour is sealed in three steps, each whole by itself: its cells appear, its rows appear, its spool goes. So rows
//!   that are there have their cells, and a spool beside them is what a crash has left.
//! - What a crash leaves between any two steps is finished by the next start.
//! - Nothing here is acknowledged to anybody: what cannot be written waits in memory as long as there is room.

use super::cell::Cell;
use super::counts::{Counts, Outcome};
use super::files::{self, DAY_HOURS, HOUR_MILLIS, Kind, Limits, LoadError, Name, day_of, hour_of};
use super::pending::Pending;
use super::row::Row;
use super::{seal, spool, table};
use crate::environment::EnvironmentKey;
use crate::store::disk::Disk;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long after its end an hour is sealed, at the earliest: its last rows are written by then.
pub(super) const SEAL_AFTER: i64 = 15_000;
/// How long after a failure to seal an hour that is tried again.
const RETRY_AFTER: i64 = 5 * 60_000;
/// The most bytes of a spool: an hour of some 4,000 instances. It is read whole when it is sealed.
const LARGEST_SPOOL: u64 = 96 << 20;
/// How often every environment's files are looked through.
const HOUSEKEEP_EVERY: i64 = HOUR_MILLIS;

pub(super) struct Keeper {
    disk: Disk,
    root: PathBuf,
    limits: Limits,
    pending: Arc<Pending>,
    counts: Arc<Counts>,
    spools: BTreeMap<(EnvironmentKey, i64), Spool>,
    /// When the last flush began that left nothing.
    flushed: i64,
    housekept: i64,
    to_housekeep: VecDeque<EnvironmentKey>,
    /// Whether the last flush or looking after files failed, so that a fault is said once.
    fault: bool,
}

/// A spool that is there.
#[derive(Default)]
struct Spool {
    /// How much of it is good; none when that is not known.
    length: Option<u64>,
    /// When sealing it failed last.
    failed: Option<i64>,
}

impl Keeper {
    /// Finds what is there. The environments that have files are looked through before anything else.
    pub(super) fn open(
        disk: Disk,
        root: PathBuf,
        limits: Limits,
        pending: Arc<Pending>,
        counts: Arc<Counts>,
    ) -> io::Result<Keeper> {
        disk.create_directories(&root)?;
        let mut spools = BTreeMap::new();
        for environment in files::environments(&root)? {
            let directory = files::directory(&root, &environment);
            files::remove_unfinished(&disk, &directory)?;
            let names = files::list(&directory)?;
            let hours = names.iter().filter(|name| name.kind == Kind::Spool).map(|name| name.hour);
            spools.extend(hours.map(|hour| ((environment.clone(), hour), Spool::default())));
        }
        let (flushed, housekept) = (i64::MIN, i64::MIN);
        let to_housekeep = VecDeque::new();
        Ok(Keeper {
            disk,
            root,
            limits,
            pending,
            counts,
            spools,
            flushed,
            housekept,
            to_housekeep,
            fault: false,
        })
    }

    /// Writes what waits. What cannot be written waits on.
    pub(super) fn flush(&mut self, now: i64) {
        let mut failure = None;
        let mut written = 0;
        for (environment, rows) in self.pending.take() {
            match self.append(&environment, &rows) {
                Ok(count) => {
                    self.pending.written(&environment);
                    written += count;
                }
                Err(error) => {
                    self.pending.put_back(&environment);
                    failure = Some(format!("append to a spool of {environment}: {error}"));
                }
            }
        }
        if written > 0
            && let Err(error) = self.disk.sync_all_of(&self.root)
        {
            failure = failure.or(Some(format!("make spools durable: {error}")));
        }
        self.counts.add(Outcome::Kept, written);
        if failure.is_none() {
            self.flushed = now;
        }
        self.say(failure);
    }

    /// Appends rows to the spools of their hours; how many of them are there now.
    fn append(&mut self, environment: &EnvironmentKey, rows: &[Row]) -> io::Result<u64> {
        let mut by_hour: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
        for row in rows {
            by_hour.entry(hour_of(row.time)).or_default().push(row.clone());
        }
        let directory = files::directory(&self.root, environment);
        let mut written = 0;
        for (hour, mut rows) in by_hour {
            let key = (environment.clone(), hour);
            let path = directory.join(Name { hour, kind: Kind::Spool }.to_string());
            if !self.spools.contains_key(&key) {
                if directory.join(Name { hour, kind: Kind::Rows }.to_string()).exists() {
                    // The clock was set back by an hour or more.
                    self.counts.add(Outcome::Late, rows.len() as u64);
                    continue;
                }
                self.disk.create_directories(&directory)?;
            }
            let length = match self.spools.get(&key).map(|spool| spool.length) {
                Some(Some(length)) => length,
                Some(None) => cut_to_good(&self.disk, &path)?,
                None => 0,
            };
            if length > LARGEST_SPOOL {
                self.counts.add(Outcome::Overflow, rows.len() as u64);
                continue;
            }
            seal::in_order(&mut rows);
            let block = spool::block(&rows);
            // Until it is known to be good.
            let spool = self.spools.entry(key).or_default();
            spool.length = None;
            self.disk.append_to(&path)?.append(&block)?;
            spool.length = Some(length + block.len() as u64);
            written += rows.len() as u64;
        }
        Ok(written)
    }

    /// Does one piece of what is to be done; whether there was any.
    pub(super) fn step(&mut self, now: i64) -> bool {
        let over = |hour: i64| (hour + 1).saturating_mul(HOUR_MILLIS).saturating_add(SEAL_AFTER);
        let due = |((_, hour), spool): &(&(EnvironmentKey, i64), &Spool)| {
            let waits = spool.failed.is_some_and(|at| (0..RETRY_AFTER).contains(&now.saturating_sub(at)));
            over(*hour) <= now.min(self.flushed) && !waits
        };
        let key = self.spools.iter().find(due).map(|(key, _)| key.clone());
        if let Some((environment, hour)) = key {
            let sealed = self.seal(&environment, hour);
            if let Err(error) = &sealed
                && let Some(spool) = self.spools.get_mut(&(environment.clone(), hour))
            {
                spool.failed = Some(now);
                self.say(Some(format!("seal an hour of {environment}: {error}")));
            }
        } else if let Some(environment) = self.to_housekeep.pop_front() {
            if let Err(error) = self.housekeep(&environment, now) {
                self.say(Some(format!("look after the history of {environment}: {error}")));
            }
        } else if now.saturating_sub(self.housekept) >= HOUSEKEEP_EVERY || now < self.housekept {
            self.housekept = now;
            match files::environments(&self.root) {
                Ok(found) => self.to_housekeep.extend(found),
                Err(error) => self.say(Some(format!("list history: {error}"))),
            }
        } else {
            return false;
        }
        true
    }

    fn seal(&mut self, environment: &EnvironmentKey, hour: i64) -> io::Result<()> {
        let directory = files::directory(&self.root, environment);
        let name = |kind| Name { hour, kind };
        let spool = name(Kind::Spool);
        if !directory.join(name(Kind::Rows).to_string()).exists() {
            let bytes = match files::load(&directory, &spool) {
                Ok(bytes) => bytes,
                Err(LoadError::Missing) => Default::default(),
                Err(LoadError::Damaged(detail)) => return Err(io::Error::other(detail)),
                Err(LoadError::Io(error)) => return Err(error),
            };
            let sealed = seal::hour(&bytes, environment, hour).map_err(io::Error::other)?;
            if let Some(sealed) = sealed {
                if sealed.damaged > 0 {
                    let bytes = sealed.damaged;
                    self.counts.damaged();
                    tracing::warn!(%environment, file = %spool, bytes, "a part of a usage spool cannot be read");
                }
                files::publish(&self.disk, &directory, &name(Kind::Cells), &sealed.cells)?;
                files::publish(&self.disk, &directory, &name(Kind::Rows), &sealed.rows)?;
                self.counts.sealed(sealed.count, (sealed.rows.0.len() + sealed.cells.0.len()) as u64);
            }
        }
        files::remove(&self.disk, &directory, &spool)?;
        self.spools.remove(&(environment.clone(), hour));
        Ok(())
    }

    /// Merges the cells of days that are over, and removes what has expired.
    fn housekeep(&mut self, environment: &EnvironmentKey, now: i64) -> io::Result<()> {
        let directory = files::directory(&self.root, environment);
        let names = files::list(&directory)?;
        let hours: BTreeSet<i64> =
            names.iter().filter(|name| name.kind == Kind::Cells).map(|name| name.hour).collect();
        let days: BTreeSet<i64> = hours.iter().map(|hour| day_of(*hour)).collect();
        // Hours of that day that are still to be sealed come an hour later.
        let over = |day: &&i64| (**day + DAY_HOURS + 1).saturating_mul(HOUR_MILLIS) <= now;
        for day in days.iter().filter(over) {
            let of_day = hours.range(*day..*day + DAY_HOURS).copied();
            self.merge(environment, &directory, *day, of_day.collect())?;
        }
        let sized: Vec<_> =
            files::list(&directory)?.into_iter().map(|name| (name, files::size(&directory, &name))).collect();
        let expired = files::expired(&sized, now, self.limits);
        for name in &expired {
            files::remove(&self.disk, &directory, name)?;
        }
        self.counts.expired(expired.len() as u64);
        if expired.len() == sized.len() && !sized.is_empty() {
            // Not empty when somebody puts something there, which is then left alone.
            drop(std::fs::remove_dir(&directory));
        }
        Ok(())
    }

    fn merge(
        &mut self,
        environment: &EnvironmentKey,
        directory: &Path,
        day: i64,
        hours: Vec<i64>,
    ) -> io::Result<()> {
        let name = Name { hour: day, kind: Kind::Day };
        let sources: Vec<_> = hours.iter().map(|hour| Name { hour: *hour, kind: Kind::Cells }).collect();
        let (mut cells, mut covered): (Vec<Cell>, BTreeSet<i64>) = Default::default();
        for source in sources.iter().chain([&name]) {
            match cells_of(directory, source) {
                Ok((found, hours)) => {
                    let new: BTreeSet<i64> =
                        hours.into_iter().filter(|hour| !covered.contains(hour)).collect();
                    cells.extend(found.into_iter().filter(|cell| new.contains(&hour_of(cell.start))));
                    covered.extend(new);
                }
                Err(LoadError::Missing) => {}
                Err(LoadError::Io(error)) => return Err(error),
                // Readers take the hour's rows.
                Err(LoadError::Damaged(detail)) => {
                    self.counts.damaged();
                    tracing::warn!(%environment, file = %source, detail, "a usage file is damaged");
                }
            }
        }
        if !covered.is_empty() {
            let covered: Vec<i64> = covered.into_iter().collect();
            let file = seal::day(cells, environment, &covered).map_err(io::Error::other)?;
            files::publish(&self.disk, directory, &name, &file)?;
        }
        sources.iter().try_for_each(|source| files::remove(&self.disk, directory, source))
    }

    /// Says a fault when it begins and, when also no hour waits to be sealed again, when it ends.
    fn say(&mut self, fault: Option<String>) {
        let failing = fault.is_some() || self.spools.values().any(|spool| spool.failed.is_some());
        match (self.fault, fault) {
            (false, Some(error)) => tracing::error!(error, "usage history cannot be written"),
            (true, None) if !failing => tracing::info!("usage history is written again"),
            _ => {}
        }
        self.counts.set_fault(failing);
        self.fault = failing;
    }
}

/// The cells of a file, and the hours that it is about.
pub(super) fn cells_of(directory: &Path, name: &Name) -> Result<(Vec<Cell>, Vec<i64>), LoadError> {
    let bytes = files::load(directory, name)?;
    let mut cells = Vec::new();
    let hours = table::decode(
        bytes,
        |_| true,
        |cell| {
            cells.push(cell);
            true
        },
    );
    hours.map(|hours| (cells, hours)).map_err(|error| LoadError::Damaged(error.to_string()))
}

/// Cuts what a write that was cut off has left; how long the file is then.
fn cut_to_good(disk: &Disk, path: &Path) -> io::Result<u64> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        bytes => bytes?,
    };
    let good = spool::replay(&bytes, drop).length;
    if good < bytes.len() as u64 {
        disk.append_to(path)?.cut(good)?;
    }
    Ok(good)
}
