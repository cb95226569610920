//! What is known of one container and its chain of log files, oldest first.
//!
//! - A file leaves the chain when it has a successor that has begun, was read to its end after that, is acknowledged,
//!   and has been left alone for a while.
//! - What is durable is the position in the first file of the chain.

use super::gap::Gap;
use super::names::Key;
use super::partial::{Partial, Start};
use crate::checkpoint::{Cut, Position};
use skpr_proto::ids::Source;
use skpr_proto::v1;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The runtime goes on writing to a renamed file until it has opened the new one, and a write may be under way even
/// then: this long after the new one was seen, the old one's end is its end.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// How long a finished file is kept, in case something is written to it all the same.
pub(super) const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) path: PathBuf,
    pub(super) gzip: bool,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) descriptor: Option<Arc<File>>,
    pub(super) generation: Option<u64>,
    pub(super) size: u64,
    /// Bytes that were there, unread, when the file was found to have shrunk.
    pub(super) shrunk: u64,
    /// Bytes were seen that have not been read since.
    pub(super) behind: bool,
    /// Handed out up to here, and the hash of the bytes before.
    pub(super) read: u64,
    pub(super) marker: u64,
    /// Where reading goes on after a rewind, and the hash of the bytes before.
    pub(super) acked: u64,
    pub(super) acked_marker: u64,
    /// The last position given out before that place: beyond its offset where a message was emitted without its end.
    pub(super) acked_position: u64,
    /// At this size there was nothing to be had.
    pub(super) stuck_at: Option<u64>,
    /// It had its name at the last look.
    pub(super) named: bool,
    /// When its successor was first seen.
    pub(super) followed_at: Option<Instant>,
    /// Read to the end that it will have.
    pub(super) closed: bool,
    /// The decompressed end was reached.
    pub(super) ended: bool,
    /// Its content was overwritten: it cannot be read again.
    pub(super) vanished: bool,
    pub(super) last_position: u64,
    pub(super) modified: i64,
}

impl LogFile {
    pub(super) fn has_unread(&self) -> bool {
        if self.vanished {
            false
        } else if self.gzip {
            !self.ended
        } else {
            self.shrunk > 0 || (self.size != self.read && self.stuck_at != Some(self.size))
        }
    }

    pub(super) fn is_done(&self) -> bool {
        let at_end = self.vanished || (self.closed && (self.gzip || self.size <= self.read));
        at_end && self.acked >= self.read
    }

    /// Bytes on disk that are not acknowledged.
    pub(super) fn backlog(&self) -> u64 {
        if self.is_done() { 0 } else { self.size.saturating_sub(self.acked) }
    }

    /// Takes note of the size it has now.
    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.shrunk = self.size.saturating_sub(self.read);
        }
        self.behind |= self.size > self.read && size > self.size;
        self.size = size;
    }

    pub(super) fn seek(&mut self, offset: u64, marker: u64, position: u64) {
        self.read = offset;
        self.acked = offset;
        self.marker = marker;
        self.acked_marker = marker;
        self.acked_position = position.max(offset);
        self.last_position = self.acked_position;
    }

    fn rewind(&mut self) {
        self.read = self.acked;
        self.marker = self.acked_marker;
        self.last_position = self.acked_position;
        self.stuck_at = None;
        self.closed = false;
        self.ended = false;
    }
}

/// Whether a container's files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Not known yet: held open unread.
    Unknown,
    Claimed,
    /// No longer claimed: what is there is still read.
    Draining,
    /// Not read and not held.
    Ignored,
}

/// Whether a container waits for a turn, and among which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    Calm,
    Urgent,
}

/// Whether it is to be said that everything of a container has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More may come.
    Open,
    /// Nothing more comes, and this has still to be said.
    Wanted,
    Sent,
    Said,
}

