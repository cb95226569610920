//! A pseudo-terminal: made with the size and the modes that the client's has.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize,
    tcgetattr, tcsetattr, tcsetwinsize,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A terminal larger than this is a mistake.
const LARGEST: u32 = 9_999;
/// What is taken for a side that the client does not know.
const USUAL: Size = Size { columns: 80, rows: 24 };

/// Columns and rows of a terminal: from 1 to 9,999 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    columns: u16,
    rows: u16,
}

/// The terminal that a process is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// What programs know it as, such as `xterm-256color`.
    pub kind: String,
    pub size: Size,
    /// Opcodes and arguments of RFC 4254, section 8.
    pub modes: Vec<(u8, u32)>,
}

impl Size {
    /// The nearest possible.
    pub fn of(columns: u32, rows: u32) -> Size {
        let side = |wanted: u32, usual: u16| match wanted {
            0 => usual,
            wanted => u16::try_from(wanted.min(LARGEST)).unwrap_or(usual),
        };
        Size { columns: side(columns, USUAL.columns), rows: side(rows, USUAL.rows) }
    }

    pub fn columns(self) -> u16 {
        self.columns
    }

    pub fn rows(self) -> u16 {
        self.rows
    }

    /// Tells the terminal, and thereby its programs.
    pub(super) fn set(self, terminal: impl AsFd) -> io::Result<()> {
        let size = Winsize { ws_col: self.columns, ws_row: self.rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(terminal, size)?)
    }
}

/// Our side, which does not block, and the side of the process.
pub(super) fn open(terminal: &Terminal) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    terminal.size.set(&theirs)?;
    let mut attributes = tcgetattr(&theirs)?;
    for (opcode, argument) in &terminal.modes {
        apply(&mut attributes, *opcode, *argument);
    }
    tcsetattr(&theirs, OptionalActions::Now, &attributes)?;
    Ok((ours, theirs))
}

/// What a mode of the client's terminal means for this one. Those that make no sense here are left out.
fn apply(attributes: &mut Termios, opcode: u8, argument: u32) {
    let on = argument != 0;
    if let Some(index) = special_code(opcode) {
        // 255 means that there is no such character.
        attributes.special_codes[index] = match u8::try_from(argument) {
            Ok(255) | Err(_) => 0,
            Ok(character) => character,
        };
        return;
    }
    let input = [
        (30, InputModes::IGNPAR),
        (31, InputModes::PARMRK),
        (32, InputModes::INPCK),
        (33, InputModes::ISTRIP),
        (34, InputModes::INLCR),
        (35, InputModes::IGNCR),
        (36, InputModes::ICRNL),
        (38, InputModes::IXON),
        (39, InputModes::IXANY),
        (40, InputModes::IXOFF),
        (41, InputModes::IMAXBEL),
        (42, InputModes::IUTF8),
    ];
    let local = [
        (50, LocalModes::ISIG),
        (51, LocalModes::ICANON),
        (53, LocalModes::ECHO),
        (54, LocalModes::ECHOE),
        (55, LocalModes::ECHOK),
        (56, LocalModes::ECHONL),
        (57, LocalModes::NOFLSH),
        (58, LocalModes::TOSTOP),
        (59, LocalModes::IEXTEN),
        (60, LocalModes::ECHOCTL),
        (61, LocalModes::ECHOKE),
    ];
    let output = [
        (70, OutputModes::OPOST),
        (72, OutputModes::ONLCR),
        (73, OutputModes::OCRNL),
        (74, OutputModes::ONOCR),
        (75, OutputModes::ONLRET),
    ];
    if let Some((_, mode)) = input.into_iter().find(|(known, _)| *known == opcode) {
        attributes.input_modes.set(mode, on);
    } else if let Some((_, mode)) = local.into_iter().find(|(known, _)| *known == opcode) {
        attributes.local_modes.set(mode, on);
    } else if let Some((_, mode)) = output.into_iter().find(|(known, _)| *known == opcode) {
        attributes.output_modes.set(mode, on);
    } else if opcode == 91 {
        attributes.control_modes.set(ControlModes::CS8, on);
    }
}

fn special_code(opcode: u8) -> Option<SpecialCodeIndex> {
    Some(match opcode {
        1 => SpecialCodeIndex::VINTR,
        2 => SpecialCodeIndex::VQUIT,
        3 => SpecialCodeIndex::VERASE,
        4 => SpecialCodeIndex::VKILL,
        5 => SpecialCodeIndex::VEOF,
        6 => SpecialCodeIndex::VEOL,
        7 => SpecialCodeIndex::VEOL2,
        8 => SpecialCodeIndex::VSTART,
        9 => SpecialCodeIndex::VSTOP,
        10 => SpecialCodeIndex::VSUSP,
        12 => SpecialCodeIndex::VREPRINT,
        13 => SpecialCodeIndex::VWERASE,
        14 => SpecialCodeIndex::VLNEXT,
        18 => SpecialCodeIndex::VDISCARD,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::termios::tcgetwinsize;

    #[test]
    fn odd_sizes_become_possible_ones() {
        for (asked, expected) in [
            ((80, 24), (80, 24)),
            ((0, 0), (80, 24)),
            ((0, 50), (80, 50)),
            ((1, 1), (1, 1)),
            ((65_535, 65_535), (9_999, 9_999)),
            ((u32::MAX, 65_536), (9_999, 9_999)),
        ] {
            let size = Size::of(asked.0, asked.1);
            assert_eq!((size.columns, size.rows), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_terminal_has_the_size_and_the_modes_that_were_asked_for() {
        let modes = vec![(53, 0), (3, 8), (1, 255), (42, 1), (128, 38_400), (250, 7)];
        let terminal = Terminal { kind: "xterm".to_owned(), size: Size::of(132, 43), modes };
        let (_ours, theirs) = open(&terminal).unwrap();
        let size = tcgetwinsize(&theirs).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        let attributes = tcgetattr(&theirs).unwrap();
        assert!(!attributes.local_modes.contains(LocalModes::ECHO));
        assert!(attributes.input_modes.contains(InputModes::IUTF8));
        assert_eq!(attributes.special_codes[SpecialCodeIndex::VERASE], 8);
        assert_eq!(attributes.special_codes[SpecialCodeIndex::VINTR], 0);
    }
}
