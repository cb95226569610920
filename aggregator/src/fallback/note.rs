//! What the script says among what a process writes: notes, each a line that begins as nothing else does.
//!
//! * Whatever is no note comes out as it came in, and at once but for what may yet become one.
//! * The beginning of a note has the [`Secret`] of its process, so that nothing is taken for one by chance.

use crate::auth::random;
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::io;
use std::sync::Arc;

/// What a note begins with, before the secret. Of what programs write, hardly anything has its first character.
pub(super) const BEGINNING: &str = "\u{1e}skpr ";
/// The most that follows the secret: a word and two numbers.
const LONGEST: usize = 48;

/// What the notes of one process have in common, and the command line of the shell that stays beside it has, too.
#[derive(Clone)]
pub(super) struct Secret(Arc<str>);

/// A process and the shell beside it, by their numbers in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) process: u32,
    /// Also of the group that both are in, unless the process has made one of its own.
    pub(super) shell: u32,
}

/// What the script has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It is there, and waits to be let go.
    Here(Numbers),
    /// It becomes what was asked for.
    Going,
    /// That has ended so.
    Ended(u8),
}

/// A part of what was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(Bytes),
    Note(Note),
}

/// Tells notes from the rest of one output.
#[derive(Debug)]
pub(super) struct Notes {
    beginning: Box<[u8]>,
    /// Empty, or what may be the beginning of a note.
    kept: BytesMut,
}

