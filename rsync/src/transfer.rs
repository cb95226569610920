//! Transfers from their beginning: who asks whom for what. The client has the user's side of the files; the server is the
//! worker beside the other side's.
//!
//! The client says its version and its wish at once and goes on without waiting for an answer, so that nothing costs
//! a round trip that need not. The server checks the wish against its policy before it looks at any file.

use crate::entry::Kind;
use crate::error::{Code, Error};
use crate::link::{Inbox, Link, Outbox, Packing, plain_packet};
use crate::message::{Either, ToSender};
use crate::name::{LONGEST_PATH, Name, escape};
use crate::options::{Options, USUAL_LEVEL};
use crate::place::{Base, Places};
use crate::receive::{self, Destination};
use crate::send::{self, Outgoing};
use crate::session::{Session, Watcher, halves};
use crate::stats::{Received, Stats, Totals};
use crate::wire::{Cursor, Malformed, put_bytes, put_number};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The version of the protocol. Two ends with different ones say so and stop.
pub const VERSION: u16 = 1;
const MAGIC: &[u8] = b"skpr-rsync";

/// Where files are at this end, and how the transfer is carried out.
pub struct Local<'a> {
    pub base: Base,
    /// A trailing slash means what is in a directory, as rsync has it.
    pub path: &'a [u8],
    pub watcher: Watcher<'a>,
    /// For how long the other end may be silent; usually a minute.
    pub silence: Option<Duration>,
}

/// What a server lets its clients do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub read_only: bool,
    pub write_only: bool,
    /// Devices may be made, if the process can.
    pub devices: bool,
    pub set_id: bool,
    /// For how long a client may be silent; usually a minute.
    pub silence: Option<Duration>,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub stats: Stats,
    pub code: Code,
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// The server is the one that sends.
    pull: bool,
    /// At the server.
    path: Vec<u8>,
    /// Of what is pushed, unless only what is in it is.
    only: Option<Name>,
    key: [u8; 32],
    options: Options,
}

/// Sends files of this end to `remote` at the other.
pub fn push(local: Local<'_>, remote: &[u8], options: &Options, link: Link) -> Result<Summary, Error> {
    let outgoing = source(&local.base, local.path)?;
    let wish = Wish {
        pull: false,
        path: remote.to_vec(),
        only: outgoing.only.clone(),
        key: key(),
        options: options.clone(),
    };
    client(local.watcher, local.silence, wish, link, |session, wish, inbox, close| {
        send::send(session, outgoing, &wish.options, wish.key, inbox, close)
    })
}

/// Takes files at `remote` at the other end to this one.
pub fn pull(local: Local<'_>, remote: &[u8], options: &Options, link: Link) -> Result<Summary, Error> {
    let wish =
        Wish { pull: true, path: remote.to_vec(), only: only(remote)?, key: key(), options: options.clone() };
    let Local { base, path, watcher, silence } = local;
    client(watcher, silence, wish, link, |session, wish, inbox, close| {
        let destination = Destination { base, path: path.to_vec(), only: wish.only.clone() };
        receive::receive(session, destination, &wish.options, wish.key, inbox, close)
    })
}

