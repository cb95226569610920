//! The receiver: says what it has, compares what it is told, asks for content, and puts it into place.
//!
//! Three threads. One reads what the sender says. One goes through the entries, and at the end does what has to wait for
//! all of them: hard links, deletions, the times of directories. One writes files. Whatever the sender says, only paths below the
//! destination are touched, and none through a link.

mod apply;
mod attributes;
mod compare;
mod destination;
mod entries;
mod finish;
mod flights;
mod remove;
mod temporary;

use crate::digest::{self, Digester, MOST_DIGEST_BYTES};
use crate::entry::Kind;
use crate::error::{Code, Error, Problem};
use crate::filter::Side;
use crate::link::{Inbox, Packing};
use crate::message::{Attributes, Either, MOST_CHUNK, MOST_TOLD, ToReceiver, ToSender};
use crate::name::TreePath;
use crate::options::Options;
use crate::session::{Session, Signal, lock};
use crate::stats::{Received, Totals};
use crate::tree::{Only, Tree, Walk};
pub(crate) use destination::Destination;
use entries::{Entries, Told};
use flights::Flights;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Batches of messages about files that may wait for the disk: 4 MiB, beyond which the sender has to wait.
const MOST_WAITING: usize = 8;
/// Bytes of a batch.
const MOST_BATCH: usize = 512 << 10;
/// Bytes of entries that may wait; more than the longest that may be told at a time are likely to have.
const MOST_ENTRY_BYTES: usize = 48 << 20;

/// What all parts of the receiver know.
pub(crate) struct Setting<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) options: &'a Options,
    pub(crate) compared: crate::entry::Compared,
    /// The bits that new files do not get unless told to.
    pub(crate) umask: u32,
    /// There may be what was kept of a file, since this transfer keeps it, or has not looked through where it is.
    pub(crate) keeps_partials: bool,
    pub(crate) flights: Flights,
    pub(crate) received: Mutex<Received>,
}

impl Setting<'_> {
    pub(crate) fn say(&self, message: &ToSender) -> Result<(), Error> {
        let mut bytes = vec![];
        message.encode(&mut bytes);
        self.session.outbox.send(&bytes, Packing::Compress)
    }

    /// A problem at this end, which the other wants to know of as well.
    pub(crate) fn problem(&self, problem: Problem) -> Result<(), Error> {
        self.session.problem(&problem);
        self.say(&ToSender::Either(Either::Problem(problem)))
    }

    /// Something that is left out, which both ends are to know, and no failure.
    pub(crate) fn skip(&self, path: &TreePath, text: &str) -> Result<(), Error> {
        self.problem(Problem { code: Code::Done, ..Problem::says(path, text) })
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Received)) {
        count(&mut lock(&self.received));
    }
}

/// Takes what the sender has, until all is in its place.
pub(crate) fn receive(
    session: &Session<'_>,
    destination: Destination,
    options: &Options,
    key: [u8; 32],
    inbox: Inbox,
    close: &(dyn Fn() + Send + Sync),
) -> Result<(Received, Totals), Error> {
    let root = rustix::process::geteuid().is_root();
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o22));
    rustix::process::umask(umask);
    let setting = Setting {
        session,
        options,
        compared: crate::send::compared(options, root, root),
        umask: umask.as_raw_mode(),
        keeps_partials: options.partial || destination.only.is_some(),
        flights: Flights::default(),
        received: Mutex::new(Received::default()),
    };
    let lists = Lists::default();
    std::thread::scope(|scope| {
        let (watched, setting, lists) = (session.watched(scope, close), &setting, &lists);
        let (files, waiting) = sync_channel(MOST_WAITING);
        scope.spawn(move || {
            session.guard(|| read(session, lists, files, inbox));
            drop(watched);
            lists.changed.tell();
        });
        session.guard(|| run(scope, setting, lists, waiting, destination, root, &key))
    })
    .map_or_else(|| Err(session.failure().unwrap_or(Error::Stopped)), Ok)
}

