//! What process groups use, by one pass over `/proc`: for instances that have no cgroup of their own.
//!
//! It is an estimate. A process that nobody of its group waits for takes its counter with it, and one that leaves the group
//! is not seen any more; [`Counter`] keeps the sum from going back.

use super::parse::{nanos, number};
use skpr_proto::v1;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// `/proc/PID/stat` is 52 numbers and a name of at most 64 bytes.
const LINE: usize = 2048;

/// What the processes of one group use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    ticks: u64,
    /// Pages of each process's own, and the most that one of them shares: what they share is mostly the same.
    own: u64,
    shared: u64,
    processes: u64,
}

/// Of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    group: i32,
    ticks: u64,
    resident: u64,
}

/// Counts up over the groups that an instance has one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    carried: u64,
    last: u64,
}

impl Counter {
    /// The counter, now that the group's processes have come to `ticks` together.
    pub(super) fn count(&mut self, ticks: u64) -> u64 {
        if ticks < self.last {
            self.carried = self.carried.saturating_add(self.last - ticks);
        }
        self.last = ticks;
        self.carried.saturating_add(ticks)
    }
}

/// What each of the groups uses; nothing of one that has no process.
pub(super) fn groups(proc: &Path, wanted: impl Iterator<Item = i32>) -> BTreeMap<i32, Group> {
    let mut groups: BTreeMap<i32, Group> = wanted.map(|group| (group, Group::default())).collect();
    if groups.is_empty() {
        return groups;
    }
    let mut buffer = [0; LINE];
    for entry in std::fs::read_dir(proc).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // It may end at any moment.
        let directory = entry.path();
        let Some(process) = line(&directory.join("stat"), &mut buffer).and_then(stat) else { continue };
        let Some(group) = groups.get_mut(&process.group) else { continue };
        let shared = line(&directory.join("statm"), &mut buffer).and_then(shared).unwrap_or(0);
        group.add(process, shared.min(process.resident));
    }
    groups.retain(|_, group| group.processes > 0);
    groups
}

impl Group {
    fn add(&mut self, process: Process, shared: u64) {
        self.ticks = self.ticks.saturating_add(process.ticks);
        self.own = self.own.saturating_add(process.resident - shared);
        self.shared = self.shared.max(shared);
        self.processes += 1;
    }

    pub(super) fn sample(&self, counter: &mut Counter) -> v1::Sample {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let (own, all) = (self.own.checked_mul(page), self.own.saturating_add(self.shared).checked_mul(page));
        v1::Sample {
            cpu_nanos: nanos(counter.count(self.ticks), 1_000_000_000 / procfs::ticks_per_second().max(1)),
            memory_usage_bytes: all,
            memory_working_set_bytes: all,
            memory_not_reclaimable_bytes: own,
            processes: Some(self.processes),
            ..v1::Sample::default()
        }
    }
}

fn line<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = File::open(path).ok()?.read_at(buffer, 0).ok()?;
    buffer.get(..length)
}

/// Reads `/proc/PID/stat`. The name is in parentheses, and may hold anything, parentheses too.
fn stat(text: &[u8]) -> Option<Process> {
    let end = memchr::memrchr(b')', text)?;
    // The third field is the first after the name.
    let mut fields = text.get(end + 1..)?.trim_ascii().split(|byte| *byte == b' ');
    let group = number(fields.nth(2)?).and_then(|group| i32::try_from(group).ok())?;
    // utime, stime, and those of children that it has waited for.
    let mut ticks = 0_u64;
    for field in [fields.nth(8)?, fields.next()?, fields.next()?, fields.next()?] {
        ticks = ticks.checked_add(number(field)?)?;
    }
    let resident = number(fields.nth(6)?)?;
    Some(Process { group, ticks, resident })
}

/// Reads `/proc/PID/statm`: the third number is of the pages that others may have, too.
fn shared(text: &[u8]) -> Option<u64> {
    number(text.split(|byte| *byte == b' ').nth(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{create_dir, write};

    const STAT: &str = "4242 (php-fpm: (pool) www) S 4200 4100 4100 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 515 \
                        268435456 1234 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let expected = Some(Process { group: 4100, ticks: 110, resident: 1234 });
        assert_eq!(stat(STAT.as_bytes()), expected);
        assert_eq!(stat(STAT.replace("(pool)", ") 1 2 3 (\n").as_bytes()), expected);
        for wrong in ["", "1 (x", "1 (x) S 1", "1 (x) S 1 -1 1 1"] {
            assert_eq!(stat(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(shared(b"65536 1234 200 1 0 900 0\n"), Some(200));
        assert_eq!(shared(b"65536 1234"), None);
    }

    #[test]
    fn a_group_is_the_sum_of_its_processes() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, name) in [("10", "a"), ("11", "b"), ("12", "c"), ("self", "d"), ("13", "e")] {
            create_dir(proc.path().join(pid)).unwrap();
            let line = match name {
                "c" => STAT.replace(" 4100 4100 ", " 77 77 "),
                "e" => "broken".to_owned(),
                _ => STAT.to_owned(),
            };
            write(proc.path().join(pid).join("stat"), line).unwrap();
            write(proc.path().join(pid).join("statm"), "65536 1234 200 1 0 900 0\n").unwrap();
        }
        let found = groups(proc.path(), [4100, 5].into_iter());
        let expected = Group { ticks: 220, own: 2 * 1034, shared: 200, processes: 2 };
        assert_eq!(found, BTreeMap::from([(4100, expected)]));
        assert!(groups(Path::new("/nowhere"), [1].into_iter()).is_empty());
    }

    #[test]
    fn the_counter_of_an_instance_never_goes_back() {
        let mut counter = Counter::default();
        let counted: Vec<_> = [5, 9, 4, 4, 6, 0, 1].map(|ticks| counter.count(ticks)).into();
        assert_eq!(counted, [5, 9, 9, 9, 11, 11, 12]);
    }

    #[test]
    fn this_process_is_seen_as_part_of_its_group() {
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        let found = groups(Path::new("/proc"), [group].into_iter());
        let sample = found[&group].sample(&mut Counter::default());
        assert!(sample.processes.unwrap() >= 1);
        assert!(sample.memory_working_set_bytes.unwrap() >= 1 << 20);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            stat(&bytes);
            shared(&bytes);
        }
    }
}
