//! The lying end.

use crate::Error;
use crate::content::{ContentHash, ContentHasher};
use crate::entry::{Entry, EntryCodec, Kind, Time};
use crate::link::{Inbox, Link, Outbox, Packing, Pulse};
use crate::message::{Attributes, ToReceiver, ToSender};
use crate::name::{Name, TreePath};
use crate::options::Options;
use crate::place::Base;
use crate::transfer::{Local, Summary, pull, push};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What a test says in the place of a peer.
pub(super) struct Peer {
    outbox: Outbox,
    inbox: Inbox,
    pulse: Pulse,
}

impl Peer {
    fn new(stream: UnixStream) -> Peer {
        let inbox = Inbox::new(Box::new(stream.try_clone().unwrap())).unwrap();
        let outbox = Outbox::new(Box::new(stream), 3, None).unwrap();
        outbox.send(&[b"skpr-rsync", &[1, 0][..]].concat(), Packing::AsItIs).unwrap();
        let mut peer = Peer { outbox, inbox, pulse: Pulse::new() };
        // The greeting and the wish.
        while peer.next().is_some_and(|message| !message.is_empty()) {}
        peer
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        self.inbox.next(&self.pulse).ok().flatten()
    }

    fn send(&self, bytes: &[u8]) {
        // Whoever has found out does not listen any more.
        drop(self.outbox.send(bytes, Packing::Compress).and_then(|()| self.outbox.flush()));
    }

    pub(super) fn say(&self, message: &ToReceiver) {
        let mut bytes = vec![];
        message.encode(&mut bytes);
        self.send(&bytes);
    }

    pub(super) fn ask(&self, message: &ToSender) {
        let mut bytes = vec![];
        message.encode(&mut bytes);
        self.send(&bytes);
    }

    /// The next thing that the receiver says and that is of interest, or anything at its end.
    pub(super) fn wait_for(&mut self, wanted: impl Fn(&ToSender) -> bool) -> ToSender {
        loop {
            let Some(message) = self.next() else { return ToSender::DigestsEnd };
            let message = ToSender::decode(&message).unwrap();
            if wanted(&message) {
                return message;
            }
        }
    }

    pub(super) fn wait_for_sender(&mut self, wanted: impl Fn(&ToReceiver) -> bool) -> ToReceiver {
        loop {
            let Some(message) = self.next() else { return ToReceiver::AskSums(0) };
            let message = ToReceiver::decode(&message).unwrap();
            if wanted(&message) {
                return message;
            }
        }
    }

    /// A directory whose content is sent, and the receiver's answer to that.
    pub(super) fn source(&mut self) {
        let root = Attributes { mode: 0o755, ..Attributes::default() };
        self.say(&ToReceiver::Source { kind: Kind::Directory, content: true, root });
        self.wait_for(|message| *message == ToSender::DigestsEnd);
    }

    pub(super) fn entries(&self, directory: &str, entries: &[Entry], last: bool) {
        self.say(&ToReceiver::Directory(TreePath::new(directory.as_bytes()).unwrap()));
        self.more_entries(entries, last);
    }

    pub(super) fn more_entries(&self, entries: &[Entry], last: bool) {
        let (mut bytes, mut codec) = (vec![], EntryCodec::default());
        entries.iter().for_each(|entry| codec.put(&mut bytes, entry));
        self.say(&ToReceiver::Entries { last, bytes });
    }
}

fn link(stream: UnixStream) -> Link {
    let (reader, closer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let close = move || drop(closer.shutdown(Shutdown::Both));
    Link { reader: Box::new(reader), writer: Box::new(stream), close: Box::new(close) }
}

fn run(
    ours: impl FnOnce(Link) -> Result<Summary, Error>,
    theirs: impl FnOnce(&mut Peer) + Send,
) -> Result<Summary, Error> {
    let (one, other) = UnixStream::pair().unwrap();
    let end = other.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            theirs(&mut Peer::new(other));
            drop(end.shutdown(Shutdown::Both));
        });
        ours(link(one))
    })
}

/// Pulls from a peer that says this.
pub(super) fn pulled(
    to: &Path,
    options: &Options,
    theirs: impl FnOnce(&mut Peer) + Send,
) -> Result<Summary, Error> {
    pulled_as(to, b"/source/", options, theirs)
}

/// The same with another path at the peer.
pub(super) fn pulled_as(
    to: &Path,
    from: &[u8],
    options: &Options,
    theirs: impl FnOnce(&mut Peer) + Send,
) -> Result<Summary, Error> {
    let path = to.as_os_str().as_bytes();
    let local = Local { base: Base::Own, path, watcher: &|_| {}, silence: Some(Duration::from_secs(20)) };
    run(|link| pull(local, from, options, link), theirs)
}

/// Pushes to a peer that says this.
pub(super) fn pushed(
    from: &Path,
    options: &Options,
    theirs: impl FnOnce(&mut Peer) + Send,
) -> Result<Summary, Error> {
    let path = [from.as_os_str().as_bytes(), b"/"].concat();
    let local =
        Local { base: Base::Own, path: &path, watcher: &|_| {}, silence: Some(Duration::from_secs(20)) };
    run(|link| push(local, b"/target", options, link), theirs)
}

pub(crate) fn file(name: &str, size: u64) -> Entry {
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        kind: Kind::File,
        mode: 0o644,
        size,
        modified: Time { seconds: 1_000_000_000, nanos: 0 },
        user: 0,
        group: 0,
        device: 0,
        target: vec![],
        leader: None,
        content: None,
        recent: false,
    }
}

pub(super) fn hash(bytes: &[u8]) -> ContentHash {
    let mut hasher = ContentHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

#[track_caller]
pub(super) fn refused(result: Result<Summary, Error>, what: &str) {
    match result {
        Err(Error::Protocol(_)) => {}
        other => panic!("{what}: {other:?}"),
    }
}
