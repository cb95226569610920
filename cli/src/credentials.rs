//! The login file: per cluster a token and the pinned CA, and which cluster is the default.
//!
//! Invariants: the file is 0600 in a directory of 0700 and replaced as a whole; one that others may read or write is
//! refused. A token has no `Debug`, is never printed and never logged.

use crate::error::Error;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use skpr_proto::{ErrorKind, Failure, Label};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub version: u32,
    /// The cluster of the last login.
    pub default: Option<String>,
    /// By `host:port`.
    pub clusters: BTreeMap<String, Login>,
}

impl Default for Credentials {
    fn default() -> Self {
        Credentials { version: VERSION, default: None, clusters: BTreeMap::new() }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Login {
    pub token: String,
    pub ca_pem: String,
}

/// `$SKPR_CONFIG_DIR`, else `~/.config/skpr`.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn find() -> Result<Self, Failure> {
        let set = std::env::var_os("SKPR_CONFIG_DIR").filter(|value| !value.is_empty());
        let path = match set {
            Some(path) => Some(PathBuf::from(path)),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .map(|home| home.join(".config").join("skpr")),
        };
        path.map(Directory).ok_or_else(|| {
            Failure::new(ErrorKind::InvalidConfiguration, "there is no home directory")
                .with_hint("set SKPR_CONFIG_DIR to a directory for the login")
        })
    }

    #[cfg(test)]
    pub(crate) fn at(path: PathBuf) -> Self {
        Directory(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    /// The file of names for completion.
    pub(crate) fn names(&self) -> PathBuf {
        self.0.join("cache").join("environments.json")
    }

    /// The files of known hosts, one for each.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.0.join("ssh").join("known_hosts")
    }

    pub(crate) fn known_host(&self, host: &str) -> PathBuf {
        self.known_hosts().join(host)
    }

    /// What `ssh` needs for a project's environments.
    pub(crate) fn ssh_config(&self, project: &Label) -> PathBuf {
        self.0.join("ssh").join(format!("{project}.conf"))
    }

    /// All of these, as `ssh` finds them.
    pub(crate) fn ssh_configs(&self) -> PathBuf {
        self.0.join("ssh").join("*.conf")
    }

    /// What was stored; nothing, when nobody has logged in.
    pub(crate) fn load(&self) -> Result<Credentials, Error> {
        let path = self.file();
        let invalid = |what: String, hint: String| {
            Failure::new(ErrorKind::InvalidConfiguration, format!("`{}` {what}", path.display()))
                .with_hint(hint)
        };
        let again = || format!("remove it and log in again: rm {}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credentials::default()),
            Err(error) => return Err(Error::new(invalid("cannot be read".into(), again()), &error)),
        };
        if open_to_others(&path, 0o077)? {
            let hint = format!("chmod 600 {}; then log in anew if others may have read it", path.display());
            return Err(invalid("holds tokens and can be read by others".into(), hint).into());
        }
        if open_to_others(&self.0, 0o022)? {
            let hint = format!("chmod 700 {}", self.0.display());
            return Err(invalid("lies in a directory that others can write to".into(), hint).into());
        }
        let credentials: Credentials = serde_json::from_str(&text)
            .map_err(|error| Error::new(invalid("is not a login file".into(), again()), &error))?;
        if credentials.version != VERSION {
            let what = format!("was written by another version of skpr (format {})", credentials.version);
            return Err(invalid(what, again()).into());
        }
        Ok(credentials)
    }

    pub(crate) fn store(&self, credentials: &Credentials) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(credentials).context("encode the login")?;
        replace(&self.file(), text.as_bytes())
            .with_context(|| format!("write `{}`", self.file().display()))
            .map_err(Error::from)
    }
}

/// Replaces a file as a whole, for its owner only, in a directory made for its owner only.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    create_private_directory(directory)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = create_private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // Without it a power cut may bring the old file back: a token that was just forgotten.
        sync_directory(directory)
    })();
    if written.is_err() {
        // What is left of the attempt helps nobody; the first error is the one to report.
        drop(fs::remove_file(&temporary));
    }
    written
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn create_private(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

#[cfg(unix)]
fn create_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_private_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(unix)]
fn open_to_others(path: &Path, mask: u32) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & mask != 0)
}

#[cfg(not(unix))]
fn open_to_others(_: &Path, _: u32) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> (tempfile::TempDir, Directory) {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::at(home.path().join("skpr"));
        let mut credentials = Credentials { default: Some("a:443".into()), ..Credentials::default() };
        credentials.clusters.insert("a:443".into(), Login { token: "secret".into(), ca_pem: "pem".into() });
        directory.store(&credentials).unwrap();
        (home, directory)
    }

    fn kind(result: Result<Credentials, Error>) -> Option<ErrorKind> {
        match result {
            Err(Error::Failed { failure, .. }) => Some(failure.kind),
            _ => None,
        }
    }

    #[test]
    fn what_is_stored_comes_back() {
        let (_home, directory) = stored();
        let credentials = directory.load().unwrap();
        assert_eq!(credentials.default.as_deref(), Some("a:443"));
        assert_eq!(credentials.clusters["a:443"].token, "secret");
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn nobody_logged_in_is_not_an_error() {
        assert!(Directory::at("/nonexistent".into()).load().unwrap().clusters.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private_and_a_public_one_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_home, directory) = stored();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.file()), mode(&directory.0)), (0o600, 0o700));
        fs::set_permissions(directory.file(), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(kind(directory.load()), Some(ErrorKind::InvalidConfiguration));
        fs::set_permissions(directory.file(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(kind(directory.load()), Some(ErrorKind::InvalidConfiguration));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (_home, directory) = stored();
        for text in ["", "{", "{\"version\":2,\"default\":null,\"clusters\":{}}"] {
            replace(&directory.file(), text.as_bytes()).unwrap();
            assert_eq!(kind(directory.load()), Some(ErrorKind::InvalidConfiguration), "{text}");
        }
    }
}
