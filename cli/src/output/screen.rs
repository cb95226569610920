//! The whole terminal for one view, and the terminal as it was before however the program ends.
//!
//! Invariant: what [`Screen::open`] changes, [`leave`] undoes, once: it is called by dropping the screen, by a panic, and
//! by the signals that end the program. It takes no lock that a thread blocked in a write could hold.

use crate::error::Error;
use crate::output::Output;
use crate::terminal;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// The other screen, no cursor, and no line that wraps.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Nobody types faster than a view is drawn; more keys wait in the terminal.
const KEYS: usize = 16;

static OPEN: AtomicBool = AtomicBool::new(false);

/// The terminal, taken over.
pub(crate) struct Screen {
    keys: mpsc::Receiver<u8>,
}

impl Screen {
    pub(crate) fn open() -> Result<Self, Error> {
        crate::interrupt::exit_on_terminate()?;
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First, so that what it says can be read.
            leave();
            previous(panic);
        }));
        OPEN.store(true, Ordering::SeqCst);
        // Without keys there is still Ctrl-C.
        terminal::read_keys().unwrap_or_default();
        let screen = Screen { keys: keys()? };
        write(ENTER);
        Ok(screen)
    }

    /// Shows these lines, and nothing of those before. Each fits in a line.
    pub(crate) fn draw(&self, lines: &[String], output: &Output) -> Result<(), Error> {
        let mut out = "\x1b[H".to_owned();
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            // Before the line: after one that fills the terminal, its last letter would go.
            out.push_str("\x1b[2K");
            out.push_str(line);
        }
        out.push_str("\x1b[J");
        if OPEN.load(Ordering::SeqCst) { output.write(out.as_bytes()) } else { Ok(()) }
    }

    /// The next key; never, once nothing can be typed any more.
    pub(crate) async fn key(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back as it was, if it was taken.
pub(crate) fn leave() {
    if OPEN.swap(false, Ordering::SeqCst) {
        write(LEAVE);
        terminal::show_typing();
    }
}

/// Past the lock of stdout. A terminal that is gone needs nothing.
#[cfg(unix)]
fn write(mut bytes: &[u8]) {
    while let Ok(written @ 1..) = rustix::io::write(io::stdout(), bytes) {
        bytes = bytes.get(written..).unwrap_or_default();
    }
}

#[cfg(not(unix))]
fn write(bytes: &[u8]) {
    use io::Write as _;
    let mut stdout = io::stdout();
    drop(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Starts the thread that waits for keys. It has no owner on purpose: a read from a terminal cannot be called off.
fn keys() -> io::Result<mpsc::Receiver<u8>> {
    use io::{IsTerminal as _, Read as _};
    let (sender, receiver) = mpsc::channel(KEYS);
    if io::stdin().is_terminal() {
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.blocking_send(key).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(receiver)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    const CHILD: &str = "SKPR_TEST_OF_A_PANIC";

    /// Runs itself on a terminal, and there it panics.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_speaks() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("on purpose");
        }
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let side = || File::options().read(true).write(true).open(&name).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "--test-threads=1"]);
        command.arg("output::screen::tests::a_panic_gives_the_terminal_back_before_it_speaks");
        command.env(CHILD, "1").stdin(side()).stdout(side()).stderr(side());
        let mut child = command.spawn().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shown = Vec::new();
        // The end of a terminal is an error on Linux.
        drop(File::from(master).read_to_end(&mut shown));
        let shown = String::from_utf8_lossy(&shown);
        assert!(!child.wait().unwrap().success());
        let (entered, left) = (shown.find("\x1b[?1049h").unwrap(), shown.find("\x1b[?1049l").unwrap());
        let spoken = shown.find("on purpose").unwrap();
        assert!(entered < left && left < spoken, "{shown}");
        assert_eq!(shown.matches("\x1b[?1049l").count(), 1, "{shown}");
    }
}
