//! Where files are: directories by descriptor, entered one component at a time and never through a link.
//!
//! A path of a tree is resolved from the descriptor of the tree's root, so whatever somebody swaps meanwhile, nothing
//! outside of it is reached. Only the path that a transfer starts at may hold links, and for a worker these are resolved inside of
//! its own root.

use crate::name::{Name, TreePath};
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, openat, openat2, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How many directories above the last one are held open; below, they are opened anew each time.
const MOST_HELD: usize = 48;
/// How often a path is tried that is being renamed while it is looked up.
const MOST_TRIES: usize = 128;
/// Bytes of the names of one directory: some three million files.
const MOST_NAME_BYTES: usize = 48 << 20;

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What the start path of a transfer is resolved in.
#[derive(Debug)]
pub enum Base {
    /// The user's own file system, as the user sees it.
    Own,
    /// This directory, which nothing leads out of.
    Within(OwnedFd),
    /// The same as somebody inside of it sees it.
    Inside(Inside),
}

/// A directory that nothing leads out of, as its own users know it.
#[derive(Debug)]
pub struct Inside {
    pub root: OwnedFd,
    /// Where a path begins that does not begin with a slash: from the root on.
    pub directory: Vec<u8>,
    /// What else is there, by the path at which it is to be seen: directories that nothing leads out of either.
    pub mounts: Vec<(Vec<u8>, OwnedFd)>,
}

impl Inside {
    /// The directory that a path is to be resolved in, and the rest of the path.
    fn resolve(&self, path: &[u8]) -> (&OwnedFd, Vec<u8>) {
        let absolute = match path.first() {
            Some(b'/') => path.to_vec(),
            _ => [&self.directory, &b"/"[..], path].concat(),
        };
        // Only what is named is looked for there: who goes up from within stays within.
        let below = |mount: &[u8]| {
            let mut rest = absolute.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
            let mut wanted = mount.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            wanted.all(|part| rest.next() == Some(part)).then(|| rest.collect::<Vec<_>>().join(&b'/'))
        };
        let found = self.mounts.iter().filter_map(|(at, root)| Some((at.len(), root, below(at)?)));
        match found.max_by_key(|(length, ..)| *length) {
            Some((_, root, rest)) => (root, rest),
            None => (&self.root, absolute),
        }
    }
}

impl Base {
    pub(crate) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        match self {
            Base::Own => openat(CWD, if path.is_empty() { b"." } else { path }, flags, Mode::empty()),
            Base::Within(root) => open_within(root, path, flags),
            Base::Inside(inside) => {
                let (root, path) = inside.resolve(path);
                open_within(root, &path, flags)
            }
        }
    }
}

fn open_within(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..MOST_TRIES {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// The directories of a tree.
#[derive(Debug)]
pub(crate) struct Places {
    root: Arc<OwnedFd>,
    held: Vec<(Vec<u8>, Arc<OwnedFd>)>,
    /// The last one beyond those that are held, and its path.
    deep: Option<(TreePath, Arc<OwnedFd>)>,
}

impl Places {
    pub(crate) fn new(root: OwnedFd) -> Places {
        Places { root: Arc::new(root), held: vec![], deep: None }
    }

    /// A second view of the same tree.
    pub(crate) fn again(&self) -> Result<Places, Errno> {
        Ok(Places::new(openat(&*self.root, ".", DIRECTORY, Mode::empty())?))
    }

    /// A directory of the tree.
    pub(crate) fn open(&mut self, path: &TreePath) -> Result<BorrowedFd<'_>, Errno> {
        // All entries of a directory are looked at one after the other: the way down to it is gone once.
        if self.deep.as_ref().is_some_and(|(deep, _)| deep == path) {
            return Ok(self.last().as_fd());
        }
        let same =
            self.held.iter().zip(path.components()).take_while(|((held, _), wanted)| held == wanted).count();
        self.held.truncate(same);
        self.deep = None;
        let mut deep = None;
        for component in path.components().skip(same) {
            let parent = deep.as_ref().unwrap_or_else(|| self.last());
            let directory = Arc::new(openat(parent, component, DIRECTORY, Mode::empty())?);
            if self.held.len() < MOST_HELD {
                self.held.push((component.to_vec(), directory));
            } else {
                deep = Some(directory);
            }
        }
        self.deep = deep.map(|deep| (path.clone(), deep));
        Ok(self.last().as_fd())
    }

    /// The same, for somebody who needs it for longer.
    pub(crate) fn shared(&mut self, path: &TreePath) -> Result<Arc<OwnedFd>, Errno> {
        self.open(path)?;
        Ok(self.last().clone())
    }

    fn last(&self) -> &Arc<OwnedFd> {
        let held = self.held.last().map(|(_, directory)| directory);
        self.deep.as_ref().map(|(_, directory)| directory).or(held).unwrap_or(&self.root)
    }

    /// Lets go of a directory that is to be renamed or removed.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
        self.deep = None;
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The entry itself, also where it is a link.
pub(crate) fn stat(directory: BorrowedFd<'_>, name: &Name) -> Result<Option<Stat>, Errno> {
    match statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A file to read from. What is no regular file is refused before a byte of it is read; opening it never blocks.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: &Name) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(directory, name.as_bytes(), flags, Mode::empty())?;
    let stat = fstat(&file)?;
    if crate::entry::Kind::of(stat.st_mode) != Some(crate::entry::Kind::File) {
        return Err(Errno::INVAL);
    }
    Ok((file, stat))
}

/// Removes a file of the engine's own, if it is there. What stays is put away by the next transfer.
pub(crate) fn discard(directory: BorrowedFd<'_>, name: &Name) {
    let _removed = unlinkat(directory, name.as_bytes(), AtFlags::empty()).is_ok();
}

/// Gives what was made under another name its own. What has that is replaced; but if nothing should have it, nothing is.
pub(crate) fn give_name(
    directory: BorrowedFd<'_>,
    from: &Name,
    to: &Name,
    nothing_there: bool,
) -> Result<(), Errno> {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    if nothing_there {
        match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
            // The file system cannot tell.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            result => return result,
        }
    }
    renameat(directory, from, directory, to)
}

