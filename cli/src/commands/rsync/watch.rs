//! What is said while a transfer goes on: changes on stdout, problems on stderr, and how far it is where somebody sees it.
//!
//! Told by several threads of the engine, and nobody waits for a terminal with more than one line's worth of work.

use super::place::Way;
use super::progress::Progress;
use crate::args::{Format, Rsync};
use crate::output::{Live, Output, escape_json};
use serde::Serialize;
use skpr_rsync::change::{Change, How};
use skpr_rsync::{Code, Event, Kind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may wait for the next look at them.
const MOST_WAITING: usize = 64 << 10;
/// How often it is said off a terminal how far it is.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// What the engine says where a source is empty.
const EMPTY: &str = "nothing is deleted, since the source is empty";

/// How each change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    None,
    /// Its name.
    Names,
    /// As rsync's `-i`.
    Itemised,
    Json,
}

/// See the module.
pub(super) struct Watch {
    way: Way,
    lines: Lines,
    /// Off a terminal, too.
    says_progress: bool,
    output: Output,
    begun: Instant,
    /// Apart from what is written, which may wait for whoever reads it.
    progress: Mutex<Progress>,
    screen: Mutex<Screen>,
}

#[derive(Default)]
struct Screen {
    live: Option<Live>,
    waiting: Vec<u8>,
    /// Nobody reads stdout any more.
    closed: bool,
    said: Duration,
    problems: u64,
}

#[derive(Serialize)]
struct ChangeLine<'a> {
    change: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    kind: &'a str,
}

impl Watch {
    pub(super) fn new(verb: &Rsync, way: Way, output: &Output) -> Watch {
        let lines = match (verb.shown.itemize_changes, output.is_verbose(), output.format) {
            (false, false, _) => Lines::None,
            (_, _, Format::Json) => Lines::Json,
            (true, _, _) => Lines::Itemised,
            (false, true, _) => Lines::Names,
        };
        // Of a dry run nothing is on its way.
        let live = output.live().filter(|_| !verb.chosen.dry_run);
        Watch {
            way,
            lines,
            says_progress: verb.shown.progress || verb.shown.partial_progress,
            output: output.clone(),
            begun: Instant::now(),
            progress: Mutex::default(),
            screen: Mutex::new(Screen { live, ..Screen::default() }),
        }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the engine's threads.
    pub(super) fn see(&self, event: Event<'_>) {
        match event {
            Event::Change(change) => self.change(change),
            Event::Problem(problem) => {
                let mut screen = self.screen();
                self.flush(&mut screen);
                let place =
                    if problem.path.is_root() { String::new() } else { format!("{}: ", problem.path) };
                let text = format!("{place}{}", problem.text);
                if problem.code == Code::Done {
                    self.output.note(&text);
                } else {
                    screen.problems += 1;
                    self.output.warn(&text);
                }
                if problem.text == EMPTY {
                    self.output.note("hint: --allow-empty deletes all the same");
                }
            }
            Event::Progress { path, done, size } => {
                let now = self.begun.elapsed();
                self.progress().file(path.as_bytes(), done, size, now);
            }
            Event::Queued { files, bytes } => self.progress().queued(files, bytes),
        }
    }

    fn change(&self, change: &Change) {
        let sending = self.way == Way::Push;
        let line = match self.lines {
            Lines::None => return,
            Lines::Itemised => change.line(sending),
            Lines::Names => name(change),
            Lines::Json => json(change, sending),
        };
        let mut screen = self.screen();
        screen.waiting.extend_from_slice(line.as_bytes());
        screen.waiting.push(b'\n');
        if screen.waiting.len() >= MOST_WAITING {
            self.flush(&mut screen);
        }
    }

    /// Writes what waits, where the terminal does not show it with something else in it.
    fn flush(&self, screen: &mut Screen) {
        if let Some(live) = &mut screen.live {
            live.clear();
        }
        let waiting = std::mem::take(&mut screen.waiting);
        // A reader that has seen enough is no reason to leave a transfer undone.
        if !waiting.is_empty() && !screen.closed {
            screen.closed = self.output.write(&waiting).is_err();
        }
    }

    /// Shows how far it is, now and then.
    pub(super) fn show(&self) {
        let now = self.begun.elapsed();
        let lines = self.progress().lines(now);
        let mut screen = self.screen();
        if !screen.waiting.is_empty() {
            self.flush(&mut screen);
        }
        if let Some(live) = &mut screen.live {
            live.draw(&lines);
        } else if self.says_progress && now.saturating_sub(screen.said) >= SAID_EVERY {
            screen.said = now;
            lines.iter().take(1).for_each(|line| self.output.note(line));
        }
    }

    /// Nothing more is told.
    pub(super) fn finish(&self) {
        self.flush(&mut self.screen());
    }

    pub(super) fn problems(&self) -> u64 {
        self.screen().problems
    }
}

/// As rsync's `-v` names it.
fn name(change: &Change) -> String {
    let slash = if change.kind == Kind::Directory { "/" } else { "" };
    let path = if change.path.is_root() { ".".to_owned() } else { change.path.to_string() };
    match change.how {
        How::Deleted => format!("deleting {path}{slash}"),
        How::Attributes | How::Transferred | How::Made | How::Linked => format!("{path}{slash}"),
    }
}

fn json(change: &Change, sending: bool) -> String {
    let kind = match change.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "link",
        Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => "special",
    };
    let line = ChangeLine {
        change: change.class(sending).trim_end().to_owned(),
        path: change.path.to_string(),
        target: (!change.target.is_empty()).then(|| skpr_rsync::escape(&change.target)),
        kind,
    };
    escape_json(serde_json::to_string(&line).unwrap_or_default())
}
