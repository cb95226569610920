//! The files of history: their names, what is in a directory, reading one whole, and which expire.
//!
//! `ROOT/NAMESPACE/PROJECT.ENVIRONMENT/` holds by hour `HOUR.spool` while it lasts, then `HOUR.parquet` and
//! `HOUR.5m.parquet`; the latter are merged into `DAY.5m.parquet`. Beside each Parquet file are its checksums, in
//! `NAME.crc`. A Parquet file that is there is whole.

use crate::environment::EnvironmentKey;
use crate::store::disk::Disk;
use crate::store::segment::{Checksums, sidecar};
use bytes::Bytes;
use jiff::civil::Date;
use skpr_proto::{EnvironmentName, Label};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const HOUR_MILLIS: i64 = 60 * 60 * 1000;
pub(super) const DAY_HOURS: i64 = 24;
/// The largest file that is read. An hour of 5,000 instances has some 40 MB, a day of their cells some 200.
const LARGEST: u64 = 512 << 20;

/// The hour of a time, counted from the Unix epoch.
pub(super) fn hour_of(millis: i64) -> i64 {
    millis.div_euclid(HOUR_MILLIS)
}

/// The first hour of an hour's day.
pub(super) fn day_of(hour: i64) -> i64 {
    hour.div_euclid(DAY_HOURS) * DAY_HOURS
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Spool,
    Rows,
    Cells,
    /// Cells of a day.
    Day,
}

/// A file's name: what it holds, and from which hour on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) hour: i64,
    pub(super) kind: Kind,
}

impl Name {
    /// The hour after the last one.
    pub(super) fn end(&self) -> i64 {
        self.hour + if self.kind == Kind::Day { DAY_HOURS } else { 1 }
    }

    pub(super) fn parse(name: &str) -> Option<Name> {
        let (start, ending) = name.split_once('.')?;
        let (date, hour) = start.split_once('T').map_or((start, None), |(date, hour)| (date, Some(hour)));
        let kind = match (ending, hour) {
            ("spool", Some(_)) => Kind::Spool,
            ("parquet", Some(_)) => Kind::Rows,
            ("5m.parquet", Some(_)) => Kind::Cells,
            ("5m.parquet", None) => Kind::Day,
            _ => return None,
        };
        let date: Date = date.parse().ok()?;
        let seconds = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
        let hour = seconds.div_euclid(3600) + hour.map_or(Ok(0), str::parse).ok()?;
        let parsed = Name { hour, kind };
        // The only way to write it.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = jiff::Timestamp::from_second(self.hour.saturating_mul(3600)).unwrap_or_default();
        let (format, ending) = match self.kind {
            Kind::Spool => ("%Y-%m-%dT%H", "spool"),
            Kind::Rows => ("%Y-%m-%dT%H", "parquet"),
            Kind::Cells => ("%Y-%m-%dT%H", "5m.parquet"),
            Kind::Day => ("%Y-%m-%d", "5m.parquet"),
        };
        write!(f, "{}.{ending}", start.strftime(format))
    }
}

/// Where an environment's files are.
pub(super) fn directory(root: &Path, environment: &EnvironmentKey) -> PathBuf {
    let EnvironmentName { project, environment: name } = &environment.name;
    root.join(environment.namespace.as_str()).join(format!("{project}.{name}"))
}

/// The environments that have a directory.
pub(super) fn environments(root: &Path) -> io::Result<Vec<EnvironmentKey>> {
    let mut found = Vec::new();
    for namespace in names(root)? {
        let Ok(label) = Label::parse("namespace", &namespace) else { continue };
        for name in names(&root.join(&namespace))? {
            let Some((project, environment)) = name.split_once('.') else { continue };
            if let Ok(name) = EnvironmentName::parse(project, environment) {
                found.push(EnvironmentKey { namespace: label.clone(), name });
            }
        }
    }
    Ok(found)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()))
            .collect(),
    }
}

/// The files in an environment's directory, sorted.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Name>> {
    let mut found: Vec<_> = names(directory)?.iter().filter_map(|name| Name::parse(name)).collect();
    found.sort();
    Ok(found)
}

/// Removes what a write that was cut off has left.
pub(super) fn remove_unfinished(disk: &Disk, directory: &Path) -> io::Result<()> {
    for name in names(directory)?.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(&directory.join(name))?;
    }
    Ok(())
}

/// The bytes of a file with those of its checksums.
pub(super) fn size(directory: &Path, name: &Name) -> u64 {
    let path = directory.join(name.to_string());
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    length(&path) + length(&sidecar(&path))
}

