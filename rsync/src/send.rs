//! The sender: tells what its tree holds where that differs from the receiver's, and the content that is asked for.
//!
//! Three threads. One reads what the receiver says, and never waits for another: all that it may put down has a bound that
//! the receiver keeps or is refused at. One walks the tree. One answers for files, several of which may be waiting for
//! sums at a time.

mod answer;
mod desk;
mod tell;

use crate::entry::{Compared, Kind, Time};
use crate::error::Error;
use crate::filter::Side;
use crate::link::{Inbox, Packing};
use crate::message::{Attributes, DATA, Either, ToReceiver, ToSender};
use crate::name::Name;
use crate::options::Options;
use crate::place::Places;
use crate::session::{Event, Session};
use crate::stats::{Received, Totals};
use crate::tree::{Only, Tree};
use desk::{Desk, Queued};

/// What is to be sent.
pub(crate) struct Outgoing {
    pub(crate) places: Places,
    /// Not what is in the root, but this entry of it.
    pub(crate) only: Option<Name>,
    pub(crate) kind: Kind,
}

/// Serves the receiver until it has finished.
pub(crate) fn send(
    session: &Session<'_>,
    outgoing: Outgoing,
    options: &Options,
    key: [u8; 32],
    inbox: Inbox,
    close: &(dyn Fn() + Send + Sync),
) -> Result<(Received, Totals), Error> {
    let desk = Desk::default();
    std::thread::scope(|scope| {
        let (watched, desk) = (session.watched(scope, close), &desk);
        scope.spawn(move || {
            session.guard(|| read(session, desk, inbox));
            drop(watched);
            desk.wake();
        });
        session.guard(|| {
            let root = attributes(&outgoing.places, options).map_err(|source| start("look at", source))?;
            let source = ToReceiver::Source { kind: outgoing.kind, content: outgoing.only.is_none(), root };
            say(session, &source)?;
            session.outbox.flush()?;
            let second = outgoing.places.again().map_err(|source| start("open", source))?;
            let begin = desk.begin(session)?;
            let mut tree =
                Tree::new(outgoing.places, Side::Sender, options.filters.clone(), session.over().clone());
            tree.only =
                outgoing.only.map(|real| Only { shown: begin.shown.unwrap_or_else(|| real.clone()), real });
            tree.chmod = options.chmod.clone();
            tree.compared = compared(options, begin.owner, begin.group);
            tree.one_file_system = options.one_file_system;
            let only = tree.only.clone();
            scope.spawn(move || session.guard(|| answer::answer(session, desk, second, only, options)));
            let totals = tell::tell(session, desk, tree, &key)?;
            Ok((desk.finished(session)?, totals))
        })
    })
    .map_or_else(|| Err(session.failure().unwrap_or(Error::Stopped)), Ok)
}

fn attributes(places: &Places, options: &Options) -> Result<Attributes, rustix::io::Errno> {
    let stat = rustix::fs::fstat(places.root())?;
    let mode =
        options.chmod.apply(stat.st_mode & 0o7777, true) & if options.set_id { 0o7777 } else { 0o1777 };
    Ok(Attributes { mode, modified: Time::of(&stat), user: stat.st_uid, group: stat.st_gid })
}

/// What both ends compare.
pub(crate) fn compared(options: &Options, owner: bool, group: bool) -> Compared {
    Compared {
        links: options.links,
        perms: options.perms,
        times: options.times,
        owner: options.owner && owner,
        group: options.group && group,
        devices: options.devices,
        hard_links: options.hard_links,
        checksum: options.checksum,
        set_id: options.set_id,
    }
}

fn start(doing: &'static str, source: rustix::io::Errno) -> Error {
    Error::Start { doing, path: ".".to_owned(), source }
}

pub(crate) fn say(session: &Session<'_>, message: &ToReceiver) -> Result<(), Error> {
    let mut bytes = vec![];
    message.encode(&mut bytes);
    session.outbox.send(&bytes, Packing::Compress)
}

/// Some content of the file that was begun.
pub(crate) fn say_data(session: &Session<'_>, bytes: &[u8], packing: Packing) -> Result<(), Error> {
    session.outbox.send_parts(&[&[DATA], bytes], packing)
}

/// What the receiver says, until it has finished.
fn read(session: &Session<'_>, desk: &Desk, mut inbox: Inbox) -> Result<(), Error> {
    while let Some(first) = inbox.next(&session.pulse)? {
        let mut next = Some(first);
        while let Some(message) = next {
            let message = ToSender::decode(&message)?;
            if session.is_over() && !matches!(message, ToSender::Either(Either::Abort { .. })) {
                if !session.is_cut() {
                    return Ok(());
                }
            } else if session.pulse.held_by(|| hear(session, desk, message))? {
                return Ok(());
            }
            next = inbox.ready()?;
        }
        // Once for all that has come together: a wake-up costs more than what a message asks for.
        desk.wake();
    }
    Err(Error::Ended)
}

/// Puts a message where it belongs; whether it was the last. Whoever watches may be slow to take it, which is no silence of the
/// receiver.
fn hear(session: &Session<'_>, desk: &Desk, message: ToSender) -> Result<bool, Error> {
    match message {
        ToSender::Either(Either::Alive) => {}
        ToSender::Either(Either::Problem(problem)) => session.problem(&problem),
        ToSender::Either(Either::Abort { code, text }) => {
            return Err(Error::Peer { code, text: crate::escape(&text) });
        }
        ToSender::Change(change) => (session.watcher)(Event::Change(&change)),
        ToSender::Finished(received) => {
            // Whoever still works does it for nobody.
            desk.finish(received);
            session.finish();
            return Ok(true);
        }
        other => {
            if let Some(Queued { files, bytes }) = desk.put(other)? {
                (session.watcher)(Event::Queued { files, bytes });
            }
        }
    }
    Ok(false)
}
