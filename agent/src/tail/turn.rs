//! One container's turn: the next batch out of its chain of files, oldest first.

use super::cri::Output;
use super::engine::Engine;
use super::follow::{Container, End, LogFile, SETTLE};
use super::outbox::{Columns, Head, Sent};
use super::parse::{self, Piece, State};
use super::read::{self, LONGEST_LINE, QUANTUM};
use skpr_proto::v1::{self, RecordKind};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Instant;

/// How a turn ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once a turn and taken apart at once")]
pub(super) enum Turn {
    Batch(v1::Batch),
    /// It got on, and there is more: its next turn goes on.
    Yield,
    /// It needs what another container uses at the moment.
    Blocked,
    /// Nothing to do until something changes.
    Idle,
}

#[expect(clippy::large_enum_variant, reason = "made once a turn and taken apart at once")]
enum Step {
    End(Turn),
    Again,
    Next,
}

impl Engine {
    pub(super) fn turn(&mut self, container: &mut Container, now: Instant) -> Turn {
        if std::mem::take(&mut container.flush)
            && let Some(batch) = self.flush_early(container)
        {
            return Turn::Batch(batch);
        }
        let mut index = 0;
        while index < container.files.len() {
            match self.step(container, index, now) {
                Step::End(turn) => return turn,
                Step::Again => {}
                Step::Next => index += 1,
            }
        }
        if container.gone {
            if container.has_partial()
                && let Some(batch) = self.flush(container)
            {
                return Turn::Batch(batch);
            }
            if let Some(batch) = self.final_gap(container) {
                return Turn::Batch(batch);
            }
        }
        if container.end == End::Wanted {
            if container.has_partial() {
                return self.flush_early(container).map_or(Turn::Idle, Turn::Batch);
            }
            return Turn::Batch(self.say_end(container));
        }
        Turn::Idle
    }

    fn step(&mut self, container: &mut Container, index: usize, now: Instant) -> Step {
        let last = index + 1 == container.files.len();
        let next_attempt = container.files.get(index + 1).map(|next| next.key.attempt);
        let settled = container.files.get(index).and_then(|file| file.followed_at).is_some_and(|at| {
            now >= at + SETTLE && container.listed_at.is_some_and(|listed| listed >= at + SETTLE)
        });
        let Some(file) = container.files.get_mut(index) else { return Step::Next };
        if file.has_unread() {
            if let Some(step) = self.read(container, index, false, now) {
                return step;
            }
            return Step::Again;
        }
        if file.vanished || file.closed {
            return Step::Next;
        }
        let grows = last && !container.gone && container.end == End::Open;
        if !file.gzip && !grows {
            let size = file
                .descriptor
                .as_ref()
                .and_then(|descriptor| descriptor.metadata().ok())
                .map(|now| now.len());
            if let Some(size) = size.filter(|size| *size != file.size) {
                file.resize(size);
                return Step::Again;
            }
        }
        if last && !container.gone {
            return if grows { Step::End(Turn::Idle) } else { Step::Next };
        }
        if !last && !settled && !container.gone {
            self.wake_at(now + SETTLE);
            self.settling.insert(container.id);
            return Step::End(Turn::Idle);
        }
        // This is the end that it will have: a line without newline is a line.
        if !file.gzip && file.size > file.read {
            let step = self.read(container, index, true, now);
            if let Some(file) = container.files.get_mut(index) {
                file.closed = file.read >= file.size;
            }
            if let Some(step) = step {
                return step;
            }
        }
        if let Some(file) = container.files.get_mut(index) {
            file.closed = true;
        }
        let attempt = container.files.get(index).map(|file| file.key.attempt);
        let exited = next_attempt.is_some() && next_attempt != attempt;
        if exited
            && container.has_partial()
            && let Some(batch) = self.flush(container)
        {
            return Step::End(Turn::Batch(batch));
        }
        Step::Next
    }

