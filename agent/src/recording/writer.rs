//! What writes recordings: one thread, whose disk may be slow, full or gone without anybody's session noticing.
//!
//! * A reader sees whole lines: what of a write did not fit is taken back.
//! * What cannot be written is not kept. It is counted, and a marker takes its place as soon as something fits again.

use super::cast::{Text, marked, resized, shown};
use super::queue::{Event, Queue, Track};
use super::shelf::Shelf;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often what is shown is written: a reader is no further behind.
const EVERY: Duration = Duration::from_millis(250);
/// The longest recording: days of typing, or a minute of something that pours.
const LONGEST: u64 = 64 << 20;
/// Kept of it for the last marker.
const LAST: u64 = 512;

/// The writer of all recordings.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    shelf: Shelf,
    open: Vec<Open>,
    longest: u64,
}

/// A recording that goes on.
#[derive(Debug)]
struct Open {
    track: Arc<Track>,
    /// None while it cannot be made.
    file: Option<Written>,
    text: Text,
    /// Bytes that were shown and are not in it: since the last marker, and at all.
    missing: u64,
    missed: u64,
    warned: bool,
    full: bool,
    ended: bool,
}

/// A file, and what of it is whole.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    file: File,
    length: u64,
}

/// Why something is not written.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error("recordings take all the room that they may")]
    NoRoom,
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, shelf: Shelf) -> Writer {
        Writer { queue, shelf, open: vec![], longest: LONGEST }
    }

    /// Writes until it is stopped, and then what there is.
    pub(super) fn run(mut self) {
        loop {
            let (begun, stopping) = self.queue.wait((!self.open.is_empty()).then_some(EVERY));
            self.open.extend(begun.into_iter().map(Open::new));
            self.write();
            if stopping {
                return;
            }
        }
    }

    /// Writes what waits.
    fn write(&mut self) {
        let mut paths: BTreeSet<PathBuf> =
            self.open.iter().filter_map(|open| Some(open.file.as_ref()?.path.clone())).collect();
        for open in &mut self.open {
            let taken = open.track.take();
            let begun = open.file.is_none();
            open.write(&taken.events, &mut self.shelf, &paths, self.longest);
            self.queue.give_back(&taken);
            if let Some(file) = open.file.as_ref().filter(|_| begun) {
                paths.insert(file.path.clone());
            }
        }
        self.open.retain(|open| !open.ended);
    }
}

impl Open {
    fn new(track: Arc<Track>) -> Open {
        let text = Text::default();
        Open { track, file: None, text, missing: 0, missed: 0, warned: false, full: false, ended: false }
    }

    fn write(&mut self, events: &[Event], shelf: &mut Shelf, open: &BTreeSet<PathBuf>, longest: u64) {
        let mut lines = Lines::default();
        for event in events {
            match event {
                Event::Output(at, bytes) => {
                    lines.mark(*at, std::mem::take(&mut self.missing));
                    let text = self.text.push(bytes);
                    if !text.is_empty() {
                        lines.text.push_str(&shown(*at, &text));
                    }
                    lines.holds += bytes.len() as u64;
                }
                Event::Resize(at, size) => lines.text.push_str(&resized(*at, *size)),
                Event::Missing(at, bytes) => {
                    self.cut(*at, &mut lines);
                    self.missed += bytes;
                    lines.mark(*at, std::mem::take(&mut self.missing) + bytes);
                }
                Event::End(at) => {
                    self.cut(*at, &mut lines);
                    lines.mark(*at, std::mem::take(&mut self.missing));
                    self.ended = true;
                }
            }
        }
        if !self.has_begun() || !lines.text.is_empty() {
            self.append(lines, shelf, open, longest);
        }
        if self.ended && self.missed > 0 {
            tracing::warn!(recording = %self.name(), missing_bytes = self.missed, "a recording is not whole");
        }
    }

    /// No more of a character that has begun comes.
    fn cut(&mut self, at: Duration, lines: &mut Lines) {
        let rest = self.text.end();
        if !rest.is_empty() {
            lines.text.push_str(&shown(at, rest));
        }
    }

    /// Appends lines, or counts what was in them.
    fn append(&mut self, lines: Lines, shelf: &mut Shelf, open: &BTreeSet<PathBuf>, longest: u64) {
        if self.full {
            self.missed += lines.holds;
            return;
        }
        let last = lines.last;
        match self.try_append(&lines.text, shelf, open, longest) {
            Ok(true) => {}
            Ok(false) => {
                self.full = true;
                self.missed += lines.holds;
                let marker = marked(last, &format!("the recording ends here: it has {} MiB", longest >> 20));
                let fits = u64::MAX;
                if self.try_append(&marker, shelf, open, fits).is_err() {
                    tracing::debug!("the end of a recording is not marked");
                }
                tracing::warn!(recording = %self.name(), "a recording is as long as one may be");
            }
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(%error, recording = %self.name(), "a recording is not written");
                }
                // The begin of a character may have been among them.
                self.text.end();
                self.missing += lines.holds + lines.marked;
                self.missed += lines.holds;
            }
        }
    }

    /// Whether there is a place for them in the file.
    fn try_append(
        &mut self,
        lines: &str,
        shelf: &mut Shelf,
        open: &BTreeSet<PathBuf>,
        longest: u64,
    ) -> Result<bool, NotWritten> {
        let header = if self.has_begun() { String::new() } else { self.track.header.line() };
        let length = self.file.as_ref().map_or(0, |file| file.length);
        let grown = length + header.len() as u64 + lines.len() as u64;
        if grown > longest.saturating_sub(LAST) {
            return Ok(false);
        }
        if !shelf.grows(length, grown, open) {
            return Err(NotWritten::NoRoom);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let (path, file) = shelf.create(&self.track.header)?;
                none.insert(Written { path, file, length: 0 })
            }
        };
        file.append(&(header + lines))?;
        Ok(true)
    }

    /// Whether its first line is there.
    fn has_begun(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.length > 0)
    }

    fn name(&self) -> String {
        let subject = &self.track.header.subject;
        let path = self.file.as_ref().map(|file| file.path.display().to_string());
        path.unwrap_or_else(|| format!("{} {}", subject.environment, subject.instance))
    }
}

