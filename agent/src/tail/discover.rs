//! What is in a container's log directory, and how that changes the chain of its files.
//!
//! A file is known by device and inode, and where that changed (it was compressed, or the agent restarted) by its
//! generation. Nothing that has a name of another form is ever opened.

use super::engine::Engine;
use super::follow::{Claim, Container, Ignored, LogFile};
use super::gap::Gap;
use super::names::{self, Key, Name};
use super::{gzip, read};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A directory that changes while it is read is read again, this often.
const LISTINGS: usize = 4;
/// Of more log files in one directory than this the newest are taken.
const MOST_NAMES: usize = 4096;

#[derive(Debug)]
pub(super) struct Found {
    name: Name,
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: i64,
}

#[derive(Debug)]
pub(super) struct Listing {
    found: Vec<Found>,
    left_out: usize,
    modified: SystemTime,
}

/// The log files in a directory in the order in which they were written, each once.
pub(super) fn list(directory: &Path, link_targets: &[PathBuf]) -> io::Result<Listing> {
    let mut modified = fs::metadata(directory)?.modified()?;
    let (mut found, mut left_out) = (Vec::new(), 0);
    for _ in 0..LISTINGS {
        (found, left_out) = list_once(directory, link_targets)?;
        let after = fs::metadata(directory)?.modified()?;
        if after == modified {
            break;
        }
        modified = after;
    }
    Ok(Listing { found, left_out, modified })
}

/// The files, and how many names are not among them because there are too many.
fn list_once(directory: &Path, link_targets: &[PathBuf]) -> io::Result<(Vec<Found>, usize)> {
    let (mut newest, mut left_out) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(names::parse) else { continue };
        let Some(path) = resolve(&entry, link_targets) else { continue };
        newest.insert((name.key, name.gzip, entry.file_name()), (name, path));
        if newest.len() > MOST_NAMES {
            newest.pop_first();
            left_out += 1;
        }
    }
    let mut found = Vec::new();
    for (name, path) in newest.into_values() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() {
            let modified =
                metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
            let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.len());
            found.push(Found { name, path, device, inode, size, modified });
        }
    }
    // While the kubelet compresses, both forms exist: the plain one is as good.
    found.dedup_by_key(|found| found.name.key);
    let mut seen = std::collections::HashSet::new();
    found.retain(|found| seen.insert((found.device, found.inode)));
    Ok((found, left_out))
}

/// Where the file is: some runtimes put a link here, which is followed to their own directory and nowhere else. Who may
/// write here could otherwise have any file of the node read to them.
fn resolve(entry: &fs::DirEntry, link_targets: &[PathBuf]) -> Option<PathBuf> {
    if !entry.file_type().ok()?.is_symlink() {
        return Some(entry.path());
    }
    let target = fs::canonicalize(entry.path()).ok()?;
    link_targets.iter().any(|allowed| target.starts_with(allowed)).then_some(target)
}

