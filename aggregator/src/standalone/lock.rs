//! Keeps a second process out of a data directory. The lock goes with the process, however that ends.

use anyhow::{Context as _, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

/// As many digits as a process id has, and some.
const PID_DIGITS: u64 = 20;

/// Held for as long as the directory is used.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "holding it open is its use")] File);

impl Lock {
    pub(super) fn take(data: &Path) -> anyhow::Result<Lock> {
        let path = data.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open `{}`", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                (&file).take(PID_DIGITS).read_to_string(&mut holder).context("read who holds the lock")?;
                bail!("the data directory `{}` is in use by process {}", data.display(), holder.trim());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock `{}`", path.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("write `{}`", path.display()))?;
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let data = tempfile::tempdir().unwrap();
        let first = Lock::take(data.path()).unwrap();
        let error = Lock::take(data.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("is in use by process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(data.path()).unwrap();
    }
}
