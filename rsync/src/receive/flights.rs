//! The files that were asked for and are not in their place yet.

use crate::change::Differs;
use crate::entry::Entry;
use crate::error::Error;
use crate::file::Identity;
use crate::message::{MOST_IN_FLIGHT, Number};
use crate::name::{Name, TreePath};
use crate::session::{Session, Signal, lock};
use std::collections::HashMap;
use std::sync::Mutex;

/// Bytes of sums that are on their way or at the sender; half of what it takes.
const MOST_SUM_BYTES: u64 = 24 << 20;

/// Once there is no room, it is waited until there is some for many at a time: a wake-up for each file costs more than
/// the file.
const FEW: usize = MOST_IN_FLIGHT / 2;

/// What a delta is made against.
#[derive(Clone, Debug)]
pub(crate) struct BaseFile {
    /// The file itself, or what an interrupted transfer has left of it.
    pub(crate) name: Name,
    pub(crate) size: u64,
    pub(crate) identity: Identity,
}

/// A file that is coming.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) directory: TreePath,
    pub(crate) path: TreePath,
    pub(crate) entry: Entry,
    pub(crate) differs: Differs,
    /// The mode that the file there has, if there is one.
    pub(crate) mode: Option<u32>,
    /// Something of another kind has its name.
    pub(crate) replaces: bool,
    pub(crate) base: Option<BaseFile>,
    pub(crate) tries: u8,
    pub(crate) sum_bytes: u64,
    /// The sender was asked whether it is what it has.
    pub(crate) may_be_same: bool,
    /// How far into the base the sender has asked for the sums of gaps; it does not go back.
    pub(crate) gaps_until: u64,
}

#[derive(Default)]
struct Inner {
    flights: HashMap<Number, Flight>,
    sum_bytes: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Flights {
    inner: Mutex<Inner>,
    changed: Signal,
}

impl Flights {
    /// Notes a file that is about to be asked for, once there is room for it.
    pub(crate) fn add(&self, session: &Session<'_>, number: Number, flight: Flight) -> Result<(), Error> {
        let full = |inner: &Inner, most| {
            !inner.flights.is_empty()
                && (inner.flights.len() >= most || inner.sum_bytes + flight.sum_bytes > MOST_SUM_BYTES)
        };
        let mut inner = lock(&self.inner);
        if full(&inner, MOST_IN_FLIGHT) {
            drop(inner);
            session.outbox.flush()?;
            inner = lock(&self.inner);
            while full(&inner, FEW + 1) {
                inner = self.changed.wait(session, inner)?;
            }
        }
        inner.sum_bytes += flight.sum_bytes;
        inner.flights.insert(number, flight);
        Ok(())
    }

    pub(crate) fn get(&self, number: Number) -> Result<Flight, Error> {
        lock(&self.inner)
            .flights
            .get(&number)
            .cloned()
            .ok_or(Error::Protocol("an answer that was not asked for"))
    }

    /// Changes what is known of a flight.
    pub(crate) fn update(&self, number: Number, change: impl FnOnce(&mut Flight)) {
        if let Some(flight) = lock(&self.inner).flights.get_mut(&number) {
            change(flight);
        }
    }

    /// The sums of its base are sent after all.
    pub(crate) fn describe(&self, number: Number, bytes: u64) {
        let mut inner = lock(&self.inner);
        if let Some(flight) = inner.flights.get_mut(&number) {
            let more = bytes.saturating_sub(flight.sum_bytes);
            flight.sum_bytes += more;
            inner.sum_bytes += more;
        }
    }

    /// A file is dealt with, one way or the other.
    pub(crate) fn land(&self, number: Number) {
        let mut inner = lock(&self.inner);
        let Some(flight) = inner.flights.remove(&number) else { return };
        inner.sum_bytes = inner.sum_bytes.saturating_sub(flight.sum_bytes);
        let tells = flight.sum_bytes > 0 || matches!(inner.flights.len(), 0 | FEW);
        drop(inner);
        if tells {
            self.changed.tell();
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) fn empty(&self, session: &Session<'_>) -> Result<(), Error> {
        session.outbox.flush()?;
        let mut inner = lock(&self.inner);
        while !inner.flights.is_empty() {
            inner = self.changed.wait(session, inner)?;
        }
        Ok(())
    }
}
