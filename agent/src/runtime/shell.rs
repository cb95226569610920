//! Which program runs what a client asks for.
//!
//! A line is for the user's shell, as `/etc/passwd` says it; where that is not there, for bash, sh or ash. So it is where that
//! only says that nobody may log in, as for the users of web servers: who may come here has been decided elsewhere. No
//! login shell: it would read `/etc/profile`, which on many systems replaces the instance's `PATH`.

use super::{Command, StartError};
use rustix::process::getuid;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Looked for in this order when the user's own is not there.
pub(super) const SHELLS: [&str; 3] = ["bash", "sh", "ash"];
/// What stands in `/etc/passwd` for a user who is not to log in.
const NO_SHELLS: [&str; 3] = ["nologin", "false", "true"];

/// Where programs are looked for.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    /// `PATH`.
    pub(super) path: &'a OsStr,
    /// What serves files, and transfers of them.
    pub(super) files: Option<&'a [OsString]>,
    pub(super) transfer: Option<&'a [OsString]>,
}

/// The words that are run. Reads files.
pub(super) fn words(command: Command, place: &Place<'_>) -> Result<Vec<OsString>, StartError> {
    let Place { directory, path, files, transfer } = *place;
    let shell = || {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        shell_of(&passwd, getuid().as_raw())
            .filter(|shell| is_runnable(shell))
            .or_else(|| SHELLS.iter().find_map(|name| find(OsStr::new(name), path, directory)))
            .ok_or(StartError::NoShell)
    };
    match command {
        Command::Shell => Ok(vec![shell()?.into()]),
        Command::Line(line) => Ok(vec![shell()?.into(), "-c".into(), line]),
        Command::Files => files.map(<[OsString]>::to_vec).ok_or(StartError::NoFiles),
        Command::Transfer => transfer.map(<[OsString]>::to_vec).ok_or(StartError::NoFiles),
        Command::TooLong => Err(StartError::TooLong),
        Command::Program(words) => {
            let program = words.first().filter(|program| !program.is_empty()).ok_or(StartError::Empty)?;
            let there = if program.as_bytes().contains(&b'/') {
                let place = directory.join(program);
                place.exists().then_some(place)
            } else {
                find(program, path, directory)
            };
            match there {
                Some(place) if is_runnable(&place) => Ok(words),
                Some(_) => Err(StartError::NotRunnable(shown(program))),
                None => Err(StartError::NotFound(shown(program))),
            }
        }
    }
}

/// The login shell of a user.
pub(super) fn shell_of(passwd: &str, uid: u32) -> Option<PathBuf> {
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))?;
    let shell = line.split(':').nth(6).filter(|shell| shell.starts_with('/')).map(PathBuf::from)?;
    let is_one = shell.file_name().is_some_and(|name| NO_SHELLS.iter().all(|none| name != *none));
    is_one.then_some(shell)
}

fn find(name: &OsStr, path: &OsStr, directory: &Path) -> Option<PathBuf> {
    let places: Vec<PathBuf> =
        std::env::split_paths(path).map(|place| directory.join(place).join(name)).collect();
    let runnable = places.iter().find(|place| is_runnable(place));
    runnable.or_else(|| places.iter().find(|place| place.is_file())).cloned()
}

fn is_runnable(place: &Path) -> bool {
    place.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A name from a client, short and harmless.
fn shown(program: &OsStr) -> String {
    program.to_string_lossy().chars().take(200).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_that_of_the_user() {
        let passwd = "root:x:0:0:root:/root:/bin/zsh\nnobody:x:65534:65534::/:relative\nbroken\n\
                      www-data:x:33:33::/var/www:/usr/sbin/nologin\nftp:x:14:50::/var/ftp:/bin/false\n";
        assert_eq!(shell_of(passwd, 0), Some(PathBuf::from("/bin/zsh")));
        for uid in [65534, 7, 33, 14] {
            assert_eq!(shell_of(passwd, uid), None, "{uid}");
        }
        assert_eq!(shell_of("", 0), None);
    }

    #[test]
    fn what_cannot_run_says_why() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("text"), "").unwrap();
        let run = |words_: &[&str], path: &str| {
            let program = Command::Program(words_.iter().map(OsString::from).collect());
            let place =
                Place { directory: directory.path(), path: OsStr::new(path), files: None, transfer: None };
            words(program, &place)
        };
        assert!(run(&["sh", "-c", "true"], "/usr/bin:/bin").is_ok());
        assert!(matches!(run(&["sh"], "/nowhere"), Err(StartError::NotFound(name)) if name == "sh"));
        assert!(matches!(run(&["./text"], ""), Err(StartError::NotRunnable(_))));
        assert!(matches!(run(&["/"], ""), Err(StartError::NotRunnable(_))));
        assert!(
            matches!(run(&["./\u{1b}"], ""), Err(StartError::NotFound(name)) if !name.contains('\u{1b}'))
        );
        assert!(matches!(run(&[], "/bin"), Err(StartError::Empty)));
        assert!(matches!(run(&[""], "/bin"), Err(StartError::Empty)));
    }
}