/// A file of which nothing is wanted (any more), while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ignored {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) key: Option<Key>,
    /// Zero: it is empty.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: u64,
    pub(super) source: Source,
    pub(super) wire: v1::Source,
    pub(super) directory: PathBuf,
    pub(super) files: Vec<LogFile>,
    pub(super) ignored: Vec<Ignored>,
    /// Of stdout and of stderr.
    pub(super) partials: [Option<Partial>; 2],
    pub(super) cuts: Vec<Cut>,
    pub(super) claim: Claim,
    pub(super) since: Instant,
    /// Where to go on, until the directory has been looked at.
    pub(super) resume: Option<Position>,
    /// The checkpoint's place at the start. It stands until the first file has begun: an empty one says nothing, and what is
    /// not remembered cannot be missed.
    began: Option<Position>,
    pub(super) directory_modified: Option<SystemTime>,
    pub(super) listed_at: Option<Instant>,
    /// The directory does not exist any more.
    pub(super) gone: bool,
    pub(super) queued: Queued,
    pub(super) gap: Option<Gap>,
    /// It is or was claimed, perhaps of an earlier agent. What is not concerns nobody.
    pub(super) wanted: bool,
    /// Names in its directory that are left out, at the last look.
    pub(super) left_out: usize,
    /// Time of the last acknowledged record.
    pub(super) acked_time: Option<i64>,
    /// Time of the last line read.
    pub(super) line_time: Option<i64>,
    /// What is incomplete is to be emitted as it is.
    pub(super) flush: bool,
    pub(super) end: End,
    /// Batches on their way.
    pub(super) in_flight: u32,
}

impl Container {
    pub(super) fn new(id: u64, source: Source, directory: PathBuf, claim: Claim, now: Instant) -> Container {
        Container {
            id,
            wire: v1::Source::from(&source),
            source,
            directory,
            files: Vec::new(),
            ignored: Vec::new(),
            partials: [None, None],
            cuts: Vec::new(),
            claim,
            since: now,
            resume: None,
            began: None,
            directory_modified: None,
            listed_at: None,
            gone: false,
            queued: Queued::No,
            gap: None,
            wanted: false,
            left_out: 0,
            acked_time: None,
            line_time: None,
            flush: false,
            end: End::Open,
            in_flight: 0,
        }
    }

    /// Takes over what an earlier agent knew.
    pub(super) fn remember(&mut self, position: Position) {
        self.wanted = true;
        self.acked_time = position.time;
        self.cuts.clone_from(&position.cuts);
        let finished = position.finished.iter();
        self.ignored =
            finished.map(|&generation| Ignored { device: 0, inode: 0, key: None, generation }).collect();
        self.began = Some(position.clone());
        self.resume = Some(position);
    }

    pub(super) fn reads(&self) -> bool {
        matches!(self.claim, Claim::Claimed | Claim::Draining)
    }

    pub(super) fn has_partial(&self) -> bool {
        self.partials.iter().any(Option::is_some)
    }

    pub(super) fn partial_bytes(&self) -> usize {
        self.partials.iter().flatten().map(|partial| partial.message.capacity()).sum()
    }

    /// Whether a turn may find something to do.
    pub(super) fn wants_turn(&self) -> bool {
        let open = |file: &LogFile| file.followed_at.is_some() && !file.closed && !file.vanished;
        self.reads()
            && (self.flush
                || self.gone
                || self.end == End::Wanted
                || self.files.iter().any(|file| file.has_unread() || open(file)))
    }

    /// Whether something of it may disappear soon.
    pub(super) fn is_endangered(&self) -> bool {
        self.gone
            || self.files.first().is_some_and(|file| !file.named || file.followed_at.is_some() || file.gzip)
    }

    /// Where each file would have to be read again from, if everything read so far were acknowledged.
    pub(super) fn resume_points(&self) -> Vec<Start> {
        let point = |file: &LogFile| {
            let starts = self.partials.iter().flatten().flat_map(|partial| &partial.starts);
            let (offset, marker, position) = (file.read, file.marker, file.last_position);
            let end = Start { file: file.id, offset, marker, position };
            starts
                .filter(|start| start.file == file.id)
                .copied()
                .chain([end])
                .min_by_key(|start| start.offset)
        };
        self.files.iter().filter_map(point).collect()
    }

    pub(super) fn advance(&mut self, points: &[Start]) {
        for point in points {
            if let Some(file) =
                self.files.iter_mut().find(|file| file.id == point.file && point.offset >= file.acked)
            {
                file.acked = point.offset;
                file.acked_marker = point.marker;
                file.acked_position = file.acked_position.max(point.position);
            }
        }
        let files = &self.files;
        self.cuts.retain(|cut| {
            files.iter().any(|file| file.generation == Some(cut.generation) && file.acked <= cut.offset)
        });
    }

