//! An instance's output, written as a container runtime writes it: `TIME STREAM TAG TEXT` lines in `N.log`.
//!
//! * Lines are cut as containerd cuts them: at 16 KiB with tag `P`; the end of a line has tag `F`. So has output that ends
//!   without a newline, which containerd gives a `P`: nothing more can come, and whoever reads it need not wait for that.
//! * A file only ever grows, and is rotated by rename between two lines, so that whoever reads it loses nothing.
//! * A disk that is full or failing costs records, counted and noted in the output, and never stops the site.

use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The longest piece of a line: containerd's default.
const MAX_PIECE: usize = 16 << 10;
/// A file is rotated when it has grown to this (kubelet's default).
pub(super) const ROTATE_AT: u64 = 10 << 20;
/// How many rotated files are kept (kubelet's default of five files, one of them in use).
const KEEP_ROTATED: usize = 4;
/// The files of so many earlier starts of an instance are kept, and those that were written so lately: within that
/// time the agent, which reads a file within moments, has come to them unless it never will.
const KEEP_STARTS: u32 = 4;
const KEEP_LATELY: Duration = Duration::from_secs(3600);
/// The files of starts before so many are removed all the same. An instance that ends at once is started about seventy
/// times an hour; and the files of all these starts are less than the agent looks at in one directory.
const MOST_STARTS: u32 = 200;

/// Cuts one stream's bytes into lines of the log format. Holds at most [`MAX_PIECE`] bytes.
pub(super) struct Cutter {
    stream: &'static str,
    pending: Vec<u8>,
}

impl Cutter {
    pub(super) fn new(stream: &'static str) -> Self {
        Cutter { stream, pending: Vec::new() }
    }

    /// Appends the lines that `bytes` complete to `out`.
    pub(super) fn push(&mut self, time: Timestamp, bytes: &[u8], out: &mut Vec<u8>) {
        let time = format!("{time:.9}");
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut body, ended) = match piece.split_last() {
                Some((b'\n', body)) => (body, true),
                _ => (piece, false),
            };
            while self.pending.len() + body.len() > MAX_PIECE {
                let (head, rest) =
                    body.split_at(MAX_PIECE.saturating_sub(self.pending.len()).min(body.len()));
                self.emit(&time, b'P', head, out);
                body = rest;
            }
            if ended {
                self.emit(&time, b'F', body, out);
            } else {
                self.pending.extend_from_slice(body);
            }
        }
    }

    /// Appends what is left when the stream has ended.
    pub(super) fn finish(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit(&format!("{time:.9}"), b'F', b"", out);
        }
    }

    fn emit(&mut self, time: &str, tag: u8, text: &[u8], out: &mut Vec<u8>) {
        for part in
            [time.as_bytes(), b" ", self.stream.as_bytes(), b" ", &[tag], b" ", &self.pending, text, b"\n"]
        {
            out.extend_from_slice(part);
        }
        self.pending.clear();
    }
}

/// The file that one start of an instance writes to.
pub(super) struct LogFile {
    directory: PathBuf,
    start: u32,
    rotate_at: u64,
    file: Option<File>,
    length: u64,
    /// The last write stopped inside a line.
    torn: bool,
    dropped: u64,
    /// The time in the name of the newest rotated file.
    rotated: Option<Timestamp>,
}

impl LogFile {
    pub(super) fn new(directory: PathBuf, start: u32, rotate_at: u64) -> Self {
        LogFile { directory, start, rotate_at, file: None, length: 0, torn: false, dropped: 0, rotated: None }
    }

    /// The directory and the number of the start, for [`tidy`].
    pub(super) fn place(&self) -> (PathBuf, u32) {
        (self.directory.clone(), self.start)
    }

    /// Writes whole `lines`. True when the file was rotated, which leaves work for [`tidy`].
    pub(super) fn write(&mut self, lines: &[u8], now: Timestamp) -> bool {
        let mut written = 0;
        match self.try_write(lines, now, &mut written) {
            Ok(()) => {}
            Err(error) => {
                let lost = lines.get(written..).unwrap_or_default();
                if self.dropped == 0 {
                    tracing::warn!(directory = %self.directory.display(), error = %error, "output cannot be written");
                }
                self.dropped += lost.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.torn |= written
                    .checked_sub(1)
                    .and_then(|last| lines.get(last))
                    .is_some_and(|byte| *byte != b'\n');
                return false;
            }
        }
        self.length >= self.rotate_at && self.rotate(now)
    }