    /// Reads on in one file. None: there is nothing to be had.
    fn read(
        &mut self,
        container: &mut Container,
        index: usize,
        complete: bool,
        now: Instant,
    ) -> Option<Step> {
        let descriptor = match self.descriptor(container, index) {
            Ok(descriptor) => descriptor,
            Err(error) => return self.unreadable(container, index, &error),
        };
        let file = container.files.get_mut(index)?;
        if !file.gzip && (file.size < file.read || file.shrunk > 0) {
            return Some(self.truncated(container, index));
        }
        if file.gzip && self.inflater.as_ref().is_some_and(|inflater| inflater.file != file.id) {
            return Some(Step::End(Turn::Blocked));
        }
        let mut most = QUANTUM;
        let mut filled = self.fill(file, &descriptor, most);
        let line_is_longer =
            self.buffer.after().len() == QUANTUM && memchr::memchr(b'\n', self.buffer.after()).is_none();
        if filled.is_ok() && line_is_longer {
            most = LONGEST_LINE;
            filled = self.fill(file, &descriptor, most);
        }
        let in_place = self.is_in_place(file);
        let damaged = file.gzip && filled.is_err();
        if !damaged {
            if let Err(error) = filled {
                tracing::warn!(path = %file.path.display(), %error, "cannot read a log file");
                file.stuck_at = Some(file.size);
                return None;
            }
            if !in_place {
                return Some(self.truncated(container, index));
            }
        }
        let length = if in_place { self.buffer.after().len() } else { 0 };
        if damaged || (file.gzip && length < most) {
            file.ended = true;
        }
        file.size = if file.gzip { file.size } else { file.size.max(file.read + length as u64) };
        let complete = complete || file.ended;
        if file.generation.is_none() {
            file.generation = read::generation(self.buffer.after(), complete);
        }
        let Some(generation) = file.generation.filter(|_| length > 0) else {
            file.stuck_at = Some(file.size);
            if file.ended {
                self.inflater = None;
            }
            self.damaged(container, index, damaged);
            return None;
        };
        let offset = file.read;
        let stops: Vec<u64> =
            container.cuts.iter().filter(|cut| cut.generation == generation).map(|cut| cut.offset).collect();
        if stops.contains(&offset) && container.has_partial() {
            // It was emitted here before, and is again.
            if let Some(batch) = self.flush(container) {
                return Some(Step::End(Turn::Batch(batch)));
            }
        }
        let file = container.files.get_mut(index)?;
        let mut columns = Columns::with_capacity(length);
        let mut gap = false;
        if let Some(lost) = container.gap.as_mut().filter(|gap| !gap.sent && offset == 0) {
            let first = self.buffer.after().split(|byte| *byte == b'\n').next().unwrap_or_default();
            let before = first.split(|byte| *byte == b' ').next().and_then(|time| self.clock.parse(time));
            let time = before.or(lost.after).unwrap_or(file.modified);
            let head = Head { position: 0, time, output: Output::Stdout, kind: RecordKind::Gap };
            columns.push(head, lost.message(before).as_bytes(), &[]);
            lost.sent = true;
            gap = true;
        }
        let piece = Piece {
            before: self.buffer.before(),
            bytes: self.buffer.after(),
            file: file.id,
            offset,
            complete,
            stops: &stops,
            now,
        };
        let mut state = State {
            clock: &mut self.clock,
            partials: &mut container.partials,
            line_time: &mut container.line_time,
            fallback_time: file.modified,
            last_position: &mut file.last_position,
        };
        let parsed = parse::parse(&piece, &mut state, &mut columns);
        file.behind = false;
        file.marker = self.buffer.marker_at(parsed.consumed);
        file.read += parsed.consumed as u64;
        // What did not fit into this batch, or into this piece, comes next.
        file.ended &= parsed.consumed == length;
        self.buffer.shrink();
        self.counters.read_bytes += parsed.consumed as u64;
        self.counters.malformed_lines += parsed.malformed;
        self.counters.truncated_records += parsed.truncated;
        let attempt = file.key.attempt;
        let lost_rest = damaged && file.ended;
        if file.ended {
            self.inflater = None;
        }
        if parsed.consumed == 0 && columns.is_empty() {
            file.stuck_at = Some(file.size);
            file.ended = file.gzip;
            return None;
        }
        container.flush |= parsed.stopped && container.has_partial();
        self.damaged(container, index, lost_rest);
        if columns.is_empty() {
            return Some(Step::End(Turn::Yield));
        }
        Some(Step::End(Turn::Batch(self.send(container, columns, generation, attempt, gap))))
    }

    /// Whether the buffer holds what is expected at this place of the file.
    fn is_in_place(&self, file: &LogFile) -> bool {
        let head = self.buffer.after();
        match (file.read, file.generation) {
            (0, Some(_)) if !file.gzip => {
                file.generation == read::generation(head, false)
                    || file.generation == read::generation(head, true)
            }
            (0, _) => true,
            _ => read::marker(self.buffer.before()) == file.marker,
        }
    }

    fn fill(&mut self, file: &LogFile, descriptor: &Arc<std::fs::File>, most: usize) -> io::Result<()> {
        if file.gzip {
            self.buffer.fill_gzip(&mut self.inflater, file.id, descriptor, file.read, most)
        } else {
            self.buffer.fill_plain(descriptor, file.read, most)
        }
    }

    fn damaged(&mut self, container: &mut Container, index: usize, damaged: bool) {
        let compressed = container.files.get(index).is_some_and(|file| file.gzip);
        if damaged && compressed {
            self.gap(container, 0, "a compressed file is damaged");
        }
    }

