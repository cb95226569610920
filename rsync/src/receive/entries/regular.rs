//! Files: whether their content is needed, and against what it is described.

use super::{Current, Entries, Further, tell};
use crate::change::{Change, Differs, How};
use crate::content::ContentHash;
use crate::entry::{Entry, Kind};
use crate::error::Error;
use crate::file::{self, Identity};
use crate::message::{Number, ToSender};
use crate::name::TreePath;
use crate::place;
use crate::receive::apply::send_sums;
use crate::receive::compare;
use crate::receive::flights::{BaseFile, Flight};
use crate::receive::temporary::partial_name;
use crate::session::Event;
use crate::signature::Shape;
use rustix::fs::Stat;
use rustix::io::Errno;

/// A base up to here is not worth describing: the content is no longer than its description.
const SMALL: u64 = 512;

impl Entries<'_> {
    pub(super) fn regular(
        &mut self,
        current: &Current,
        number: Number,
        path: TreePath,
        entry: Entry,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        if let Some(leader) = entry.leader.clone() {
            self.check_leader(&leader)?;
            if self.make_way(current, &path, &entry, stat.as_ref())? {
                // The leader is in the entry as well.
                let held = [&current.path, &leader, &leader].map(|path| path.as_bytes().len());
                self.remember_bytes(held.iter().sum::<usize>() + entry.name.as_bytes().len())?;
                self.links.push(Further { directory: current.path.clone(), number, entry, leader });
            }
            return Ok(());
        }
        let is_file = stat.as_ref().filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File));
        let Some(found) = is_file else {
            if !self.make_way(current, &path, &entry, stat.as_ref())? {
                return Ok(());
            }
            let differs = Differs { new: true, ..Differs::default() };
            return self.fetch(current, number, path, entry, differs, stat.as_ref());
        };
        if self.setting.options.update && compare::is_newer(&entry, found) {
            return Ok(());
        }
        let mut same = compare::looks_the_same(&entry, found);
        let mut content = false;
        if let Some(wanted) = entry.content {
            same = compare::size(found) == entry.size && self.hash(current, &entry) == Ok(wanted);
            content = !same;
        } else if same && entry.recent && entry.size > 0 {
            return self.verify(current, number, path, entry, found);
        }
        let mut differs = compare::attributes(&entry, found, self.setting.compared, !same);
        if same {
            return self.same(current, path, entry, differs, found);
        }
        differs.content = content;
        self.fetch(current, number, path, entry, differs, Some(found))
    }

    /// A further name is of a file that takes part, and only where such names were asked for: else the sender could give a
    /// file's name to any other that is here, and then change that.
    fn check_leader(&self, leader: &TreePath) -> Result<(), Error> {
        let inside = self
            .only
            .as_ref()
            .is_none_or(|only| leader.components().next().is_some_and(|first| first == only.as_bytes()));
        if self.setting.compared.hard_links && inside {
            Ok(())
        } else {
            Err(Error::Protocol("a further name of a file that was not asked for"))
        }
    }

    fn hash(&mut self, current: &Current, entry: &Entry) -> Result<ContentHash, Errno> {
        let Some(places) = &mut self.places else { return Err(Errno::NOENT) };
        file::hash(places.open(&current.path)?, &entry.name, self.setting.session.over())
    }

    /// Size and time are right, but the time says little: the content is compared.
    fn verify(
        &mut self,
        current: &Current,
        number: Number,
        path: TreePath,
        entry: Entry,
        found: &Stat,
    ) -> Result<(), Error> {
        let Ok(hash) = self.hash(current, &entry) else {
            let differs = compare::attributes(&entry, found, self.setting.compared, true);
            return self.fetch(
                current,
                number,
                path,
                entry,
                Differs { content: true, ..differs },
                Some(found),
            );
        };
        let differs = compare::attributes(&entry, found, self.setting.compared, false);
        let base = BaseFile { name: entry.name.clone(), size: entry.size, identity: Identity::of(found) };
        let length = entry.size;
        let mut flight = self.flight(current, path, entry, differs, Some(found), Some(base));
        flight.may_be_same = true;
        self.setting.flights.add(self.setting.session, number, flight)?;
        self.setting.say(&ToSender::WantRest { number, length, hash })
    }

    fn flight(
        &self,
        current: &Current,
        path: TreePath,
        entry: Entry,
        differs: Differs,
        found: Option<&Stat>,
        base: Option<BaseFile>,
    ) -> Flight {
        let file = found.filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File));
        let mode = file.map(|stat| stat.st_mode & 0o7777);
        let replaces = found.is_some() && file.is_none();
        Flight {
            directory: current.path.clone(),
            path,
            entry,
            differs,
            mode,
            replaces,
            base,
            tries: 0,
            sum_bytes: 0,
            may_be_same: false,
            gaps_until: 0,
        }
    }

    /// Asks for the content of a file.
    fn fetch(
        &mut self,
        current: &Current,
        number: Number,
        path: TreePath,
        entry: Entry,
        differs: Differs,
        found: Option<&Stat>,
    ) -> Result<(), Error> {
        self.queued.0 += 1;
        self.queued.1 += entry.size;
        (self.setting.session.watcher)(Event::Queued { files: self.queued.0, bytes: self.queued.1 });
        if self.setting.options.dry_run {
            self.setting.count(|received| {
                received.transferred += 1;
                received.transferred_size += entry.size;
                received.created_files += u64::from(differs.new);
            });
            return tell(
                self.setting,
                Change { path, kind: Kind::File, how: How::Transferred, differs, target: vec![] },
            );
        }
        let base = self.base(current, &entry, found);
        let mut flight = self.flight(current, path, entry, differs, found, base.clone());
        let Some(base) = base.filter(|base| base.size > SMALL && flight.entry.size > 0) else {
            flight.base = None;
            self.setting.flights.add(self.setting.session, number, flight)?;
            return self.setting.say(&ToSender::WantWhole(number));
        };
        // A file that has grown has often only been appended to, which some samples of it tell well enough.
        if base.size < flight.entry.size
            && let Some(places) = &mut self.places
            && let Ok((file, _)) =
                places.open(&current.path).and_then(|open| place::open_file(open, &base.name))
            && let Ok(mark) = file::mark(&file.into(), base.size)
        {
            let length = base.size;
            self.setting.flights.add(self.setting.session, number, flight)?;
            return self.setting.say(&ToSender::WantTail { number, length, mark });
        }
        let Some(shape) = Shape::of_file(base.size) else {
            flight.base = None;
            self.setting.flights.add(self.setting.session, number, flight)?;
            return self.setting.say(&ToSender::WantWhole(number));
        };
        flight.sum_bytes = shape.size();
        self.setting.flights.add(self.setting.session, number, flight)?;
        match &mut self.places {
            Some(places) => send_sums(self.setting, places, &current.path, &base, number, shape),
            None => Ok(()),
        }
    }

    /// What is there already of a file: itself, or what an interrupted transfer has left, if that is more.
    fn base(&mut self, current: &Current, entry: &Entry, found: Option<&Stat>) -> Option<BaseFile> {
        let own = found.filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File)).map(|stat| BaseFile {
            name: entry.name.clone(),
            size: compare::size(stat),
            identity: Identity::of(stat),
        });
        if !self.setting.options.partial {
            return own;
        }
        let name = partial_name(&entry.name);
        let open = self.places.as_mut()?.open(&current.path).ok()?;
        let partial =
            place::stat(open, &name).ok().flatten().filter(|stat| Kind::of(stat.st_mode) == Some(Kind::File));
        let partial =
            partial.map(|stat| BaseFile { name, size: compare::size(&stat), identity: Identity::of(&stat) });
        match (own, partial) {
            (Some(own), Some(partial)) if partial.size < own.size => Some(own),
            (_, Some(partial)) => Some(partial),
            (own, None) => own,
        }
    }
}
