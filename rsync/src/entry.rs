//! One entry of a directory: what the sender tells of it, and what the receiver finds in its place.

use crate::content::ContentHash;
use crate::name::{LONGEST_PATH, Name, TreePath};
use crate::wire::{Cursor, Malformed, put_bytes, put_number, put_signed};
use rustix::fs::{FileType, Stat};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Fifo,
        Kind::Socket,
        Kind::CharacterDevice,
        Kind::BlockDevice,
    ];

    pub(crate) fn of(mode: u32) -> Option<Kind> {
        Some(match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Unknown => return None,
        })
    }

    pub(crate) fn from_number(number: u8) -> Result<Kind, Malformed> {
        Kind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or(Malformed("an entry of an unknown kind"))
    }

    pub(crate) fn is_device(self) -> bool {
        matches!(self, Kind::CharacterDevice | Kind::BlockDevice)
    }
}

/// A time of modification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

impl Time {
    pub(crate) fn of(stat: &Stat) -> Time {
        Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec.min(999_999_999) as u32 }
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        put_signed(out, self.seconds);
        put_number(out, u64::from(self.nanos));
    }

    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Time, Malformed> {
        let seconds = cursor.signed()?;
        let nanos = cursor.at_most(999_999_999, "a time with too many nanoseconds")? as u32;
        Ok(Time { seconds, nanos })
    }
}

/// What of an entry is told and compared: the options that both ends can follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) links: bool,
    pub(crate) perms: bool,
    pub(crate) times: bool,
    pub(crate) owner: bool,
    pub(crate) group: bool,
    pub(crate) devices: bool,
    pub(crate) hard_links: bool,
    pub(crate) checksum: bool,
    pub(crate) set_id: bool,
}

/// See the module. What is not told is zero, empty or absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// The permission bits.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) modified: Time,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) device: u64,
    pub(crate) target: Vec<u8>,
    /// The first path of the walk that is the same file, where it is another one.
    pub(crate) leader: Option<TreePath>,
    /// With `--checksum`.
    pub(crate) content: Option<ContentHash>,
    /// Modified so shortly before it was looked at that the next change may bear the same time.
    pub(crate) recent: bool,
}

const HAS_OWNER: u8 = 8;
const HAS_LEADER: u8 = 16;
const HAS_CONTENT: u8 = 32;
const IS_RECENT: u8 = 64;

/// Writes entries one after the other, each with what it shares with the one before left out.
#[derive(Debug, Default)]
pub(crate) struct EntryCodec {
    name: Vec<u8>,
    seconds: i64,
    owner: (u32, u32),
    leader: Vec<u8>,
}

