//! Recordings of sessions: what a terminal has shown, in files that `asciinema play` shows again (asciicast, version 2).
//!
//! * What a process with a terminal shows is recorded, and how large the terminal is. What is typed never is: passwords are.
//! * No session waits for its recording or ends by it. What finds no place in the [`queue`], in the file or on the disk is
//!   missing; the recording says where and how much, and the log says that.
//! * One thread writes ([`writer`]), whole lines, a few times a second. Files are their owner's alone, and of all of them the
//!   newest stay ([`shelf`]).

mod cast;
mod queue;
mod shelf;
mod writer;

use crate::runtime::{Size, Terminal};
use anyhow::Context as _;
use cast::Header;
use jiff::Timestamp;
use queue::{Queue, Track};
use shelf::Shelf;
use skpr_proto::{EnvironmentName, v1};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use writer::Writer;

/// Where recordings are made, and how much of them is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub directory: PathBuf,
    /// All of them together; the oldest go.
    pub max_bytes: u64,
}

/// How long what is left may take to be written at a stop.
pub(crate) const FINISHED_WITHIN: Duration = Duration::from_secs(1);

/// What a session is called is 32 digits.
const LONGEST_SESSION: usize = 64;

/// What takes recordings. Clones share it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Queue>);

/// The thread that writes them.
#[derive(Debug)]
pub struct Writing {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

/// Whose sessions are recorded: names that are names of files, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    environment: EnvironmentName,
    instance: String,
    session: String,
}

/// How the terminals of one session are recorded. Clones share their count.
#[derive(Clone, Debug)]
pub struct Record {
    recorder: Recorder,
    subject: Subject,
    begun: Arc<AtomicU32>,
}

/// One recording. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Recording {
    track: Arc<Track>,
    begun: Instant,
}

impl Recorder {
    /// Starts to write below a directory, which has to be there or to be made.
    pub fn start(settings: Settings) -> anyhow::Result<(Recorder, Writing)> {
        let shelf = Shelf::open(settings).context("make the directory for recordings")?;
        let (recorder, writer) = Recorder::with(shelf);
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || writer.run());
        let thread = thread.context("start the thread that writes recordings")?;
        let queue = Arc::clone(&recorder.0);
        Ok((recorder, Writing { queue, thread }))
    }

    /// And what has to [run](Writer::run) for anything to be written.
    fn with(shelf: Shelf) -> (Recorder, Writer) {
        let queue = Arc::new(Queue::default());
        (Recorder(Arc::clone(&queue)), Writer::new(queue, shelf))
    }

    /// With a disk that takes nothing.
    #[cfg(test)]
    pub(crate) fn blocked(directory: PathBuf) -> Recorder {
        Recorder::with(Shelf::open(Settings { directory, max_bytes: 1 << 30 }).unwrap()).0
    }

    /// For a session.
    pub(crate) fn of(&self, subject: Subject) -> Record {
        Record { recorder: self.clone(), subject, begun: Arc::default() }
    }
}

impl Writing {
    /// Has the thread write what there is, and waits for that, but not for a disk that hangs.
    pub async fn finish(self, within: Duration) {
        self.queue.stop();
        let joining = tokio::task::spawn_blocking(move || self.thread.join());
        match timeout(within, joining).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("what writes recordings ended abnormally"),
            Err(_) => tracing::warn!("the last of the recordings is not written"),
        }
    }
}

impl Subject {
    /// What the aggregator says of a session; none where a name is missing or is none.
    pub(crate) fn of(dial: &v1::Dial) -> Option<Subject> {
        let environment = EnvironmentName::parse(&dial.project, &dial.environment).ok()?;
        let is_name = |text: &str| {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            (1..=253).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['-', '.'])
        };
        let (instance, session) = (dial.instance.clone(), dial.session.clone());
        let named = is_name(&instance) && is_name(&session) && session.len() <= LONGEST_SESSION;
        named.then_some(Subject { environment, instance, session })
    }
}

impl Record {
    /// Begins the recording of a terminal, and of the shell in it where that is known.
    pub(crate) fn begin(&self, terminal: &Terminal, shell: Option<String>) -> Recording {
        let number = self.begun.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let header = Header {
            subject: self.subject.clone(),
            number,
            time: Timestamp::now(),
            size: terminal.size,
            term: terminal.kind.clone(),
            shell,
        };
        let track = self.recorder.0.begin(header);
        Recording { track, begun: Instant::now() }
    }
}

impl Recording {
    /// It has shown this.
    pub(crate) fn output(&self, bytes: &[u8]) {
        self.track.output(self.begun.elapsed(), bytes);
    }

    /// It has this size now.
    pub(crate) fn resize(&self, size: Size) {
        self.track.resize(self.begun.elapsed(), size);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.track.end(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests;
