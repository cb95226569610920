//! A look into a container's files, to find a shell, users or the address of a name: through `/proc/PID/root` of its first
//! process.
//!
//! * Whoever owns the container may have put anything there. Every path is looked up inside of its root and nothing but
//!   ordinary files is opened.
//! * A look is no promise: what is started is looked up again, by the runtime and as the container's user.

use super::super::shell::{SHELLS, shell_of};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// More of `/etc/passwd` or `/etc/group` is not read.
const LONGEST: u64 = 1 << 20;
/// Where shells are looked for when the container does not say: what containerd itself would say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root directory of a container.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// That of a process of the node. Whether it is still the process that was meant has to be asked after this.
    pub(super) fn of(proc: &Path, pid: u32) -> io::Result<Root> {
        Root::at(&proc.join(pid.to_string()).join("root"))
    }

    fn at(place: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(openat(CWD, place, flags, Mode::empty())?))
    }

    /// The program that takes what this user types: the user's own, else the first of the known ones in `path`.
    pub(super) fn shell(&self, uid: u32, path: Option<&str>) -> Option<PathBuf> {
        // Not there, or not to be read: then it says nothing about a shell.
        let passwd = self.read(Path::new("/etc/passwd")).unwrap_or_default();
        let own = shell_of(&String::from_utf8_lossy(&passwd), uid).filter(|shell| self.is_runnable(shell));
        own.or_else(|| {
            let places = path.unwrap_or(USUAL_PATH).split(':').filter(|place| place.starts_with('/'));
            let places: Vec<&Path> = places.map(Path::new).collect();
            let all = SHELLS.iter().flat_map(|name| places.iter().map(move |place| place.join(name)));
            { all }.find(|shell| self.is_runnable(shell))
        })
    }

    /// `/etc/passwd` and `/etc/group`: empty where they are not there, or not to be read.
    pub(super) fn users(&self) -> (String, String) {
        let text = |path: &str| {
            let read = self.read(Path::new(path)).unwrap_or_default();
            String::from_utf8_lossy(&read).into_owned()
        };
        (text("/etc/passwd"), text("/etc/group"))
    }

    fn is_runnable(&self, path: &Path) -> bool {
        let stat = self.open(path).and_then(|file| Ok(fstat(file)?));
        stat.is_ok_and(|stat| stat.st_mode & 0o111 != 0)
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.open(path)?;
        // What was found is opened, and not what has its name by now.
        let mut content = vec![];
        File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?
            .take(LONGEST)
            .read_to_end(&mut content)?;
        Ok(content)
    }

    /// Finds a regular file, without opening it.
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&self.0, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let is_file = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
        if is_file { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    fn image(programs: &[&str], passwd: &str) -> TempDir {
        let image = tempfile::tempdir().unwrap();
        for directory in ["bin", "usr/bin", "etc"] {
            fs::create_dir_all(image.path().join(directory)).unwrap();
        }
        for program in programs {
            let program = image.path().join(program);
            fs::write(&program, "").unwrap();
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(image.path().join("etc/passwd"), passwd).unwrap();
        image
    }

    fn shell(image: &TempDir, uid: u32) -> Option<String> {
        let shell = Root::at(image.path()).unwrap().shell(uid, Some("relative:/usr/bin:/bin"));
        shell.map(|shell| shell.display().to_string())
    }

    #[test]
    fn the_shell_is_the_user_s_else_the_best_that_is_there() {
        let passwd = "root:x:0:0::/:/bin/zsh\nsite:x:1000:1000::/:/bin/gone\n";
        let image = image(&["bin/zsh", "bin/sh", "usr/bin/ash"], passwd);
        assert_eq!(shell(&image, 0).as_deref(), Some("/bin/zsh"));
        for other in [1000, 7] {
            assert_eq!(shell(&image, other).as_deref(), Some("/bin/sh"), "{other}");
        }
        fs::write(image.path().join("usr/bin/bash"), "").unwrap();
        assert_eq!(shell(&image, 7).as_deref(), Some("/bin/sh"), "one that cannot run is none");
        fs::remove_file(image.path().join("bin/sh")).unwrap();
        assert_eq!(shell(&image, 7).as_deref(), Some("/usr/bin/ash"));
        fs::remove_file(image.path().join("usr/bin/ash")).unwrap();
        assert_eq!(shell(&image, 7), None);
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let outside = image(&["bin/bash"], "root:x:0:0::/:/bin/bash\n");
        let image = image(&["bin/busybox"], "");
        // Links of an image are about its own root.
        symlink("/bin/busybox", image.path().join("bin/sh")).unwrap();
        assert_eq!(shell(&image, 0).as_deref(), Some("/bin/sh"));
        let up = format!("{}{}", "../".repeat(40), outside.path().join("bin/bash").display());
        for way_out in [up.as_str(), &outside.path().join("bin/bash").display().to_string(), "/proc/self/exe"]
        {
            fs::remove_file(image.path().join("bin/sh")).unwrap();
            symlink(way_out, image.path().join("bin/sh")).unwrap();
            assert_eq!(shell(&image, 0), None, "{way_out}");
        }
        fs::remove_file(image.path().join("etc/passwd")).unwrap();
        symlink(outside.path().join("etc/passwd"), image.path().join("etc/passwd")).unwrap();
        assert!(Root::at(image.path()).unwrap().read(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let image = image(&[], "");
        let root = Root::at(image.path()).unwrap();
        fs::remove_file(image.path().join("etc/passwd")).unwrap();
        rustix::fs::mkfifoat(CWD, image.path().join("etc/passwd"), Mode::from_raw_mode(0o644)).unwrap();
        assert!(root.read(Path::new("/etc/passwd")).is_err());
        assert_eq!(root.users(), (String::new(), String::new()));
        fs::create_dir(image.path().join("bin/sh")).unwrap();
        assert_eq!(shell(&image, 0), None);
        fs::write(image.path().join("etc/group"), vec![0xff; 2 << 20]).unwrap();
        assert_eq!(root.users().1.chars().count(), 1 << 20);
    }
}