    fn descriptor(&mut self, container: &mut Container, index: usize) -> io::Result<Arc<std::fs::File>> {
        let Some(file) = container.files.get_mut(index) else { return Err(io::ErrorKind::NotFound.into()) };
        if let Some(descriptor) = &file.descriptor {
            return Ok(Arc::clone(descriptor));
        }
        let opened = Arc::new(super::discover::open(&file.path)?);
        let metadata = opened.metadata()?;
        if (metadata.dev(), metadata.ino()) != (file.device, file.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        file.descriptor = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn unreadable(&mut self, container: &mut Container, index: usize, error: &io::Error) -> Option<Step> {
        let file = container.files.get_mut(index)?;
        if error.kind() == io::ErrorKind::NotFound {
            // Renamed or removed: the next listing knows.
            file.named = false;
            self.settling.insert(container.id);
        } else {
            let path = file.path.clone();
            self.warn_open(&path, error);
        }
        let file = container.files.get_mut(index)?;
        file.stuck_at = Some(file.size);
        Some(Step::End(Turn::Idle))
    }

    /// The file holds something else than what was read: it is a new one under the same name.
    fn truncated(&mut self, container: &mut Container, index: usize) -> Step {
        if container.has_partial()
            && let Some(batch) = self.flush(container)
        {
            return Step::End(Turn::Batch(batch));
        }
        let id = self.next_id();
        let Some(file) = container.files.get_mut(index) else { return Step::Next };
        let lost = std::mem::take(&mut file.shrunk);
        let may_have_lost = lost > 0 || file.behind;
        let fresh = LogFile {
            id,
            path: file.path.clone(),
            descriptor: file.descriptor.clone(),
            generation: None,
            shrunk: 0,
            behind: false,
            read: 0,
            acked: 0,
            acked_position: 0,
            stuck_at: None,
            closed: false,
            ended: false,
            vanished: false,
            last_position: 0,
            ..*file
        };
        file.vanished = true;
        file.named = false;
        file.descriptor = None;
        tracing::info!(path = %file.path.display(), "a log file was truncated or overwritten, reading it from its start");
        if file.acked >= file.read {
            *file = fresh;
        } else {
            container.files.insert(index + 1, fresh);
        }
        if may_have_lost {
            self.gap(container, lost, "the file was truncated before it was read");
        }
        Step::Again
    }

    /// Emits what is incomplete as it is, at a place that comes from the files: they end or change there, and reading
    /// again finds the same.
    fn flush(&mut self, container: &mut Container) -> Option<v1::Batch> {
        if container.cut() {
            self.dirty = true;
            if let Err(error) = self.save_with(Some(container)) {
                tracing::error!(error = format!("{error:#}"), "cannot write the checkpoint");
            }
        }
        self.cut_off(container)
    }

    /// The same at a place that nothing but the checkpoint tells. Without a durable checkpoint nothing is emitted:
    /// after a restart the message would be whole, and what was stored of it would be there twice or not at all.
    fn flush_early(&mut self, container: &mut Container) -> Option<v1::Batch> {
        if container.cut() {
            self.dirty = true;
            if let Err(error) = self.save_with(Some(container)) {
                tracing::error!(error = format!("{error:#}"), "cannot write the checkpoint");
                container.cuts.pop();
                // The next look finds that it still waits.
                container.flush = false;
                return None;
            }
        }
        self.cut_off(container)
    }

    fn cut_off(&mut self, container: &mut Container) -> Option<v1::Batch> {
        let (target, cut) = container.cut_place()?;
        let file = container.files.get_mut(target)?;
        let attempt = file.key.attempt;
        let mut columns = Columns::default();
        for (slot, output) in container.partials.iter_mut().zip(Output::BOTH) {
            let Some(partial) = slot.take_if(|partial| columns.fits(partial.message.len())) else { continue };
            let position = file.last_position.max(file.read) + 1;
            file.last_position = position;
            let kind = if partial.truncated { RecordKind::Truncated } else { RecordKind::Line };
            self.counters.truncated_records += u64::from(partial.truncated);
            columns.push(Head { position, time: partial.time, output, kind }, &partial.message, &[]);
        }
        container.flush = container.has_partial();
        (!columns.is_empty()).then(|| self.send(container, columns, cut.generation, attempt, false))
    }

    /// A loss that nothing follows. Its generation is made up, from the place where it happened.
    fn final_gap(&mut self, container: &mut Container) -> Option<v1::Batch> {
        let gap = container.gap.as_mut().filter(|gap| !gap.sent)?;
        gap.sent = true;
        let mut columns = Columns::default();
        let time = gap.after.unwrap_or_default();
        let head = Head { position: 0, time, output: Output::Stdout, kind: RecordKind::Gap };
        columns.push(head, gap.message(None).as_bytes(), &[]);
        let generation = read::marker(format!("gap after {time} in {}", container.source).as_bytes());
        Some(self.send(container, columns, generation, 0, true))
    }

    /// Says that everything of it has been handed out.
    fn say_end(&mut self, container: &mut Container) -> v1::Batch {
        container.end = End::Sent;
        container.in_flight += 1;
        let mut batch = v1::Batch { source: Some(container.wire.clone()), end: true, ..v1::Batch::default() };
        batch.id = self.window.push(Sent::new(container.id, &batch, 0));
        batch
    }

    fn send(
        &mut self,
        container: &mut Container,
        columns: Columns,
        generation: u64,
        attempt: u32,
        gap: bool,
    ) -> v1::Batch {
        let last_time = columns.last_time();
        let mut batch = columns.into_batch(container.wire.clone(), generation, attempt);
        let mut sent = Sent::new(container.id, &batch, last_time);
        sent.resume = container.resume_points();
        sent.gap = gap;
        container.in_flight += 1;
        batch.id = self.window.push(sent);
        batch
    }
}