impl Secret {
    pub(super) fn new() -> io::Result<Secret> {
        let bytes = random::<16>().map_err(io::Error::other)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Secret(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Note {
    fn parse(line: &[u8]) -> Option<Note> {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let number = |word: Option<&str>| word?.parse::<u32>().ok().filter(|number| *number > 1);
        let note = match words.next()? {
            "here" => Note::Here(Numbers { process: number(words.next())?, shell: number(words.next())? }),
            "going" => Note::Going,
            "ended" => Note::Ended(words.next()?.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(note)
    }
}

/// What something is that may be a note.
enum Maybe {
    /// It is one, of so many bytes.
    Note(Note, usize),
    /// It ends too early to tell.
    Unclear,
    Text,
}

impl Notes {
    pub(super) fn of(secret: &Secret) -> Notes {
        let beginning = format!("{BEGINNING}{} ", secret.as_str()).into_bytes().into_boxed_slice();
        Notes { beginning, kept: BytesMut::new() }
    }

    /// What these bytes are, with those that were kept before.
    pub(super) fn take(&mut self, bytes: Bytes) -> Vec<Piece> {
        if self.kept.is_empty() && self.find(&bytes).is_none() {
            return vec![Piece::Text(bytes)];
        }
        self.kept.extend_from_slice(&bytes);
        let mut pieces = vec![];
        // What is before it is text, and stays in one piece.
        let mut known = 0;
        while let Some(at) = self.find(self.kept.get(known..).unwrap_or_default()) {
            let at = known + at;
            let maybe = self.maybe(at);
            if let Maybe::Text = maybe {
                known = at + 1;
                continue;
            }
            if at > 0 {
                pieces.push(Piece::Text(self.kept.split_to(at).freeze()));
            }
            let Maybe::Note(note, length) = maybe else { return pieces };
            drop(self.kept.split_to(length));
            pieces.push(Piece::Note(note));
            known = 0;
        }
        if !self.kept.is_empty() {
            pieces.push(Piece::Text(self.kept.split().freeze()));
        }
        pieces
    }

    /// What was kept and will not become a note any more.
    pub(super) fn rest(&mut self) -> Bytes {
        self.kept.split().freeze()
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        memchr::memchr(*self.beginning.first()?, bytes)
    }

    /// Of what is kept, at a byte with which a note begins.
    fn maybe(&self, at: usize) -> Maybe {
        let kept = self.kept.get(at..).unwrap_or_default();
        let known = kept.len().min(self.beginning.len());
        if kept.get(..known) != self.beginning.get(..known) {
            return Maybe::Text;
        }
        let rest = kept.get(self.beginning.len()..).unwrap_or_default();
        let line = rest.get(..rest.len().min(LONGEST)).unwrap_or_default();
        match memchr::memchr(b'\n', line) {
            Some(end) => match Note::parse(line.get(..end).unwrap_or_default()) {
                Some(note) => Maybe::Note(note, self.beginning.len() + end + 1),
                None => Maybe::Text,
            },
            None if line.len() < LONGEST => Maybe::Unclear,
            None => Maybe::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> (Notes, String) {
        let secret = Secret::new().unwrap();
        (Notes::of(&secret), format!("{BEGINNING}{} ", secret.as_str()))
    }

    /// All texts as one, and the notes with how much text is before each.
    fn take(notes: &mut Notes, parts: &[&[u8]]) -> (Vec<u8>, Vec<(usize, Note)>) {
        let (mut text, mut found) = (vec![], vec![]);
        for part in parts {
            for piece in notes.take(Bytes::copy_from_slice(part)) {
                match piece {
                    Piece::Text(bytes) => text.extend_from_slice(&bytes),
                    Piece::Note(note) => found.push((text.len(), note)),
                }
            }
        }
        text.extend_from_slice(&notes.rest());
        (text, found)
    }

    #[test]
    fn bytes_with_which_notes_begin_do_not_cut_a_text_into_pieces() {
        let (mut notes, _) = notes();
        let bytes = Bytes::from(vec![0x1e; 32 << 10]);
        let pieces = notes.take(bytes);
        // The last may become the beginning of a note.
        assert!(
            matches!(&pieces[..], [Piece::Text(text)] if text.len() >= (32 << 10) - 1),
            "{}",
            pieces.len()
        );
        assert!(notes.rest().len() <= 1);
    }

    #[test]
    fn notes_are_told_from_text_wherever_they_are_cut() {
        let (_, beginning) = notes();
        let whole = format!("ab{beginning}here 7 6\r\n{beginning}going\ncd{beginning}ended 42\nef");
        let numbers = Numbers { process: 7, shell: 6 };
        let expected = [(2, Note::Here(numbers)), (2, Note::Going), (4, Note::Ended(42))];
        for cut in 0..=whole.len() {
            let secret = Secret(beginning.split(' ').nth(1).unwrap().into());
            let (first, second) = whole.as_bytes().split_at(cut);
            let (text, found) = take(&mut Notes::of(&secret), &[first, second]);
            assert_eq!((text.as_slice(), found.as_slice()), (&b"abcdef"[..], &expected[..]), "{cut}");
        }
        let secret = Secret(beginning.split(' ').nth(1).unwrap().into());
        let single: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        assert_eq!(take(&mut Notes::of(&secret), &single), (b"abcdef".to_vec(), expected.to_vec()));
    }

    #[test]
    fn what_is_no_note_comes_out_as_it_came_in() {
        let (_, other) = notes();
        let (_, beginning) = notes();
        let long = format!("{beginning}{}", "9".repeat(100));
        for text in [
            "\u{1e}".to_owned(),
            "\u{1e}\u{1e}\u{1e}skpr x".to_owned(),
            format!("{other}ended 0\n"),
            beginning.clone(),
            format!("{beginning}ended 0"),
            format!("{beginning}ended 256\n"),
            format!("{beginning}ended 0 0\n"),
            format!("{beginning}here 1 2\n"),
            format!("{beginning}\n"),
            // A list of processes shows how the shell was started.
            format!("{beginning}ended $skpr_code\n"),
            long,
        ] {
            let secret = Secret(beginning.split(' ').nth(1).unwrap().into());
            for size in [1, 5, 1000] {
                let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let (out, found) = take(&mut Notes::of(&secret), &parts);
                assert_eq!((out, found), (text.clone().into_bytes(), vec![]), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn what_cannot_become_a_note_is_not_kept() {
        let (mut notes, beginning) = notes();
        assert_eq!(notes.take("s".into()), [Piece::Text("s".into())]);
        assert_eq!(notes.take("\u{1e}".into()), []);
        let mut kept = 1;
        for byte in beginning.bytes().skip(1).chain(std::iter::repeat_n(b'9', 1000)) {
            kept += 1;
            for piece in notes.take(vec![byte].into()) {
                let Piece::Text(text) = piece else { panic!("{piece:?}") };
                kept -= text.len();
            }
            assert!(kept <= beginning.len() + LONGEST, "{kept}");
        }
        assert_eq!(notes.rest(), Bytes::new());
    }

    #[test]
    fn a_secret_is_another_each_time_and_is_not_shown() {
        let (one, two) = (Secret::new().unwrap(), Secret::new().unwrap());
        assert!(one.as_str() != two.as_str() && one.as_str().len() == 32);
        assert_eq!(format!("{one:?}"), "Secret(…)");
    }
}
