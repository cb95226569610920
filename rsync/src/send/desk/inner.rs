//! What the receiver asks for, checked against what it was told and against the bounds.

use super::{Asked, Inner, Job, MOST_SUM_BYTES, Place};
use crate::error::Error;
use crate::message::{MOST_IN_FLIGHT, Number};
use crate::signature::Shape;

impl Inner {
    pub(super) fn job(&mut self) -> Option<(Number, Place, Job)> {
        while let Some((number, job)) = self.jobs.pop_front() {
            if let Job::Delta { sums, .. } | Job::Gaps { sums } = &job {
                self.sum_bytes = self.sum_bytes.saturating_sub(sums.len() as u64);
            }
            if let Some(asked) = self.asked.get(&number) {
                return Some((number, asked.place.clone(), job));
            }
        }
        None
    }

    /// Whether so many more bytes of sums may be asked for, beside those that the receiver sends on its own.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.sum_bytes + self.promised + bytes <= MOST_SUM_BYTES / 2
    }

    /// Keeps room for so many bytes of sums of a file, in place of what was kept for it before.
    pub(super) fn promise(&mut self, number: Number, bytes: u64) {
        if let Some(asked) = self.asked.get_mut(&number) {
            let before = std::mem::replace(&mut asked.promised, bytes);
            self.promised = self.promised + bytes - before;
        }
    }

    pub(super) fn take(&mut self, count: u64) -> Result<(), Error> {
        self.taken += count;
        if self.taken > self.told {
            return Err(Error::Protocol("entries are taken that were not told"));
        }
        while self.blocks.front().is_some_and(|block| self.taken > block.first + block.names.len() as u64) {
            self.blocks.pop_front();
        }
        Ok(())
    }

    /// The receiver asks for a file: one that was told and is not yet taken, or one that was answered before.
    pub(super) fn ask(
        &mut self,
        number: Number,
        job: Option<Job>,
        shape: Option<Shape>,
    ) -> Result<(), Error> {
        if let Some(asked) = self.asked.get_mut(&number) {
            let again = !std::mem::replace(&mut asked.open, true);
            let awaited = std::mem::take(&mut asked.awaits_shape) && job.is_none();
            if !again && !awaited {
                return Err(Error::Protocol("a file that is asked for twice at a time"));
            }
            self.open += usize::from(again);
        } else {
            let (place, size) =
                self.place(number).ok_or(Error::Protocol("a file that was not told is asked for"))?;
            self.queued.files += 1;
            self.queued.bytes = self.queued.bytes.saturating_add(size);
            self.asked.insert(
                number,
                Asked {
                    place,
                    sums: vec![],
                    expects: 0,
                    shape: None,
                    awaits_shape: false,
                    promised: 0,
                    open: true,
                },
            );
            self.open += 1;
        }
        if self.open > MOST_IN_FLIGHT {
            return Err(Error::Protocol("too many files are asked for at a time"));
        }
        if let Some(job) = job {
            self.jobs.push_back((number, job));
        } else if let (Some(shape), Some(asked)) = (shape, self.asked.get_mut(&number)) {
            asked.sums = vec![];
            asked.expects = shape.size();
            asked.shape = Some(shape);
        }
        Ok(())
    }

    /// Where a file is, and its size if that is still known.
    fn place(&self, number: Number) -> Option<(Place, u64)> {
        if let Some(place) = self.followers.get(&number) {
            return Some((place.clone(), 0));
        }
        let number = u64::from(number);
        let after = self.blocks.partition_point(|block| block.first <= number);
        let block = self.blocks.get(after.checked_sub(1)?)?;
        let (name, size) = block.names.get(usize::try_from(number.checked_sub(block.first)?).ok()?)?;
        Some((Place { directory: block.directory.clone(), name: name.clone() }, *size))
    }

    pub(super) fn sums(&mut self, number: Number, bytes: &[u8], of_gaps: bool) -> Result<(), Error> {
        let unexpected = Error::Protocol("sums that were not announced");
        let Some(asked) = self.asked.get_mut(&number).filter(|asked| asked.open) else {
            return Err(unexpected);
        };
        let length = asked.sums.len() as u64 + bytes.len() as u64;
        if length > asked.expects || of_gaps == asked.shape.is_some() {
            return Err(unexpected);
        }
        asked.sums.extend_from_slice(bytes);
        let kept = asked.promised.min(bytes.len() as u64);
        asked.promised -= kept;
        self.promised -= kept;
        self.sum_bytes += bytes.len() as u64;
        if self.sum_bytes > MOST_SUM_BYTES {
            return Err(Error::Protocol("too many sums at a time"));
        }
        if length == asked.expects {
            let sums = std::mem::take(&mut asked.sums);
            asked.expects = 0;
            let job = match asked.shape.take() {
                Some(shape) => Job::Delta { shape, sums },
                None => Job::Gaps { sums },
            };
            self.jobs.push_back((number, job));
        }
        Ok(())
    }
}
