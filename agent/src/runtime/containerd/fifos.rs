//! The directory of one process: its FIFOs, which containerd's shim opens by the same path on the node, and a record of
//! which process it is. containerd keeps no list of processes that were started in a container, so the directories are
//! what is known of those that an agent before this one has left.

use super::api::Name;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::time::{sleep, timeout};

/// How ours are recognised, by whoever looks at a node and by an agent that has just started.
const PREFIX: &str = "skpr-";
/// The file that says which container it is.
const CONTAINER: &str = "container";
/// The shim opens its end within milliseconds of the start.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// A directory. It is there until it is [removed](Fifos::remove).
#[derive(Debug)]
pub(super) struct Fifos(PathBuf);

/// Our ends of what a process says.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) output: Receiver,
    pub(super) errors: Receiver,
}

impl Outputs {
    /// To be opened before the start, which waits for that, and read only after it: until the other end is open, it
    /// seems to have ended.
    pub(super) fn open(fifos: &Fifos) -> io::Result<Outputs> {
        let open = |path: &Path| OpenOptions::new().open_receiver(path);
        Ok(Outputs { output: open(&fifos.output())?, errors: open(&fifos.errors())? })
    }
}

impl Fifos {
    /// Makes it, for a new process in this container.
    pub(super) fn make(directory: &Path, container: &str) -> io::Result<(Name, Fifos)> {
        let exec = format!("{PREFIX}{:016x}", RandomState::new().hash_one(container));
        let fifos = Fifos(directory.join(&exec));
        std::fs::DirBuilder::new().mode(0o700).create(&fifos.0)?;
        let filled = std::fs::write(fifos.0.join(CONTAINER), container).and_then(|()| {
            let make = |path| Ok(mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?);
            [fifos.input(), fifos.output(), fifos.errors()].into_iter().try_for_each(make)
        });
        if let Err(error) = filled {
            fifos.remove();
            return Err(error);
        }
        Ok((Name { container: container.to_owned(), exec }, fifos))
    }

    /// What is there, of this agent or one before it.
    pub(super) fn left(directory: &Path) -> io::Result<Vec<(Name, Fifos)>> {
        let mut left = vec![];
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let exec = entry.file_name().to_string_lossy().into_owned();
            if exec.starts_with(PREFIX) {
                // Without a record it was never started.
                let container = std::fs::read_to_string(entry.path().join(CONTAINER)).unwrap_or_default();
                left.push((Name { container, exec }, Fifos(entry.path())));
            }
        }
        Ok(left)
    }

    pub(super) fn input(&self) -> PathBuf {
        self.0.join("in")
    }

    pub(super) fn output(&self) -> PathBuf {
        self.0.join("out")
    }

    pub(super) fn errors(&self) -> PathBuf {
        self.0.join("err")
    }

    /// Opens the process's stdin, once it was started.
    pub(super) async fn writer(&self) -> io::Result<Sender> {
        let opened = async {
            loop {
                match OpenOptions::new().open_sender(self.input()) {
                    // The shim does it in the background.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                        sleep(Duration::from_millis(1)).await;
                    }
                    opened => return opened,
                }
            }
        };
        timeout(OPENED_WITHIN, opened).await?
    }

    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "a directory of FIFOs cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_known_to_the_next_agent_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (name, fifos) = Fifos::make(directory.path(), "c1").unwrap();
        assert!(name.exec.starts_with("skpr-") && name.exec.len() < 76, "{name:?}");
        std::fs::create_dir(directory.path().join("another-s")).unwrap();
        std::fs::create_dir(directory.path().join("skpr-begun")).unwrap();
        let mut left = Fifos::left(directory.path()).unwrap();
        left.sort_by_key(|(name, _)| name.container.clone());
        let names: Vec<_> = left.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [Name { container: String::new(), exec: "skpr-begun".into() }, name]);
        left.iter().for_each(|(_, fifos)| fifos.remove());
        fifos.remove();
        assert!(Fifos::left(directory.path()).unwrap().is_empty());
        assert!(directory.path().join("another-s").exists());
    }
}
