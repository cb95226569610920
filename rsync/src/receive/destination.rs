//! Where a transfer goes: rsync's rules of what is made of a destination that is a directory, a file or nothing yet.

use crate::entry::Kind;
use crate::error::Error;
use crate::name::{Name, escape};
use crate::options::Options;
use crate::place::{Base, Places};
use rustix::fs::{Mode, OFlags, mkdirat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// As it was asked for.
pub(crate) struct Destination {
    pub(crate) base: Base,
    pub(crate) path: Vec<u8>,
    /// The name of what comes, unless only what is in it comes.
    pub(crate) only: Option<Name>,
}

/// As it was found or made.
pub(crate) struct Resolved {
    /// None in a dry run that would make it.
    pub(crate) places: Option<Places>,
    /// It was not there before.
    pub(crate) fresh: bool,
    /// The one file that comes gets this name.
    pub(crate) shown: Option<Name>,
}

impl Destination {
    /// `source` says what comes, and whether only its content does; it is asked only where that makes a difference.
    pub(super) fn resolve(
        &self,
        options: &Options,
        source: impl FnOnce() -> Result<(Kind, bool), Error>,
    ) -> Result<Resolved, Error> {
        let errno = match self.base.open(&self.path, DIRECTORY) {
            Ok(root) => return Ok(Resolved { places: Some(Places::new(root)), fresh: false, shown: None }),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => errno,
            Err(errno) => return Err(self.error("open", errno)),
        };
        let (kind, content) = source()?;
        let (parent, name) = self.parent();
        if kind != Kind::Directory && !content && !self.path.ends_with(b"/") {
            let root = self
                .base
                .open(parent, DIRECTORY)
                .map_err(|errno| self.error("open the directory of", errno))?;
            let shown = Name::new(name).map_err(|_| self.error("write to", Errno::INVAL))?;
            return Ok(Resolved { places: Some(Places::new(root)), fresh: false, shown: Some(shown) });
        }
        if errno == Errno::NOTDIR {
            return Err(self.error("make a directory of", errno));
        }
        if options.dry_run {
            return Ok(Resolved { places: None, fresh: true, shown: None });
        }
        let above =
            self.base.open(parent, DIRECTORY).map_err(|errno| self.error("open the directory of", errno))?;
        mkdirat(&above, name, Mode::from_raw_mode(0o777))
            .map_err(|errno| self.error("make the directory", errno))?;
        let root = self.base.open(&self.path, DIRECTORY).map_err(|errno| self.error("open", errno))?;
        Ok(Resolved { places: Some(Places::new(root)), fresh: true, shown: None })
    }

    fn parent(&self) -> (&[u8], &[u8]) {
        let end = self.path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let path = self.path.get(..end).unwrap_or_default();
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(0) => (b"/", path.get(1..).unwrap_or_default()),
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (b".", path),
        }
    }

    fn error(&self, doing: &'static str, source: Errno) -> Error {
        Error::Start { doing, path: escape(&self.path), source }
    }
}