fn run<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    setting: &'scope Setting<'_>,
    lists: &'scope Lists,
    waiting: Receiver<Vec<ToReceiver>>,
    destination: Destination,
    root: bool,
    key: &[u8; 32],
) -> Result<(Received, Totals), Error> {
    let session = setting.session;
    let mut source = None;
    let only = destination.only.clone();
    let place = destination.resolve(setting.options, || {
        let (kind, content, attributes) = lists.source(session, only.is_some())?;
        source = Some((content, attributes));
        Ok((kind, content))
    })?;
    setting.say(&ToSender::Begin { shown: place.shown.clone(), owner: root, group: root })?;
    let mut leftovers = vec![];
    if let Some(places) = place.places.as_ref().filter(|_| !place.fresh && place.shown.is_none()) {
        let places =
            places.again().map_err(|source| Error::Start { doing: "open", path: ".".to_owned(), source })?;
        let mut tree =
            Tree::new(places, Side::Receiver, setting.options.filters.clone(), session.over().clone());
        tree.only = only.clone().map(|name| Only { real: name.clone(), shown: name });
        tree.compared = crate::entry::Compared { checksum: false, ..setting.compared };
        tree.one_file_system = setting.options.one_file_system;
        tell_digests(setting, &mut tree, key)?;
        leftovers = tree.leftovers;
    }
    setting.say(&ToSender::DigestsEnd)?;
    session.outbox.flush()?;
    let (content, attributes) = match source {
        Some(source) => source,
        None => {
            lists.source(session, only.is_some()).map(|(_, content, attributes)| (content, attributes))?
        }
    };
    let seconds = place.places.as_ref().map(|places| places.again()).transpose();
    let seconds = seconds.map_err(|source| Error::Start { doing: "open", path: ".".to_owned(), source })?;
    scope.spawn(move || session.guard(|| apply::apply(setting, seconds, waiting)));
    let mut entries = Entries::new(setting, place, only);
    entries.clean(leftovers)?;
    if content {
        entries.root(attributes)?;
    }
    let (complete, totals) = loop {
        match lists.next(session)? {
            Told::Directory(directory) => entries.directory(directory)?,
            Told::Entries { last, bytes } => entries.entries(&bytes, last)?,
            Told::All { complete, totals } => {
                entries.end()?;
                break (complete, totals);
            }
        }
    };
    let received = finish::finish(entries, complete)?;
    setting.say(&ToSender::Finished(received))?;
    session.outbox.flush()?;
    session.finish();
    Ok((received, totals))
}

/// Of each directory that is here, the digest of its entries. With checksums only what others have left is looked for: to
/// make digests, each end would read all files once more.
fn tell_digests(setting: &Setting<'_>, tree: &mut Tree, key: &[u8; 32]) -> Result<(), Error> {
    let (mut walk, mut bytes, mut told) = (Walk::default(), vec![], 0);
    while let Some(directory) = walk.next() {
        if tree.is_elsewhere(&directory) {
            continue;
        }
        let mut digester = Digester::new(key);
        let (mut directories, mut problems) = (vec![], vec![]);
        tree.visit(&directory, &mut problems, |_, entry| {
            digester.add(&entry);
            if entry.kind == Kind::Directory {
                directories.push(entry.name);
            }
            if setting.session.is_over() { Err(Error::Stopped) } else { Ok(()) }
        })?;
        // What cannot be read is different, and found again when it is told.
        if !setting.options.checksum && (problems.is_empty() || directory.is_root()) {
            digest::put(&mut bytes, &directory, digester.finish());
        }
        if bytes.len() >= MOST_CHUNK {
            told += bytes.len();
            if told > MOST_DIGEST_BYTES - MOST_CHUNK * 2 {
                return Ok(());
            }
            setting.say(&ToSender::Digests(std::mem::take(&mut bytes)))?;
        }
        walk.enter(directory, directories);
    }
    if bytes.is_empty() { Ok(()) } else { setting.say(&ToSender::Digests(bytes)) }
}

/// What the sender tells of entries, from the thread that reads to the one that compares.
#[derive(Default)]
pub(crate) struct Lists {
    inner: Mutex<Waiting>,
    changed: Signal,
}

#[derive(Default)]
struct Waiting {
    source: Option<(Kind, bool, Attributes)>,
    told: VecDeque<Told>,
    bytes: usize,
}

