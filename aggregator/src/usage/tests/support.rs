//! Rows, and a keeper without a thread.

use super::super::counts::Counts;
use super::super::files::Limits;
use super::super::keeper::Keeper;
use super::super::pending::Pending;
use super::super::points::{Points, Query, ReadError};
use super::super::read::Reader;
use super::super::row::{Amount, Row};
use super::super::seal;
use crate::environment::EnvironmentKey;
use crate::store::disk::Disk;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// 2026-11-24T00:00Z.
pub(super) const DAY: i64 = 1_795_478_400_000;
pub(super) const HOUR: i64 = 3_600_000;

fn amount(limit: u64) -> impl Strategy<Value = Amount> {
    prop_oneof![1 => Just(Amount::NONE), 6 => (0..limit).prop_map(Amount::from)]
}

fn row(limit: u64, times: std::ops::Range<i64>) -> impl Strategy<Value = Row> {
    let counters = proptest::array::uniform5(amount(limit));
    let gauges = (proptest::array::uniform3(amount(limit)), proptest::array::uniform3(amount(limit)));
    (times, 0..3u8, any::<bool>(), counters, gauges).prop_map(
        |(time, instance, ready, counters, (peaks, settings))| Row {
            time,
            instance: format!("web-{instance}").into(),
            ready,
            counters,
            peaks,
            settings,
        },
    )
}

/// At least one row with any numbers, sorted.
pub(in crate::usage) fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    rows_in(most, 1 << 53, -5000..5000)
}

pub(super) fn rows_in(
    most: usize,
    limit: u64,
    times: std::ops::Range<i64>,
) -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec(row(limit, times), 1..most).prop_map(|mut rows| {
        seal::in_order(&mut rows);
        rows
    })
}

/// A row of one instance in a steady state.
pub(super) fn steady(instance: &str, time: i64, cpu_nanos: u64) -> Row {
    Row {
        time,
        instance: instance.into(),
        ready: true,
        counters: [cpu_nanos, 0, 0, 0, 0].map(Amount::from),
        peaks: [100 << 20, 80 << 20, 20 << 20].map(Amount::from),
        settings: [Amount::from(512 << 20), Amount::from(250), Amount::NONE],
    }
}

pub(super) fn key(environment: &str) -> EnvironmentKey {
    crate::inventory::tests::key("sites", "shop", environment)
}

pub(super) struct World {
    pub(super) root: PathBuf,
    pub(super) pending: Arc<Pending>,
    pub(super) counts: Arc<Counts>,
    pub(super) keeper: Keeper,
}

impl World {
    pub(super) fn open(root: &Path, disk: Disk) -> std::io::Result<World> {
        let counts = Arc::new(Counts::default());
        let pending = Arc::new(Pending::new(Arc::clone(&counts)));
        let limits = Limits { age: Duration::from_secs(1 << 32), bytes: u64::MAX };
        let keeper = Keeper::open(disk, root.to_owned(), limits, Arc::clone(&pending), Arc::clone(&counts))?;
        Ok(World { root: root.to_owned(), pending, counts, keeper })
    }

    pub(super) fn add(&self, rows: &[Row]) {
        self.pending.add(rows.iter().map(|row| (key("prod"), row.clone())).collect());
    }

    /// Everything that is to be done at this time.
    pub(super) fn settle(&mut self, now: i64) {
        self.keeper.flush(now);
        while self.keeper.step(now) {}
    }

    pub(super) fn read(&self, query: &Query) -> Result<Points, ReadError> {
        Reader { root: &self.root, pending: &self.pending, counts: &self.counts, oldest: 0 }.read(query)
    }

    pub(super) fn files(&self) -> Vec<String> {
        let directory = super::super::files::directory(&self.root, &key("prod"));
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".crc"))
            .collect();
        names.sort();
        names
    }
}

pub(super) fn query(since: i64, until: i64, step: i64, per_instance: bool) -> Query {
    Query {
        environment: key("prod"),
        since,
        until,
        step: Duration::from_millis(step.unsigned_abs()),
        instances: vec![],
        per_instance,
    }
}
