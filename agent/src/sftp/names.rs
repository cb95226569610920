//! Names: of what is in a directory, and where a path leads.

use super::Failed;
use super::attributes;
use super::packet::Reply;
use std::fs::{Metadata, ReadDir};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Names in one answer: with the longest possible it is far below the longest packet.
const AT_ONCE: usize = 100;

/// Answers with the next names in a directory.
pub(super) fn list(id: u32, directory: &mut ReadDir) -> Result<Reply, Failed> {
    let mut entries = Vec::new();
    while entries.len() < AT_ONCE {
        let Some(entry) = directory.next() else { break };
        let entry = entry?;
        // What has gone since is none.
        if let Ok(metadata) = entry.metadata() {
            entries.push((entry.file_name(), metadata));
        }
    }
    if entries.is_empty() {
        return Err(Failed::End);
    }
    let mut reply = Reply::names(id, u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for (name, metadata) in entries {
        reply.text(name.as_bytes());
        let mut line = described(&metadata).into_bytes();
        line.extend_from_slice(name.as_bytes());
        reply.text(&line);
        attributes::write(&mut reply, &metadata);
    }
    Ok(reply)
}

/// Answers with one name, of which nothing else is told.
pub(super) fn one(id: u32, path: &Path) -> Reply {
    let mut reply = Reply::names(id, 1);
    reply.text(path.as_os_str().as_bytes());
    reply.text(path.as_os_str().as_bytes());
    reply.number(0);
    reply
}

/// Where a path leads, of which the last part need not be there.
pub(super) fn real(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.file_name()) {
        (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            Ok(parent.unwrap_or(Path::new(".")).canonicalize()?.join(name))
        }
        (real, _) => real,
    }
}

/// With `~` at the beginning replaced by the home directory; where there is none, by where we are.
pub(super) fn expanded(path: &Path) -> PathBuf {
    let mut parts = path.components();
    match parts.next() {
        Some(Component::Normal(first)) if first == "~" => {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).unwrap_or(".".into());
            Path::new(&home).join(parts.as_path())
        }
        _ => path.to_owned(),
    }
}

/// A file as `ls -l` has it, up to its name.
fn described(metadata: &Metadata) -> String {
    let mode = metadata.mode();
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '-',
    };
    let bits = "rwxrwxrwx".chars().enumerate();
    let bits: String =
        bits.map(|(at, letter)| if mode & (0o400 >> at) != 0 { letter } else { '-' }).collect();
    let (links, user, group, size) = (metadata.nlink(), metadata.uid(), metadata.gid(), metadata.size());
    let changed = jiff::Timestamp::from_second(metadata.mtime()).unwrap_or_default();
    let changed = changed.strftime("%Y-%m-%d %H:%M");
    format!("{kind}{bits} {links:>4} {user:<8} {group:<8} {size:>12} {changed} ")
}
