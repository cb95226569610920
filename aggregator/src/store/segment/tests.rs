//! Segments as their users see them: what was written is what is read, and damage is never an answer.

mod damage;
mod engines;
mod model;

use super::*;
use skpr_proto::{EnvironmentName, Label};
use tempfile::TempDir;

/// A row that owns what it is about.
#[derive(Clone, Debug)]
struct Owned {
    order_time: i64,
    time: i64,
    sequence: u64,
    instance: String,
    stream: String,
    kind: RecordKind,
    message: Vec<u8>,
}

impl Owned {
    fn row(&self) -> Row<'_> {
        Row {
            order_time: UnixNanos(self.order_time),
            time: UnixNanos(self.time),
            sequence: self.sequence,
            instance: &self.instance,
            stream: &self.stream,
            kind: self.kind,
            message: &self.message,
        }
    }
}

const START: i64 = 1_764_000_000_000_000_000 / NANOS_PER_HOUR * NANOS_PER_HOUR;

fn environment() -> EnvironmentKey {
    EnvironmentKey {
        namespace: Label::parse("namespace", "web").unwrap(),
        name: EnvironmentName::parse("commit-weather", "prod").unwrap(),
    }
}

fn line(index: u64, message: &[u8]) -> Owned {
    let time = START + index as i64 * 1_000_000;
    Owned {
        order_time: time,
        time,
        sequence: index + 1,
        instance: format!("web-{}", index % 3),
        stream: if index.is_multiple_of(5) { "stderr" } else { "stdout" }.to_owned(),
        kind: RecordKind::Line,
        message: message.to_vec(),
    }
}

fn sealed(rows: &[Owned]) -> (TempDir, SegmentFile) {
    let root = TempDir::new().unwrap();
    let file =
        write(root.path(), &environment(), Hour::of(UnixNanos(START)), rows.iter().map(Owned::row)).unwrap();
    (root, file)
}

/// What a scan gives, as tuples that can be compared.
type Given = Vec<(i64, i64, u64, String, String, i32, Vec<u8>)>;

fn given(root: &Path, file: &SegmentFile, range: &Range, filter: &Filter) -> Result<Given, ScanError> {
    let mut all = Vec::new();
    for batch in scan(root, file, range, filter)? {
        let batch = batch?;
        assert!(!batch.is_empty() && batch.len() <= 1024);
        let bytes: usize = batch.iter().map(|scanned| scanned.record.message.len()).sum();
        let last = batch.last().unwrap().record.message.len();
        assert!(bytes - last <= 1 << 20);
        all.extend(batch.into_iter().map(|ScannedRecord { order_time, record }| {
            let (instance, stream) = (record.instance.to_string(), record.stream.to_string());
            let kind = i32::from(record.kind);
            (order_time.0, record.time.0, record.sequence, instance, stream, kind, record.message.to_vec())
        }));
    }
    Ok(all)
}

/// What a scan has to give.
fn expected(rows: &[Owned], range: &Range, filter: &Filter) -> Given {
    let wanted = |row: &&Owned| {
        range.contains(UnixNanos(row.order_time), UnixNanos(row.time), row.sequence)
            && filter.accepts_labels(&row.instance, &row.stream)
            && filter.accepts_message(&row.message)
    };
    let tuple = |row: &Owned| {
        let (instance, stream) = (row.instance.clone(), row.stream.clone());
        (row.order_time, row.time, row.sequence, instance, stream, i32::from(row.kind), row.message.clone())
    };
    rows.iter().filter(wanted).map(tuple).collect()
}

#[test]
fn a_segment_is_found_where_other_engines_look_for_it() {
    let (root, file) = sealed(&[line(0, b"hello")]);
    let path = file.path.to_str().unwrap();
    let directory = "segments/namespace=web/project=commit-weather/environment=prod/date=2025-11-24/hour=16/";
    assert!(path.starts_with(directory) && path.ends_with(".parquet"), "{path}");
    let directory = root.path().join(directory);
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 2); // and its checksums, nothing temporary
    assert_eq!(std::fs::metadata(root.path().join(path)).unwrap().len(), file.bytes);
    verify(root.path(), &file).unwrap();
    remove(root.path(), &file).unwrap();
    remove(root.path(), &file).unwrap();
    let error = scan(root.path(), &file, &Range::default(), &Filter::default()).err().unwrap();
    assert!(matches!(error, ScanError::Missing { .. }), "{error}");
}

#[test]
fn rows_that_break_a_rule_publish_nothing() {
    let swapped = [line(1, b"b"), line(0, b"a")];
    let twice = [line(0, b"a"), line(0, b"a")];
    let other_hour = [Owned { order_time: START - 1, time: START - 1, ..line(0, b"") }];
    let early = [Owned { time: START + 1, ..line(0, b"") }];
    let huge = [Owned { sequence: u64::MAX, ..line(0, b"") }];
    for rows in [&swapped[..], &twice, &other_hour, &early, &huge, &[]] {
        let root = TempDir::new().unwrap();
        let error =
            write(root.path(), &environment(), Hour::of(UnixNanos(START)), rows.iter().map(Owned::row));
        assert!(matches!(error, Err(WriteError::Rows(_))), "{error:?}");
        let mut files = vec![root.path().to_owned()];
        while let Some(path) = files.pop() {
            assert!(path.is_dir(), "{}", path.display());
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn hours_before_the_epoch_and_its_first_are_apart() {
    assert_ne!(Hour::of(UnixNanos(-1)), Hour::of(UnixNanos(0)));
    assert_eq!(Hour::of(UnixNanos(-1)).directory(), "date=1969-12-31/hour=23");
    for extreme in [i64::MIN, i64::MAX] {
        assert!(Hour::of(UnixNanos(extreme)).directory().starts_with("date="));
    }
}

#[test]
fn longest_messages_are_kept_and_given_one_at_a_time() {
    let mut rows: Vec<Owned> = (0..70).map(|i| line(i, &vec![b'a' + (i % 26) as u8; 1 << 20])).collect();
    rows.extend((70..100).map(|i| line(i, b"")));
    let (root, file) = sealed(&rows);
    let (range, filter) = (Range::default(), Filter::default());
    assert_eq!(given(root.path(), &file, &range, &filter).unwrap(), expected(&rows, &range, &filter));
    verify(root.path(), &file).unwrap();
}

#[test]
fn several_row_groups_with_more_names_than_a_dictionary_holds() {
    let rows: Vec<Owned> = (0..150_000)
        .map(|i| Owned {
            instance: format!("{i:0>40}"),
            ..line(i, format!("request {i} took {} ms", i % 97).as_bytes())
        })
        .collect();
    let (root, file) = sealed(&rows);
    verify(root.path(), &file).unwrap();
    let filter = Filter { grep: vec![regex::bytes::Regex::new("took 96 ms$").unwrap()], ..Filter::default() };
    let range = Range { after_sequence: Some(60_000), ..Range::default() };
    let expected = expected(&rows, &range, &filter);
    assert_eq!(given(root.path(), &file, &range, &filter).unwrap(), expected);
    for threads in [1, 3] {
        let count =
            count_files(root.path(), &[file.clone(), file.clone()], &range, &filter, threads).unwrap();
        assert_eq!(count, 2 * expected.len() as u64);
    }
}
