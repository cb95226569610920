//! Keeps a second process out of a data directory. The lock goes with the process, however that ends.

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// As many digits as a process id has, and some.
const PID_DIGITS: u64 = 20;

/// A process that was killed while it started another shares its lock with that one for a moment more.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(10);

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
        let deadline = Instant::now() + LET_GO_WITHIN;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    file.rewind()
                        .and_then(|()| (&file).take(PID_DIGITS).read_to_string(&mut holder))
                        .context("read who holds the lock")?;
                    let holder = holder.trim();
                    if is_there(holder) || Instant::now() >= deadline {
                        bail!("the data directory `{}` is in use by process {holder}", data.display());
                    }
                    std::thread::sleep(AGAIN);
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock `{}`", path.display()));
                }
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("write `{}`", path.display()))?;
        Ok(Lock(file))
    }
}

/// Whether a process is there, as far as can be told.
fn is_there(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) != Err(Errno::SRCH))
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
        // A process that another test has just forked holds every open file until it becomes another program.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = Lock::take(data.path()) {
            assert!(Instant::now() < deadline, "{error:#}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_was_killed_lets_go_in_a_moment() {
        let data = tempfile::tempdir().unwrap();
        let first = Lock::take(data.path()).unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        std::fs::write(data.path().join("lock"), format!("{}\n", ended.id())).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(data.path()).unwrap());
            drop(first);
            second.join().unwrap();
        });
    }
}
