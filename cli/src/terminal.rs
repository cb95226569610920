//! What reaches the user's terminal, and what is typed there.
//!
//! Invariant: text that passed through here holds no character that a terminal acts on, but for tabs. That is C0, DEL,
//! C1 (as UTF-8; its lone bytes are not UTF-8 and become U+FFFD), and the characters that reorder or break a line.

use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::Mutex;

/// Whether a terminal or a pager would act on this character instead of showing it.
fn acts(character: char) -> bool {
    matches!(character,
        '\0'..='\x08' | '\x0a'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) || byte == b'\t'
}

/// Appends `bytes` as harmless text: `^[` for ESC and the like, `\u{9b}` for the rest, U+FFFD for what is not UTF-8.
pub(crate) fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| is_plain(*byte)) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        push_str(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn push_str(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(acts) {
        let (safe, tail) = rest.split_at(at);
        out.extend_from_slice(safe.as_bytes());
        let mut characters = tail.chars();
        match characters.next() {
            Some('\x7f') => out.extend_from_slice(b"^?"),
            Some(control @ '\0'..='\x1f') => out.extend([b'^', control as u8 ^ 0x40]),
            Some(other) => out.extend_from_slice(other.escape_unicode().to_string().as_bytes()),
            None => {}
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// A name from elsewhere, harmless.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    push_str(&mut out, text);
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Several lines of our own that quote text from elsewhere: every line made harmless, the line ends kept.
pub(crate) fn clean_lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => format!("{}\n", clean(line)),
            None => clean(line).into_owned(),
        })
        .collect()
}

/// Appends a JSON string. More is escaped than JSON asks for, since it may be read on a terminal.
pub(crate) fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.find(|character| acts(character) || matches!(character, '"' | '\\' | '\t')) {
        let (safe, tail) = rest.split_at(at);
        out.extend_from_slice(safe.as_bytes());
        let mut characters = tail.chars();
        match characters.next() {
            Some('"') => out.extend_from_slice(b"\\\""),
            Some('\\') => out.extend_from_slice(b"\\\\"),
            Some('\t') => out.extend_from_slice(b"\\t"),
            Some('\n') => out.extend_from_slice(b"\\n"),
            Some('\r') => out.extend_from_slice(b"\\r"),
            Some(other) => out.extend_from_slice(format!("\\u{:04x}", u32::from(other)).as_bytes()),
            None => {}
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

/// Whether somebody can be asked: the question goes to stderr, the answer comes from stdin.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks and reads one line.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    io::stderr().write_all(question.as_bytes())?;
    read_line()
}

/// Asks and reads one line that is not shown while it is typed.
pub(crate) fn ask_hidden(question: &str) -> io::Result<String> {
    io::stderr().write_all(question.as_bytes())?;
    hide_typing()?;
    let answer = read_line();
    show_typing();
    io::stderr().write_all(b"\n")?;
    answer
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// How the terminal was before typing was hidden or read by the key; taken by whoever restores it, be it Ctrl-C.
#[cfg(unix)]
static BEFORE: Mutex<Option<rustix::termios::Termios>> = Mutex::new(None);
#[cfg(not(unix))]
static BEFORE: Mutex<Option<()>> = Mutex::new(None);

#[cfg(unix)]
fn hide_typing() -> io::Result<()> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(io::stdin())?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    if let Ok(mut slot) = BEFORE.lock() {
        *slot = Some(before);
    }
    tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
    Ok(())
}

#[cfg(not(unix))]
fn hide_typing() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "typing cannot be hidden here: use --token-stdin"))
}

/// From now on every key is read as it is typed, and none is shown. Ctrl-C stays what it is; Ctrl-Z would leave the
/// view of a program that sleeps on the screen.
#[cfg(unix)]
pub(crate) fn read_keys() -> io::Result<()> {
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
    const NONE: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };
    let before = tcgetattr(io::stdin())?;
    let mut keys = before.clone();
    keys.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
    keys.special_codes[SpecialCodeIndex::VMIN] = 1;
    keys.special_codes[SpecialCodeIndex::VTIME] = 0;
    keys.special_codes[SpecialCodeIndex::VSUSP] = NONE;
    if let Ok(mut slot) = BEFORE.lock() {
        *slot = Some(before);
    }
    tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn read_keys() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "keys cannot be read here"))
}