impl Lists {
    /// What comes: with `named` an entry, which is put into the destination, else what is in a directory.
    fn source(&self, session: &Session<'_>, named: bool) -> Result<(Kind, bool, Attributes), Error> {
        let mut inner = lock(&self.inner);
        loop {
            match inner.source {
                // Whoever asks for one file has not offered its directory.
                Some((_, content, _)) if content == named => {
                    return Err(Error::Protocol("something else than was asked for"));
                }
                Some(source) => return Ok(source),
                None => {
                    drop(inner);
                    session.outbox.flush()?;
                    inner = self.changed.wait(session, lock(&self.inner))?;
                }
            }
        }
    }

    fn put(&self, told: Told) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        inner.bytes += told.size();
        inner.told.push_back(told);
        if inner.told.len() as u64 > 2 * MOST_TOLD + 2 || inner.bytes > MOST_ENTRY_BYTES {
            return Err(Error::Protocol("more entries at a time than allowed"));
        }
        drop(inner);
        self.changed.tell();
        Ok(())
    }

    /// The next message; the outbox is flushed before there is any waiting.
    fn next(&self, session: &Session<'_>) -> Result<Told, Error> {
        let mut inner = lock(&self.inner);
        if inner.told.is_empty() {
            drop(inner);
            session.outbox.flush()?;
            inner = lock(&self.inner);
        }
        loop {
            if let Some(told) = inner.told.pop_front() {
                inner.bytes -= told.size();
                return Ok(told);
            }
            inner = self.changed.wait(session, inner)?;
        }
    }
}

/// What the sender says. What is there already is handed on in one piece, so that small files do not cost a wake-up each.
fn read(
    session: &Session<'_>,
    lists: &Lists,
    files: SyncSender<Vec<ToReceiver>>,
    mut inbox: Inbox,
) -> Result<(), Error> {
    let mut told_all = false;
    while let Some(first) = inbox.next(&session.pulse)? {
        let (mut batch, mut bytes, mut next) = (vec![], 0, Some(first));
        while let Some(message) = next {
            bytes += message.len();
            let message = ToReceiver::decode(&message)?;
            let is_abort = matches!(message, ToReceiver::Either(Either::Abort { .. }));
            if session.is_over() && !is_abort && !session.is_cut() {
                return Ok(());
            }
            if !session.is_over() || is_abort {
                // Whoever watches may be slow to take it, which is no silence of the sender.
                let of_file = session.pulse.held_by(|| sort(session, lists, message, &mut told_all))?;
                batch.extend(of_file);
            }
            next = if bytes < MOST_BATCH { inbox.ready()? } else { None };
        }
        // The other end is gone only when the session is over.
        if !batch.is_empty() && session.pulse.held_by(|| files.send(batch)).is_err() {
            if session.is_cut() {
                continue;
            }
            return if session.is_over() { Ok(()) } else { Err(Error::Stopped) };
        }
    }
    // The receiver is the one that says when it is over.
    if session.is_over() { Ok(()) } else { Err(Error::Ended) }
}

/// Puts a message where it belongs; what is about files is handed back.
fn sort(
    session: &Session<'_>,
    lists: &Lists,
    message: ToReceiver,
    told_all: &mut bool,
) -> Result<Option<ToReceiver>, Error> {
    match message {
        ToReceiver::Either(Either::Alive) => {}
        ToReceiver::Either(Either::Problem(problem)) => session.problem(&problem),
        ToReceiver::Either(Either::Abort { code, text }) => {
            return Err(Error::Peer { code, text: crate::escape(&text) });
        }
        ToReceiver::Source { kind, content, root } => {
            if lock(&lists.inner).source.replace((kind, content, root)).is_some() {
                return Err(Error::Protocol("a second source"));
            }
            lists.changed.tell();
        }
        ToReceiver::Directory(_) | ToReceiver::Entries { .. } | ToReceiver::Told { .. } if *told_all => {
            return Err(Error::Protocol("entries behind their end"));
        }
        ToReceiver::Directory(path) => lists.put(Told::Directory(path))?,
        ToReceiver::Entries { last, bytes } => lists.put(Told::Entries { last, bytes })?,
        ToReceiver::Told { complete, totals } => {
            *told_all = true;
            lists.put(Told::All { complete, totals })?;
        }
        file => return Ok(Some(file)),
    }
    Ok(None)
}
