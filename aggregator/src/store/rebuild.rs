//! A manifest from the sealed files themselves, for when there is none that can be trusted.
//!
//! No file is removed unless every record of it is in the write-ahead log. What cannot be read, or holds again what a
//! merged file holds, is put aside, where no later start takes it for a leftover.
//!
//! Not in the files, and therefore lost: committed positions and claims. Agents send on from what they know to be
//! acknowledged; the last lines of a pod that is gone may be refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skpr_proto::UnixNanos;

use super::disk::Disk;
use super::manifest::Manifest;
use super::recover;
use super::segment::{self, Hour, Range, SegmentFile};
use super::table::Expired;
use crate::environment::EnvironmentKey;
use crate::record::Filter;

/// Below the store's directory: files that belong to nothing and must not be lost.
pub(super) const ASIDE: &str = "set-aside";

/// First and last sequence of what the write-ahead log holds of each environment, in order.
pub(super) type Logged = BTreeMap<EnvironmentKey, Vec<(u64, u64)>>;

/// A manifest that lists the sealed files, and how many had to be put aside. `None`: there are none.
pub(super) fn rebuild(disk: &Disk, root: &Path, logged: &Logged) -> Option<(Manifest, u64)> {
    let mut manifest = Manifest::default();
    let mut aside = 0;
    let mut by_hour: BTreeMap<(EnvironmentKey, Hour), Vec<SegmentFile>> = BTreeMap::new();
    for path in sealed_files(root) {
        match segment::describe(root, &path) {
            Ok((key, file)) => by_hour.entry((key, Hour::of(file.min_time))).or_default().push(file),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a sealed file cannot be read: put aside");
                put_aside(root, &path);
                aside += 1;
            }
        }
    }
    if by_hour.is_empty() && aside == 0 {
        return None;
    }
    for ((key, _), mut files) in by_hour {
        // The larger one of two that hold the same is the merged one.
        files.sort_by_key(|file| std::cmp::Reverse(file.rows));
        let mut kept: Vec<SegmentFile> = Vec::new();
        for file in files {
            if is_logged(logged.get(&key), &file) {
                remove(disk, root, &file);
            } else if kept.iter().any(|merged| holds(root, merged, &file)) {
                put_aside(root, &file.path);
                aside += 1;
            } else {
                kept.push(file);
            }
        }
        let log_begins =
            logged.get(&key).and_then(|stretches| stretches.first()).map_or(u64::MAX, |(first, _)| *first);
        if let Some(entry) = manifest.environment(&key) {
            let head = kept.iter().map(|file| file.max_sequence).max().unwrap_or_default();
            // What the log holds is read from there.
            entry.head = entry.head.max(head).min(log_begins.saturating_sub(1));
            entry.files.append(&mut kept);
        }
    }
    for entry in &mut manifest.environments {
        let rows: u64 = entry.files.iter().map(|file| file.rows).sum();
        let oldest = entry.files.iter().map(|file| file.min_time).min().unwrap_or(UnixNanos(i64::MIN));
        if rows < entry.head {
            // Expired, most probably.
            entry.expired = vec![Expired { max_time: oldest, min_sequence: 1, rows: entry.head - rows }];
        }
    }
    Some((manifest, aside))
}

/// Sealed files, relative to the root.
fn sealed_files(root: &Path) -> Vec<PathBuf> {
    let all = recover::orphans(root, &Manifest::default()).into_iter();
    let sealed = all.filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    sealed.filter_map(|path| path.strip_prefix(root).ok().map(Path::to_owned)).collect()
}

/// Whether the write-ahead log has every record of the file, and more surely: every one in its range.
fn is_logged(stretches: Option<&Vec<(u64, u64)>>, file: &SegmentFile) -> bool {
    let mut next = file.min_sequence;
    for (first, last) in stretches.into_iter().flatten() {
        if (*first..=*last).contains(&next) {
            next = last + 1;
        }
    }
    next > file.max_sequence
}

/// Whether `merged` was made of `file` and others: all of a file goes into a merged one, so its first record tells.
fn holds(root: &Path, merged: &SegmentFile, file: &SegmentFile) -> bool {
    let inside = merged.min_sequence <= file.min_sequence && file.max_sequence <= merged.max_sequence;
    let first = Range {
        after_sequence: file.min_sequence.checked_sub(1),
        up_to_sequence: Some(file.min_sequence),
        ..Range::default()
    };
    inside && segment::count(root, merged, &first, &Filter::default()).is_ok_and(|found| found > 0)
}

fn remove(disk: &Disk, root: &Path, file: &SegmentFile) {
    if let Err(error) = disk.before_removal().and_then(|()| segment::remove(root, file)) {
        tracing::warn!(path = %file.path.display(), %error, "cannot remove an unfinished file");
    }
}

/// Moves a segment and its checksums to where nothing is ever removed.
fn put_aside(root: &Path, path: &Path) {
    let moved = move_aside(root, path);
    if let Err(error) = moved {
        tracing::error!(path = %path.display(), %error, "cannot put a file aside");
    }
}

fn move_aside(root: &Path, path: &Path) -> std::io::Result<()> {
    let directory = root.join(ASIDE).join(path.parent().unwrap_or(path));
    std::fs::create_dir_all(&directory)?;
    for path in [segment::sidecar(path), path.to_owned()] {
        match std::fs::rename(root.join(&path), root.join(ASIDE).join(&path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::File::open(directory)?.sync_all()
}
