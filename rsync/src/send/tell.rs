//! The sender's walk: of each directory that the receiver has in the same state, nothing; of the others, all entries.

use super::desk::Desk;
use super::say;
use crate::digest::{Digester, DirectoryDigest};
use crate::entry::{Entry, EntryCodec, Kind};
use crate::error::{Code, Error, Problem};
use crate::message::{Either, MOST_CHUNK, MOST_TOLD, ToReceiver};
use crate::name::{Name, TreePath};
use crate::session::Session;
use crate::stats::Totals;
use crate::tree::{Tree, Walk};

/// Entries in one message: so few that the receiver's room is never beyond reach.
const MOST_ENTRIES: usize = (MOST_TOLD / 4) as usize;

pub(super) fn tell(
    session: &Session<'_>,
    desk: &Desk,
    mut tree: Tree,
    key: &[u8; 32],
) -> Result<Totals, Error> {
    let mut walk = Walk::default();
    let mut theirs = Theirs { next: desk.next_digest(session)? };
    let (mut totals, mut complete) =
        (Totals { directories: u64::from(tree.only.is_none()), ..Totals::default() }, true);
    while let Some(directory) = walk.next() {
        // Of what is mounted there nothing is said, so that nothing is deleted for its sake either.
        if tree.is_elsewhere(&directory) {
            continue;
        }
        let mut problems = vec![];
        let told = match theirs.at(session, desk, &directory)? {
            Some(digest) => {
                let ours = look(session, &mut tree, &directory, key, &mut problems)?;
                let same = ours.digest == Some(digest) && !ours.recent && problems.is_empty();
                same.then_some(ours)
            }
            None => None,
        };
        let seen = match told {
            Some(seen) => seen,
            None => {
                problems.clear();
                tell_directory(session, desk, &mut tree, &directory, &mut problems)?
            }
        };
        add(&mut totals, seen.totals);
        walk.enter(directory, seen.directories);
        // What vanished while it was looked at is not missed by anybody.
        complete &= problems.iter().all(|problem| problem.code == Code::Vanished);
        for problem in problems {
            report(session, problem)?;
        }
    }
    say(session, &ToReceiver::Told { complete, totals })?;
    session.outbox.flush()?;
    Ok(totals)
}

/// A problem at this end, which the other wants to know of as well.
pub(super) fn report(session: &Session<'_>, problem: Problem) -> Result<(), Error> {
    session.problem(&problem);
    say(session, &ToReceiver::Either(Either::Problem(problem)))
}

/// The receiver's digests, which come in the order of our own walk.
struct Theirs {
    next: Option<(TreePath, DirectoryDigest)>,
}

impl Theirs {
    /// The digest of this directory, if the receiver has it.
    fn at(
        &mut self,
        session: &Session<'_>,
        desk: &Desk,
        directory: &TreePath,
    ) -> Result<Option<DirectoryDigest>, Error> {
        while let Some((path, digest)) = &self.next {
            match path.cmp(directory) {
                std::cmp::Ordering::Less => self.next = desk.next_digest(session)?,
                std::cmp::Ordering::Equal => return Ok(Some(*digest)),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// What was seen of a directory.
#[derive(Default)]
struct Seen {
    directories: Vec<Name>,
    totals: Totals,
    recent: bool,
    digest: Option<DirectoryDigest>,
}

impl Seen {
    fn add(&mut self, entry: &Entry) {
        self.recent |= entry.recent;
        let totals = &mut self.totals;
        match entry.kind {
            Kind::File => {
                totals.files += 1;
                totals.size = totals.size.saturating_add(entry.size);
            }
            Kind::Directory => {
                totals.directories += 1;
                self.directories.push(entry.name.clone());
            }
            Kind::Symlink => {
                totals.links += 1;
                totals.size = totals.size.saturating_add(entry.target.len() as u64);
            }
            Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => totals.specials += 1,
        }
    }
}

fn add(totals: &mut Totals, more: Totals) {
    totals.files += more.files;
    totals.directories += more.directories;
    totals.links += more.links;
    totals.specials += more.specials;
    totals.size = totals.size.saturating_add(more.size);
}

fn look(
    session: &Session<'_>,
    tree: &mut Tree,
    directory: &TreePath,
    key: &[u8; 32],
    problems: &mut Vec<Problem>,
) -> Result<Seen, Error> {
    let mut digester = Digester::new(key);
    let mut seen = Seen::default();
    tree.visit(directory, problems, |_, entry| {
        seen.add(&entry);
        digester.add(&entry);
        if session.is_over() { Err(Error::Stopped) } else { Ok(()) }
    })?;
    seen.digest = Some(digester.finish());
    Ok(seen)
}

fn tell_directory(
    session: &Session<'_>,
    desk: &Desk,
    tree: &mut Tree,
    directory: &TreePath,
    problems: &mut Vec<Problem>,
) -> Result<Seen, Error> {
    say(session, &ToReceiver::Directory(directory.clone()))?;
    let mut seen = Seen::default();
    let mut chunk = Chunk::default();
    tree.visit(directory, problems, |_, entry| {
        seen.add(&entry);
        chunk.codec.put(&mut chunk.bytes, &entry);
        if entry.leader.is_some() {
            chunk.followers.push(chunk.names.len());
        }
        chunk.names.push((entry.name, entry.size));
        if chunk.bytes.len() >= MOST_CHUNK || chunk.names.len() >= MOST_ENTRIES {
            chunk.send(session, desk, directory, false)?;
        }
        Ok(())
    })?;
    chunk.send(session, desk, directory, true)?;
    Ok(seen)
}

/// Entries on their way. Each message begins anew with what entries share.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    names: Vec<(Name, u64)>,
    /// Which of them are further names of files.
    followers: Vec<usize>,
    codec: EntryCodec,
}

impl Chunk {
    fn send(
        &mut self,
        session: &Session<'_>,
        desk: &Desk,
        directory: &TreePath,
        last: bool,
    ) -> Result<(), Error> {
        let Chunk { bytes, names, followers, .. } = std::mem::take(self);
        desk.tell(session, directory, names, followers)?;
        say(session, &ToReceiver::Entries { last, bytes })
    }
}
