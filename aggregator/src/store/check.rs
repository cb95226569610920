//! Verifies a store's directory without changing it. The store may be in use: what is being written then may be
//! reported as unfinished.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::manifest::{Found, Manifest, SealedEnvironment};
use super::recover::{self, wal_directory};
use super::wal::{self, WalFile};
use super::{rebuild, segment};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: u64,
    pub records: u64,
    pub bytes: u64,
    pub wal_files: u64,
    pub wal_entries: u64,
    /// What is wrong, a sentence each: data is lost or cannot be read.
    pub problems: Vec<String>,
    /// What a crash leaves and the next start repairs.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} segments, {} records, {} bytes", self.segments, self.records, self.bytes)?;
        writeln!(f, "{} write-ahead log files, {} entries", self.wal_files, self.wal_entries)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}

/// Verifies the store in `directory`: manifest, write-ahead log, every segment, and that no sequence is missing.
pub fn check(directory: &Path) -> std::io::Result<Report> {
    // A directory that is not there is a wrong name, not an empty store.
    std::fs::metadata(directory)?;
    let mut report = Report::default();
    let manifest = match Manifest::read(directory)? {
        Found::Lost => {
            let problem =
                "both copies of the manifest are damaged; the next start makes one from the sealed files";
            report.problems.push(problem.to_owned());
            Manifest::default()
        }
        Found::Nothing => {
            report
                .notes
                .push("there is no manifest; the next start makes one from the sealed files".to_owned());
            Manifest::default()
        }
        Found::Good { manifest, damaged } => {
            if damaged > 0 {
                report.problems.push("one of the two copies of the manifest is damaged".to_owned());
            }
            manifest
        }
    };
    for environment in &manifest.environments {
        check_environment(directory, environment, &mut report);
    }
    for path in recover::files_below(&directory.join(rebuild::ASIDE)) {
        report.notes.push(format!("`{}` was put aside when there was no manifest", path.display()));
    }
    for path in recover::orphans(directory, &manifest) {
        report.notes.push(format!("`{}` belongs to nothing", path.display()));
    }
    check_wal(directory, &manifest, &mut report);
    Ok(report)
}

fn check_environment(directory: &Path, environment: &SealedEnvironment, report: &mut Report) {
    let mut rows = 0;
    for file in &environment.files {
        report.segments += 1;
        report.bytes += file.bytes;
        rows += file.rows;
        if let Err(error) = segment::verify(directory, file) {
            report.problems.push(error.to_string());
        }
    }
    report.records += rows;
    let expired: u64 = environment.expired.iter().map(|expired| expired.rows).sum();
    if rows + expired != environment.head {
        let missing = i128::from(environment.head) - i128::from(rows) - i128::from(expired);
        report
            .problems
            .push(format!("`{}` lacks {missing} of {} records", environment.key, environment.head));
    }
}

fn check_wal(directory: &Path, manifest: &Manifest, report: &mut Report) {
    let entries = std::fs::read_dir(wal_directory(directory)).into_iter().flatten().flatten();
    let paths: BTreeMap<_, _> =
        entries.filter_map(|entry| Some((wal::file_number(&entry.path())?, entry.path()))).collect();
    let limits = recover::limits(&paths);
    for (number, path) in paths.iter().filter(|(number, _)| **number > manifest.wal_covered) {
        report.wal_files += 1;
        let file = match WalFile::read(path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                report.notes.push(format!("`{}` was begun and holds nothing", path.display()));
                continue;
            }
            Err(error) => {
                report.problems.push(format!("`{}` cannot be read: {error}", path.display()));
                continue;
            }
        };
        let replayed = file.replay(limits.get(number).copied(), |_, _| report.wal_entries += 1);
        if replayed.damaged > 0 {
            report.problems.push(format!("`{}` has {} damaged bytes", path.display(), replayed.damaged));
        }
        if replayed.torn > 0 {
            report.notes.push(format!(
                "`{}` ends with {} bytes of an unfinished write",
                path.display(),
                replayed.torn
            ));
        }
    }
}
