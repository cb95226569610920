//! The receiver's third thread: builds files out of what the sender says and what is there, checks each by its hash, and only
//! then gives it its attributes and its name.

mod build;
mod sums;

use super::Setting;
use super::flights::{BaseFile, Flight};
use crate::change::{Change, How};
use crate::error::{Error, Problem, ends_all};
use crate::message::{Failure, Number, ToReceiver, ToSender};
use crate::name::TreePath;
use crate::place::Places;
use crate::signature::Shape;
use build::{Build, Outcome};
use rustix::io::Errno;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
pub(super) use sums::send_sums;

/// How long changes may wait to be told.
const SOON: Duration = Duration::from_millis(5);
/// How often a file is asked for again that changed meanwhile or turned out wrong.
const MOST_TRIES: u8 = 3;

struct Apply<'a> {
    setting: &'a Setting<'a>,
    places: Places,
    build: Option<Build>,
}

pub(super) fn apply(
    setting: &Setting<'_>,
    places: Option<Places>,
    messages: Receiver<Vec<ToReceiver>>,
) -> Result<(), Error> {
    let Some(places) = places else { return Ok(()) };
    let mut apply = Apply { setting, places, build: None };
    let result = apply.all(&messages);
    if let Some(build) = apply.build.take() {
        build.give_up(setting.options.partial);
    }
    result
}