/// Removes a file, then its checksums, so that what is there is always whole.
pub(super) fn remove(disk: &Disk, directory: &Path, name: &Name) -> io::Result<()> {
    let path = directory.join(name.to_string());
    disk.remove(&path)?;
    if name.kind == Kind::Spool { Ok(()) } else { disk.remove(&sidecar(&path)) }
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("it is not there")]
    Missing,
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Io(io::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Missing,
        _ => LoadError::Io(error),
    };
    if fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(LoadError::Damaged("it is too large".to_owned()));
    }
    fs::read(path).map_err(failed)
}

/// The bytes of a file, after comparing them with its checksums; a spool has its own.
pub(super) fn load(directory: &Path, name: &Name) -> Result<Bytes, LoadError> {
    let path = directory.join(name.to_string());
    let bytes = read(&path)?;
    if name.kind == Kind::Spool {
        return Ok(bytes.into());
    }
    let damaged = |text: &str| LoadError::Damaged(text.to_owned());
    let checksums = match read(&sidecar(&path)) {
        Err(LoadError::Missing) if path.exists() => return Err(damaged("its checksums are missing")),
        checksums => Checksums::decode(&checksums?).map_err(damaged)?,
    };
    if checksums.length != bytes.len() as u64 || !checksums.agree(0, &bytes) {
        return Err(damaged("its checksums do not agree"));
    }
    Ok(bytes.into())
}

/// Puts a file into place, after its checksums.
pub(super) fn publish(
    disk: &Disk,
    directory: &Path,
    name: &Name,
    (content, checksums): &(Vec<u8>, Checksums),
) -> io::Result<()> {
    let path = directory.join(name.to_string());
    disk.replace(&sidecar(&path), &checksums.encode())?;
    disk.replace(&path, content)
}

/// What is kept of each environment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) age: Duration,
    pub(super) bytes: u64,
}

/// The files that are too old, and the oldest of those that are too many. What is being written stays.
pub(super) fn expired(files: &[(Name, u64)], now: i64, limits: Limits) -> Vec<Name> {
    let age = i64::try_from(limits.age.as_millis()).unwrap_or(i64::MAX);
    let oldest = now.saturating_sub(age);
    let mut newest_first: Vec<_> = files.iter().filter(|(name, _)| name.kind != Kind::Spool).collect();
    newest_first.sort_by_key(|(name, _)| std::cmp::Reverse((name.end(), name.kind)));
    let mut bytes = 0u64;
    newest_first
        .into_iter()
        .filter(|(name, size)| {
            bytes = bytes.saturating_add(*size);
            bytes > limits.bytes || name.end().saturating_mul(HOUR_MILLIS) <= oldest
        })
        .map(|(name, _)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_none() {
        for (name, hour, kind) in [
            ("2026-11-24T05.spool", 498_749, Kind::Spool),
            ("2026-11-24T05.parquet", 498_749, Kind::Rows),
            ("2026-11-24T05.5m.parquet", 498_749, Kind::Cells),
            ("2026-11-24.5m.parquet", 498_744, Kind::Day),
        ] {
            assert_eq!(Name::parse(name), Some(Name { hour, kind }), "{name}");
        }
        for name in [
            "2026-11-24T5.spool",
            "2026-11-24T24.spool",
            "2026-11-24.spool",
            "2026-11-24T05.parquet.crc",
            "x",
            "",
        ] {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_oldest_expire() {
        let file = |hour: i64, kind: Kind, size: u64| (Name { hour, kind }, size);
        let files = [
            file(1, Kind::Rows, 10),
            file(2, Kind::Rows, 10),
            file(3, Kind::Rows, 10),
            file(0, Kind::Day, 10),
            file(0, Kind::Spool, 100),
        ];
        let hours =
            |expired: Vec<Name>| expired.iter().map(|name| (name.hour, name.kind)).collect::<Vec<_>>();
        let limits =
            |age_hours: u64, bytes: u64| Limits { age: Duration::from_secs(age_hours * 3600), bytes };
        let now = 5 * HOUR_MILLIS;
        assert_eq!(hours(expired(&files, now, limits(100, 100))), []);
        assert_eq!(hours(expired(&files, now, limits(3, 100))), [(1, Kind::Rows)]);
        assert_eq!(hours(expired(&files, now, limits(100, 20))), [(2, Kind::Rows), (1, Kind::Rows)]);
        assert_eq!(hours(expired(&files, 30 * HOUR_MILLIS, limits(6, 100))).len(), 4);
    }
}
