//! A node that is only files: container logs in the layout and format of the kubelet and containerd.
//!
//! * `ROOT/NAMESPACE_POD_UID/CONTAINER/N.log`; a restarted container writes `N+1.log`.
//! * A rotation renames `N.log` to `N.log.YYYYMMDD-HHMMSS` and begins a new one; all but the newest of the renamed are
//!   compressed, and the oldest beyond the limit are deleted.
//! * A line longer than 16 KiB is written in parts (`P`), the last of which is marked `F`.

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where containerd splits a line.
const PART: usize = 16 << 10;
/// How many files the kubelet keeps of one container, the one being written included.
const MAX_FILES: usize = 5;

/// The log of one container. Its clock is its own: each line is one millisecond after the one before.
#[derive(Debug)]
pub struct ContainerLog {
    folder: PathBuf,
    number: u32,
    file: File,
    now: Timestamp,
    rotations: i64,
    max_files: usize,
}

/// The output a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl ContainerLog {
    /// The first log of `container` of a pod, in a node's log folder.
    pub fn create(
        root: &Path,
        namespace: &str,
        pod: &str,
        uid: &str,
        container: &str,
        now: Timestamp,
    ) -> Result<Self> {
        let folder = root.join(format!("{namespace}_{pod}_{uid}")).join(container);
        fs::create_dir_all(&folder).context("make the container's log folder")?;
        let file = open(&folder, 0)?;
        Ok(ContainerLog { folder, number: 0, file, now, rotations: 0, max_files: MAX_FILES })
    }

    /// The file being written.
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.number))
    }

    /// Writes one line, in as many parts as the runtime would.
    pub fn line(&mut self, stream: Stream, message: &[u8]) -> Result<()> {
        let mut rest = message;
        while let Some((part, more)) = rest.split_at_checked(PART).filter(|(_, more)| !more.is_empty()) {
            self.part(stream, 'P', part)?;
            rest = more;
        }
        self.part(stream, 'F', rest)
    }

    /// Writes one part, `P` or `F`, as it is.
    pub fn part(&mut self, stream: Stream, tag: char, bytes: &[u8]) -> Result<()> {
        self.now += SignedDuration::from_millis(1);
        let mut entry = format!("{:.9} {} {tag} ", self.now, stream.name()).into_bytes();
        entry.extend_from_slice(bytes);
        entry.push(b'\n');
        self.raw(&entry)
    }

    /// Writes bytes that need not be an entry at all.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context("write to the container's log")
    }

    /// What the kubelet does when the file has grown past its limit.
    pub fn rotate(&mut self) -> Result<()> {
        // Names are seconds, and two rotations within one would collide.
        self.rotations += 1;
        let second = (self.now + SignedDuration::from_secs(self.rotations)).to_zoned(TimeZone::UTC);
        let renamed = format!("{}.log.{}", self.number, second.strftime("%Y%m%d-%H%M%S"));
        for old in self.rotated()?.into_iter().filter(|path| path.extension().is_none_or(|end| end != "gz")) {
            compress(&old)?;
        }
        fs::rename(self.path(), self.folder.join(renamed)).context("rename the container's log")?;
        self.file = open(&self.folder, self.number)?;
        let rotated = self.rotated()?;
        let excess = (rotated.len() + 1).saturating_sub(self.max_files);
        for old in rotated.into_iter().take(excess) {
            fs::remove_file(old).context("delete an old log")?;
        }
        Ok(())
    }

    /// The container ended and was started again.
    pub fn restart(&mut self) -> Result<()> {
        self.number += 1;
        self.file = open(&self.folder, self.number)?;
        Ok(())
    }

    /// The pod was deleted, and all its logs with it.
    pub fn delete(self) -> Result<()> {
        let pod = self.folder.parent().context("find the pod's folder")?;
        fs::remove_dir_all(pod).context("delete the pod's logs")
    }

    /// The renamed files of the running container, oldest first.
    pub fn rotated(&self) -> Result<Vec<PathBuf>> {
        let prefix = format!("{}.log.", self.number);
        let mut found = vec![];
        for entry in fs::read_dir(&self.folder).context("list the container's logs")? {
            let path = entry.context("list the container's logs")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&prefix) && !name.ends_with(".tmp") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

fn open(folder: &Path, number: u32) -> Result<File> {
    let path = folder.join(format!("{number}.log"));
    OpenOptions::new().create(true).append(true).open(path).context("begin a log file")
}

/// As the kubelet does: into a `.tmp` beside it, then renamed, then the original is deleted.
fn compress(path: &Path) -> Result<()> {
    let named = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
    let mut encoder =
        GzEncoder::new(File::create(named(".tmp")).context("begin a compressed log")?, Compression::fast());
    encoder.write_all(&fs::read(path).context("read a log to compress")?).context("compress a log")?;
    encoder.finish().context("compress a log")?;
    fs::rename(named(".tmp"), named(".gz")).context("name a compressed log")?;
    fs::remove_file(path).context("delete a log that is compressed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_written_and_rotated_as_by_a_kubelet() {
        let root = tempfile::tempdir().unwrap();
        let start = "2026-11-22T10:00:00Z".parse().unwrap();
        let mut log = ContainerLog::create(root.path(), "sites", "web-1", "u1", "main", start).unwrap();
        log.line(Stream::Stdout, b"hello").unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        assert_eq!(text, "2026-11-22T10:00:00.001000000Z stdout F hello\n");
        log.line(Stream::Stderr, &vec![b'x'; PART + 1]).unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(text.ends_with("stderr F x\n") && text.contains("stderr P x"));
        log.line(Stream::Stdout, &vec![b'y'; PART]).unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap().matches(" P ").count(), 1, "16 KiB are one part");
        for _ in 0..6 {
            log.rotate().unwrap();
        }
        let rotated = log.rotated().unwrap();
        assert_eq!(rotated.len(), MAX_FILES - 1);
        let compressed =
            rotated.iter().filter(|path| path.extension().is_some_and(|end| end == "gz")).count();
        assert_eq!(compressed, MAX_FILES - 2, "the newest is left as it is");
        log.restart().unwrap();
        assert!(log.path().ends_with("1.log"));
    }
}
