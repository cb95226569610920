//! How far a transfer is: the whole, and the file that moved last. Pure, so that a test can be the clock.

use crate::output::number::{bytes, percent};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The rate is that of the last few seconds, so that what was fast at first is not promised for ever.
const WINDOW: Duration = Duration::from_secs(10);

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Files and bytes that are known to be transferred.
    queued: (u64, u64),
    files: u64,
    /// Of files that are finished, and of those that are not.
    finished: u64,
    under_way: HashMap<Vec<u8>, u64>,
    moving: u64,
    last: Option<Current>,
    /// Moments of the window, with all bytes until then.
    samples: VecDeque<(Duration, u64)>,
}

/// The file that moved last, of those that take more than a moment.
#[derive(Debug)]
struct Current {
    path: Vec<u8>,
    done: u64,
    size: u64,
    since: Duration,
    from: u64,
}

impl Progress {
    pub(super) fn queued(&mut self, files: u64, bytes: u64) {
        self.queued = (files, bytes);
    }

    pub(super) fn file(&mut self, path: &[u8], done: u64, size: u64, now: Duration) {
        let before = self.under_way.get(path).copied();
        self.moving -= before.unwrap_or(0);
        if done >= size {
            self.under_way.remove(path);
            self.files += 1;
            self.finished += size;
            self.last = self.last.take().filter(|last| last.path != path);
            return;
        }
        self.under_way.insert(path.to_vec(), done);
        self.moving += done;
        match &mut self.last {
            Some(last) if last.path == path => (last.done, last.size) = (done, size),
            last => *last = Some(Current { path: path.to_vec(), done, size, since: now, from: done }),
        }
    }

    fn done(&self) -> u64 {
        self.finished.saturating_add(self.moving)
    }

    /// A line for the whole, and one for the file that moved last; none before anything is known.
    pub(super) fn lines(&mut self, now: Duration) -> Vec<String> {
        let done = self.done();
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(then, _)| now.saturating_sub(*then) > WINDOW)
        {
            self.samples.pop_front();
        }
        let (files, all) = self.queued;
        if files == 0 && self.files == 0 {
            return vec![];
        }
        let (files, all) = (files.max(self.files), all.max(done));
        let (then, before) = self.samples.front().copied().unwrap_or_default();
        let rate = per_second(done.saturating_sub(before), now.saturating_sub(then));
        let whole = format!(
            "{} of {files} files, {} of {}{}",
            self.files,
            bytes(done),
            bytes(all),
            speed(rate, all - done)
        );
        let current = self.last.as_ref().map(|last| {
            let rate = per_second(last.done.saturating_sub(last.from), now.saturating_sub(last.since));
            format!(
                "  {}  {} of {}{}",
                skpr_rsync::escape(&last.path),
                percent(last.done as f64 / last.size.max(1) as f64),
                bytes(last.size),
                speed(rate, last.size.saturating_sub(last.done))
            )
        });
        [whole].into_iter().chain(current).collect()
    }
}

/// Bytes a second, once there is something to be said about that.
fn per_second(moved: u64, within: Duration) -> Option<f64> {
    let seconds = within.as_secs_f64();
    (moved > 0 && seconds >= 0.2).then(|| moved as f64 / seconds)
}

fn speed(rate: Option<f64>, left: u64) -> String {
    let Some(rate) = rate else { return String::new() };
    let seconds = left as f64 / rate;
    let left = match left {
        0 => String::new(),
        _ => format!(", {} left", clock(seconds)),
    };
    format!(", {}/s{left}", bytes(rate as u64))
}

/// `4s`, `2m05s`, `3h10m`: what a person waits for.
fn clock(seconds: f64) -> String {
    let seconds = seconds.ceil().clamp(0.0, 359_999.0) as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_whole_and_the_current_file_have_a_rate_and_an_end() {
        let mut progress = Progress::default();
        let at = Duration::from_millis;
        assert!(progress.lines(at(0)).is_empty());
        progress.queued(3, 300 * MIB);
        progress.file(b"small", 5, 5, at(100));
        progress.file(b"a/b\x1b", 10 * MIB, 200 * MIB, at(1000));
        progress.file(b"a/b\x1b", 30 * MIB, 200 * MIB, at(2000));
        assert_eq!(
            progress.lines(at(2000)),
            ["1 of 3 files, 30Mi of 300Mi, 15Mi/s, 18s left", "  a/b\\#033  15% of 200Mi, 20Mi/s, 9s left"]
        );
        progress.file(b"a/b\x1b", 200 * MIB, 200 * MIB, at(4000));
        progress.file(b"last", 100 * MIB, 100 * MIB, at(5000));
        assert_eq!(progress.lines(at(5000)), ["3 of 3 files, 300Mi of 300Mi, 60Mi/s"]);
    }

    #[test]
    fn what_is_begun_again_or_was_not_queued_makes_no_nonsense() {
        let mut progress = Progress::default();
        let at = Duration::from_millis;
        progress.queued(1, 10);
        progress.file(b"x", 8, 10, at(1));
        progress.file(b"x", 2, 10, at(2));
        progress.file(b"x", 50, 50, at(3));
        progress.file(b"y", 1, 1, at(3));
        assert_eq!(progress.lines(at(1000)), ["2 of 2 files, 51 of 51"]);
        assert_eq!([clock(0.0), clock(59.2), clock(125.0), clock(1e9)], ["0s", "1m00s", "2m05s", "99h59m"]);
    }
}
