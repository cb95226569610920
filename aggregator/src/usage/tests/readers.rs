//! The files as another Parquet reader sees them.

use super::super::files;
use super::support::{DAY, HOUR, World, key, steady};
use crate::store::disk::Disk;
use std::process::Command;

const SCRIPT: &str = r#"
import sys, pyarrow as pa, pyarrow.parquet as pq
file = pq.ParquetFile(sys.argv[1])
table = file.read()
for field in table.schema:
    print(field.name, field.type, "nullable" if field.nullable else "required")
print(file.metadata.metadata[b"skpr.environment"].decode())
names = [name for name in table.column_names if name in sys.argv[2].split(",")]
columns = [table[name].cast(pa.int64()) if pa.types.is_timestamp(table[name].type) else table[name] for name in names]
for row in zip(*(column.to_pylist() for column in columns)):
    print(*row)
"#;

/// Runs when `SKPR_TEST_PYTHON` names a Python that can import pyarrow.
#[test]
fn pyarrow_reads_the_same_values() {
    let python = std::env::var("SKPR_TEST_PYTHON").unwrap_or_default();
    let importable = |python: &str| {
        let output = Command::new(python).args(["-c", "import pyarrow"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if python.is_empty() || !importable(&python) {
        println!("skipped: SKPR_TEST_PYTHON names no Python that can import pyarrow");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), Disk::default()).unwrap();
    let rows: Vec<_> = (0..720)
        .map(|at| steady("web-1", DAY + at * 5000, at.unsigned_abs() * 1_000_000 % 500_000_000))
        .collect();
    world.add(&rows);
    world.settle(DAY + 2 * HOUR);
    let read = |name: &str, columns: &str| {
        let path = files::directory(directory.path(), &key("prod")).join(name);
        let output = Command::new(&python).args(["-c", SCRIPT]).arg(path).arg(columns).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };

    let found =
        read("2026-11-24T00.parquet", "time,instance,ready,cpu_nanos,working_set_bytes,cpu_limit_millicores");
    let mut expected = "time timestamp[ms, tz=UTC] required\ninstance string required\nready bool required\n\
        cpu_nanos int64 nullable\nperiods int64 nullable\nthrottled_periods int64 nullable\noom_kills int64 nullable\n\
        restarts int64 nullable\nworking_set_bytes int64 nullable\nnot_reclaimable_bytes int64 nullable\n\
        cache_bytes int64 nullable\nmemory_limit_bytes int64 nullable\ncpu_share_millicores int64 nullable\n\
        cpu_limit_millicores int64 nullable\nprod\n"
        .to_owned();
    for row in &rows {
        let cpu = row.counters[0].get().unwrap();
        expected += &format!("{} web-1 True {cpu} 104857600 None\n", row.time);
    }
    let difference = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!((difference, found.len()), (None, expected.len()));

    // The seventh hundred of samples begins anew at 500: 12 cells of 60 samples, and a reset within the ninth.
    let cells = read(
        "2026-11-24T00.5m.parquet",
        "start,samples,cpu_nanos_first,cpu_nanos_last,cpu_nanos_before_resets",
    );
    let cells: Vec<_> = cells.lines().skip_while(|line| *line != "prod").skip(1).collect();
    assert_eq!(cells.len(), 12);
    assert_eq!(cells[0], format!("{DAY} 60 0 59000000 None"));
    assert_eq!(cells[8], format!("{} 60 480000000 39000000 499000000", DAY + 8 * 300_000));
}
