//! Our terminal while it is a process's: every key goes there as it is typed, and its size is told.

use crate::terminal;
use russh::Pty;
use std::io;

/// Restores the terminal when dropped.
pub(super) struct Typing {
    on: bool,
    modes: Vec<(Pty, u32)>,
    size: Size,
}

impl Typing {
    /// Begins to read every key, if there is a terminal to be read.
    pub(super) fn begin(wanted: bool) -> io::Result<Typing> {
        let size = Size::begin(wanted)?;
        let on = wanted && terminal::stdin_is_terminal();
        let modes = if on { terminal::modes() } else { Vec::new() };
        let known = |(opcode, argument): (u8, u32)| Some((pty(opcode)?, argument));
        if on {
            terminal::read_raw()?;
        }
        Ok(Typing { on, modes: modes.into_iter().filter_map(known).collect(), size })
    }

    /// Whether lines that we write are to end as a terminal ends them, which does not do so itself now.
    pub(super) fn is_raw(&self) -> bool {
        self.on
    }

    /// What its keys mean.
    pub(super) fn modes(&self) -> Vec<(Pty, u32)> {
        self.modes.clone()
    }

    pub(super) fn size(&mut self) -> &mut Size {
        &mut self.size
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        if self.on {
            terminal::show_typing();
        }
    }
}

/// The size of our terminal, and its changes since it was begun to look at.
pub(super) struct Size {
    wanted: bool,
    #[cfg(unix)]
    changes: Option<tokio::signal::unix::Signal>,
}

impl Size {
    fn begin(wanted: bool) -> io::Result<Size> {
        #[cfg(unix)]
        let changes = {
            use tokio::signal::unix::{SignalKind, signal};
            wanted.then(|| signal(SignalKind::window_change())).transpose()?
        };
        Ok(Size {
            wanted,
            #[cfg(unix)]
            changes,
        })
    }

    /// Columns and rows; 0 for what is not known.
    pub(super) fn now(&self) -> (u32, u32) {
        self.wanted.then(terminal::size).flatten().unwrap_or_default()
    }

    /// What it is after the next change.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) -> (u32, u32) {
        let changed = match &mut self.changes {
            Some(changes) => changes.recv().await,
            None => None,
        };
        match changed {
            Some(()) => self.now(),
            None => std::future::pending().await,
        }
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) -> (u32, u32) {
        std::future::pending().await
    }
}

fn pty(opcode: u8) -> Option<Pty> {
    Some(match opcode {
        1 => Pty::VINTR,
        2 => Pty::VQUIT,
        3 => Pty::VERASE,
        4 => Pty::VKILL,
        5 => Pty::VEOF,
        10 => Pty::VSUSP,
        42 => Pty::IUTF8,
        _ => return None,
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    /// One that came between was lost: whoever began with the old size was never told the new one.
    #[tokio::test]
    async fn a_change_before_anybody_waits_for_it_is_told() {
        let mut size = Size::begin(true).unwrap();
        size.now();
        kill_process(getpid(), Signal::WINCH).unwrap();
        let patience = std::time::Duration::from_secs(10);
        tokio::time::timeout(patience, size.next()).await.unwrap();
    }
}