    fn try_write(&mut self, lines: &[u8], now: Timestamp, written: &mut usize) -> io::Result<()> {
        if self.torn {
            self.raw(b"\n", &mut 0)?;
            self.torn = false;
        }
        if self.dropped > 0 {
            let note = format!("{now:.9} stderr F skpr: {} records could not be written\n", self.dropped);
            let mut noted = 0;
            let result = self.raw(note.as_bytes(), &mut noted);
            self.torn = noted > 0 && result.is_err();
            result?;
            tracing::info!(directory = %self.directory.display(), records = self.dropped, "output is written again");
            self.dropped = 0;
        }
        self.raw(lines, written)
    }

    fn raw(&mut self, mut bytes: &[u8], written: &mut usize) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                fs::create_dir_all(&self.directory)?;
                let path = self.directory.join(format!("{}.log", self.start));
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                self.length = file.metadata()?.len();
                none.insert(file)
            }
        };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count;
                    self.length += count as u64;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> bool {
        let current = self.directory.join(format!("{}.log", self.start));
        // One name a second, in the only form that there is: whoever rotates more often is ahead of the clock. Names
        // sort as the files were made, also when the clock steps back.
        let next = self.rotated.and_then(|last| last.checked_add(SignedDuration::from_secs(1)).ok());
        let stamp = next.map_or(now, |next| next.max(now));
        self.rotated = Some(stamp);
        let name = format!("{}.log.{}", self.start, stamp.strftime("%Y%m%d-%H%M%S"));
        match fs::rename(&current, self.directory.join(name)) {
            Ok(()) => {
                self.file = None;
                true
            }
            Err(error) => {
                tracing::warn!(directory = %self.directory.display(), error = %error, "output cannot be rotated");
                false
            }
        }
    }
}

