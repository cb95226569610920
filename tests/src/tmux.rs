//! A terminal with a person's eyes and hands: tmux shows what a program draws, and types.

use crate::cli::User;
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A window of a size in which a program runs. It is closed when this is dropped.
#[derive(Debug)]
pub struct Tmux<'a> {
    user: &'a User,
    socket: String,
}

impl<'a> Tmux<'a> {
    /// Opens it for a line of the shell.
    pub fn open(user: &'a User, columns: u16, rows: u16, line: &str) -> Result<Tmux<'a>> {
        // A server of its own: one that is ending still has its socket.
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let socket = format!("tmux.{}", OPENED.fetch_add(1, Ordering::Relaxed));
        let tmux = Tmux { user, socket: user.home().join(socket).display().to_string() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tmux.run(&["new-session", "-d", "-x", &columns, "-y", &rows, line])?;
        Ok(tmux)
    }

    fn output(&self, words: &[&str]) -> Result<Output> {
        let all = [&["-f", "/dev/null", "-S", &self.socket], words].concat();
        let mut tmux = self.user.other("tmux", &all);
        tmux.env_remove("TMUX").env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        tmux.output().context("run tmux")
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        ensure!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types keys by tmux's names, such as `C-c` and `Enter`; what is none is typed as it is.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        self.run(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Types a line.
    pub fn line(&self, line: &str) -> Result<()> {
        self.run(&["send-keys", "-l", line])?;
        self.keys(&["Enter"])
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.run(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).map(drop)
    }

    /// What is to be seen.
    pub fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until this is to be seen.
    pub fn shows(&self, wanted: &str) -> Result<()> {
        let mut last = String::new();
        let seen = eventually(&format!("`{wanted}` is to be seen"), PATIENCE, || {
            last = self.screen()?;
            Ok(last.contains(wanted).then_some(()))
        });
        seen.with_context(|| format!("the screen is\n{last}"))
    }

    /// Closes the window, as a person does who clicks it away.
    pub fn close(self) {}
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.output(&["kill-server"]).ok();
    }
}
