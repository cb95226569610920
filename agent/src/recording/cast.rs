//! The lines of an asciicast of version 2: one JSON value each, the first of them about all.

use super::Subject;
use crate::runtime::Size;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::str::from_utf8;
use std::time::Duration;

/// What the first line and the name of the file are made of.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) subject: Subject,
    /// Which terminal of its session it is, from 1.
    pub(super) number: u32,
    pub(super) time: Timestamp,
    pub(super) size: Size,
    pub(super) term: String,
    pub(super) shell: Option<String>,
}

impl Header {
    pub(super) fn line(&self) -> String {
        let Subject { environment, instance, .. } = &self.subject;
        let mut env = json!({"TERM": self.term});
        if let (Some(shell), Some(env)) = (&self.shell, env.as_object_mut()) {
            env.insert("SHELL".to_owned(), json!(shell));
        }
        let header = json!({
            "version": 2,
            "width": self.size.columns(),
            "height": self.size.rows(),
            "timestamp": self.time.as_second(),
            "title": format!("{environment} {instance}"),
            "env": env,
        });
        format!("{header}\n")
    }
}

/// The terminal has shown text.
pub(super) fn shown(at: Duration, text: &str) -> String {
    event(at, "o", text)
}

/// The terminal has another size.
pub(super) fn resized(at: Duration, size: Size) -> String {
    event(at, "r", &format!("{}x{}", size.columns(), size.rows()))
}

/// Something is to be said about the recording itself.
pub(super) fn marked(at: Duration, text: &str) -> String {
    event(at, "m", text)
}

fn event(at: Duration, code: &str, text: &str) -> String {
    format!("[{}.{:06}, \"{code}\", {}]\n", at.as_secs(), at.subsec_micros(), Value::from(text))
}

/// Makes text of bytes that come in pieces: a character that is cut in two is put together again, and what is none becomes
/// U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The begin of a character, three bytes at most.
    begun: Vec<u8>,
}

impl Text {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let (mut text, mut rest) = (String::with_capacity(all.len()), &*all);
        while let Err(error) = from_utf8(rest) {
            let (good, after) = rest.split_at_checked(error.valid_up_to()).unwrap_or_default();
            text.push_str(from_utf8(good).unwrap_or_default());
            match error.error_len() {
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(length..).unwrap_or_default();
                }
                None => {
                    self.begun = after.to_vec();
                    return text;
                }
            }
        }
        text.push_str(from_utf8(rest).unwrap_or_default());
        text
    }

    /// What is left when nothing more comes.
    pub(super) fn end(&mut self) -> &'static str {
        let left = !std::mem::take(&mut self.begun).is_empty();
        if left { "\u{fffd}" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_of_json() {
        for (line, expected) in [
            (
                shown(Duration::ZERO, "a\u{1b}[1m\r\n\"\\ü\u{0}"),
                json!([0.0, "o", "a\u{1b}[1m\r\n\"\\ü\u{0}"]),
            ),
            (shown(Duration::from_micros(1_000_002), "x"), json!([1.000_002, "o", "x"])),
            (resized(Duration::from_millis(90_500), Size::of(132, 43)), json!([90.5, "r", "132x43"])),
            (marked(Duration::from_secs(3), "here"), json!([3.0, "m", "here"])),
        ] {
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), expected, "{line}");
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line}");
        }
    }

    #[test]
    fn a_character_that_comes_in_two_pieces_is_one() {
        let mut text = Text::default();
        let shown: Vec<String> =
            [&b"a\xe2"[..], b"\x82", b"\xac\xff", b"\xf0\x9f"].into_iter().map(|b| text.push(b)).collect();
        assert_eq!(shown, ["a", "", "€\u{fffd}", ""]);
        assert_eq!((text.end(), text.end()), ("\u{fffd}", ""));
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_the_text_that_the_whole_makes(
            pieces in proptest::collection::vec(
                proptest::collection::vec(proptest::prelude::prop_oneof![
                    proptest::prelude::any::<u8>(),
                    proptest::sample::select(&b"\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\xed\xa0"[..]),
                ], 0..6),
                0..12,
            )
        ) {
            let mut text = Text::default();
            let mut all: String = pieces.iter().map(|piece| text.push(piece)).collect();
            all.push_str(text.end());
            proptest::prop_assert_eq!(all, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
