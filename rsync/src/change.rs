//! What happened to one entry, and how rsync's `--itemize-changes` writes it.

use crate::entry::Kind;
use crate::name::{LONGEST_PATH, TreePath, escape};
use crate::wire::{Cursor, Malformed, put_bytes, put_number};

/// How an entry came to be what it is now: the first letter of an itemised line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum How {
    /// Only attributes.
    Attributes,
    /// Its content was transferred.
    Transferred,
    /// It was made here: a directory, a link or a special file.
    Made,
    /// It has become a name of a file that has another one.
    Linked,
    Deleted,
}

/// What is not as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differs {
    /// There was nothing before.
    pub new: bool,
    /// The content by its checksum, or what a link leads to.
    pub content: bool,
    pub size: bool,
    pub time: bool,
    /// The time becomes that of the transfer and not of the source.
    pub time_now: bool,
    pub perms: bool,
    pub owner: bool,
    pub group: bool,
}

impl Differs {
    fn bits(&mut self) -> [&mut bool; 8] {
        [
            &mut self.new,
            &mut self.content,
            &mut self.size,
            &mut self.time,
            &mut self.time_now,
            &mut self.perms,
            &mut self.owner,
            &mut self.group,
        ]
    }

    pub(crate) fn any(self) -> bool {
        self != Differs::default()
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: TreePath,
    pub kind: Kind,
    pub how: How,
    pub differs: Differs,
    /// What a symbolic link leads to, or the other name of a file.
    pub target: Vec<u8>,
}

impl Change {
    /// rsync's eleven characters. `sending`: the files go to the other end.
    pub fn class(&self, sending: bool) -> String {
        if self.how == How::Deleted {
            return "*deleting  ".to_owned();
        }
        let how = match self.how {
            How::Transferred if sending => '<',
            How::Transferred => '>',
            How::Made | How::Deleted => 'c',
            How::Linked => 'h',
            How::Attributes => '.',
        };
        let kind = match self.kind {
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Symlink => 'L',
            Kind::CharacterDevice | Kind::BlockDevice => 'D',
            Kind::Fifo | Kind::Socket => 'S',
        };
        let differs = self.differs;
        if differs.new {
            return format!("{how}{kind}+++++++++");
        }
        let time = if differs.time_now { 'T' } else { 't' };
        let letters = [
            (differs.content, 'c'),
            (differs.size, 's'),
            (differs.time || differs.time_now, time),
            (differs.perms, 'p'),
            (differs.owner, 'o'),
            (differs.group, 'g'),
        ];
        let letters: String = letters.iter().map(|(on, letter)| if *on { *letter } else { '.' }).collect();
        format!("{how}{kind}{letters}...")
    }

    /// The line that `-i` prints, with nothing in it that drives a terminal.
    pub fn line(&self, sending: bool) -> String {
        let slash = if self.kind == Kind::Directory { "/" } else { "" };
        let class = self.class(sending);
        let path = if self.path.is_root() { ".".to_owned() } else { escape(self.path.as_bytes()) };
        match (self.how, self.kind) {
            (How::Linked, _) => format!("{class} {path} => {}", escape(&self.target)),
            (How::Made | How::Attributes, Kind::Symlink) => {
                format!("{class} {path} -> {}", escape(&self.target))
            }
            _ => format!("{class} {path}{slash}"),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend([self.kind as u8, self.how as u8]);
        let mut differs = self.differs;
        put_number(out, differs.bits().iter().enumerate().map(|(bit, on)| u64::from(**on) << bit).sum());
        put_bytes(out, self.path.as_bytes());
        out.extend_from_slice(&self.target);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Change, Malformed> {
        let kind = Kind::from_number(cursor.byte()?)?;
        let how = match cursor.byte()? {
            0 => How::Attributes,
            1 => How::Transferred,
            2 => How::Made,
            3 => How::Linked,
            4 => How::Deleted,
            _ => return Err(Malformed("a change of an unknown kind")),
        };
        let mut differs = Differs::default();
        let bits = cursor.at_most(255, "a change of an unknown kind")?;
        differs.bits().into_iter().enumerate().for_each(|(bit, flag)| *flag = bits >> bit & 1 == 1);
        let path = TreePath::new(cursor.bytes(LONGEST_PATH)?)
            .map_err(|_| Malformed("a change of an impossible path"))?;
        let target = cursor.rest().to_vec();
        if target.len() > LONGEST_PATH {
            Err(Malformed("a target that is too long"))
        } else {
            Ok(Change { path, kind, how, differs, target })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rsyncs_and_changes_cross_the_wire() {
        let change = |path: &str, kind, how, differs, target: &str| {
            let path = TreePath::new(path.as_bytes()).unwrap();
            Change { path, kind, how, differs, target: target.as_bytes().to_vec() }
        };
        let new = Differs { new: true, ..Differs::default() };
        let some = Differs { size: true, time: true, perms: true, ..Differs::default() };
        for (change, line) in [
            (change("a/b", Kind::File, How::Transferred, new, ""), ">f+++++++++ a/b"),
            (change("a", Kind::File, How::Transferred, some, ""), ">f.stp..... a"),
            (change("", Kind::Directory, How::Attributes, some, ""), ".d.stp..... ./"),
            (change("l\x1b", Kind::Symlink, How::Made, new, "t"), r"cL+++++++++ l\#033 -> t"),
            (change("h", Kind::File, How::Linked, new, "f"), "hf+++++++++ h => f"),
            (change("d", Kind::Directory, How::Deleted, Differs::default(), ""), "*deleting   d/"),
        ] {
            assert_eq!(change.line(false), line);
            let mut out = vec![];
            change.encode(&mut out);
            assert_eq!(Change::decode(&mut Cursor(&out)).unwrap(), change);
        }
        assert_eq!(change("a", Kind::File, How::Transferred, new, "").class(true), "<f+++++++++");
    }
}
