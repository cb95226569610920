//! What of an entry is not as the sender has it: the quick check, and the attributes. Pure.

use crate::change::Differs;
use crate::entry::{Compared, Entry, Kind, Time};
use rustix::fs::Stat;

/// Whether size and time say that a file has the content it should have.
pub(super) fn looks_the_same(entry: &Entry, stat: &Stat) -> bool {
    size(stat) == entry.size && same_time(entry.modified, Time::of(stat))
}

/// A file system that keeps no parts of a second is not asked for them.
fn same_time(wanted: Time, ours: Time) -> bool {
    wanted == ours || ours.nanos == 0 && wanted.seconds == ours.seconds
}

/// Whether ours is newer, in whole seconds as rsync has it.
pub(super) fn is_newer(entry: &Entry, stat: &Stat) -> bool {
    Time::of(stat).seconds > entry.modified.seconds
}

pub(super) fn size(stat: &Stat) -> u64 {
    stat.st_size.max(0) as u64
}

/// The attributes that differ from those of an entry of the same kind. `changes`: its content is transferred as well.
pub(super) fn attributes(entry: &Entry, stat: &Stat, compared: Compared, changes: bool) -> Differs {
    let mask = if compared.set_id { 0o7777 } else { 0o1777 };
    Differs {
        size: entry.kind == Kind::File && size(stat) != entry.size,
        time: compared.times && !same_time(entry.modified, Time::of(stat)),
        time_now: !compared.times && changes,
        perms: compared.perms && entry.kind != Kind::Symlink && stat.st_mode & mask != entry.mode & mask,
        owner: compared.owner && stat.st_uid != entry.user,
        group: compared.group && stat.st_gid != entry.group,
        ..Differs::default()
    }
}
