//! Segments as another Parquet reader sees them.

use super::*;
use std::process::Command;

const SCRIPT: &str = r#"
import sys, pyarrow as pa, pyarrow.parquet as pq
file = pq.ParquetFile(sys.argv[1])
table = file.read()
for field in table.schema:
    print(field.name, field.type, "nullable" if field.nullable else "required")
print(file.metadata.num_row_groups, file.metadata.metadata[b"skpr.environment"].decode())
rows = zip(table["time"].cast(pa.int64()).to_pylist(), *(table[name].to_pylist() for name in
    ["lag", "sequence", "kind", "instance", "stream", "message"]))
for time, lag, sequence, kind, instance, stream, message in rows:
    print(time, lag, sequence, kind, instance, stream, message.hex())
"#;

/// Runs when `SKPR_TEST_PYTHON` names a Python that can import pyarrow.
#[test]
fn pyarrow_reads_the_same_rows() {
    let python = std::env::var("SKPR_TEST_PYTHON").unwrap_or_default();
    let importable = |python: &str| {
        Command::new(python)
            .args(["-c", "import pyarrow"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if python.is_empty() || !importable(&python) {
        println!("skipped: SKPR_TEST_PYTHON names no Python that can import pyarrow");
        return;
    }
    let rows: Vec<Owned> = (0..70_000)
        .map(|i| {
            let message = match i % 5 {
                0 => Vec::new(),
                1 => vec![0, 0xff, i as u8],
                _ => format!("request {i} took {} ms", i * 7919 % 1009).into_bytes(),
            };
            let kind = RecordKind::try_from((i % 3) as i32).unwrap();
            let row = line(i, &message);
            Owned { time: row.order_time - (i % 4) as i64, kind, ..row }
        })
        .collect();
    let (root, file) = sealed(&rows);
    let mut expected = "time timestamp[ns, tz=UTC] required\nlag int64 required\nsequence int64 required\n\
        kind int32 required\ninstance string required\nstream string required\nmessage binary required\n2 prod\n"
        .to_owned();
    for row in &rows {
        let message: String = row.message.iter().map(|byte| format!("{byte:02x}")).collect();
        let (lag, kind) = (row.order_time - row.time, i32::from(row.kind));
        let Owned { order_time, sequence, instance, stream, .. } = row;
        expected += &format!("{order_time} {lag} {sequence} {kind} {instance} {stream} {message}\n");
    }
    let output =
        Command::new(python).args(["-c", SCRIPT]).arg(root.path().join(&file.path)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = String::from_utf8(output.stdout).unwrap();
    let difference = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!(difference, None);
    assert_eq!(found.len(), expected.len());
}