/// Says what is wanted, and then does this end's part.
fn client(
    watcher: Watcher<'_>,
    silence: Option<Duration>,
    wish: Wish,
    link: Link,
    run: impl FnOnce(&Session<'_>, &Wish, Inbox, &(dyn Fn() + Send + Sync)) -> Result<(Received, Totals), Error>,
) -> Result<Summary, Error> {
    if remote_is_bad(&wish.path) {
        return Err(Error::Refused(format!("`{}` is no path", escape(&wish.path))));
    }
    let (reader, writer, close) = halves(link);
    let outbox = Outbox::new(writer, USUAL_LEVEL, None)?;
    let session = Session::new(outbox, watcher).patient(silence);
    let mut inbox = Inbox::new(reader)?.with_hello(check_hello);
    if let Err(error) = ask(&session, &wish) {
        // A server that takes nothing may have said why before it went.
        return Err(in_time(&session, &*close, || last_words(&session, &mut inbox, error)));
    }
    let done = run(&session, &wish, inbox, &*close)?;
    Ok(summary(&session, done))
}

fn ask(session: &Session<'_>, wish: &Wish) -> Result<(), Error> {
    session.outbox.send(&hello(), Packing::AsItIs)?;
    session.outbox.configure(wish.options.level(), wish.options.bandwidth)?;
    let mut message = vec![];
    wish.encode(&mut message);
    for chunk in message.chunks(crate::message::MOST_CHUNK) {
        session.outbox.send(chunk, Packing::Compress)?;
    }
    session.outbox.send(&[], Packing::Compress)?;
    session.outbox.flush()
}

/// What the other end has said to end it, else what is known here.
fn last_words(session: &Session<'_>, inbox: &mut Inbox, error: Error) -> Error {
    match inbox.next(&session.pulse) {
        Ok(Some(message)) => match ToSender::decode(&message) {
            Ok(ToSender::Either(Either::Abort { code, text })) => Error::Peer { code, text: escape(&text) },
            _ => error,
        },
        _ => error,
    }
}

/// Does what waits for the other end, which is let go when that says nothing for too long.
fn in_time<T>(session: &Session<'_>, close: &(dyn Fn() + Send + Sync), work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let _watched = session.watched(scope, close);
        work()
    })
}

/// Does what a client at the other end asks for, with files below `base`.
pub fn serve(base: Base, policy: Policy, watcher: Watcher<'_>, link: Link) -> Result<Summary, Error> {
    let (reader, writer, close) = halves(link);
    let session = Session::new(Outbox::new(writer, USUAL_LEVEL, None)?, watcher).patient(policy.silence);
    session.outbox.send(&hello(), Packing::AsItIs)?;
    let mut inbox = Inbox::new(reader)?.with_hello(check_hello);
    let done = wish_in_time(&session, &mut inbox, &*close).and_then(|wish| {
        policy.allows(&wish)?;
        session.outbox.configure(wish.options.level(), wish.options.bandwidth)?;
        let Wish { pull, path, only, key, options } = wish;
        if pull {
            let outgoing = source(&base, &path)?;
            send::send(&session, outgoing, &options, key, inbox, &*close)
        } else {
            receive::receive(&session, Destination { base, path, only }, &options, key, inbox, &*close)
        }
    });
    // Where no part of the transfer has begun, nobody else has told the client.
    done.map(|done| summary(&session, done)).map_err(|error| session.refuse(error))
}

/// What a client reads where there is no server for it: why, as an end of the transfer.
pub fn refusal(code: Code, text: &str) -> Vec<u8> {
    let mut abort = vec![];
    Either::Abort { code, text: text.as_bytes().to_vec() }.encode(&mut abort);
    let mut messages = vec![];
    put_bytes(&mut messages, &hello());
    put_bytes(&mut messages, &abort);
    plain_packet(&messages)
}

fn summary(session: &Session<'_>, (received, totals): (Received, Totals)) -> Summary {
    let (sent_bytes, received_bytes) = (session.outbox.sent(), session.pulse.bytes.load(Ordering::Relaxed));
    let theirs = Code::from_number(received.code.into()).unwrap_or(Code::Partial);
    session.note(theirs);
    Summary { stats: Stats { totals, received, sent_bytes, received_bytes }, code: session.code() }
}

fn hello() -> Vec<u8> {
    [MAGIC, &VERSION.to_le_bytes()].concat()
}

fn check_hello(message: &[u8]) -> Result<(), Error> {
    let version = message.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<2>());
    match version.map(|bytes| u16::from_le_bytes(*bytes)) {
        Some(VERSION) => Ok(()),
        Some(other) => Err(Error::Version(other)),
        None => Err(Error::Protocol("no greeting of this protocol")),
    }
}