impl EntryCodec {
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, entry: &Entry) {
        let owner = (entry.user, entry.group);
        let flags = [
            (owner != self.owner, HAS_OWNER),
            (entry.leader.is_some(), HAS_LEADER),
            (entry.content.is_some(), HAS_CONTENT),
            (entry.recent, IS_RECENT),
        ];
        out.push(entry.kind as u8 | flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum::<u8>());
        let name = entry.name.as_bytes();
        let shared = self.name.iter().zip(name).take_while(|(one, other)| one == other).count();
        put_number(out, shared as u64);
        put_bytes(out, name.get(shared..).unwrap_or_default());
        self.name = name.to_vec();
        put_number(out, u64::from(entry.mode));
        put_signed(out, entry.modified.seconds.wrapping_sub(self.seconds));
        self.seconds = entry.modified.seconds;
        put_number(out, u64::from(entry.modified.nanos));
        if owner != self.owner {
            put_number(out, u64::from(entry.user));
            put_number(out, u64::from(entry.group));
            self.owner = owner;
        }
        match entry.kind {
            Kind::File => put_number(out, entry.size),
            Kind::Symlink => put_bytes(out, &entry.target),
            Kind::CharacterDevice | Kind::BlockDevice => put_number(out, entry.device),
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        if let Some(leader) = &entry.leader {
            let path = leader.as_bytes();
            let shared = self.leader.iter().zip(path).take_while(|(one, other)| one == other).count();
            put_number(out, shared as u64);
            put_bytes(out, path.get(shared..).unwrap_or_default());
            self.leader = path.to_vec();
        }
        if let Some(content) = entry.content {
            out.extend_from_slice(&content.0);
        }
    }

    pub(crate) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<Entry, crate::Error> {
        let flags = cursor.byte()?;
        if flags & 128 != 0 {
            return Err(Malformed("an entry with unknown flags").into());
        }
        let kind = Kind::from_number(flags & 7)?;
        let name = Name::new(&shared(&self.name, cursor)?)?;
        if name.is_ours() {
            return Err(Malformed("an unfinished file of a transfer in the list").into());
        }
        let mode = cursor.at_most(0o7777, "a mode out of range")? as u32;
        let seconds = self.seconds.wrapping_add(cursor.signed()?);
        let nanos = cursor.at_most(999_999_999, "a time with too many nanoseconds")? as u32;
        if flags & HAS_OWNER != 0 {
            self.owner = (cursor.number32("a user out of range")?, cursor.number32("a group out of range")?);
        }
        let (mut size, mut target, mut device) = (0, vec![], 0);
        match kind {
            Kind::File => size = cursor.at_most(i64::MAX as u64, "a size out of range")?,
            Kind::Symlink => {
                target = cursor.bytes(LONGEST_PATH)?.to_vec();
                if target.contains(&0) {
                    return Err(Malformed("a link to a name with a NUL").into());
                }
            }
            Kind::CharacterDevice | Kind::BlockDevice => device = cursor.number()?,
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        let mut leader = None;
        if flags & HAS_LEADER != 0 {
            self.leader = shared(&self.leader, cursor)?;
            leader = Some(TreePath::new(&self.leader)?);
            if kind != Kind::File || self.leader.is_empty() {
                return Err(Malformed("a hard link to what is no file").into());
            }
        }
        let content = if flags & HAS_CONTENT != 0 { Some(ContentHash(cursor.array()?)) } else { None };
        self.name = name.as_bytes().to_vec();
        self.seconds = seconds;
        let (user, group) = self.owner;
        let modified = Time { seconds, nanos };
        let recent = flags & IS_RECENT != 0;
        Ok(Entry { name, kind, mode, size, modified, user, group, device, target, leader, content, recent })
    }
}

/// Bytes of which the beginning is that of those before.
fn shared(before: &[u8], cursor: &mut Cursor<'_>) -> Result<Vec<u8>, Malformed> {
    let count = cursor.at_most(before.len() as u64, "a name that shares more than there is")?;
    let start = before.get(..count as usize).unwrap_or_default();
    Ok([start, cursor.bytes(LONGEST_PATH)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let name = proptest::collection::vec(any::<u8>(), 1..255)
            .prop_filter_map("no name", |bytes| Name::new(&bytes).ok());
        let numbers =
            (0..0o7777_u32, 0..i64::MAX as u64, any::<i64>(), 0..1_000_000_000_u32, any::<(u32, u32, u64)>());
        let rest = (proptest::option::of(any::<[u8; 16]>()), any::<bool>(), any::<bool>());
        (name, 0_u8..7, numbers, rest).prop_map(
            |(name, kind, (mode, size, seconds, nanos, ids), (hash, led, recent))| {
                let kind = Kind::from_number(kind).unwrap();
                let leader = (led && kind == Kind::File).then(|| TreePath::new(b"a/b").unwrap());
                Entry {
                    kind,
                    mode,
                    size: if kind == Kind::File { size } else { 0 },
                    modified: Time { seconds, nanos },
                    user: ids.0,
                    group: ids.1,
                    device: if kind.is_device() { ids.2 } else { 0 },
                    target: if kind == Kind::Symlink { name.as_bytes().to_vec() } else { vec![] },
                    leader,
                    content: hash.map(ContentHash),
                    recent,
                    name,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn entries_come_back(entries in proptest::collection::vec(entry(), 0..5)) {
            let mut out = vec![];
            let mut codec = EntryCodec::default();
            entries.iter().for_each(|entry| codec.put(&mut out, entry));
            let (mut cursor, mut codec) = (Cursor(&out), EntryCodec::default());
            for entry in &entries {
                prop_assert_eq!(&codec.read(&mut cursor).unwrap(), entry);
            }
            prop_assert_eq!(cursor.end(), Ok(()));
        }

        #[test]
        fn a_hostile_list_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut cursor, mut codec) = (Cursor(&bytes), EntryCodec::default());
            while codec.read(&mut cursor).is_ok() {}
        }
    }
}