impl Apply<'_> {
    fn all(&mut self, messages: &Receiver<Vec<ToReceiver>>) -> Result<(), Error> {
        loop {
            let batch = match messages.recv_timeout(SOON) {
                Ok(batch) => batch,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                // What this thread has to say goes out before it waits for long.
                Err(RecvTimeoutError::Timeout) => {
                    self.setting.session.outbox.flush()?;
                    match messages.recv() {
                        Ok(batch) => batch,
                        Err(_) => return Ok(()),
                    }
                }
            };
            for message in batch {
                // What has arrived is still worth having for the next try.
                if self.setting.session.is_over() && !self.setting.options.partial {
                    return Ok(());
                }
                self.message(message)?;
            }
        }
    }

    fn message(&mut self, message: ToReceiver) -> Result<(), Error> {
        match message {
            ToReceiver::File { number, size, modified } => {
                self.between()?;
                let flight = self.setting.flights.get(number)?;
                self.build =
                    Some(Build::begin(self.setting, &mut self.places, number, flight, size, modified));
                Ok(())
            }
            ToReceiver::Copy { from, length } => {
                self.within(|setting, build| build.copy(setting, from, length))
            }
            ToReceiver::Data(bytes) => self.within(|_, build| build.data(&bytes)),
            ToReceiver::Zero(length) => self.within(|setting, build| build.zeros(setting, length)),
            ToReceiver::End(hash) => {
                let build = self.build.take().ok_or(Error::Protocol("the end of no file"))?;
                let (number, flight) = (build.number, build.flight.clone());
                match build.end(self.setting, &mut self.places, hash)? {
                    Outcome::Placed => self.placed(number, flight),
                    Outcome::Wrong => self.again(number, flight, "what arrived is not what was sent"),
                    Outcome::Failed(doing, errno) => self.failed(number, &flight.path, doing, errno),
                }
            }
            ToReceiver::Failed { number, why } => {
                if let Some(build) = self.build.take_if(|build| build.number == number) {
                    build.give_up(false);
                }
                self.between()?;
                let flight = self.setting.flights.get(number)?;
                match why {
                    Failure::Changed => self.again(number, flight, "it changed while it was read"),
                    Failure::Vanished | Failure::Denied | Failure::Unreadable => {
                        let problem = match why {
                            Failure::Vanished => {
                                Problem::vanished(&flight.path, "it vanished before it was sent")
                            }
                            _ => Problem::says(&flight.path, "the sender cannot read it"),
                        };
                        // The sender has told it at its end.
                        self.setting.session.problem(&problem);
                        self.setting.flights.land(number);
                        Ok(())
                    }
                    Failure::Forgotten => self.given_up(number, &flight.path, "it could not be sent again"),
                }
            }
            ToReceiver::Same(number) => {
                self.between()?;
                let flight = self.setting.flights.get(number)?;
                self.same(number, flight)
            }
            ToReceiver::AskSums(number) => {
                let flight = self.setting.flights.get(number)?;
                self.ask_sums(number, &flight)
            }
            ToReceiver::AskGaps { number, gaps } => {
                let flight = self.setting.flights.get(number)?;
                let ahead = gaps.first().is_some_and(|gap| gap.from >= flight.gaps_until);
                let base = flight.base.as_ref().filter(|_| flight.sum_bytes > 0 && ahead);
                let base = base.ok_or(Error::Protocol("gaps in a base that was not described"))?;
                let until = gaps.last().map_or(0, |gap| gap.from + gap.length);
                self.setting.flights.update(number, |flight| flight.gaps_until = until);
                sums::send_gap_sums(self.setting, &mut self.places, &flight.directory, base, number, &gaps)?;
                self.setting.session.outbox.flush()
            }
            ToReceiver::Either(_)
            | ToReceiver::Source { .. }
            | ToReceiver::Directory(_)
            | ToReceiver::Entries { .. }
            | ToReceiver::Told { .. } => Ok(()),
        }
    }

    /// No file may be open now.
    fn between(&self) -> Result<(), Error> {
        if self.build.is_some() { Err(Error::Protocol("a file inside another")) } else { Ok(()) }
    }

    fn within(
        &mut self,
        part: impl FnOnce(&Setting<'_>, &mut Build) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let build = self.build.as_mut().ok_or(Error::Protocol("content of no file"))?;
        part(self.setting, build)?;
        build.progress(self.setting);
        Ok(())
    }

    fn placed(&mut self, number: Number, flight: Flight) -> Result<(), Error> {
        let (path, kind, differs) = (flight.path, flight.entry.kind, flight.differs);
        self.tell(number, Change { path, kind, how: How::Transferred, differs, target: vec![] })
    }

    /// Tells a change, and only then lets go of the file: once all are let go of, the end is told.
    fn tell(&self, number: Number, change: Change) -> Result<(), Error> {
        super::entries::tell(self.setting, change)?;
        self.setting.flights.land(number);
        Ok(())
    }

    fn land(&self, number: Number, problem: Problem) -> Result<(), Error> {
        self.setting.problem(problem)?;
        self.setting.flights.land(number);
        Ok(())
    }

    /// The base has the content already.
    fn same(&mut self, number: Number, flight: Flight) -> Result<(), Error> {
        // The file may have another size by now than was told.
        if flight.base.is_none() || !flight.may_be_same || flight.sum_bytes > 0 {
            return Err(Error::Protocol("a file that cannot be the same"));
        }
        if !flight.differs.any() || self.setting.options.dry_run {
            self.setting.flights.land(number);
            return Ok(());
        }
        let Some(base) = &flight.base else { return Err(Error::Protocol("a file that is the same as none")) };
        let adjusted = self.places.open(&flight.directory).and_then(|open| {
            super::attributes::adjust(self.setting, open, &flight.entry, flight.differs, &base.identity)
        });
        if let Err(errno) = adjusted {
            return self.land(number, Problem::call(&flight.path, "set its attributes", errno));
        }
        let (path, kind, differs) = (flight.path, flight.entry.kind, flight.differs);
        self.tell(number, Change { path, kind, how: How::Attributes, differs, target: vec![] })
    }

    /// The base is not the beginning of the file; its blocks may still be in it.
    fn ask_sums(&mut self, number: Number, flight: &Flight) -> Result<(), Error> {
        if self.setting.options.dry_run {
            // The base differs, which is all that is wanted.
            self.setting.count(|received| {
                received.transferred += 1;
                received.transferred_size += flight.entry.size;
            });
            let mut flight = flight.clone();
            flight.differs.content = true;
            return self.placed(number, flight);
        }
        let base = flight.base.clone().ok_or(Error::Protocol("sums of a base that there is not"))?;
        let Some(shape) = Shape::of_file(base.size) else {
            return self.again(number, flight.clone(), "it is too large");
        };
        self.setting.flights.update(number, |flight| flight.tries += 1);
        self.setting.flights.describe(number, shape.size());
        if flight.tries > MOST_TRIES {
            return Err(Error::Protocol("sums are asked for over and over"));
        }
        send_sums(self.setting, &mut self.places, &flight.directory, &base, number, shape)?;
        self.setting.session.outbox.flush()
    }

    /// Asks for a file once more: by the blocks of its base if these were not tried yet, else for all of it.
    fn again(&mut self, number: Number, flight: Flight, why: &str) -> Result<(), Error> {
        if flight.tries >= MOST_TRIES {
            return self.given_up(number, &flight.path, why);
        }
        let shape =
            flight.base.as_ref().filter(|_| flight.sum_bytes == 0).and_then(|base| Shape::of_file(base.size));
        self.setting.flights.update(number, |flight| {
            flight.tries += 1;
            if shape.is_none() {
                flight.base = None;
            }
        });
        match (shape, &flight.base) {
            (Some(shape), Some(base)) => {
                self.setting.flights.describe(number, shape.size());
                send_sums(self.setting, &mut self.places, &flight.directory, base, number, shape)?;
            }
            _ => self.setting.say(&ToSender::WantWhole(number))?,
        }
        self.setting.session.outbox.flush()
    }

    fn given_up(&mut self, number: Number, path: &TreePath, why: &str) -> Result<(), Error> {
        self.land(number, Problem::vanished(path, why))
    }

    /// A file that cannot be written. Where no other could be either, all ends.
    fn failed(
        &mut self,
        number: Number,
        path: &TreePath,
        doing: &'static str,
        errno: Errno,
    ) -> Result<(), Error> {
        if ends_all(errno) {
            return Err(Error::FileIo { doing, path: path.to_string(), source: errno });
        }
        let problem = match errno {
            Errno::EXIST => Problem::says(
                path,
                "its name is taken here: by somebody else, or by a name that the file system does not tell from it",
            ),
            errno => Problem::call(path, doing, errno),
        };
        self.land(number, problem)
    }
}

/// Whether a base is still the file that was described.
pub(super) fn is_same_base(base: &BaseFile, stat: &rustix::fs::Stat) -> bool {
    crate::file::Identity::of(stat) == base.identity
}
