//! One cgroup, whose files are read round after round.
//!
//! * Files that are read often stay open, as far as the limit of open files allows it; the rest, and all of those beyond it,
//!   are opened, read and closed.
//! * Nothing says that a container has ended but the files themselves: the kernel answers `ENODEV` for a cgroup that was
//!   removed, and `ENOENT` for a file of it.

use super::files::{Pace, RARE_EVERY, SLOW_EVERY, Spec};
use super::hierarchy::{Directories, Kind};
use super::values::Values;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What is read at once. `memory.stat` has 1 to 2 KiB.
const BUFFER: usize = 16 << 10;
/// No file of a cgroup is as long; what is beyond is left out.
const LONGEST: usize = 256 << 10;

/// What became of reading a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Read,
    /// The cgroup is gone.
    Ended,
    /// It is there, and nothing of it can be read.
    Unreadable,
}

/// What all cgroups are read with.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// How many files may stay open, and how many do.
    pub(super) most_open: usize,
    pub(super) open: usize,
    /// Cgroups that did not keep all of their files open in this round.
    pub(super) cramped: usize,
    /// A file could not be opened because too many are.
    pub(super) full: bool,
}

impl Reader {
    pub(super) fn new(most_open: usize) -> Reader {
        Reader { buffer: vec![0; BUFFER], most_open, open: 0, cramped: 0, full: false }
    }

    /// What the file says from its beginning.
    fn read(&mut self, file: &File) -> io::Result<&[u8]> {
        loop {
            let length = file.read_at(&mut self.buffer, 0)?;
            if length < self.buffer.len() {
                return Ok(self.buffer.get(..length).unwrap_or_default());
            }
            if self.buffer.len() >= LONGEST {
                // The last line may have been cut in a number.
                let end = memchr::memrchr(b'\n', &self.buffer).unwrap_or(0);
                return Ok(self.buffer.get(..end).unwrap_or_default());
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cgroup {
    directories: Directories,
    files: Box<[Slot]>,
    pub(super) values: Values,
    /// CPU and memory when the dear file was read last.
    moved: (Option<u64>, Option<u64>),
    rounds: u32,
    /// How many of its files are open.
    open: usize,
    /// Some files could not be opened, and are due again.
    incomplete: bool,
}

#[derive(Debug)]
struct Slot {
    spec: &'static Spec,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(File),
    /// The kernel has no such file here. It is looked for again in a slow round.
    Missing,
}

impl Cgroup {
    /// `phase` spreads the slow and the rare rounds of many cgroups over time.
    pub(super) fn new(directories: Directories, kind: Kind, phase: u32) -> Cgroup {
        let exists = |spec: &&Spec| directories.of_controller(spec.controller).is_some();
        let files = directories.files(kind).iter().filter(exists);
        let files = files.map(|spec| Slot { spec, state: State::Closed }).collect();
        Cgroup {
            directories,
            files,
            values: Values::default(),
            moved: (None, None),
            rounds: phase % RARE_EVERY,
            open: 0,
            incomplete: false,
        }
    }

    pub(super) fn counts_kills_below(&self) -> bool {
        self.directories.counts_kills_below()
    }

    pub(super) fn open_files(&self) -> usize {
        self.open
    }

    /// Takes in what its files say now. What cannot be read is unknown.
    pub(super) fn read(&mut self, reader: &mut Reader) -> Outcome {
        // The first time everything is read.
        let first = std::mem::take(&mut self.incomplete) || self.values == Values::default();
        let slow = first || self.rounds.is_multiple_of(SLOW_EVERY);
        let rare = first || self.rounds.is_multiple_of(RARE_EVERY);
        self.rounds = self.rounds.wrapping_add(1);
        let (mut read, mut gone, mut failed, mut cramped) = (0_usize, 0_usize, 0_usize, false);
        for at in 0..self.files.len() {
            let Some(slot) = self.files.get(at) else { break };
            let (spec, missing) = (slot.spec, matches!(slot.state, State::Missing));
            let moved = (self.values.cpu.nanos, self.values.memory.usage);
            let wanted = match spec.pace {
                Pace::Each => slow || !missing,
                Pace::WhenMoved => slow || (!missing && (moved != self.moved || moved.0.is_none())),
                Pace::Slow => slow,
                Pace::Rare => rare,
            };
            if !wanted {
                read += usize::from(!missing && spec.pace == Pace::WhenMoved);
                continue;
            }
            match self.take(at, reader) {
                Ok(kept) => {
                    read += 1;
                    cramped |= !kept && spec.pace.is_kept();
                    if spec.pace == Pace::WhenMoved {
                        self.moved = moved;
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NODEV) => return Outcome::Ended,
                    Some(Errno::MFILE | Errno::NFILE) => {
                        failed += 1;
                        (reader.full, self.incomplete) = (true, true);
                    }
                    errno => {
                        (spec.take)(&mut self.values, b"");
                        if matches!(errno, Some(Errno::NOENT | Errno::OPNOTSUPP)) {
                            gone += 1;
                            if let Some(slot) = self.files.get_mut(at) {
                                self.open -= usize::from(matches!(slot.state, State::Open(_)));
                                slot.state = State::Missing;
                            }
                        } else {
                            failed += 1;
                        }
                    }
                },
            }
        }
        reader.cramped += usize::from(cramped);
        match (read, gone, failed) {
            (1.., _, _) => Outcome::Read,
            (0, 1.., 0) => Outcome::Ended,
            (0, _, _) => Outcome::Unreadable,
        }
    }

    /// Reads one file; whether it is open now.
    fn take(&mut self, at: usize, reader: &mut Reader) -> io::Result<bool> {
        let Some(slot) = self.files.get_mut(at) else { return Ok(false) };
        if let State::Open(file) = &slot.state {
            let text = reader.read(file)?;
            (slot.spec.take)(&mut self.values, text);
            return Ok(true);
        }
        let directory = self.directories.of_controller(slot.spec.controller).unwrap_or(Path::new(""));
        let file = File::open(directory.join(slot.spec.name))?;
        let text = reader.read(&file)?;
        (slot.spec.take)(&mut self.values, text);
        let keep = slot.spec.pace.is_kept() && reader.open < reader.most_open;
        if keep {
            reader.open += 1;
            self.open += 1;
            slot.state = State::Open(file);
        } else {
            slot.state = State::Closed;
        }
        Ok(keep)
    }

    /// Lets go of its files; they are opened again when they are read.
    pub(super) fn close(&mut self) {
        for slot in &mut self.files {
            if matches!(slot.state, State::Open(_)) {
                slot.state = State::Closed;
            }
        }
        self.open = 0;
    }
}
