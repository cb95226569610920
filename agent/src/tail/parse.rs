//! A piece of a file's bytes into records: lines apart, chunks of messages together. No IO.

use super::cri::{self, Line, Output};
use super::outbox::{Columns, Head};
use super::partial::{Partial, Start};
use super::read::{self, LONGEST_LINE};
use super::time::Clock;
use skpr_proto::MAX_MESSAGE;
use skpr_proto::v1::RecordKind;
use std::time::Instant;

/// One piece, and what is known around it.
pub(super) struct Piece<'a> {
    /// The bytes that come before, for hashes.
    pub(super) before: &'a [u8],
    pub(super) bytes: &'a [u8],
    pub(super) file: u64,
    /// Where the piece starts in the file.
    pub(super) offset: u64,
    /// No more will ever follow: a last line without newline is one.
    pub(super) complete: bool,
    /// Stop where a line ends at one of these offsets.
    pub(super) stops: &'a [u64],
    pub(super) now: Instant,
}

/// What is carried from piece to piece.
pub(super) struct State<'a> {
    pub(super) clock: &'a mut Clock,
    pub(super) partials: &'a mut [Option<Partial>; 2],
    /// The time of the last line, for those that have none.
    pub(super) line_time: &'a mut Option<i64>,
    pub(super) fallback_time: i64,
    pub(super) last_position: &'a mut u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Bytes that are done with.
    pub(super) consumed: usize,
    pub(super) malformed: u64,
    pub(super) truncated: u64,
    /// It ended at one of the stops.
    pub(super) stopped: bool,
}

/// Adds the piece's records to `columns`, as far as they fit.
pub(super) fn parse(piece: &Piece<'_>, state: &mut State<'_>, columns: &mut Columns) -> Parsed {
    let mut parsed = Parsed::default();
    if mid_line(piece) {
        // The rest of a line of which the first part was all that is kept.
        parsed.consumed = memchr::memchr(b'\n', piece.bytes).map_or(piece.bytes.len(), |end| end + 1);
    }
    while let Some(rest) = piece.bytes.get(parsed.consumed..).filter(|rest| !rest.is_empty()) {
        let (line, length) = match memchr::memchr(b'\n', rest) {
            Some(end) => (rest.get(..end).unwrap_or(rest), end + 1),
            None if piece.complete || rest.len() >= LONGEST_LINE => (rest, rest.len()),
            None => break,
        };
        if !add(piece, state, columns, &mut parsed, line, length) {
            break;
        }
        parsed.consumed += length;
        if piece.stops.contains(&(piece.offset + parsed.consumed as u64)) {
            parsed.stopped = true;
            break;
        }
    }
    parsed
}

fn mid_line(piece: &Piece<'_>) -> bool {
    piece.before.last().is_some_and(|byte| *byte != b'\n')
}

/// Adds one line. False: it does not fit.
fn add(
    piece: &Piece<'_>,
    state: &mut State<'_>,
    columns: &mut Columns,
    parsed: &mut Parsed,
    line: &[u8],
    length: usize,
) -> bool {
    let end = piece.offset + (parsed.consumed + length) as u64;
    // Strictly increasing even behind a message that was emitted before its end was seen.
    let position = end.max(*state.last_position + 1);
    match cri::parse(state.clock, line) {
        Line::Full { time, output, message } => {
            let [stdout, stderr] = &mut *state.partials;
            let slot = if output == Output::Stdout { stdout } else { stderr };
            let (head_time, first, cut) = match slot {
                Some(partial) => (partial.time, partial.message.as_slice(), partial.truncated),
                None => (time, &[][..], false),
            };
            let room = MAX_MESSAGE - first.len().min(MAX_MESSAGE);
            let second = message.get(..room).unwrap_or(message);
            if !columns.fits(first.len() + second.len()) {
                return false;
            }
            let truncated = cut || second.len() < message.len();
            let kind = if truncated { RecordKind::Truncated } else { RecordKind::Line };
            columns.push(Head { position, time: head_time, output, kind }, first, second);
            *slot = None;
            *state.line_time = Some(time);
            parsed.truncated += u64::from(truncated);
        }
        Line::Partial { time, output, message } => {
            let [stdout, stderr] = &mut *state.partials;
            let slot = if output == Output::Stdout { stdout } else { stderr };
            let partial = slot.get_or_insert_with(|| Partial::new(time, piece.now));
            if partial.starts.last().is_none_or(|start| start.file != piece.file) {
                let start = piece.bytes.get(..parsed.consumed).unwrap_or_default();
                let offset = piece.offset + parsed.consumed as u64;
                let (marker, position) = (marker(piece.before, start), *state.last_position);
                partial.starts.push(Start { file: piece.file, offset, marker, position });
            }
            partial.extend(message, piece.now);
            *state.line_time = Some(time);
            return true;
        }
        Line::Malformed { message } => {
            let kept = message.get(..MAX_MESSAGE).unwrap_or(message);
            if !columns.fits(kept.len()) {
                return false;
            }
            let truncated = kept.len() < message.len();
            let kind = if truncated { RecordKind::Truncated } else { RecordKind::Line };
            let time = state.line_time.unwrap_or(state.fallback_time);
            columns.push(Head { position, time, output: Output::Stdout, kind }, kept, &[]);
            parsed.malformed += 1;
            parsed.truncated += u64::from(truncated);
        }
    }
    *state.last_position = position;
    true
}

/// The hash of the last bytes of two pieces that follow each other.
fn marker(before: &[u8], bytes: &[u8]) -> u64 {
    if bytes.len() >= read::MARKER {
        return read::marker(bytes);
    }
    let mut both = before.to_vec();
    both.extend_from_slice(bytes);
    read::marker(&both)
}