    /// Where what is incomplete would be cut off, now: the file, and the place in it.
    pub(super) fn cut_place(&self) -> Option<(usize, Cut)> {
        let index = self.files.iter().rposition(|file| file.read > 0 && file.generation.is_some())?;
        let file = self.files.get(index)?;
        Some((index, Cut { generation: file.generation?, offset: file.read }))
    }

    /// Remembers to cut it off here. True: that is new.
    pub(super) fn cut(&mut self) -> bool {
        let cut = self.cut_place().map(|(_, cut)| cut).filter(|cut| !self.cuts.contains(cut));
        self.cuts.extend(cut);
        cut.is_some()
    }

    /// Lets go of what is done. True: something changed.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        if self.in_flight == 0
            && (!self.cuts.is_empty() || self.files.iter().any(|file| file.acked != file.read))
        {
            let points = self.resume_points();
            self.advance(&points);
        }
        let before = self.files.len();
        let quiet = |file: &LogFile| file.vanished || file.followed_at.is_some_and(|at| now >= at + GRACE);
        // An empty file in between is nothing to remember.
        let gone = self.gone;
        let is_empty = |file: &LogFile| file.generation.is_none() && file.is_done() && (quiet(file) || gone);
        if self.files.iter().any(is_empty) {
            let (empty, rest) = std::mem::take(&mut self.files).into_iter().partition(is_empty);
            self.files = rest;
            let empty: Vec<LogFile> = empty;
            empty.iter().for_each(|file| self.ignore(file));
        }
        while let Some(first) = self.files.first() {
            let followed = quiet(first) && self.files.get(1).is_some_and(|next| next.generation.is_some());
            if !first.is_done() || !(followed || self.gone) {
                break;
            }
            let first = self.files.remove(0);
            self.ignore(&first);
        }
        self.files.len() != before
    }

    fn ignore(&mut self, file: &LogFile) {
        if file.named && !file.vanished {
            let generation = file.generation.unwrap_or_default();
            let (device, inode, key) = (file.device, file.inode, Some(file.key));
            self.ignored.push(Ignored { device, inode, key, generation });
        }
    }

    /// Nothing is left to read, to send, or to wait for.
    pub(super) fn is_finished(&self) -> bool {
        let done = self.files.iter().all(|file| file.is_done() || (!self.gone && file.acked >= file.size));
        self.in_flight == 0 && !self.has_partial() && self.gap.is_none() && self.end != End::Wanted && done
    }

    /// Goes back to what is acknowledged. Returns how many bytes cannot be read again.
    pub(super) fn rewind(&mut self) -> u64 {
        self.partials = [None, None];
        self.flush = false;
        if matches!(self.end, End::Sent | End::Said) {
            // Whoever is asked next may be another.
            self.end = End::Wanted;
        }
        self.in_flight = 0;
        if let Some(gap) = &mut self.gap {
            gap.sent = false;
        }
        let lost = self.files.iter().filter(|file| file.vanished).map(|file| file.read - file.acked).sum();
        self.files.retain(|file| !file.vanished);
        self.files.iter_mut().for_each(LogFile::rewind);
        lost
    }

    /// What the checkpoint keeps of it.
    pub(super) fn position(&self) -> Option<Position> {
        let first = self.files.first().filter(|_| self.wanted && self.resume.is_none());
        let Some((first, generation)) = first.and_then(|first| Some((first, first.generation?))) else {
            return self.resume.as_ref().or(self.began.as_ref()).cloned();
        };
        let mut finished: Vec<u64> = self.ignored.iter().map(|ignored| ignored.generation).collect();
        finished.sort_unstable();
        finished.dedup();
        finished.retain(|generation| *generation != 0);
        Some(Position {
            source: Some(self.wire.clone()),
            attempt: first.key.attempt,
            generation,
            offset: first.acked,
            marker: first.acked_marker,
            position: first.acked_position,
            time: self.acked_time,
            finished,
            cuts: self.cuts.clone(),
        })
    }
}