/// Compresses the rotated files but the newest, which readers are likely still in, and removes what is too old. Needed
/// after each rotation and at each start.
pub(super) fn tidy(directory: &Path, start: u32, now: SystemTime) -> io::Result<()> {
    let mut rotated = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((number, rest)) = name.split_once(".log") else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let is_late = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > KEEP_LATELY))
        };
        let is_old = number + MOST_STARTS < start || (number + KEEP_STARTS < start && is_late());
        if is_old || rest.ends_with(".tmp") {
            fs::remove_file(directory.join(&name))?;
        } else if let Some(stamp) = rest.strip_prefix('.').filter(|_| number == start) {
            rotated.push((stamp.trim_end_matches(".gz").to_owned(), name));
        }
    }
    rotated.sort();
    while rotated.len() > KEEP_ROTATED {
        let (_, oldest) = rotated.remove(0);
        fs::remove_file(directory.join(oldest))?;
    }
    rotated.pop();
    for (_, name) in rotated.iter().filter(|(_, name)| !name.ends_with(".gz")) {
        compress(&directory.join(name))?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let named = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let mut encoder = GzEncoder::new(File::create(named(".tmp"))?, Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(named(".tmp"), named(".gz"))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00.5Z".parse().unwrap()
    }

    fn cut(chunks: &[&[u8]]) -> Vec<(char, Vec<u8>)> {
        let (mut cutter, mut out) = (Cutter::new("stdout"), Vec::new());
        for chunk in chunks {
            cutter.push(now(), chunk, &mut out);
        }
        cutter.finish(now(), &mut out);
        let mut lines: Vec<_> = out.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.pop(), Some(&b""[..]));
        let head = b"2026-11-23T10:00:00.500000000Z stdout ";
        lines
            .iter()
            .map(|line| (char::from(line[head.len()]), line.strip_prefix(head).unwrap()[2..].to_vec()))
            .collect()
    }

    #[test]
    fn lines_are_cut_as_containerd_cuts_them() {
        let full = vec![b'x'; MAX_PIECE];
        let with = |tail: &[u8]| [&full[..], tail].concat();
        assert_eq!(cut(&[b"a\n\nb\r\n"]), [('F', b"a".to_vec()), ('F', vec![]), ('F', b"b\r".to_vec())]);
        assert_eq!(cut(&[b"no end"]), [('F', b"no end".to_vec())]);
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&[&with(b"\n")]), [('F', full.clone())]);
        assert_eq!(cut(&[&with(b"y\n")]), [('P', full.clone()), ('F', b"y".to_vec())]);
        assert_eq!(cut(&[&with(b""), b"\n"]), [('F', full.clone())]);
        assert_eq!(cut(&[&with(&full), b"\n"]), [('P', full.clone()), ('F', full.clone())]);
        assert_eq!(cut(&[&with(b"")]), [('F', full.clone())]);
    }

    proptest! {
        #[test]
        fn however_it_arrives_the_bytes_are_the_same(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..2000),
            size in 1..300_usize,
            long in 0..40_000_usize,
        ) {
            let text = [text, vec![b'z'; long], b"\nend".to_vec()].concat();
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            let pieces = cut(&chunks);
            prop_assert_eq!(&pieces, &cut(&[&text]));
            let mut joined = Vec::new();
            for (tag, piece) in &pieces {
                prop_assert!(piece.len() <= MAX_PIECE);
                joined.extend_from_slice(piece);
                if *tag == 'F' {
                    joined.push(b'\n');
                }
            }
            // The last line ends with the output.
            prop_assert_eq!(joined, [text, vec![b'\n']].concat());
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_loses_no_line_and_keeps_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(directory.path().join("app"), 3, 100);
        let app = directory.path().join("app");
        for n in 0..4 {
            assert!(log.write(format!("{n}{}\n", "x".repeat(120)).as_bytes(), now()));
            tidy(&app, 3, SystemTime::now()).unwrap();
        }
        let stem = "3.log.20261123-10000";
        assert_eq!(
            names(&app),
            [format!("{stem}0.gz"), format!("{stem}1.gz"), format!("{stem}2.gz"), format!("{stem}3")]
        );
        let mut text = String::new();
        GzDecoder::new(File::open(app.join(format!("{stem}1.gz"))).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.starts_with("1xxx") && text.ends_with("x\n"));
        for n in 4..15 {
            assert!(log.write(format!("{n}{}\n", "x".repeat(120)).as_bytes(), now()));
            tidy(&app, 3, SystemTime::now()).unwrap();
        }
        assert_eq!(names(&app).len(), KEEP_ROTATED);
        assert!(names(&app).contains(&"3.log.20261123-100014".to_owned()));
    }

    #[test]
    fn two_rotations_within_one_second_have_names_that_the_agent_reads() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(directory.path().to_owned(), 0, 1);
        let back = now() - SignedDuration::from_secs(60);
        let mut made = Vec::new();
        for time in [now(), now(), now(), back, now()] {
            assert!(log.write(b"line\n", time));
            made.extend(
                names(directory.path()).into_iter().filter(|name| !made.contains(name)).collect::<Vec<_>>(),
            );
        }
        assert_eq!(made.len(), 5);
        assert!(made.is_sorted(), "{made:?}");
        for name in &made {
            assert!(skpr_agent::tail::is_log_file(name), "{name}");
        }
        tidy(directory.path(), 0, SystemTime::now()).unwrap();
        assert!(names(directory.path()).iter().all(|name| skpr_agent::tail::is_log_file(name)));
    }

    #[test]
    fn files_of_starts_long_ago_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["0.log", "0.log.20260101-000000.gz", "2.log", "6.log", "6.log.20260101-000000.tmp", "other"]
        {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        tidy(directory.path(), 6, SystemTime::now() + KEEP_LATELY * 2).unwrap();
        assert_eq!(names(directory.path()), ["2.log", "6.log", "other"]);
    }

    #[test]
    fn a_crash_loop_keeps_what_may_still_be_unread_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        for start in 0..1000 {
            tidy(directory.path(), start, SystemTime::now()).unwrap();
            fs::write(directory.path().join(format!("{start}.log")), "x").unwrap();
        }
        assert_eq!(names(directory.path()).len(), MOST_STARTS as usize + 1);
        tidy(directory.path(), 1000, SystemTime::now() + KEEP_LATELY * 2).unwrap();
        assert_eq!(names(directory.path()).len(), KEEP_STARTS as usize);
    }

    #[test]
    fn a_directory_that_cannot_be_written_costs_records_and_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let app = directory.path().join("app");
        fs::write(&app, "in the way").unwrap();
        let mut log = LogFile::new(app.clone(), 0, ROTATE_AT);
        assert!(!log.write(b"T stdout F one\nT stdout F two\n", now()));
        fs::remove_file(&app).unwrap();
        assert!(!log.write(b"T stdout F three\n", now()));
        let text = fs::read_to_string(app.join("0.log")).unwrap();
        assert_eq!(
            text,
            "2026-11-23T10:00:00.500000000Z stderr F skpr: 2 records could not be written\nT stdout F three\n"
        );
    }

    #[test]
    fn a_full_disk_is_survived() {
        let mut log = LogFile::new(PathBuf::from("/nowhere"), 0, ROTATE_AT);
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        log.file = Some(full);
        assert!(!log.write(b"a\nb\n", now()));
        assert!(!log.write(b"c\n", now()));
        assert_eq!((log.dropped, log.torn), (3, false));
    }
}
