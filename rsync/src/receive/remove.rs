//! Removes what is in the way or not wanted any more: by descriptor, never through a link, and never what a rule protects.

use super::Setting;
use crate::change::{Change, Differs, How};
use crate::entry::Kind;
use crate::error::{Code, Error, Problem};
use crate::filter::Side;
use crate::name::{Name, TreePath};
use crate::place::{self, Names, Places};
use crate::session::lock;
use rustix::fs::{AtFlags, fstat, unlinkat};
use rustix::io::Errno;

/// Why something is removed. As with rsync, what makes way for something of its name is not told, counted or limited;
/// what is in it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    NotAtSource,
    InTheWay,
}

/// Whether something is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    Gone,
    /// A rule protects something in it, it cannot be removed, or enough is deleted.
    Stays,
}

/// Removes an entry and all that is in it, telling each.
pub(super) fn remove(
    setting: &Setting<'_>,
    places: &mut Places,
    directory: &TreePath,
    name: &Name,
    why: Why,
) -> Result<Removed, Error> {
    let Ok(path) = directory.join(name) else { return Ok(Removed::Stays) };
    let failed = |doing: &str, errno: Errno| {
        setting.problem(Problem::call(&path, doing, errno)).map(|()| Removed::Stays)
    };
    let open = match places.open(directory) {
        Ok(open) => open,
        Err(errno) => return failed("open its directory", errno),
    };
    let (kind, is_mounted) = match fstat(open).and_then(|parent| Ok((parent, place::stat(open, name)?))) {
        Ok((_, None)) => return Ok(Removed::Gone),
        Ok((parent, Some(stat))) => {
            (Kind::of(stat.st_mode).unwrap_or(Kind::File), stat.st_dev != parent.st_dev)
        }
        Err(errno) => return failed("look at it", errno),
    };
    if setting.options.filters.excludes(path.as_bytes(), kind == Kind::Directory, Side::Receiver) {
        return Ok(Removed::Stays);
    }
    // A volume may hold what the source has never had, and itself cannot be deleted anyway.
    if is_mounted && kind == Kind::Directory {
        setting.skip(&path, "not deleted: something is mounted there")?;
        return Ok(Removed::Stays);
    }
    let flags = if kind == Kind::Directory {
        if empty(setting, places, &path)? == Removed::Stays {
            return Ok(Removed::Stays);
        }
        places.forget();
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    let told = why == Why::NotAtSource;
    if told && setting.options.max_delete.is_some_and(|most| lock(&setting.received).deleted >= most) {
        setting.session.note(Code::MaxDelete);
        return Ok(Removed::Stays);
    }
    if !setting.options.dry_run {
        let open = match places.open(directory) {
            Ok(open) => open,
            Err(errno) => return failed("open its directory", errno),
        };
        match unlinkat(open, name.as_bytes(), flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return failed("delete it", errno),
        }
    }
    if !told {
        return Ok(Removed::Gone);
    }
    setting.count(|received| received.deleted += 1);
    super::entries::tell(
        setting,
        Change { path, kind, how: How::Deleted, differs: Differs::default(), target: vec![] },
    )?;
    Ok(Removed::Gone)
}

/// Removes all that is in a directory; one level of the tree is one of the stack, which the length of a path bounds.
fn empty(setting: &Setting<'_>, places: &mut Places, path: &TreePath) -> Result<Removed, Error> {
    let names = match places.open(path).and_then(Names::read) {
        Ok(names) => names,
        Err(errno) => {
            setting.problem(Problem::call(path, "read the directory", errno))?;
            return Ok(Removed::Stays);
        }
    };
    let mut all = Removed::Gone;
    for name in (0..names.len()).filter_map(|at| names.get(at)) {
        if remove(setting, places, path, &name, Why::NotAtSource)? == Removed::Stays {
            all = Removed::Stays;
        }
    }
    Ok(all)
}