/// The names in a directory, sorted, in as few bytes as they need.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u8)>,
}

impl Names {
    pub(crate) fn read(directory: BorrowedFd<'_>) -> Result<Names, Errno> {
        let mut names = Names::default();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name)?;
            }
        }
        let Names { bytes, places } = &mut names;
        places.sort_unstable_by(|one, other| at(bytes, *one).cmp(at(bytes, *other)));
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        if self.bytes.len() + name.len() > MOST_NAME_BYTES {
            return Err(Errno::OVERFLOW);
        }
        self.bytes.extend_from_slice(name);
        self.places.push((start, length));
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Name> {
        Name::new(at(&self.bytes, *self.places.get(index)?)).ok()
    }
}

fn at(bytes: &[u8], (start, length): (u32, u8)) -> &[u8] {
    bytes.get(start as usize..start as usize + usize::from(length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn path(text: &str) -> TreePath {
        TreePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn no_link_leads_anywhere() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::create_dir_all(inside.path().join("a/b")).unwrap();
        for (name, target) in [
            ("absolute", outside.path().to_str().unwrap()),
            ("up", "../../../../../../../../etc"),
            ("within", "a"),
            ("magic", "/proc/self/root"),
        ] {
            symlink(target, inside.path().join(name)).unwrap();
        }
        let root = Base::Own.open(inside.path().as_os_str().as_encoded_bytes(), DIRECTORY).unwrap();
        let mut places = Places::new(root);
        places.open(&path("a/b")).unwrap();
        for name in ["absolute", "up", "within", "magic", "within/b"] {
            assert!(matches!(places.open(&path(name)), Err(Errno::LOOP | Errno::NOTDIR)), "{name}");
        }
    }

    #[test]
    fn a_start_path_stays_in_the_root_it_is_resolved_in() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/inside")).unwrap();
        symlink("/etc", root.path().join("absolute")).unwrap();
        symlink("../../../../etc", root.path().join("up")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        let base =
            Base::Within(Base::Own.open(root.path().as_os_str().as_encoded_bytes(), DIRECTORY).unwrap());
        for start in ["absolute/inside", "up/inside", "/etc/inside", "../../etc/inside", "//etc/./inside/"] {
            base.open(start.as_bytes(), OFlags::DIRECTORY).unwrap();
        }
        assert_eq!(base.open(b"loop", OFlags::DIRECTORY).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn what_is_mounted_is_found_by_its_path_and_nothing_leads_out_of_it() {
        let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("work/inner")).unwrap();
        fs::create_dir(volume.path().join("2026")).unwrap();
        symlink("/etc", volume.path().join("out")).unwrap();
        let open =
            |path: &std::path::Path| Base::Own.open(path.as_os_str().as_encoded_bytes(), DIRECTORY).unwrap();
        let base = Base::Inside(Inside {
            root: open(root.path()),
            directory: b"/work".to_vec(),
            mounts: vec![(b"/data/files".to_vec(), open(volume.path()))],
        });
        let number = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
        let opened =
            |path: &str| base.open(path.as_bytes(), OFlags::DIRECTORY).map(|fd| fstat(&fd).unwrap().st_ino);
        for (path, place) in [
            ("", root.path().join("work")),
            ("inner/", root.path().join("work/inner")),
            ("/", root.path().to_owned()),
            ("/data/files", volume.path().to_owned()),
            ("/data//./files/2026/", volume.path().join("2026")),
            ("/data/files/../..", volume.path().to_owned()),
        ] {
            assert_eq!(opened(path).unwrap(), number(&place), "{path}");
        }
        for path in ["/data", "/data/files/out", "/data/files2", "missing"] {
            assert_eq!(opened(path), Err(Errno::NOENT), "{path}");
        }
    }

    #[test]
    fn a_pipe_is_neither_read_nor_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let root = Base::Own.open(directory.path().as_os_str().as_encoded_bytes(), DIRECTORY).unwrap();
        rustix::fs::mkfifoat(&root, "pipe", Mode::RWXU).unwrap();
        assert_eq!(open_file(root.as_fd(), &Name::new(b"pipe").unwrap()).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn any_depth_is_reached_with_few_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let root = Base::Own.open(directory.path().as_os_str().as_encoded_bytes(), DIRECTORY).unwrap();
        let mut places = Places::new(root);
        let mut deep = TreePath::root();
        for _ in 0..400 {
            let parent = places.open(&deep).unwrap();
            rustix::fs::mkdirat(parent, "d", Mode::RWXU).unwrap();
            deep = deep.join(&Name::new(b"d").unwrap()).unwrap();
        }
        assert_eq!(deep.as_bytes().len(), 799);
        places.open(&deep).unwrap();
        assert!(places.held.len() <= MOST_HELD);
    }
}
