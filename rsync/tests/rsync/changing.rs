//! What is transferred, or what is there, changes all the while.

use crate::harness::{WAYS, archive, both, bytes, content, leftovers, noise, state, trees, write};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use skpr_rsync::Code;
use skpr_rsync::options::{Delete, Options};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops what goes on beside a test, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Swaps a directory and a link to somewhere else for as long as the guard lives.
fn swapping(directory: &Path, other: &Path, target: &Path, run: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if renameat_with(CWD, directory, CWD, other, RenameFlags::EXCHANGE).is_err() {
                    // The link was in the way and is gone, as it should be; it comes back.
                    drop((symlink(target, other), fs::create_dir(directory)));
                }
            }
        });
        let _stop = Stop(&stop);
        run();
    });
}

#[test]
fn directories_swapped_for_links_lead_nowhere() {
    for way in WAYS {
        let trees = trees();
        let outside = trees.root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        write(&outside.join("secret"), b"secret");
        write(&outside.join("f1"), b"not to be touched");
        for side in [&trees.from, &trees.to] {
            fs::create_dir_all(side.join("d")).unwrap();
            symlink(&outside, side.join("swap")).unwrap();
        }
        for file in 0..30 {
            write(&trees.from.join(format!("d/f{file}")), &noise(file, 3000));
        }
        let before = state(&outside);
        for side in [&trees.to, &trees.from] {
            let exchanged = side.join("swap");
            swapping(&side.join("d"), &exchanged, &outside, || {
                for round in 0..15 {
                    let delete = if round % 3 == 0 { Delete::Yes } else { Delete::No };
                    let mut options = Options { delete, ..archive() };
                    options.filters.exclude(b"/swap").unwrap();
                    write(&trees.from.join("other"), &noise(round, 100));
                    // It may fail, but only for itself.
                    drop(both(way, &[&bytes(&trees.from)[..], b"/"].concat(), &bytes(&trees.to), &options));
                }
            });
        }
        assert_eq!(state(&outside), before, "{way:?}");
        let found = state(&trees.to);
        assert!(!found.keys().any(|name| name.contains("secret")), "{found:#?}");
    }
}

#[test]
fn files_that_change_all_the_time_arrive_whole_or_not_at_all() {
    for way in WAYS {
        let trees = trees();
        let source = trees.from.join("file");
        write(&source, &vec![b'a'; 3 << 20]);
        write(&trees.to.join("file"), &vec![b'a'; 2 << 20]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0..u64::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let file = File::options().write(true).open(&source).unwrap();
                    file.set_len((round % 4) << 20).unwrap();
                    file.write_all_at(&vec![b'b'; 1 << 20], (round % 3) << 20).unwrap();
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..8 {
                let (client, server) =
                    both(way, &[&bytes(&trees.from)[..], b"/"].concat(), &bytes(&trees.to), &archive());
                let done = client.unwrap();
                server.unwrap();
                assert!(matches!(done.summary.code, Code::Done | Code::Vanished), "{done:?}");
            }
        });
        content(way, &trees.from, &trees.to, &archive());
        assert!(fs::read(&source).unwrap() == fs::read(trees.to.join("file")).unwrap());
        assert_eq!(leftovers(&trees.to), [""; 0]);
    }
}

#[test]
fn a_log_that_grows_all_the_time_arrives_as_it_was() {
    for way in WAYS {
        let trees = trees();
        let source = trees.from.join("log");
        write(&source, &noise(7, 4 << 20));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = File::options().append(true).open(&source).unwrap();
                for round in (0..u64::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    log.write_all(&noise(round, 300)).unwrap();
                }
            });
            let _stop = Stop(&stop);
            // The first time it is new, then it has grown.
            for _ in 0..4 {
                let done = content(way, &trees.from, &trees.to, &archive());
                assert_eq!((done.summary.code, done.problems), (Code::Done, vec![]));
                let (arrived, now) = (fs::read(trees.to.join("log")).unwrap(), fs::read(&source).unwrap());
                assert!(arrived.len() >= 4 << 20 && now.starts_with(&arrived), "{}", arrived.len());
            }
        });
    }
}

#[test]
fn a_base_that_changes_all_the_time_gives_no_torn_file() {
    for way in WAYS {
        let trees = trees();
        let data = noise(1, 2 << 20);
        write(&trees.from.join("file"), &data);
        let target = trees.to.join("file");
        write(&target, &noise(1, 1 << 20));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0..u64::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    // A new file each time, so that what was put in place is never written into.
                    let other = trees.to.join("other");
                    fs::write(&other, noise(round % 3, 1 << 20)).unwrap();
                    fs::rename(&other, &target).unwrap();
                }
            });
            let _stop = Stop(&stop);
            let options = Options { report: false, ..archive() };
            for _ in 0..8 {
                let (client, server) =
                    both(way, &[&bytes(&trees.from)[..], b"/"].concat(), &bytes(&trees.to), &options);
                let code = client.unwrap().summary.code;
                server.unwrap();
                assert!(matches!(code, Code::Done | Code::Vanished), "{code:?}");
                let found = fs::read(&target).unwrap();
                assert!(
                    found == data || (0..3).any(|round| found == noise(round, 1 << 20)),
                    "{}",
                    found.len()
                );
            }
        });
        content(way, &trees.from, &trees.to, &archive());
        assert!(fs::read(&target).unwrap() == data);
    }
}
