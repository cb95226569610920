//! Every change the store makes to its directory goes through here, so that tests can make any of them fail, tear, or
//! be the last one before a power cut.

#[cfg(test)]
pub(crate) mod faults;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file system.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    faults: Option<faults::Faults>,
}

/// A file being written.
pub(crate) struct DiskFile {
    file: File,
    #[cfg(test)]
    path: PathBuf,
    #[cfg(test)]
    faults: Option<faults::Faults>,
}

impl Disk {
    #[cfg(test)]
    pub(crate) fn with(faults: faults::Faults) -> Disk {
        Disk { faults: Some(faults) }
    }

    /// Creates a file, or empties the one that is there.
    pub(crate) fn create(&self, path: &Path) -> io::Result<DiskFile> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.create(path)?;
        }
        Ok(DiskFile {
            file: File::create(path)?,
            #[cfg(test)]
            path: path.to_owned(),
            #[cfg(test)]
            faults: self.faults.clone(),
        })
    }

    /// Opens a file to be appended to, and creates it when it is not there.
    pub(crate) fn append_to(&self, path: &Path) -> io::Result<DiskFile> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.append_to(path)?;
        }
        Ok(DiskFile {
            file: File::options().append(true).create(true).open(path)?,
            #[cfg(test)]
            path: path.to_owned(),
            #[cfg(test)]
            faults: self.faults.clone(),
        })
    }

    /// Creates a directory and its parents, durably.
    pub(crate) fn create_directories(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory)?;
            if let Some(parent) = directory.parent() {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Puts a whole file into place: temporary file, sync, rename, directory sync.
    pub(crate) fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = self.create(&temporary)?;
        file.append(content)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_directory(path.parent().unwrap_or(Path::new(".")))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.rename(from, to)?;
        }
        fs::rename(from, to)
    }

    /// Removes a file; one that is gone already is no error.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.operation()?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.sync_directory(path)?;
        }
        File::open(path)?.sync_all()
    }

    /// Makes all that was written durable that is on the same file system as `path`, by whomever.
    pub(crate) fn sync_all_of(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.sync_all()?;
        }
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    /// Writing a sealed file, which does its own synchronising: one operation that happens or does not.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests make it fail"))]
    pub(crate) fn before_segment(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.space()?;
        }
        Ok(())
    }

    /// Removing a sealed file: one operation.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests make it fail"))]
    pub(crate) fn before_removal(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.operation()?;
        }
        Ok(())
    }

    /// Free bytes of the file system, and all that it has. `None`: it does not say.
    pub(crate) fn space(&self, path: &Path) -> Option<(u64, u64)> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.free();
        }
        let space = rustix::fs::statvfs(path).ok()?;
        Some((space.f_bavail.checked_mul(space.f_frsize)?, space.f_blocks.checked_mul(space.f_frsize)?))
    }

    /// The names in a directory, sorted.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }
}

impl DiskFile {
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            let allowed = faults.write(&self.path, bytes.len());
            if let Err((partial, error)) = allowed {
                self.file.write_all(bytes.get(..partial).unwrap_or(bytes))?;
                return Err(error);
            }
        }
        self.file.write_all(bytes)
    }

    /// Makes the content durable. After a failure nothing is known about what was written since the last success, and
    /// a later success says nothing about it either: the file must not be written to again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.sync(&self.path)?;
        }
        self.file.sync_data()
    }

    /// Cuts the file.
    pub(crate) fn cut(&mut self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.cut(&self.path, length)?;
        }
        self.file.set_len(length)
    }
}
