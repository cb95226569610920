//! `--chmod`: what is made of a mode on its way, in the notation of chmod(1) with rsync's `D` and `F` in front.

use crate::wire::{Cursor, Malformed, put_number};

/// More changes than anybody writes.
const MOST: u64 = 100;

/// One change, done to directories, to all others, or to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    directories: bool,
    files: bool,
    /// What is kept of the mode.
    keep: u32,
    set: u32,
    /// `X`: execution is set as well, where it is a directory or somebody may execute it already.
    set_search: u32,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chmod(Vec<Change>);

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode for `--chmod`")]
pub struct BadMode(String);

impl Chmod {
    /// Modes separated by commas. `umask` is what a change that names nobody spares.
    pub fn parse(text: &str, umask: u32) -> Result<Chmod, BadMode> {
        let changes = text.split(',').map(|part| one(part, umask).ok_or_else(|| BadMode(part.to_owned())));
        changes.collect::<Result<Vec<_>, _>>().map(Chmod)
    }

    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        self.0.iter().filter(|change| if is_directory { change.directories } else { change.files }).fold(
            mode,
            |mode, change| {
                let search = if is_directory || mode & 0o111 != 0 { change.set_search } else { 0 };
                mode & change.keep | change.set | search
            },
        )
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.0.len() as u64);
        for change in &self.0 {
            out.push(u8::from(change.directories) | u8::from(change.files) << 1);
            [change.keep, change.set, change.set_search]
                .into_iter()
                .for_each(|bits| put_number(out, u64::from(bits)));
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Chmod, Malformed> {
        let problem = "a mode that is none";
        let count = cursor.at_most(MOST, problem)?;
        let mut changes = vec![];
        for _ in 0..count {
            let kinds = cursor.byte()?;
            let mut bits = || cursor.at_most(0o7777, problem).map(|bits| bits as u32);
            let (keep, set, set_search) = (bits()?, bits()?, bits()?);
            if kinds > 3 {
                return Err(Malformed(problem));
            }
            changes.push(Change {
                directories: kinds & 1 != 0,
                files: kinds & 2 != 0,
                keep,
                set,
                set_search,
            });
        }
        Ok(Chmod(changes))
    }
}

fn one(text: &str, umask: u32) -> Option<Change> {
    let (directories, files, text) = match text.as_bytes().first()? {
        b'D' => (true, false, text.get(1..)?),
        b'F' => (false, true, text.get(1..)?),
        _ => (true, true, text),
    };
    if text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        let set = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
        return Some(Change { directories, files, keep: 0, set, set_search: 0 });
    }
    let at = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at_checked(at)?;
    let mut classes = 0;
    for letter in who.chars() {
        classes |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let (named, allowed) = if who.is_empty() { (0o7777, !umask & 0o7777) } else { (classes, classes) };
    let (mut bits, mut search) = (0, 0);
    for letter in rest.get(1..)?.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => search |= 0o111,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            _ => return None,
        }
    }
    let sticky = if who.is_empty() || who.contains(['a', 'o']) { 0o1000 } else { bits & 0o1000 };
    let (bits, search) = (bits & (allowed | sticky), search & allowed);
    Some(match rest.bytes().next()? {
        b'+' => Change { directories, files, keep: 0o7777, set: bits, set_search: search },
        b'-' => Change { directories, files, keep: 0o7777 & !(bits | search), set: 0, set_search: 0 },
        _ => Change { directories, files, keep: 0o7777 & !named, set: bits, set_search: search },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_what_chmod_makes_of_them() {
        for (text, mode, file, directory) in [
            ("D2755,F644", 0o700, 0o644, 0o2755),
            ("u+x", 0o644, 0o744, 0o744),
            ("go-w", 0o666, 0o644, 0o644),
            ("a=rX", 0o600, 0o444, 0o555),
            ("a=rX", 0o700, 0o555, 0o555),
            ("+w", 0o444, 0o644, 0o644),
            ("ug=rwX,o=", 0o754, 0o770, 0o770),
            ("Dg+s", 0o755, 0o755, 0o2755),
        ] {
            let chmod = Chmod::parse(text, 0o022).unwrap();
            assert_eq!(chmod.apply(mode, false), file, "{text} on a file of {mode:o}");
            assert_eq!(chmod.apply(mode, true), directory, "{text} on a directory of {mode:o}");
            let mut out = vec![];
            chmod.encode(&mut out);
            assert_eq!(Chmod::decode(&mut Cursor(&out)), Ok(chmod));
        }
        for text in ["", "u", "x+r", "99", "17777", "u+q", "D"] {
            assert!(Chmod::parse(text, 0o022).is_err(), "{text}");
        }
    }
}
