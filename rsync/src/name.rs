//! Names of files and paths in a tree, as bytes: a Linux name is any bytes but `/` and NUL.
//!
//! A [`Name`] and a [`TreePath`] that exist are safe to give to a call that is relative to a directory: no component is
//! empty, `.` or `..`. What comes from a peer becomes one of them or is refused, there is no third way.

use std::cmp::Ordering;
use std::fmt;

/// The longest name that Linux knows.
pub(crate) const LONGEST_NAME: usize = 255;
/// The longest path that Linux takes in one piece.
pub(crate) const LONGEST_PATH: usize = 4095;
/// How the names of the engine's own unfinished files begin. Nobody else's: they are not transferred, and removed when
/// no living process holds them.
pub(crate) const TEMPORARY: &[u8] = b".skpr-rsync.";
/// How the names of what an interrupted transfer keeps with `--partial` begin.
pub(crate) const PARTIAL: &[u8] = b".skpr-partial.";

/// Why bytes are no name or path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("a name is empty")]
    Empty,
    #[error("a name is `.` or `..`")]
    Dots,
    #[error("a name holds a slash or a NUL")]
    Separator,
    #[error("a name or path is too long")]
    TooLong,
}

/// The name of one entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    pub fn new(bytes: &[u8]) -> Result<Name, BadName> {
        check(bytes)?;
        Ok(Name(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A name for a file of the engine's own: letters, digits and dots behind one of its beginnings.
    pub(crate) fn ours(start: &[u8], rest: &str) -> Name {
        Name([start, rest.as_bytes()].concat().into())
    }

    /// Whether the engine gives such names to files of its own. What only begins as they do is somebody's.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_temporary() || self.is_partial()
    }

    /// Whether it is one of a file that is written right now, or was when its transfer broke off.
    pub(crate) fn is_temporary(&self) -> bool {
        let rest = self.0.strip_prefix(TEMPORARY).and_then(|rest| rest.split_at_checked(LABEL));
        rest.is_some_and(|(label, random)| is_label(label) && random.strip_prefix(b".").is_some_and(is_label))
    }

    /// Whether it is one of what a broken transfer has kept to go on with.
    pub(crate) fn is_partial(&self) -> bool {
        self.0.strip_prefix(PARTIAL).is_some_and(is_label)
    }
}

/// Eight bytes in hexadecimal.
const LABEL: usize = 16;

fn is_label(bytes: &[u8]) -> bool {
    bytes.len() == LABEL && bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check(name: &[u8]) -> Result<(), BadName> {
    match name {
        [] => Err(BadName::Empty),
        b"." | b".." => Err(BadName::Dots),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(BadName::Separator),
        _ if name.len() > LONGEST_NAME => Err(BadName::TooLong),
        _ => Ok(()),
    }
}

/// A path below the root of a tree, without a leading or trailing slash; the root's own is empty.
///
/// The order is that of a walk: a directory before what is in it, and siblings by their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    pub fn root() -> TreePath {
        TreePath::default()
    }

    pub fn new(bytes: &[u8]) -> Result<TreePath, BadName> {
        if bytes.len() > LONGEST_PATH {
            return Err(BadName::TooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|byte| *byte == b'/').try_for_each(check)?;
        }
        Ok(TreePath(bytes.to_vec()))
    }

    /// The path of an entry of this directory.
    pub fn join(&self, name: &Name) -> Result<TreePath, BadName> {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name.0);
        if path.len() > LONGEST_PATH { Err(BadName::TooLong) } else { Ok(TreePath(path)) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that the last component is in, and that component. The root has none.
    pub fn split(&self) -> Option<(TreePath, Name)> {
        if self.0.is_empty() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (self.0.get(..at)?, self.0.get(at + 1..)?),
            None => (&[][..], &self.0[..]),
        };
        Some((TreePath(parent.to_vec()), Name(name.into())))
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &TreePath) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &TreePath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "." } else { "" })?;
        formatter.write_str(&escape(&self.0))
    }
}

/// Bytes as text that cannot drive a terminal: control characters, and what is not UTF-8, as `\#` and three octal
/// digits, the way rsync prints them.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            // Beside the control characters: what turns the direction of text around.
            if character.is_control()
                || matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| octal(&mut text, byte));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| octal(&mut text, *byte));
    }
    text
}

fn octal(text: &mut String, byte: u8) {
    text.push_str("\\#");
    text.extend([byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| char::from(b'0' + digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structural_names_are_refused_and_others_are_carried() {
        for (bytes, expected) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::Dots),
            (b"..", BadName::Dots),
            (b"a/b", BadName::Separator),
            (b"/", BadName::Separator),
            (b"a\0", BadName::Separator),
            (&[b'a'; 256], BadName::TooLong),
        ] {
            assert_eq!(Name::new(bytes), Err(expected), "{bytes:?}");
        }
        for bytes in [&b"a"[..], b"...", b"\xff\xfe", b"a\nb", b"\x1b[2J", &[b'a'; 255]] {
            assert_eq!(Name::new(bytes).unwrap().as_bytes(), bytes);
        }
        for bytes in [&b"/"[..], b"a/", b"/a", b"a//b", b"a/../b", b"./a", b"a/.", &[b'a'; 300]] {
            assert!(TreePath::new(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(TreePath::new(&b"a/".repeat(2100)).unwrap_err(), BadName::TooLong);
    }

    #[test]
    fn a_walk_goes_into_a_directory_before_its_next_sibling() {
        let mut paths: Vec<TreePath> = ["a.b", "a/z", "a", "", "b", "a/b/c"]
            .iter()
            .map(|path| TreePath::new(path.as_bytes()).unwrap())
            .collect();
        paths.sort();
        let sorted: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(sorted, [".", "a", "a/b/c", "a/z", "a.b", "b"]);
    }

    #[test]
    fn a_path_splits_into_where_and_what() {
        let (parent, name) = TreePath::new(b"a/b/c").unwrap().split().unwrap();
        assert_eq!((parent.as_bytes(), name.as_bytes()), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent.join(&name).unwrap().as_bytes(), b"a/b/c");
        assert!(TreePath::root().split().is_none());
    }

    #[test]
    fn nothing_in_a_name_drives_the_terminal() {
        assert_eq!(escape(b"a\x1b]52;c;x\x07\n"), r"a\#033]52;c;x\#007\#012");
        assert_eq!(
            escape("gr\u{fc}n\u{202e}txt\u{9b}".as_bytes()),
            "gr\u{fc}n\\#342\\#200\\#256txt\\#302\\#233"
        );
        assert_eq!(escape(b"\xff"), r"\#377");
    }
}
