//! `metrics --watch` on a terminal: what it shows, and that the terminal is as before however it ends.

use crate::Home;
use crate::environments::script;
use crate::fake::{Fake, Script};
use crate::metrics::{answer, answering};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use skpr_proto::v1::UsageResponse;
use skpr_proto::{ErrorKind, Failure};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

/// A program on a terminal of its own.
struct Shown {
    child: Child,
    master: File,
    /// Ours, which keeps the terminal's modes readable after the program's end.
    side: File,
    /// Shown and looked at, and shown after that.
    text: String,
    pending: Vec<u8>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Shown {
    fn start(command: &mut Command, columns: u16, rows: u16) -> Shown {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let side = || File::options().read(true).write(true).open(&name).unwrap();
        let ours = side();
        tcsetwinsize(&ours, size(columns, rows)).unwrap();
        let child = command
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .stdin(side())
            .stdout(side())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Shown { child, master: File::from(master), side: ours, text: String::new(), pending: Vec::new() }
    }

    /// Reads on to the next frame that has this, and gives it.
    #[track_caller]
    fn until(&mut self, expected: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            // A frame is whole once all below it is cleared.
            while let Some(end) = self.pending.windows(3).position(|bytes| bytes == b"\x1b[J") {
                let bytes: Vec<u8> = self.pending.drain(..end + 3).collect();
                let text = String::from_utf8(bytes).unwrap();
                self.text.push_str(&text);
                let frame = text.trim_end_matches("\x1b[J").rsplit("\x1b[H").next().unwrap();
                if frame.contains(expected) {
                    return frame.to_owned();
                }
            }
            let read = self.master.read(&mut buffer).unwrap();
            self.pending.extend_from_slice(&buffer[..read]);
            assert!(self.text.len() < 1 << 20, "{}", self.text);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ended, what it said on stderr; the terminal is as it was.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let code = self.child.wait().unwrap().code();
        let modes = tcgetattr(self.side.as_fd()).unwrap();
        assert!(modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
        drop(self.side);
        let mut rest = self.pending;
        // The end of a terminal is an error on Linux.
        drop(self.master.read_to_end(&mut rest));
        self.text.push_str(&String::from_utf8_lossy(&rest));
        assert_eq!(self.text.matches("\x1b[?1049h").count(), 1, "{:?}", self.text);
        assert!(self.text.ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l"), "{:?}", self.text);
        (code, said)
    }
}

/// A frame without colours and line ends.
fn lines(frame: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = frame;
    while let Some((text, code)) = rest.split_once("\x1b[") {
        plain.push_str(text);
        let end = code.find(|character: char| character.is_ascii_alphabetic()).unwrap();
        rest = &code[end + 1..];
    }
    plain.push_str(rest);
    plain.split("\r\n").map(str::to_owned).collect()
}

const WATCH: [&str; 6] = ["metrics", "prod", "--watch", "--per-instance", "--timezone", "UTC"];

#[test]
fn the_view_fits_80_and_40_columns_and_follows_the_size() {
    let (home, fake) = (Home::new(), answering(answer()));
    let mut shown = Shown::start(&mut home.with(&fake, &WATCH), 80, 24);
    let wide = lines(&shown.until("16:00:00"));
    insta::assert_snapshot!("watch_at_80", wide.join("\n"));
    tcsetwinsize(&shown.side, size(40, 24)).unwrap();
    // A terminal that is not the controlling one tells nobody.
    shown.signal(Signal::WINCH);
    let narrow = loop {
        let frame = lines(&shown.until("16:00:00"));
        if frame.iter().all(|line| line.chars().count() <= 40) {
            break frame;
        }
    };
    insta::assert_snapshot!("watch_at_40", narrow.join("\n"));
    assert!(wide.iter().all(|line| line.chars().count() <= 80));
    tcsetwinsize(&shown.side, size(40, 6)).unwrap();
    shown.signal(Signal::WINCH);
    let low = lines(&shown.until("and 4 more"));
    assert_eq!(low.len(), 6, "{low:?}");
    tcsetwinsize(&shown.side, size(10, 1)).unwrap();
    shown.signal(Signal::WINCH);
    while lines(&shown.until("16:00:00")).len() > 1 {}
    shown.master.write_all(b"xq").unwrap();
    assert_eq!(shown.end(), (Some(0), String::new()));
}

#[test]
fn colours_can_be_left_out_of_the_view() {
    let (home, fake) = (Home::new(), answering(answer()));
    let mut shown = Shown::start(home.with(&fake, &WATCH).env("NO_COLOR", "1"), 80, 24);
    let frame = shown.until("16:00:00");
    assert!(!frame.replace("\x1b[2K", "").contains('\x1b'), "{frame:?}");
    shown.signal(Signal::INT);
    assert_eq!(shown.end(), (Some(130), String::new()));
}

#[test]
fn the_terminal_is_given_back_to_whoever_ends_it() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (home, fake) = (Home::new(), answering(answer()));
        let mut shown = Shown::start(&mut home.with(&fake, &WATCH), 80, 24);
        shown.until("16:00:00");
        shown.signal(signal);
        assert_eq!(shown.end(), (Some(code), String::new()));
    }
    // And to an error, which is said after it.
    let (home, fake) = (Home::new(), answering(answer()));
    let mut shown = Shown::start(&mut home.with(&fake, &WATCH), 80, 24);
    shown.until("16:00:00");
    let gone = Failure::new(ErrorKind::NotFound, "`shop/prod` is not there");
    fake.script().refusals.insert("read", [gone].into());
    let (code, said) = shown.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("error: `shop/prod` is not there\n"), "{said}");
    // What is wrong from the start is said before anything is drawn.
    let gone = Failure::new(ErrorKind::NotAllowed, "you may not see `shop/prod`");
    fake.script().refusals.insert("read", [gone].into());
    let mut shown = Shown::start(&mut home.with(&fake, &WATCH), 80, 24);
    let mut said = String::new();
    shown.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(shown.child.wait().unwrap().code(), Some(4), "{said}");
}

#[test]
fn a_lost_connection_is_said_and_comes_back() {
    let later = UsageResponse {
        now: answer().now.map(|mut now| {
            now.unix_nanos += 61_000_000_000;
            now
        }),
        ..answer()
    };
    let usage = [Some(answer()), None, Some(later)].into();
    let (home, fake) = (Home::new(), Fake::scripted(Script { usage, ..script() }));
    let mut shown = Shown::start(&mut home.with(&fake, &WATCH), 40, 24);
    let lost = lines(&shown.until("reconnecting"));
    assert_eq!(lost[1], "reconnecting, this is of 16:00:00");
    assert!(lost[4].contains("stale"), "{lost:?}");
    let back = lines(&shown.until("connected again"));
    assert!(back[0].ends_with("16:01:01"), "{back:?}");
    shown.until("q ends");
    shown.master.write_all(b"q").unwrap();
    assert_eq!(shown.end(), (Some(0), String::new()));
    let namespaces: Vec<_> = fake
        .script()
        .usage_requests
        .iter()
        .map(|request| request.environment.clone().unwrap().namespace)
        .collect();
    assert_eq!(namespaces[..2], [None, Some("sites".to_owned())], "it stays with the one that it began with");
}
