//! How many streams of logs, events and releases, and how many sessions, one user may have open: so that nobody's dozens of slow searches make everybody wait.

use skpr_proto::{ErrorKind, Failure};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Enough for a person with many terminals and for a CI system. A stream that nobody reads gives its turn at the disk back
/// after seconds, and eight read at once: a whole house of these delays another user's first line by some seconds.
const SEATS: usize = 32;

/// What is open now of one kind, by user. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    kind: &'static str,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// One of what a user has open. It is given back with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Seat(
    #[expect(dead_code, reason = "it is held, and given back by being dropped")] Arc<Taken>,
);

#[derive(Debug)]
struct Taken {
    seats: Seats,
    user: String,
}

impl Seats {
    /// `kind`: what they are called, many of them.
    pub(crate) fn of(kind: &'static str) -> Seats {
        Seats { kind, taken: Arc::default() }
    }

    pub(crate) fn take(&self, user: &str) -> Result<Seat, Failure> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(user.to_owned()).or_default();
        if *count >= SEATS {
            let message = format!("`{user}` has {SEATS} {} open already", self.kind);
            return Err(
                Failure::new(ErrorKind::Unavailable, message).with_hint("end some of them, then try again")
            );
        }
        *count += 1;
        Ok(Seat(Arc::new(Taken { seats: self.clone(), user: user.to_owned() })))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_streams_are_counted_and_given_back() {
        let seats = Seats::of("streams");
        let mut mine: Vec<Seat> = (0..SEATS).map(|_| seats.take("dana").unwrap()).collect();
        let refused = seats.take("dana").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable);
        seats.take("robin").unwrap();
        mine.pop();
        seats.take("dana").unwrap();
        drop(mine);
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
