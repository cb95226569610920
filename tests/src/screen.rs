//! A terminal of its own, by `script`, in which a shell of an instance runs.

use crate::cli::{User, program};
use crate::eventually;
use crate::ssh::Killed;
use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal of 33 rows and 101 columns, in which `skpr shell dev` runs.
pub struct Screen {
    /// The file that says which terminal it is.
    tty: PathBuf,
    script: Killed,
    keys: ChildStdin,
    told: Receiver<Vec<u8>>,
    shown: Vec<u8>,
}

impl Screen {
    /// Opens one of this user's.
    pub fn of(user: &User) -> Result<Screen> {
        let skpr = program("skpr")?;
        let tty = user.home().join("tty");
        let inside =
            format!("tty >{}; stty rows 33 columns 101; exec {} shell dev", tty.display(), skpr.display());
        let mut script = user.other("script", &["-qec", &inside, "/dev/null"]);
        script.env("SHELL", "/bin/sh").env("TERM", "xterm");
        let mut script = Killed(script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let keys = script.0.stdin.take().context("stdin")?;
        let mut output = script.0.stdout.take().context("stdout")?;
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if tell.send(buffer.get(..length).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Screen { tty, script, keys, told, shown: vec![] })
    }

    /// What is shown up to a text.
    pub fn until(&mut self, wanted: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while !String::from_utf8_lossy(&self.shown).contains(wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.told.recv_timeout(left);
            self.shown.extend(
                more.with_context(|| format!("`{wanted}` in {:?}", String::from_utf8_lossy(&self.shown)))?,
            );
        }
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.shown)).into_owned())
    }

    /// Types.
    pub fn keys(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keys.write_all(keys)?)
    }

    /// As the window's own program would.
    pub fn resize(&self, rows: &str, columns: &str) -> Result<()> {
        let tty = std::fs::read_to_string(&self.tty)?;
        let mut stty = Command::new("stty");
        stty.args(["-F", tty.trim(), "rows", rows, "columns", columns]);
        ensure!(stty.status()?.success(), "stty");
        Ok(())
    }

    /// The exit code of its shell, when it has ended; none of one that a signal has ended.
    pub fn ends(&mut self) -> Result<Option<i32>> {
        Ok(eventually("it ends", PATIENCE, || Ok(self.script.0.try_wait()?))?.code())
    }
}
