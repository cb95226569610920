//! What the tests share: a store in a temporary directory, sources, batches, and reading all of it.

use bytes::Bytes;
use skpr_proto::{EnvironmentName, Label, NodeName, Source, UnixNanos};
use std::path::Path;

use crate::batch::Batch;
use crate::environment::{Claim, EnvironmentKey};
use crate::record::{Chunk, Cursor, Filter, Read, Record};
use crate::store::disk::Disk;
use crate::store::disk::faults::Faults;
use crate::store::{AppendError, Appended, Options, Store};

/// 2023-11-14 22:13:20 UTC: 46 minutes before an hour's end.
pub(super) const START: i64 = 1_700_000_000_000_000_000;
pub(super) const SECOND: i64 = 1_000_000_000;

pub(super) fn key(name: &str) -> EnvironmentKey {
    EnvironmentKey {
        namespace: Label::parse("namespace", "default").unwrap(),
        name: EnvironmentName::parse("site", name).unwrap(),
    }
}

pub(super) fn source(number: usize) -> Source {
    Source::parse("default", &format!("web-{number}"), &format!("uid-{number}"), "php").unwrap()
}

pub(super) fn claim(number: usize, environment: &str) -> Claim {
    Claim {
        environment: key(environment),
        node: NodeName::parse("node-1").unwrap(),
        instance: format!("web-{number}").into(),
        stream_prefix: "".into(),
    }
}

pub(super) fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        keep_age: std::time::Duration::from_secs(1 << 32),
        ..Options::default()
    }
}

pub(super) fn open(directory: &Path) -> Store {
    remembered(Store::open(options(directory)).unwrap())
}

pub(super) fn open_with(directory: &Path, faults: &Faults) -> Result<Store, crate::store::OpenError> {
    Store::open_on(Disk::with(faults.clone()), options(directory)).map(remembered)
}

/// Sources 0, 1 and 2 are claimed by `prod`, 3 by `dev`.
pub(super) fn remembered(store: Store) -> Store {
    for number in 0..4 {
        store.remember(&source(number), &claim(number, if number == 3 { "dev" } else { "prod" }));
    }
    store
}

/// A line: position, time, message.
pub(super) type Line = (u64, i64, String);

pub(super) fn batch(number: usize, generation: u64, lines: &[Line]) -> Batch {
    let mut end = 0;
    let ends = lines.iter().map(|(_, _, text)| {
        end += u32::try_from(text.len()).unwrap();
        end
    });
    Batch {
        source: source(number),
        generation,
        positions: lines.iter().map(|(position, ..)| *position).collect(),
        times: lines.iter().map(|(_, time, _)| *time).collect(),
        ends: ends.collect(),
        flags: Bytes::from(vec![0; lines.len()]),
        messages: lines.iter().map(|(.., text)| text.as_str()).collect::<String>().into(),
    }
}

/// `count` lines, a second apart, from line `first`.
pub(super) fn lines(number: usize, first: u64, count: u64) -> Vec<Line> {
    let line = |n: u64| {
        ((n + 1) * 10, START + i64::try_from(n).unwrap() * SECOND, format!("source {number} line {n}"))
    };
    (first..first + count).map(line).collect()
}

pub(super) async fn append(
    store: &Store,
    number: usize,
    first: u64,
    count: u64,
) -> Result<Appended, AppendError> {
    store.append(batch(number, 1, &lines(number, first, count))).await
}

pub(super) fn everything(environment: &str) -> Read {
    Read {
        environment: key(environment),
        since: None,
        until: None,
        follow: false,
        to_now: false,
        last: None,
        filter: Filter::default(),
        cursor: None,
    }
}

pub(super) async fn chunks(store: &Store, request: Read) -> Vec<Chunk> {
    let mut reader = store.read(request);
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next().await {
        chunks.push(chunk.unwrap());
    }
    chunks
}

pub(super) async fn records(store: &Store, request: Read) -> Vec<Record> {
    chunks(store, request).await.into_iter().flat_map(|chunk| chunk.records).collect()
}

pub(super) fn text(record: &Record) -> String {
    String::from_utf8(record.message.to_vec()).unwrap()
}

pub(super) async fn texts(store: &Store, request: Read) -> Vec<String> {
    records(store, request).await.iter().map(text).collect()
}

/// Follows from a cursor until `count` records have come.
pub(super) async fn follow(store: &Store, cursor: Option<Cursor>, count: usize) -> (Vec<Record>, u64) {
    let mut reader = store.read(Read { follow: true, cursor, ..everything("prod") });
    let (mut records, mut skipped) = (Vec::new(), 0);
    while records.len() < count {
        let chunk = reader.next().await.unwrap().unwrap();
        skipped += chunk.skipped;
        records.extend(chunk.records);
    }
    (records, skipped)
}

/// Every file below a directory.
pub(super) fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(self::files(&entry.path()))
        } else {
            files.push(entry.path())
        }
    }
    files.sort();
    files
}

pub(super) fn at(seconds: i64) -> Option<UnixNanos> {
    Some(UnixNanos(START + seconds * SECOND))
}
