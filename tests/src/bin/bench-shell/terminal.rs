//! A terminal of 80 columns and a program in it, at which keys are typed and waited for.

use crate::guard::{Client, check};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a program may take for whatever is waited for next.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one may stay open.
const OPEN: Duration = Duration::from_secs(3600);
const SIZE: Winsize = Winsize { ws_col: 80, ws_row: 24, ws_xpixel: 0, ws_ypixel: 0 };

pub(crate) struct Terminal {
    ours: File,
    client: Client,
    seen: Vec<u8>,
}

impl Terminal {
    /// Starts a program whose stdin and stdout are a terminal.
    pub(crate) fn open(mut command: Command) -> Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).context("open a terminal")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        tcsetwinsize(&theirs, SIZE)?;
        // What comes back has then been at the other end, whatever the program makes of its terminal.
        let mut attributes = tcgetattr(&theirs)?;
        attributes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&theirs, OptionalActions::Now, &attributes)?;
        command.stdin(theirs.try_clone()?).stdout(theirs);
        let client = Client::start(&mut command, OPEN)?;
        Ok(Terminal { ours: File::from(ours), client, seen: Vec::new() })
    }

    /// Waits for the prompt of root's shell.
    pub(crate) fn prompt(&mut self) -> Result<()> {
        self.until("# ")
    }

    /// Replaces the shell by `cat` on a terminal that does nothing by itself: each key goes to it, and comes back from it.
    pub(crate) fn become_echo(&mut self) -> Result<()> {
        self.prompt()?;
        self.ours.write_all(b"stty raw -echo; printf 're%sy' ad; exec cat\r").context("type a line")?;
        self.until("ready")
    }

    fn until(&mut self, wanted: &str) -> Result<()> {
        self.client.renew(PATIENCE);
        loop {
            let at = self.seen.windows(wanted.len()).position(|window| window == wanted.as_bytes());
            if let Some(at) = at {
                self.seen.drain(..at + wanted.len());
                self.client.renew(OPEN);
                return Ok(());
            }
            let mut piece = [0; 4096];
            match self.ours.read(&mut piece) {
                Ok(length @ 1..) => self.seen.extend_from_slice(piece.get(..length).unwrap_or_default()),
                // So Linux says that the program is gone.
                Ok(0) | Err(_) => {
                    check()?;
                    let seen = String::from_utf8_lossy(&self.seen).into_owned();
                    bail!("it ended before `{wanted}`\nshown: {seen:?}\nstderr: {}", self.client.said());
                }
            }
        }
    }

    /// Types a key; how long it took until it came back.
    pub(crate) fn echo(&mut self, key: u8) -> Result<Duration> {
        self.client.renew(PATIENCE);
        let mut back = [0; 64];
        let begun = Instant::now();
        self.ours.write_all(&[key]).context("type a key")?;
        let length = self.ours.read(&mut back).context("wait for a key")?;
        let took = begun.elapsed();
        self.client.renew(OPEN);
        check()?;
        let back = back.get(..length).unwrap_or_default();
        ensure!(back == [key], "{:?} came back for the key {:?}", String::from_utf8_lossy(back), key as char);
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_to_the_program_and_comes_back_from_it() {
        crate::guard::watch().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf '# '; exec sh"]);
        let mut terminal = Terminal::open(shell).unwrap();
        terminal.become_echo().unwrap();
        for key in b'a'..=b'z' {
            terminal.echo(key).unwrap();
        }
    }

    #[test]
    fn a_program_that_ends_is_not_waited_for() {
        crate::guard::watch().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo hi; echo 'what went wrong' >&2"]);
        let error = Terminal::open(shell).unwrap().prompt().unwrap_err().to_string();
        assert!(error.contains("hi") && error.contains("what went wrong"), "{error}");
    }
}
