//! Damage of the disk and malice of whoever may write there: an error or no harm, never a wrong answer, no panic.

use super::*;
use regex::bytes::Regex;

fn sample() -> (TempDir, SegmentFile, Vec<Owned>) {
    let rows: Vec<Owned> = (0..20_000)
        .map(|i| line(i, format!("{} GET /{} {}", i * 31 % 977, i * 7919 % 10_007, 200 + i % 7).as_bytes()))
        .collect();
    let (root, file) = sealed(&rows);
    (root, file, rows)
}

/// Seeded, so that a failure can be repeated.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

fn asked() -> [(Range, Filter); 3] {
    let filter = Filter { grep: vec![Regex::new("206$").unwrap()], ..Filter::default() };
    let window = Range {
        since: Some(UnixNanos(START + 9_000_000_000)),
        until: Some(UnixNanos(START + 11_000_000_000)),
        ..Range::default()
    };
    [(Range::default(), Filter::default()), (Range::default(), filter), (window, Filter::default())]
}

/// How many of the three questions gave an error; a wrong answer fails the test.
fn errors(root: &Path, file: &SegmentFile, rows: &[Owned], what: &str) -> usize {
    let mut errors = 0;
    for (range, filter) in asked() {
        let expected = expected(rows, &range, &filter);
        match given(root, file, &range, &filter) {
            Ok(found) => assert!(found == expected, "a wrong answer after {what}"),
            Err(_) => errors += 1,
        }
        match count(root, file, &range, &filter) {
            Ok(found) => assert_eq!(found, expected.len() as u64, "a wrong count after {what}"),
            Err(_) => errors += 1,
        }
    }
    errors
}

#[test]
fn a_flipped_bit_is_an_error_or_harmless() {
    let (root, file, rows) = sample();
    let path = root.path().join(&file.path);
    assert_eq!(errors(root.path(), &file, &rows, "nothing"), 0);
    let mut state = 1;
    for target in [&path, &checksum::sidecar(&path)] {
        let bytes = std::fs::read(target).unwrap();
        for _ in 0..60 {
            let (position, bit) = (random(&mut state) % bytes.len(), random(&mut state) % 8);
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << bit;
            std::fs::write(target, damaged).unwrap();
            let what = format!("bit {bit} of byte {position} of {}", target.display());
            errors(root.path(), &file, &rows, &what);
            verify(root.path(), &file).expect_err(&what);
        }
        std::fs::write(target, bytes).unwrap();
    }
    verify(root.path(), &file).unwrap();
}

#[test]
fn files_that_are_cut_missing_swapped_or_foreign_are_errors() {
    let (root, file, rows) = sample();
    let other_rows: Vec<Owned> = (0..20_000).map(|i| line(i, format!("{i} other").as_bytes())).collect();
    let other =
        write(root.path(), &environment(), Hour::of(UnixNanos(START)), other_rows.iter().map(Owned::row))
            .unwrap();
    let path = root.path().join(&file.path);
    let (bytes, sums) = (std::fs::read(&path).unwrap(), std::fs::read(checksum::sidecar(&path)).unwrap());
    let (other_bytes, other_sums) = {
        let path = root.path().join(&other.path);
        (std::fs::read(&path).unwrap(), std::fs::read(checksum::sidecar(&path)).unwrap())
    };
    let zeros = vec![0; bytes.len()];
    let cases: [(&str, &[u8], &[u8]); 8] = [
        ("an empty file", b"", &sums),
        ("no checksums", &bytes, b""),
        ("half of the file", &bytes[..bytes.len() / 2], &sums),
        ("a byte too many", &[&bytes[..], b"x"].concat(), &sums),
        ("another segment's checksums", &bytes, &other_sums),
        ("another segment", &other_bytes, &sums),
        ("another segment with its checksums", &other_bytes, &other_sums),
        ("zeros", &zeros, &sums),
    ];
    for (what, bytes, sums) in cases {
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(checksum::sidecar(&path), sums).unwrap();
        assert_eq!(errors(root.path(), &file, &rows, what), 6, "{what}");
        assert!(verify(root.path(), &file).is_err(), "{what}");
    }
    std::fs::write(&path, &bytes).unwrap();
    std::fs::remove_file(checksum::sidecar(&path)).unwrap();
    assert!(matches!(verify(root.path(), &file), Err(ScanError::Missing { .. })));
    let outside = SegmentFile { path: "../secret.parquet".into(), ..file };
    assert!(matches!(verify(root.path(), &outside), Err(ScanError::Damaged { .. })));
}

/// Whoever can write to the disk can make checksums that agree. Answers may then be wrong, but nothing panics, and no
/// claim in the file makes us take memory for it.
#[test]
fn a_hostile_file_with_right_checksums_gives_an_end() {
    let (root, file, _) = sample();
    let path = root.path().join(&file.path);
    let bytes = std::fs::read(&path).unwrap();
    let footer = bytes.len() - 2500;
    let mut state = 2;
    let mut errors = 0;
    for round in 0..200 {
        let mut hostile = bytes.clone();
        for _ in 0..=random(&mut state) % 4 {
            // Two of three in the footer and the indexes, where the claims are.
            let from = if round % 3 == 0 { 0 } else { footer };
            let position = from + random(&mut state) % (hostile.len() - from);
            hostile[position] = [0, 0xff, 0x7f, 0x80, random(&mut state) as u8][random(&mut state) % 5];
        }
        let mut writer = checksum::HashingWriter::new(Vec::new());
        io::Write::write_all(&mut writer, &hostile).unwrap();
        let (hostile, sums) = writer.finish();
        std::fs::write(&path, hostile).unwrap();
        std::fs::write(checksum::sidecar(&path), sums.encode()).unwrap();
        errors += usize::from(verify(root.path(), &file).is_err());
        for (range, filter) in asked() {
            if let Ok(scan) = scan(root.path(), &file, &range, &filter) {
                errors += scan.filter(Result::is_err).count();
            }
            drop(count(root.path(), &file, &range, &filter));
        }
    }
    assert!(errors > 200, "{errors}");
}