/// The client's wish, or the end of patience with it.
fn wish_in_time(
    session: &Session<'_>,
    inbox: &mut Inbox,
    close: &(dyn Fn() + Send + Sync),
) -> Result<Wish, Error> {
    let wish = in_time(session, close, || wish_of(session, inbox));
    match session.failure() {
        Some(failure) => Err(failure),
        None => wish,
    }
}

/// The client's wish, which comes in some messages and ends with an empty one.
fn wish_of(session: &Session<'_>, inbox: &mut Inbox) -> Result<Wish, Error> {
    let mut bytes = vec![];
    loop {
        match inbox.next(&session.pulse)? {
            None => return Err(Error::Ended),
            Some(message) if message.is_empty() => break,
            Some(message) => bytes.extend(message),
        }
        if bytes.len() > MOST_WISH {
            return Err(Error::Protocol("a wish that is too long"));
        }
    }
    Ok(Wish::decode(&bytes)?)
}

/// Most of it is filter rules.
const MOST_WISH: usize = 4 << 20;

impl Wish {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.pull));
        put_bytes(out, &self.path);
        put_bytes(out, self.only.as_ref().map_or(&[], |name| name.as_bytes()));
        out.extend_from_slice(&self.key);
        self.options.encode(out);
        put_number(out, 0);
    }

    fn decode(bytes: &[u8]) -> Result<Wish, Malformed> {
        let mut cursor = Cursor(bytes);
        let pull = cursor.flag()?;
        let path = cursor.bytes(LONGEST_PATH)?.to_vec();
        let name = cursor.bytes(LONGEST_PATH)?;
        let name = if name.is_empty() {
            None
        } else {
            Some(Name::new(name).map_err(|_| Malformed("a name that is none"))?)
        };
        let (key, options) = (cursor.array()?, Options::decode(&mut cursor)?);
        // Room for what later versions add.
        cursor.at_most(0, "a wish for more than is known")?;
        cursor.end()?;
        if remote_is_bad(&path) {
            Err(Malformed("a path that is none"))
        } else {
            Ok(Wish { pull, path, only: name, key, options })
        }
    }
}

impl Policy {
    fn allows(self, wish: &Wish) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::Refused(text.to_owned()));
        if self.read_only && !wish.pull {
            return refuse("files may only be read here");
        }
        if self.write_only && wish.pull {
            return refuse("files may only be written here");
        }
        if !wish.pull && wish.options.set_id && !self.set_id {
            return refuse("set-user-id bits are not allowed here");
        }
        if !wish.pull && wish.options.devices && !self.devices {
            return refuse("devices are not allowed here");
        }
        Ok(())
    }
}

fn remote_is_bad(path: &[u8]) -> bool {
    path.contains(&0) || path.len() > LONGEST_PATH
}

/// New in each transfer.
fn key() -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for _ in 0..4 {
        hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The last component, if it is a name and not followed by a slash: the entry itself is meant, and not what is in it.
fn only(path: &[u8]) -> Result<Option<Name>, Error> {
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if matches!(last, b"" | b"." | b"..") { Ok(None) } else { Ok(Some(Name::new(last)?)) }
}

fn source(base: &Base, path: &[u8]) -> Result<Outgoing, Error> {
    let error = |doing, source| Error::Start { doing, path: escape(path), source };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let Some(name) = only(path)? else {
        let root = base.open(path, directory).map_err(|errno| error("open", errno))?;
        return Ok(Outgoing { places: Places::new(root), only: None, kind: Kind::Directory });
    };
    let parent = path.get(..path.len() - name.as_bytes().len()).unwrap_or_default();
    let root = base.open(parent, directory).map_err(|errno| error("open the directory of", errno))?;
    let places = Places::new(root);
    let stat = crate::place::stat(places.root(), &name).map_err(|errno| error("look at", errno))?;
    let stat = stat.ok_or_else(|| error("find", Errno::NOENT))?;
    let kind = Kind::of(stat.st_mode).ok_or_else(|| error("understand", Errno::INVAL))?;
    Ok(Outgoing { places, only: Some(name), kind })
}
