//! Links and special files: what has no content and is made anew where it is not right.

use super::{Current, Entries, tell};
use crate::change::{Change, Differs, How};
use crate::entry::{Entry, Kind};
use crate::error::{Error, Problem};
use crate::name::TreePath;
use crate::receive::attributes::make;
use crate::receive::compare;
use rustix::fs::Stat;
use rustix::io::Errno;

impl Entries<'_> {
    pub(super) fn symlink(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        if !self.setting.options.links {
            return self.setting.skip(&path, "skipped: it is a symbolic link");
        }
        if entry.target.is_empty() {
            return Err(Error::Protocol("a link that leads nowhere"));
        }
        if self.setting.options.safe_links && leads_out(&path, &entry.target) {
            return self.setting.skip(&path, "skipped: the link leads out of the tree");
        }
        let mut differs = Differs { new: stat.is_none(), ..Differs::default() };
        if let (Some(stat), Some(places)) = (&stat, &mut self.places)
            && Kind::of(stat.st_mode) == Some(Kind::Symlink)
        {
            let ours = places
                .open(&current.path)
                .and_then(|open| rustix::fs::readlinkat(open, entry.name.as_bytes(), vec![]));
            let same = ours.is_ok_and(|ours| ours.as_bytes() == entry.target);
            differs = compare::attributes(&entry, stat, self.setting.compared, !same);
            differs.content = !same;
            if same {
                return self.same(current, path, entry, differs, stat);
            }
        } else if stat.is_some() {
            differs.new = true;
        }
        self.replace(current, path, entry, stat.as_ref(), differs, |received| &mut received.created_links)
    }

    pub(super) fn special(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let wanted =
            if entry.kind.is_device() { self.setting.options.devices } else { self.setting.options.specials };
        if !wanted {
            return self.setting.skip(&path, "skipped: it is a device, a pipe or a socket");
        }
        let mut entry = entry;
        if entry.kind != Kind::Fifo {
            // It is all that can be set of it without following its name.
            entry.mode &= !self.setting.umask;
        }
        let mut differs = Differs { new: true, ..Differs::default() };
        if let Some(stat) = &stat
            && Kind::of(stat.st_mode) == Some(entry.kind)
            && (!entry.kind.is_device() || stat.st_rdev == entry.device)
        {
            differs = compare::attributes(&entry, stat, self.setting.compared, false);
            if !differs.perms {
                return self.same(current, path, entry, differs, stat);
            }
            // Its mode cannot be set without following its name, so it is made anew.
        }
        self.replace(current, path, entry, stat.as_ref(), differs, |received| &mut received.created_specials)
    }

    /// Only attributes, if any.
    pub(super) fn same(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        differs: Differs,
        found: &Stat,
    ) -> Result<(), Error> {
        if !differs.any() || !self.adjust(current, &path, &entry, differs, found)? {
            return Ok(());
        }
        tell(
            self.setting,
            Change { path, kind: entry.kind, how: How::Attributes, differs, target: entry.target },
        )
    }

    pub(super) fn replace(
        &mut self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        stat: Option<&Stat>,
        differs: Differs,
        count: impl FnOnce(&mut crate::stats::Received) -> &mut u64,
    ) -> Result<(), Error> {
        if !self.make_way(current, &path, &entry, stat)? {
            return Ok(());
        }
        if !self.setting.options.dry_run
            && let Some(places) = &mut self.places
        {
            let made = places.open(&current.path);
            let made = made.and_then(|open| make(self.setting, open, &entry, stat.is_none()));
            match made {
                Ok(()) => {}
                Err(Errno::PERM) if entry.kind.is_device() => {
                    return self.setting.skip(&path, "skipped: only root makes devices");
                }
                Err(errno) => return self.setting.problem(Problem::call(&path, "make it", errno)),
            }
        }
        if differs.new {
            self.setting.count(|received| *count(received) += 1);
        }
        let how = if differs.new || differs.content { How::Made } else { How::Attributes };
        tell(self.setting, Change { path, kind: entry.kind, how, differs, target: entry.target })
    }
}

/// Whether a link in a tree leads out of it: from the root down it would go up too far.
fn leads_out(path: &TreePath, target: &[u8]) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    if target.first() == Some(&b'/') {
        return true;
    }
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}