impl Written {
    fn append(&mut self, lines: &str) -> io::Result<()> {
        let written = self.file.write_all_at(lines.as_bytes(), self.length);
        match written {
            Ok(()) => self.length += lines.len() as u64,
            // A line that is not whole is none.
            Err(_) => drop(self.file.set_len(self.length)),
        }
        written
    }
}

/// Lines that are to be written together.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    /// Bytes that were shown in them, and that markers in them say are missing.
    holds: u64,
    marked: u64,
    last: Duration,
}

impl Lines {
    fn mark(&mut self, at: Duration, missing: u64) {
        self.last = at;
        if missing > 0 {
            self.marked += missing;
            self.text.push_str(&marked(at, &format!("{missing} bytes are missing here")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Subject};
    use super::*;
    use crate::recording::cast::Header;
    use crate::runtime::Size;
    use jiff::Timestamp;
    use skpr_proto::EnvironmentName;
    use std::path::Path;

    const AT: Duration = Duration::from_secs(1);

    fn open_with(file: &Path) -> Open {
        let subject = Subject {
            environment: EnvironmentName::parse("shop", "dev").unwrap(),
            instance: "shop-dev-1".into(),
            session: "5e55".into(),
        };
        let (size, term) = (Size::of(80, 24), "xterm".to_owned());
        let header = Header { subject, number: 1, time: Timestamp::UNIX_EPOCH, size, term, shell: None };
        let mut open = Open::new(Arc::new(Queue::default()).begin(header));
        open.file = Some(written(file));
        open
    }

    fn written(path: &Path) -> Written {
        let file = File::options().write(true).open(path).unwrap();
        Written { path: path.to_owned(), file, length: 0 }
    }

    fn shown(text: &str) -> Event {
        Event::Output(AT, text.as_bytes().to_vec())
    }

    #[test]
    fn a_disk_that_is_full_leaves_whole_lines_and_a_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cast");
        std::fs::write(&path, "").unwrap();
        let settings = Settings { directory: directory.path().to_owned(), max_bytes: 1 << 30 };
        let (mut shelf, none) = (Shelf::open(settings).unwrap(), BTreeSet::new());
        let mut open = open_with(Path::new("/dev/full"));
        open.write(&[shown("lost"), Event::Missing(AT, 5), shown(" and this")], &mut shelf, &none, LONGEST);
        open.write(&[shown("!")], &mut shelf, &none, LONGEST);
        assert_eq!((open.missing, open.missed), (19, 19));
        open.file = Some(written(&path));
        open.write(&[shown("kept")], &mut shelf, &none, LONGEST);
        let full = open.file.replace(written(Path::new("/dev/full")));
        open.file.as_mut().unwrap().length = 1;
        open.write(&[shown("lost again")], &mut shelf, &none, LONGEST);
        open.file = full;
        open.write(&[Event::End(AT)], &mut shelf, &none, LONGEST);
        let cast = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = cast.lines().collect();
        assert!(lines[0].contains("\"version\":2"), "{cast}");
        let expected = [
            "[1.000000, \"m\", \"19 bytes are missing here\"]",
            "[1.000000, \"o\", \"kept\"]",
            "[1.000000, \"m\", \"10 bytes are missing here\"]",
        ];
        assert_eq!(lines[1..], expected);
        assert!(open.ended && open.missed == 29);
    }

    #[test]
    fn a_recording_that_is_too_long_says_that_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cast");
        std::fs::write(&path, "").unwrap();
        let settings = Settings { directory: directory.path().to_owned(), max_bytes: 1 << 30 };
        let (mut shelf, none) = (Shelf::open(settings).unwrap(), BTreeSet::new());
        let mut open = open_with(&path);
        for _ in 0..300 {
            open.write(&[shown(&"x".repeat(10_000))], &mut shelf, &none, 1 << 20);
        }
        open.write(&[Event::End(AT)], &mut shelf, &none, 1 << 20);
        let cast = std::fs::read_to_string(&path).unwrap();
        assert!(cast.len() <= 1 << 20 && cast.len() > (1 << 20) - 20_000, "{}", cast.len());
        let last = cast.lines().last().unwrap();
        assert_eq!(last, "[1.000000, \"m\", \"the recording ends here: it has 1 MiB\"]");
        assert_eq!(open.missed + 10_000 * (cast.lines().count() as u64 - 2), 3_000_000);
    }
}
