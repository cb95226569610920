//! Our terminal while it is a process's: every key goes there as it is typed, and its size is told.

use crate::terminal;
use russh::{ChannelWriteHalf, Pty, client::Msg};
use std::io;

/// Restores the terminal when dropped.
pub(super) struct Typing {
    on: bool,
    modes: Vec<(Pty, u32)>,
}

impl Typing {
    /// Begins to read every key, if there is a terminal to be read.
    pub(super) fn begin(wanted: bool) -> io::Result<Typing> {
        let on = wanted && terminal::stdin_is_terminal();
        let modes = if on { terminal::modes() } else { Vec::new() };
        let known = |(opcode, argument): (u8, u32)| Some((pty(opcode)?, argument));
        if on {
            terminal::read_raw()?;
        }
        Ok(Typing { on, modes: modes.into_iter().filter_map(known).collect() })
    }

    /// Columns and rows; 0 for what is not known.
    pub(super) fn size(&self) -> (u32, u32) {
        if self.on { terminal::size().unwrap_or_default() } else { (0, 0) }
    }

    /// What its keys mean.
    pub(super) fn modes(&self) -> Vec<(Pty, u32)> {
        self.modes.clone()
    }

    /// Tells each new size.
    #[cfg(unix)]
    pub(super) async fn resized(&self, write: &ChannelWriteHalf<Msg>) {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        while self.on && changes.recv().await.is_some() {
            let (columns, rows) = self.size();
            if write.window_change(columns, rows, 0, 0).await.is_err() {
                return;
            }
        }
    }

    #[cfg(not(unix))]
    pub(super) async fn resized(&self, _: &ChannelWriteHalf<Msg>) {}
}

impl Drop for Typing {
    fn drop(&mut self) {
        if self.on {
            terminal::show_typing();
        }
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
