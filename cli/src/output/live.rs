//! A few lines at the end of the terminal that are replaced in place.
//!
//! Invariant: each line is cut to the terminal's width and all together to its height, since a line that wraps or
//! scrolls away could not be replaced.

use crate::terminal::clean;
use std::io::{self, Write as _};
use unicode_width::UnicodeWidthChar as _;

/// How many lines are on the screen now.
#[derive(Default)]
pub(crate) struct Live {
    drawn: usize,
}

impl Live {
    /// Puts `lines` where the lines before were.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        let (columns, rows) = size();
        let (text, drawn) = frame(lines, self.drawn, columns, rows);
        self.drawn = drawn;
        // A terminal that is gone is no reason to stop.
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }

    /// Takes the lines away: what is written next stays.
    pub(crate) fn clear(&mut self) {
        if self.drawn > 0 {
            self.draw(&[]);
        }
    }
}

/// What to write to replace `drawn` lines by these, and how many there are then.
fn frame(lines: &[String], drawn: usize, columns: usize, rows: usize) -> (String, usize) {
    let mut out = if drawn > 0 { format!("\x1b[{drawn}A\r\x1b[J") } else { String::new() };
    let room = rows.saturating_sub(1).max(1);
    let hidden = if lines.len() > room { lines.len() - room + 1 } else { 0 };
    let shown = lines.len() - hidden;
    for line in lines.iter().take(shown) {
        out.push_str(&cut(&clean(line), columns));
        out.push('\n');
    }
    if hidden > 0 {
        out.push_str(&cut(&format!("… and {hidden} more"), columns));
        out.push('\n');
    }
    (out, shown + usize::from(hidden > 0))
}

/// The part of a line that fits.
fn cut(line: &str, columns: usize) -> String {
    let mut used = 0;
    line.chars()
        // A tab is as wide as the terminal likes.
        .map(|character| if character == '\t' { ' ' } else { character })
        .take_while(|character| {
            used += character.width().unwrap_or(0);
            used < columns.max(2)
        })
        .collect()
}

fn size() -> (usize, usize) {
    size_of(&io::stderr()).unwrap_or((80, 24))
}

/// Columns and rows of a terminal that says them.
#[cfg(unix)]
pub(super) fn size_of(terminal: &impl std::os::fd::AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

#[cfg(not(unix))]
pub(super) fn size_of<T>(_: &T) -> Option<(usize, usize)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("line {number}")).collect()
    }

    #[test]
    fn lines_replace_lines() {
        assert_eq!(frame(&lines(2), 0, 80, 24), ("line 1\nline 2\n".into(), 2));
        assert_eq!(frame(&lines(1), 2, 80, 24), ("\x1b[2A\r\x1b[Jline 1\n".into(), 1));
        assert_eq!(frame(&[], 1, 80, 24), ("\x1b[1A\r\x1b[J".into(), 0));
    }

    #[test]
    fn nothing_wraps_and_nothing_scrolls_away() {
        assert_eq!(frame(&["日本語 \x1b[2J".into()], 0, 6, 24).0, "日本\n");
        assert_eq!(frame(&lines(9), 0, 80, 4), ("line 1\nline 2\n… and 7 more\n".into(), 3));
        assert_eq!(frame(&lines(9), 0, 1, 1).1, 1);
    }
}
