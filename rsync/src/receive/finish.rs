//! What has to wait for all files: hard links, then deletions, then the times and modes of directories, deepest first.

use super::Setting;
use super::compare;
use super::entries::{Entries, Further, tell};
use super::flights::Flight;
use super::remove::{Why, remove};
use super::temporary::temporary_name;
use crate::change::{Change, Differs, How};
use crate::entry::Kind;
use crate::error::{Code, Error, Problem};
use crate::message::Either;
use crate::message::ToSender;
use crate::name::{Name, TreePath};
use crate::options::Delete;
use crate::place::{self, Places};
use crate::session::lock;
use crate::stats::Received;
use rustix::fs::{AtFlags, Stat, linkat};
use rustix::io::Errno;
use std::collections::HashMap;

pub(super) fn finish(mut entries: Entries<'_>, complete: bool) -> Result<Received, Error> {
    let setting = entries.setting;
    setting.flights.empty(setting.session)?;
    link_all(&mut entries)?;
    delete(&mut entries, complete)?;
    if let Some(places) = &mut entries.places {
        let directories = std::mem::take(&mut entries.directories);
        for (path, last) in directories.into_iter().rev() {
            let finished = places
                .open(&path)
                .and_then(|open| super::attributes::finish_directory(open, last.mode, last.modified));
            match finished {
                // It was deleted, or something else has taken its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => setting.problem(Problem::call(&path, "set its attributes", errno))?,
            }
        }
    }
    let mut received = *lock(&setting.received);
    received.code = setting.session.code() as u8;
    Ok(received)
}

/// Deletes what the sender does not have, if it is sure what that is.
fn delete(entries: &mut Entries<'_>, complete: bool) -> Result<(), Error> {
    let setting = entries.setting;
    let extras = std::mem::take(&mut entries.extras);
    if extras.is_empty() || setting.options.delete == Delete::No {
        return Ok(());
    }
    let refuse = |text: &str| setting.problem(Problem::says(&TreePath::root(), text));
    if !complete {
        return refuse("nothing is deleted, since not all of the source could be read");
    }
    if entries.top_told && entries.entries_of_top == 0 && setting.options.delete != Delete::EvenAll {
        return refuse("nothing is deleted, since the source is empty");
    }
    let Some(places) = &mut entries.places else { return Ok(()) };
    for (directory, name) in extras {
        // A directory in the way of something else has gone already.
        remove(setting, places, &directory, &name, Why::NotAtSource)?;
    }
    if setting.session.code() == Code::MaxDelete {
        let problem = Problem {
            code: Code::MaxDelete,
            ..Problem::says(&TreePath::root(), "the rest is not deleted: --max-delete")
        };
        setting.session.problem(&problem);
        setting.say(&ToSender::Either(Either::Problem(problem)))?;
    }
    Ok(())
}

/// Gives files that are in their place their further names. Where the first name has no file, the next one gets the
/// content and takes its part.
fn link_all(entries: &mut Entries<'_>) -> Result<(), Error> {
    let mut instead: HashMap<TreePath, TreePath> = HashMap::new();
    for further in std::mem::take(&mut entries.links) {
        let leader = instead.get(&further.leader).unwrap_or(&further.leader).clone();
        let theirs = entries.places.as_mut().and_then(|places| stat_of(places, &leader).ok().flatten());
        let is_file = theirs.as_ref().is_some_and(|stat| Kind::of(stat.st_mode) == Some(Kind::File));
        if is_file || entries.setting.options.dry_run {
            link(entries, further, &leader, theirs)?;
        } else {
            instead.insert(further.leader.clone(), further.directory.join(&further.entry.name)?);
            fetch(entries.setting, further)?;
        }
    }
    Ok(())
}

fn fetch(setting: &Setting<'_>, further: Further) -> Result<(), Error> {
    let Further { directory, number, entry, .. } = further;
    let path = directory.join(&entry.name)?;
    let differs = Differs { new: true, ..Differs::default() };
    // Whatever has the name now is replaced.
    let flight = Flight {
        directory,
        path,
        entry,
        differs,
        mode: None,
        replaces: true,
        base: None,
        tries: 0,
        sum_bytes: 0,
        may_be_same: false,
        gaps_until: 0,
    };
    setting.flights.add(setting.session, number, flight)?;
    setting.say(&ToSender::WantWhole(number))?;
    setting.flights.empty(setting.session)
}

/// Gives a file one more name.
fn link(
    entries: &mut Entries<'_>,
    further: Further,
    leader: &TreePath,
    theirs: Option<Stat>,
) -> Result<(), Error> {
    let setting = entries.setting;
    let Further { directory, entry, .. } = further;
    let (path, target) = (directory.join(&entry.name)?, leader.as_bytes().to_vec());
    let found = entries
        .places
        .as_mut()
        .map(|places| places.open(&directory).and_then(|open| place::stat(open, &entry.name)));
    let stat = found.and_then(Result::ok).flatten();
    if let (Some(ours), Some(theirs)) = (&stat, &theirs)
        && ours.st_ino == theirs.st_ino
        && ours.st_dev == theirs.st_dev
    {
        return Ok(());
    }
    let is_file = stat.as_ref().filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File));
    let differs = match is_file {
        Some(stat) => compare::attributes(&entry, stat, setting.compared, false),
        None => Differs { new: true, ..Differs::default() },
    };
    if !setting.options.dry_run
        && let Some(places) = &mut entries.places
        && let Err(errno) = make_link(places, leader, &directory, &entry.name, stat.is_none())
    {
        return setting.problem(Problem::call(&path, "link it", errno));
    }
    if differs.new {
        setting.count(|received| received.created_files += 1);
    }
    tell(setting, Change { path, kind: Kind::File, how: How::Linked, differs, target })
}

fn stat_of(places: &mut Places, path: &TreePath) -> Result<Option<Stat>, Errno> {
    let (directory, name) = path.split().ok_or(Errno::INVAL)?;
    place::stat(places.open(&directory)?, &name)
}

/// Under another name first, so that what it replaces is there until it is.
fn make_link(
    places: &mut Places,
    leader: &TreePath,
    directory: &TreePath,
    name: &Name,
    nothing_there: bool,
) -> Result<(), Errno> {
    let (leader_directory, leader_name) = leader.split().ok_or(Errno::INVAL)?;
    // A second view, since one holds only the way to one directory.
    let mut others = places.again()?;
    let from = others.open(&leader_directory)?;
    let to = places.open(directory)?;
    if place::stat(from, &leader_name)?.and_then(|stat| Kind::of(stat.st_mode)) != Some(Kind::File) {
        return Err(Errno::NOENT);
    }
    let temporary = temporary_name(name);
    linkat(from, leader_name.as_bytes(), to, temporary.as_bytes(), AtFlags::empty())?;
    let placed = place::give_name(to, &temporary, name, nothing_there);
    if placed.is_err() {
        place::discard(to, &temporary);
    }
    placed
}