/// From now on every key is passed on as it is typed, also those that mean something here.
#[cfg(unix)]
pub(crate) fn read_raw() -> io::Result<()> {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    if let Ok(mut slot) = BEFORE.lock() {
        *slot = Some(before);
    }
    tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn read_raw() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "keys cannot be read here: use -T"))
}

/// What the keys of our terminal mean, by SSH's numbers (RFC 4254, section 8).
#[cfg(unix)]
pub(crate) fn modes() -> Vec<(u8, u32)> {
    use rustix::termios::{InputModes, SpecialCodeIndex, tcgetattr};
    let Ok(attributes) = tcgetattr(io::stdin()) else { return Vec::new() };
    let keys = [
        (1, SpecialCodeIndex::VINTR),
        (2, SpecialCodeIndex::VQUIT),
        (3, SpecialCodeIndex::VERASE),
        (4, SpecialCodeIndex::VKILL),
        (5, SpecialCodeIndex::VEOF),
        (10, SpecialCodeIndex::VSUSP),
    ];
    let mut modes: Vec<(u8, u32)> =
        keys.into_iter().map(|(opcode, index)| (opcode, attributes.special_codes[index].into())).collect();
    modes.push((42, attributes.input_modes.contains(InputModes::IUTF8).into()));
    modes
}

#[cfg(not(unix))]
pub(crate) fn modes() -> Vec<(u8, u32)> {
    Vec::new()
}

/// Columns and rows of our terminal: of the one that is shown on, else of the one that is typed at.
#[cfg(unix)]
pub(crate) fn size() -> Option<(u32, u32)> {
    use rustix::termios::tcgetwinsize;
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    Some((size.ws_col.into(), size.ws_row.into()))
}

#[cfg(not(unix))]
pub(crate) fn size() -> Option<(u32, u32)> {
    None
}

pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Undoes [`hide_typing`], [`read_keys`] and [`read_raw`], if it is in force.
pub(crate) fn show_typing() {
    let before = BEFORE.lock().ok().and_then(|mut slot| slot.take());
    #[cfg(unix)]
    if let Some(before) = before {
        // Nothing better can be done when this fails: the terminal is gone.
        rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &before)
            .unwrap_or_default();
    }
    #[cfg(not(unix))]
    drop(before);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_text(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escape_sequences_become_text() {
        for (input, expected) in [
            (&b"plain\ttext"[..], "plain\ttext"),
            (b"\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
            (b"\x1b]0;title\x07", "^[]0;title^G"),
            (b"a\rb\nc\x00", "a^Mb^Jc^@"),
            (b"\x7f", "^?"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            (b"\x9b31m", "\u{fffd}31m"),
            ("abc\u{202e}def".as_bytes(), "abc\\u{202e}def"),
            ("a\u{200e}b\u{200f}c\u{61c}d".as_bytes(), "a\\u{200e}b\\u{200f}c\\u{61c}d"),
            ("déjà vu 日本 🦀".as_bytes(), "déjà vu 日本 🦀"),
            (b"\xff\xfeok", "\u{fffd}\u{fffd}ok"),
        ] {
            assert_eq!(text(input), expected);
        }
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(clean_lines("a\x1b\nb\n"), "a^[\nb\n");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_gets_through(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let shown = text(&bytes);
            prop_assert!(!shown.contains(acts));
            prop_assert!(shown.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f)));
        }

        #[test]
        fn json_strings_come_back_and_hold_nothing_that_acts(input in any::<String>()) {
            let mut out = Vec::new();
            push_json_string(&mut out, &input);
            let json = String::from_utf8(out).unwrap();
            prop_assert!(!json.contains(acts) && !json.contains('\t'));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), input);
        }
    }
}
