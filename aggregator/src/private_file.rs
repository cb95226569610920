//! Small files that only this program's user may read: keys and tokens.
//!
//! A file is either absent or whole: it is written beside its place, synced, and renamed.

use anyhow::Context as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

const OWNER_ONLY: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a file that only its owner may read.
pub(crate) fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    replace(path, contents, OWNER_ONLY).with_context(|| format!("write {}", path.display()))
}

/// Writes a file that anyone may read, such as a certificate.
pub(crate) fn write_public(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    replace(path, contents, PUBLIC).with_context(|| format!("write {}", path.display()))
}

/// Reads a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Opens a file that is only there to be locked.
pub(crate) fn open_lock(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path);
    opened.with_context(|| format!("open {}", path.display()))
}

/// Makes the data directory, for its owner only.
pub(crate) fn create_directory(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("create {}", path.display()))
}

fn replace(path: &Path, contents: &[u8], mode: u32) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // A rest from a crash may have other permissions; a new file always has the right ones.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    // The mode above is cut by the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