/// Opens what must be a regular file, without ever waiting for it, and not if it has become a link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// A directory's subdirectories whose names can be shown. Links are not followed: no loops.
pub(super) fn subdirectories(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// Whether a directory must be read again: it changed, or may have changed since within the clock's resolution.
pub(super) fn is_stale(directory: &Path, known: Option<SystemTime>) -> io::Result<bool> {
    let modified = fs::metadata(directory)?.modified()?;
    let recent = SystemTime::now().duration_since(modified).is_ok_and(|age| age < Duration::from_secs(2));
    Ok(recent || known != Some(modified))
}

impl Engine {
    /// Reads a container's directory and brings its chain up to date.
    pub(super) fn relist(&mut self, container: &mut Container, now: Instant) {
        let listing = match list(&container.directory, &self.limits.link_targets) {
            Ok(listing) => listing,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.kind() == io::ErrorKind::NotADirectory =>
            {
                container.gone = true;
                container.files.iter_mut().for_each(|file| file.named = false);
                Listing { found: Vec::new(), left_out: 0, modified: SystemTime::UNIX_EPOCH }
            }
            Err(error) => {
                tracing::warn!(source = %container.source, %error, "cannot list the log directory");
                return;
            }
        };
        let Listing { found, left_out, modified } = listing;
        container.gone &= found.is_empty();
        self.leave_out(container, left_out);
        container.directory_modified = Some(modified);
        container.listed_at = Some(now);
        container.files.iter_mut().for_each(|file| file.named = false);
        let mut ignored = Vec::new();
        let mut new = Vec::new();
        let mut exhausted = false;
        for found in found {
            exhausted |= self.place(container, found, &mut ignored, &mut new);
        }
        if exhausted && container.resume.is_some() {
            // The file to go on in may be among those that cannot be opened now: the next look will tell.
            container.directory_modified = None;
            return;
        }
        if let Some(resume) = container.resume.take_if(|_| !new.is_empty()) {
            self.resume(container, &resume, &mut new, &mut ignored);
        }
        container.ignored =
            if container.resume.is_some() { std::mem::take(&mut container.ignored) } else { ignored };
        for file in new {
            let later = |other: &LogFile| other.named && other.key > file.key;
            let at = container.files.iter().position(later).unwrap_or(container.files.len());
            container.files.insert(at, file);
        }
        self.drop_lost(container);
        let last = container.files.len().saturating_sub(1);
        for (index, file) in container.files.iter_mut().enumerate() {
            if index == last {
                file.followed_at = None;
            } else {
                file.followed_at.get_or_insert(now);
            }
        }
    }

    /// Takes note of names that are not looked at.
    fn leave_out(&mut self, container: &mut Container, left_out: usize) {
        let more = left_out.saturating_sub(container.left_out);
        if more > 0 && container.left_out == 0 {
            tracing::warn!(source = %container.source, left_out, "too many log files in a directory, leaving out the oldest");
        }
        self.counters.missed_files += more as u64;
        container.left_out = left_out;
    }

    /// Finds out what one name stands for. True: that takes more than the process has at the moment.
    fn place(
        &mut self,
        container: &mut Container,
        found: Found,
        ignored: &mut Vec<Ignored>,
        new: &mut Vec<LogFile>,
    ) -> bool {
        let Found { name: Name { key, gzip }, device, inode, .. } = found;
        let same = |file: &&mut LogFile| file.device == device && file.inode == inode && !file.vanished;
        if let Some(file) = container.files.iter_mut().find(same) {
            file.key = key;
            file.path = found.path;
            file.named = true;
            file.resize(found.size);
            return false;
        }
        let known = Ignored { device, inode, key: Some(key), generation: 0 };
        if let Some(known) = container.ignored.iter().find(|old| Ignored { generation: 0, ..**old } == known)
        {
            ignored.push(*known);
            return false;
        }
        let mut exhausted = false;
        let descriptor = match open(&found.path) {
            Ok(file) => Some(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.counters.missed_files += 1;
                return false;
            }
            Err(error) => {
                self.warn_open(&found.path, &error);
                exhausted = is_exhausted(&error);
                None
            }
        };
        let generation = descriptor.as_ref().and_then(|descriptor| head_generation(descriptor, gzip));
        if gzip && descriptor.is_some() && generation.is_none() {
            // Nothing is in it.
            ignored.push(known);
            return false;
        }
        if let Some(generation) = generation {
            if container.ignored.iter().any(|old| old.generation == generation) {
                ignored.push(Ignored { generation, ..known });
                return false;
            }
            // The compressed copy of a file that is held open: its new name is all there is to know.
            if let Some(file) =
                container.files.iter_mut().find(|file| file.generation == Some(generation) && !file.vanished)
            {
                if !file.named {
                    file.key = key;
                    if file.descriptor.is_none() {
                        file.descriptor = descriptor;
                        file.gzip = gzip;
                        (file.device, file.inode) = (device, inode);
                        file.path = found.path;
                    }
                    file.named = true;
                }
                return false;
            }
        }
        new.push(self.new_file(key, gzip, found, descriptor, generation));
        exhausted
    }

    fn new_file(
        &mut self,
        key: Key,
        gzip: bool,
        found: Found,
        descriptor: Option<Arc<File>>,
        generation: Option<u64>,
    ) -> LogFile {
        LogFile {
            id: self.next_id(),
            key,
            path: found.path,
            gzip,
            device: found.device,
            inode: found.inode,
            descriptor,
            generation,
            size: found.size,
            shrunk: 0,
            behind: false,
            read: 0,
            marker: read::marker(&[]),
            acked: 0,
            acked_marker: read::marker(&[]),
            acked_position: 0,
            stuck_at: None,
            named: true,
            followed_at: None,
            closed: false,
            ended: false,
            vanished: false,
            last_position: 0,
            modified: found.modified,
        }
    }

    /// Finds the place where an earlier agent stopped.
    fn resume(
        &mut self,
        container: &mut Container,
        resume: &crate::checkpoint::Position,
        new: &mut Vec<LogFile>,
        ignored: &mut Vec<Ignored>,
    ) {
        let Some(at) = new.iter().position(|file| file.generation == Some(resume.generation)) else {
            let reason = "the file was removed or overwritten while the agent was not running";
            self.gap(container, 0, reason);
            return;
        };
        for file in new.drain(..at) {
            if let Some(generation) = file.generation {
                ignored.push(Ignored {
                    device: file.device,
                    inode: file.inode,
                    key: Some(file.key),
                    generation,
                });
            }
        }
        let attempts =
            new.iter().map(|file| file.key.attempt).zip(new.iter().skip(1).map(|file| file.key.attempt));
        if attempts.into_iter().any(|(one, next)| next > one + 1) {
            self.gap(
                container,
                0,
                "a restarted container's file was removed while the agent was not running",
            );
        }
        if let Some(file) = new.first_mut() {
            let in_place = file.gzip
                || file.descriptor.as_ref().is_some_and(|descriptor| {
                    let mut buffer = read::Buffer::default();
                    let filled = buffer.fill_plain(descriptor, resume.offset, 0);
                    filled.is_ok() && file.size >= resume.offset && buffer.marker_at(0) == resume.marker
                });
            if in_place {
                file.seek(resume.offset, resume.marker, resume.position);
            }
        }
    }

    /// Forgets files that have neither a name nor a descriptor, and says so.
    fn drop_lost(&mut self, container: &mut Container) {
        let mut lost = None;
        container.files.retain(|file| {
            let kept = file.named || file.descriptor.is_some() || file.vanished;
            if !kept && file.size > file.acked {
                lost = Some(lost.unwrap_or(0) + (file.size - file.acked));
            }
            kept
        });
        if let Some(bytes) = lost {
            self.gap(container, bytes, "the file was removed before it could be opened");
        }
    }

    /// Counts a loss; its record goes in front of what is read next. Of what nobody has claimed so far it counts when
    /// it is claimed.
    pub(super) fn gap(&mut self, container: &mut Container, bytes: u64, reason: &'static str) {
        if container.wanted {
            self.count_gap(container, bytes, reason);
        } else if container.claim == Claim::Ignored {
            return;
        }
        Gap::merge(&mut container.gap, Gap { after: container.acked_time, bytes, reason, sent: false });
    }

    /// Counts and tells a loss that concerns somebody.
    pub(super) fn count_gap(&mut self, container: &Container, bytes: u64, reason: &'static str) {
        let source = &container.source;
        if bytes > 0 {
            tracing::warn!(%source, bytes, reason, "log lines were lost");
        } else {
            tracing::warn!(%source, reason, "log lines may have been lost, an unknown number of bytes");
        }
        self.counters.gaps += u64::from(container.gap.is_none());
        self.counters.lost_bytes += bytes;
    }
}

/// Whether an error is about the process or the machine and not about the file: it passes.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn head_generation(descriptor: &Arc<File>, compressed: bool) -> Option<u64> {
    if compressed {
        return read::generation(&gzip::head(descriptor, read::FIRST_LINE), true);
    }
    let mut head = [0; read::FIRST_LINE];
    let length = rustix::io::pread(&**descriptor, &mut head, 0).ok()?;
    read::generation(head.get(..length)?, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_files_the_newest_are_taken_and_the_others_counted() {
        let directory = tempfile::tempdir().unwrap();
        for attempt in 0..MOST_NAMES + 4 {
            fs::write(directory.path().join(format!("{attempt}.log")), "").unwrap();
        }
        let listing = list(directory.path(), &[]).unwrap();
        assert_eq!((listing.found.len(), listing.left_out), (MOST_NAMES, 4));
        assert_eq!(listing.found[0].name.key.attempt, 4);
    }
}
