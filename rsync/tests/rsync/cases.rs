//! The cases of bad input that concern whole transfers, by their numbers in the list that the design began with. Those about
//! single parts are beside these: 1 to 4 with the signature and the search, 7 and 8 with the link, 9 with names and entries.

use crate::harness::{
    Done, Mount, Trees, WAYS, Way, age, archive, both, bytes, content, link, mode, noise, policy, state,
    transfer, trees, whole, write,
};
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, renameat_with};
use skpr_rsync::options::{Delete, Options};
use skpr_rsync::{Base, Code, Error, Local, pull, push, serve};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Stops what goes on beside a test, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn leftovers(root: &Path) -> Vec<String> {
    state(root).into_keys().filter(|name| name.contains(".skpr-")).collect()
}

#[test]
fn case_8_a_silent_peer_is_given_up() {
    let trees = trees();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let begun = Instant::now();
    let from = [&bytes(&trees.from)[..], b"/"].concat();
    let local =
        Local { base: Base::Own, path: &from, watcher: &|_| {}, silence: Some(Duration::from_millis(600)) };
    let failed = push(local, b"/x", &archive(), link(ours)).unwrap_err();
    assert!(matches!(failed, Error::Timeout(_)), "{failed:?}");
    assert_eq!(failed.code(), Code::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(theirs);
}

#[test]
fn case_8_a_client_that_says_nothing_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let impatient = skpr_rsync::Policy { silence: Some(Duration::from_millis(600)), ..policy() };
    let begun = Instant::now();
    let failed = serve(whole(), impatient, &|_| {}, link(theirs)).unwrap_err();
    assert!(matches!(failed, Error::Timeout(_)), "{failed:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(ours);
}

#[test]
fn case_8_a_peer_that_sends_a_byte_now_and_then_is_given_up() {
    let trees = trees();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let dripping = std::thread::spawn(move || {
        while theirs.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let path = bytes(&trees.to);
    let local =
        Local { base: Base::Own, path: &path, watcher: &|_| {}, silence: Some(Duration::from_millis(900)) };
    let failed = pull(local, b"/x/", &archive(), link(ours)).unwrap_err();
    assert!(matches!(failed, Error::Timeout(_) | Error::Protocol(_)), "{failed:?}");
    dripping.join().unwrap();
}

#[test]
fn case_8_a_peer_that_never_reads_is_given_up() {
    let trees = trees();
    write(&trees.from.join("file"), &noise(1, 8 << 20));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let relay = theirs.try_clone().unwrap();
    let (inner, server) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        // What the server says passes; what the client says does so only for its first half megabyte.
        scope.spawn(|| drop(std::io::copy(&mut inner.try_clone().unwrap(), &mut relay.try_clone().unwrap())));
        scope.spawn(|| {
            let (mut from, mut to) = (relay.try_clone().unwrap(), inner.try_clone().unwrap());
            drop(std::io::copy(&mut std::io::Read::take(&mut from, 500_000), &mut to));
        });
        scope.spawn(|| drop(serve(whole(), policy(), &|_| {}, link(server))));
        let (from, to) = ([&bytes(&trees.from)[..], b"/"].concat(), bytes(&trees.to));
        let silence = Some(Duration::from_millis(800));
        let local = Local { base: Base::Own, path: &from, watcher: &|_| {}, silence };
        let failed = push(local, &to, &archive(), link(ours)).unwrap_err();
        assert!(matches!(failed, Error::Timeout(_)), "{failed:?}");
        drop((relay.shutdown(std::net::Shutdown::Both), inner.shutdown(std::net::Shutdown::Both)));
    });
    assert_eq!(leftovers(&trees.to), [""; 0]);
    drop(theirs);
}

#[test]
fn case_11_a_large_directory_is_streamed() {
    for way in WAYS {
        let trees = trees();
        for file in 0..12_000 {
            File::create(trees.from.join(format!("f{file}"))).unwrap();
        }
        let done = content(way, &trees.from, &trees.to, &archive());
        assert_eq!(done.summary.stats.received.created_files, 12_000);
        assert_eq!(fs::read_dir(&trees.to).unwrap().count(), 12_000);
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
fn case_13_directories_swapped_for_links_lead_nowhere() {
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
fn case_14_links_are_carried_and_not_followed() {
    for way in WAYS {
        let trees = trees();
        for (name, target) in
            [("up", "../../../../etc"), ("root", "/"), ("magic", "/proc/self/root"), ("loop", "loop")]
        {
            symlink(target, trees.from.join(name)).unwrap();
        }
        // At the destination the same names are links to somewhere else.
        let outside = trees.root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(trees.from.join("d")).unwrap();
        write(&trees.from.join("d/file"), b"file");
        write(&trees.from.join("plain"), b"plain");
        symlink(&outside, trees.to.join("d")).unwrap();
        symlink(outside.join("target"), trees.to.join("plain")).unwrap();
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(state(&trees.from), state(&trees.to));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let safe = trees.root.path().join("safe");
        let done = content(way, &trees.from, &safe, &Options { safe_links: true, ..archive() });
        let names: Vec<String> = state(&safe).into_keys().collect();
        assert_eq!(names, ["", "d", "d/file", "loop", "plain"], "{done:?}");
    }
}

#[test]
fn case_15_names_of_temporary_files_that_are_taken_do_no_harm() {
    // They are random; what is there already is put away and never written through.
    let trees = trees();
    let outside = trees.root.path().join("outside");
    write(&outside, b"untouched");
    symlink(&outside, trees.to.join(".skpr-rsync.0000000000000000.0000000000000000")).unwrap();
    write(&trees.from.join("file"), b"file");
    content(Way::Push, &trees.from, &trees.to, &archive());
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    assert_eq!(leftovers(&trees.to), [""; 0]);
}

#[test]
fn case_16_another_name_of_a_file_keeps_its_content() {
    for way in WAYS {
        let trees = trees();
        let outside = trees.root.path().join("outside");
        write(&outside, b"before");
        fs::hard_link(&outside, trees.to.join("file")).unwrap();
        write(&trees.from.join("file"), b"after");
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(fs::read(&outside).unwrap(), b"before");
        assert_eq!(fs::read(trees.to.join("file")).unwrap(), b"after");
    }
}

#[test]
fn case_18_what_an_interruption_left_is_no_way_out() {
    let trees = trees();
    let outside = trees.root.path().join("outside");
    write(&outside, &noise(1, 5000));
    write(&trees.from.join("file"), &noise(2, 6000));
    let hash = blake3::hash(b"file");
    let label: String = hash.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    symlink(&outside, trees.to.join(format!(".skpr-partial.{label}"))).unwrap();
    content(Way::Push, &trees.from, &trees.to, &Options { partial: true, ..archive() });
    assert_eq!(fs::read(&outside).unwrap(), noise(1, 5000));
    assert_eq!(fs::read(trees.to.join("file")).unwrap(), noise(2, 6000));
    assert_eq!(leftovers(&trees.to), [""; 0]);
}

#[test]
fn case_20_special_files_are_left_out_unless_asked_for() {
    for way in WAYS {
        let trees = trees();
        rustix::fs::mkfifoat(CWD, trees.from.join("pipe"), Mode::RWXU).unwrap();
        write(&trees.from.join("program"), b"x");
        mode(&trees.from.join("program"), 0o4755);
        let options = Options { devices: false, specials: false, set_id: false, ..archive() };
        let done = content(way, &trees.from, &trees.to, &options);
        assert!(!trees.to.join("pipe").exists());
        assert_eq!(fs::metadata(trees.to.join("program")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(done.summary.code, Code::Done);
        content(way, &trees.from, &trees.to, &archive());
        assert!(fs::symlink_metadata(trees.to.join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(trees.to.join("program")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(content(way, &trees.from, &trees.to, &archive()).lines, [""; 0]);
    }
}

#[test]
fn case_21_views_of_the_kernel_are_no_files() {
    let trees = trees();
    let done = transfer(Way::Pull, b"/proc/self/", &bytes(&trees.to), &archive());
    assert_eq!(done.summary.code, Code::Partial, "{:?}", done.problems);
    assert_eq!(fs::read_dir(&trees.to).unwrap().count(), 0);
}

#[test]
fn case_22_files_that_change_all_the_time_arrive_whole_or_not_at_all() {
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
fn case_22_a_log_that_grows_all_the_time_arrives_as_it_was() {
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
fn case_22_a_base_that_changes_all_the_time_gives_no_torn_file() {
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

#[test]
fn case_23_a_hole_of_a_tebibyte_takes_seconds() {
    for way in WAYS {
        let trees = trees();
        let file = File::create(trees.from.join("image")).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(&[7; 4096], 1 << 39).unwrap();
        let begun = Instant::now();
        let options = Options { sparse: true, ..archive() };
        content(way, &trees.from, &trees.to, &options);
        // And once more with a difference.
        file.write_all_at(&[8; 4096], (1 << 39) + 8192).unwrap();
        age(&trees.from.join("image"), 5);
        content(way, &trees.from, &trees.to, &options);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let copy = File::open(trees.to.join("image")).unwrap();
        let meta = copy.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks() < 1000), (1 << 40, true), "{}", meta.blocks());
        let mut found = [0; 4096];
        copy.read_exact_at(&mut found, (1 << 39) + 8192).unwrap();
        assert_eq!(found, [8; 4096]);
    }
}

#[test]
fn case_25_files_at_the_edges_of_blocks_arrive() {
    for way in WAYS {
        let trees = trees();
        for length in [0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 131_072] {
            for (kind, data) in
                [("zero", vec![0; length]), ("same", vec![7; length]), ("noise", noise(1, length))]
            {
                write(&trees.from.join(format!("{kind}{length}")), &data);
                write(&trees.to.join(format!("{kind}{length}")), &noise(2, length / 2 + 700));
            }
        }
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(state(&trees.from), state(&trees.to));
        content(way, &trees.from, &trees.to, &Options { sparse: true, checksum: true, ..archive() });
    }
}

#[test]
fn case_26_a_full_disk_leaves_the_old_file_and_says_which() {
    let Some(mount) = Mount::new("size=3m") else { return };
    for way in WAYS {
        let trees = trees();
        write(&trees.from.join("file"), &noise(1, 8 << 20));
        write(&mount.0.path().join("file"), b"old");
        let from = [&bytes(&trees.from)[..], b"/"].concat();
        let (client, server) = both(way, &from, &bytes(mount.0.path()), &archive());
        for failed in [client.unwrap_err(), server.unwrap_err()] {
            assert_eq!(failed.code(), Code::FileIo, "{failed:?}");
            let text = format!("{failed:?}");
            assert!(
                text.contains("file")
                    && (text.contains("NOSPC") || text.contains("No space") || text.contains("28")),
                "{text}"
            );
        }
        assert_eq!(fs::read(mount.0.path().join("file")).unwrap(), b"old");
        assert_eq!(leftovers(mount.0.path()), [""; 0]);
    }
}

#[test]
fn case_26_a_read_only_file_system_is_said() {
    let Some(mount) = Mount::new("ro") else { return };
    let trees = trees();
    write(&trees.from.join("file"), b"x");
    let from = [&bytes(&trees.from)[..], b"/"].concat();
    let (client, _) = both(Way::Push, &from, &bytes(mount.0.path()), &archive());
    assert_eq!(client.unwrap_err().code(), Code::FileIo);
}

/// Cuts the connection after some bytes from the sender have passed.
fn cut(way: Way, trees: &Trees, options: &Options, after: u64) -> Result<Done, Error> {
    let ((ours, relay_a), (relay_b, theirs)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let carry = |mut from: UnixStream, mut to: UnixStream, most: u64| {
        move || {
            drop(std::io::copy(&mut std::io::Read::take(&mut from, most), &mut to));
            drop((from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both)));
        }
    };
    let (up, down) = if way == Way::Push { (after, u64::MAX) } else { (u64::MAX, after) };
    std::thread::scope(|scope| {
        scope.spawn(carry(relay_a.try_clone().unwrap(), relay_b.try_clone().unwrap(), up));
        scope.spawn(carry(relay_b, relay_a, down));
        scope.spawn(|| drop(serve(whole(), policy(), &|_| {}, link(theirs))));
        let (from, to) = ([&bytes(&trees.from)[..], b"/"].concat(), bytes(&trees.to));
        let local = |path| Local { base: Base::Own, path, watcher: &|_| {}, silence: None };
        let summary = match way {
            Way::Push => push(local(&from), &to, options, link(ours)),
            Way::Pull => pull(local(&to), &from, options, link(ours)),
        };
        summary.map(|summary| Done { summary, lines: vec![], problems: vec![] })
    })
}

#[test]
fn case_27_a_cut_leaves_old_or_new_and_the_next_transfer_goes_on() {
    for way in WAYS {
        let trees = trees();
        let data = noise(1, 4 << 20);
        write(&trees.from.join("file"), &data);
        write(&trees.to.join("file"), b"old");
        for after in [0, 1, 100, 1000, 100_000, 3 << 20] {
            let failed = cut(way, &trees, &archive(), after).unwrap_err();
            assert!(matches!(failed, Error::Ended | Error::Link(_)), "{failed:?}");
            assert_eq!(fs::read(trees.to.join("file")).unwrap(), b"old", "{after}");
            assert_eq!(leftovers(&trees.to), [""; 0], "{after}");
        }
        let options = Options { partial: true, ..archive() };
        cut(way, &trees, &options, 3 << 20).unwrap_err();
        assert_eq!(leftovers(&trees.to).len(), 1);
        assert_eq!(fs::read(trees.to.join("file")).unwrap(), b"old");
        let stats = content(way, &trees.from, &trees.to, &options).summary.stats;
        assert!(stats.sent_bytes + stats.received_bytes < 1200 << 10, "{stats:?}");
        assert!(fs::read(trees.to.join("file")).unwrap() == data);
        assert_eq!(leftovers(&trees.to), [""; 0]);
    }
}

#[test]
fn case_27_what_a_killed_process_left_is_put_away_or_gone_on_with() {
    for way in WAYS {
        let trees = trees();
        let data = noise(1, 1 << 20);
        write(&trees.from.join("file"), &data);
        let hash = blake3::hash(b"file");
        let label: String = hash.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let left = trees.to.join(format!(".skpr-rsync.{label}.0123456789abcdef"));
        // Another process that still writes keeps its file.
        let held = File::create(trees.to.join(".skpr-rsync.0000000000000000.0000000000000001")).unwrap();
        held.lock().unwrap();
        fs::write(&left, &data[..900_000]).unwrap();
        let stats =
            content(way, &trees.from, &trees.to, &Options { partial: true, ..archive() }).summary.stats;
        assert!(stats.sent_bytes + stats.received_bytes < 200_000, "{stats:?}");
        assert_eq!(leftovers(&trees.to), [".skpr-rsync.0000000000000000.0000000000000001"]);
        drop(held);
        fs::write(&left, &data[..900_000]).unwrap();
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(leftovers(&trees.to), [""; 0]);
    }
}

#[test]
fn case_28_an_owner_that_cannot_be_set_is_an_error_and_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for way in WAYS {
        let trees = trees();
        write(&trees.from.join("file"), b"x");
        rustix::fs::chownat(
            CWD,
            trees.from.join("file"),
            Some(rustix::fs::Uid::from_raw(12_345)),
            Some(rustix::fs::Gid::from_raw(54_321)),
            AtFlags::empty(),
        )
        .unwrap();
        content(way, &trees.from, &trees.to, &archive());
        let meta = fs::metadata(trees.to.join("file")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12_345, 54_321));
        assert_eq!(content(way, &trees.from, &trees.to, &archive()).lines, [""; 0]);
    }
}
