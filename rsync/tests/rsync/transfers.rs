//! What users do: first copies, second ones, changes of all kinds, both ways.

use crate::harness::{
    WAYS, Way, age, archive, bytes, content, link, mode, noise, policy, state, transfer, trees, whole, write,
};
use skpr_rsync::options::{Delete, Options};
use skpr_rsync::{Base, Code, Event, Local, Policy, pull, push, serve};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

/// Some of everything.
fn fill(root: &Path) {
    for directory in ["a/b/c", "d", "empty"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    write(&root.join("a/one"), b"one");
    write(&root.join("a/b/two"), &noise(1, 100_000));
    write(&root.join("a/b/c/three"), &vec![0; 300_000]);
    write(&root.join("d/nothing"), b"");
    write(&root.join("d/name\n\x1b[2J"), b"x");
    mode(&root.join("a/one"), 0o640);
    mode(&root.join("d"), 0o711);
    symlink("../a/one", root.join("d/link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    for directory in ["a/b/c", "a/b", "a", "d", "empty", ""] {
        age(&root.join(directory), 900_000_000);
    }
}

#[test]
fn a_tree_arrives_whole_and_a_second_time_nothing_happens() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fill(&trees.from);
        let done = content(way, &trees.from, &trees.to, &archive());
        assert_eq!(state(&trees.from), state(&trees.to), "{way:?}");
        assert_eq!((done.summary.code, done.problems.as_slice()), (Code::Done, &[][..]));
        assert_eq!(done.lines.len(), 13, "{:#?}", done.lines);
        let stats = done.summary.stats;
        assert_eq!(stats.received.created_files, 5);
        assert_eq!((stats.totals.files, stats.totals.directories, stats.totals.links), (5, 6, 2));
        assert_eq!(stats.totals.size, 400_004 + 16);
        let again = content(way, &trees.from, &trees.to, &archive());
        assert_eq!(again.lines, [""; 0], "{way:?}");
        let stats = again.summary.stats;
        assert!(stats.sent_bytes + stats.received_bytes < 600, "{stats:?}");
    }
}

#[test]
fn each_kind_of_change_arrives() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fill(&trees.from);
        content(way, &trees.from, &trees.to, &archive());
        let mut two = noise(1, 100_000);
        two[50_000] ^= 1;
        write(&trees.from.join("a/b/two"), &two);
        write(&trees.from.join("a/one"), b"one and more");
        mode(&trees.from.join("d/nothing"), 0o600);
        fs::remove_file(trees.from.join("dangling")).unwrap();
        symlink("elsewhere", trees.from.join("dangling")).unwrap();
        fs::remove_dir(trees.from.join("empty")).unwrap();
        write(&trees.from.join("empty"), b"a file now");
        fs::remove_file(trees.from.join("d/link")).unwrap();
        fs::create_dir(trees.from.join("d/link")).unwrap();
        write(&trees.to.join("extra"), b"goes");
        fs::create_dir_all(trees.to.join("more/of/it")).unwrap();
        let options = Options { delete: Delete::Yes, ..archive() };
        let done = content(way, &trees.from, &trees.to, &options);
        assert_eq!(state(&trees.from), state(&trees.to), "{way:?} {done:#?}");
        assert_eq!(done.summary.code, Code::Done, "{done:#?}");
        assert!(done.summary.stats.received.literal < 3000, "{:?}", done.summary.stats);
    }
}

#[test]
fn a_dry_run_tells_the_same_and_does_nothing() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fill(&trees.from);
        write(&trees.to.join("extra"), b"goes");
        fs::create_dir(trees.to.join("a")).unwrap();
        write(&trees.to.join("a/one"), b"other");
        let before = state(&trees.to);
        let options = Options { delete: Delete::Yes, ..archive() };
        let dry = content(way, &trees.from, &trees.to, &Options { dry_run: true, ..options.clone() });
        assert_eq!(state(&trees.to), before);
        let wet = content(way, &trees.from, &trees.to, &options);
        assert_eq!(dry.lines, wet.lines);
        // The destination itself may be missing as well.
        let missing = trees.root.path().join("missing");
        let dry = content(way, &trees.from, &missing, &Options { dry_run: true, ..options });
        assert!(!missing.exists());
        assert_eq!(dry.lines.len(), 13, "{:#?}", dry.lines);
    }
}

#[test]
fn slashes_and_names_mean_what_they_mean_to_rsync() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fill(&trees.from);
        let from = bytes(&trees.from);
        // Without a slash the directory itself.
        transfer(way, &from, &bytes(&trees.to), &archive());
        assert_eq!(state(&trees.from), state(&trees.to.join("from")));
        // A file into a directory, to a new name, and over another file.
        let file = [&from[..], b"/a/one"].concat();
        transfer(way, &file, &bytes(&trees.to), &archive());
        transfer(way, &file, &bytes(&trees.to.join("new")), &archive());
        write(&trees.to.join("old"), b"old");
        transfer(way, &file, &bytes(&trees.to.join("old")), &archive());
        for name in ["one", "new", "old"] {
            assert_eq!(fs::read(trees.to.join(name)).unwrap(), b"one", "{name}");
        }
        // Into a directory that is made, but not into two.
        transfer(way, &from, &bytes(&trees.root.path().join("made")), &archive());
        assert_eq!(state(&trees.from), state(&trees.root.path().join("made/from")));
        let (client, server) =
            crate::harness::both(way, &from, &bytes(&trees.root.path().join("x/y")), &archive());
        assert_eq!(client.unwrap_err().code(), Code::Start);
        assert_eq!(server.unwrap_err().code(), Code::Start);
        let missing = [&from[..], b"/missing"].concat();
        let (client, _) = crate::harness::both(way, &missing, &bytes(&trees.to), &archive());
        assert_eq!(client.unwrap_err().code(), Code::Start);
    }
}

#[test]
fn excluded_files_neither_go_nor_are_deleted() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        write(&trees.from.join("keep.log"), b"source");
        write(&trees.from.join("file"), b"file");
        fs::create_dir(trees.from.join("cache")).unwrap();
        write(&trees.from.join("cache/x"), b"x");
        write(&trees.to.join("mine.log"), b"mine");
        write(&trees.to.join("other"), b"other");
        let mut options = Options { delete: Delete::Yes, ..archive() };
        options.filters.exclude(b"*.log").unwrap();
        options.filters.exclude(b"/cache/").unwrap();
        content(way, &trees.from, &trees.to, &options);
        let names: Vec<String> = state(&trees.to).into_keys().collect();
        assert_eq!(names, ["", "file", "mine.log"]);
    }
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fs::create_dir(trees.from.join("d")).unwrap();
        write(&trees.from.join("a"), &noise(3, 5000));
        fs::hard_link(trees.from.join("a"), trees.from.join("d/b")).unwrap();
        fs::hard_link(trees.from.join("a"), trees.from.join("z")).unwrap();
        let options = Options { hard_links: true, ..archive() };
        content(way, &trees.from, &trees.to, &options);
        assert_eq!(state(&trees.from), state(&trees.to));
        assert_eq!(content(way, &trees.from, &trees.to, &options).lines, [""; 0]);
        // One of them becomes a file of its own, and then one again.
        fs::remove_file(trees.from.join("z")).unwrap();
        write(&trees.from.join("z"), b"own");
        content(way, &trees.from, &trees.to, &options);
        assert_eq!(state(&trees.from), state(&trees.to));
        fs::remove_file(trees.from.join("z")).unwrap();
        fs::hard_link(trees.from.join("a"), trees.from.join("z")).unwrap();
        let done = content(way, &trees.from, &trees.to, &options);
        assert_eq!(state(&trees.from), state(&trees.to), "{done:?}");
    }
}

#[test]
fn a_change_within_the_second_is_seen() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        fs::write(trees.from.join("file"), b"first").unwrap();
        content(way, &trees.from, &trees.to, &archive());
        let time = fs::metadata(trees.from.join("file")).unwrap().modified().unwrap();
        fs::write(trees.from.join("file"), b"other").unwrap();
        fs::File::open(trees.from.join("file")).unwrap().set_modified(time).unwrap();
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(fs::read(trees.to.join("file")).unwrap(), b"other");
        assert_eq!(content(way, &trees.from, &trees.to, &archive()).lines, [""; 0]);
    }
}

#[test]
fn a_checksum_finds_what_size_and_time_hide() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        write(&trees.from.join("file"), b"aaaa");
        write(&trees.to.join("file"), b"bbbb");
        age(&trees.from.join("file"), 1000);
        age(&trees.to.join("file"), 1000);
        let find = |name: &[u8]| fs::read(trees.to.join(std::str::from_utf8(name).unwrap())).unwrap();
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(find(b"file"), b"bbbb");
        let done = content(way, &trees.from, &trees.to, &Options { checksum: true, ..archive() });
        assert_eq!(find(b"file"), b"aaaa");
        assert!(done.lines.contains(&">fc........ file".to_owned()), "{:?}", done.lines);
    }
}

#[test]
fn a_newer_file_stays_with_update() {
    let trees = trees();
    write(&trees.from.join("file"), b"old");
    write(&trees.to.join("file"), b"newer");
    content(Way::Push, &trees.from, &trees.to, &Options { update: true, ..archive() });
    assert_eq!(fs::read(trees.to.join("file")).unwrap(), b"newer");
}

#[test]
fn a_change_in_a_large_file_costs_little() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        let mut data = noise(9, 16 << 20);
        write(&trees.to.join("file"), &data);
        for at in 0..20 {
            data[at * 800_000 + 1234] ^= 0x55;
        }
        data.splice(9_000_000..9_000_000, noise(10, 1000));
        write(&trees.from.join("file"), &data);
        let done = content(way, &trees.from, &trees.to, &archive());
        assert!(fs::read(trees.to.join("file")).unwrap() == data);
        let stats = done.summary.stats;
        assert!(stats.received.literal <= 21 * 1024 + 1000, "{stats:?}");
        assert!(stats.sent_bytes + stats.received_bytes < 64 << 10, "{stats:?}");
    }
}

#[test]
fn an_appended_file_costs_what_was_appended() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        let mut data = noise(11, 5 << 20);
        write(&trees.to.join("log"), &data);
        data.extend(noise(12, 1000));
        write(&trees.from.join("log"), &data);
        let stats = content(way, &trees.from, &trees.to, &archive()).summary.stats;
        assert!(fs::read(trees.to.join("log")).unwrap() == data);
        assert!(stats.sent_bytes + stats.received_bytes < 1700, "{stats:?}");
        // What only has grown is searched for blocks.
        data.rotate_right(700);
        data.extend(noise(13, 10));
        write(&trees.from.join("log"), &data);
        let stats = content(way, &trees.from, &trees.to, &archive()).summary.stats;
        assert!(fs::read(trees.to.join("log")).unwrap() == data);
        assert!(stats.sent_bytes + stats.received_bytes < 64 << 10, "{stats:?}");
    }
}

#[test]
fn a_file_that_was_appended_to_and_changed_where_nobody_looks_arrives() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        let mut data = noise(21, 4 << 20);
        write(&trees.to.join("data"), &data);
        // Between two samples of the base.
        data[1_000_003] ^= 1;
        data.extend(noise(22, 5000));
        write(&trees.from.join("data"), &data);
        let done = content(way, &trees.from, &trees.to, &archive());
        assert!(fs::read(trees.to.join("data")).unwrap() == data);
        let stats = done.summary.stats;
        assert!(stats.sent_bytes + stats.received_bytes < 40_000, "{stats:?}");
        assert_eq!(done.summary.code, Code::Done, "{done:?}");
    }
}

#[test]
fn more_entries_than_are_told_at_a_time() {
    for way in [Way::Push, Way::Pull] {
        let trees = trees();
        for directory in 0..14 {
            let path = trees.from.join(format!("d{directory}"));
            fs::create_dir(&path).unwrap();
            for file in 0..500 {
                fs::write(path.join(format!("file{file}")), format!("{directory} {file}")).unwrap();
            }
            for empty in 0..200 {
                fs::create_dir(path.join(format!("empty{empty}"))).unwrap();
            }
        }
        let done = content(way, &trees.from, &trees.to, &archive());
        assert_eq!(done.summary.stats.received.created_files, 7_000);
        assert_eq!(state(&trees.from), state(&trees.to));
    }
}

/// A link over two pipes that hold a page each.
fn narrow(reader: std::io::PipeReader, writer: std::io::PipeWriter) -> skpr_rsync::Link {
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    skpr_rsync::Link { reader: Box::new(reader), writer: Box::new(writer), close: Box::new(|| {}) }
}

#[test]
fn the_narrowest_line_does_not_lock_up() {
    let trees = trees();
    for file in 0..3000_u64 {
        write(&trees.from.join(format!("f{file:04}")), &noise(file, 2000));
        // Some are there, some are longer, some are other files.
        match file % 4 {
            0 => write(&trees.to.join(format!("f{file:04}")), &noise(file, 1500)),
            1 => write(&trees.to.join(format!("f{file:04}")), &noise(file, 2500)),
            2 => write(&trees.to.join(format!("f{file:04}")), &noise(file + 7, 2000)),
            _ => {}
        }
    }
    let mut large = noise(1, 3 << 20);
    write(&trees.to.join("large"), &large);
    (0..50).for_each(|at| large[at * 60_000] ^= 1);
    write(&trees.from.join("large"), &large);
    let (one, other) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let (ours, theirs) = (narrow(one.0, other.1), narrow(other.0, one.1));
    std::thread::scope(|scope| {
        let server = scope
            .spawn(|| skpr_rsync::serve(crate::harness::whole(), crate::harness::policy(), &|_| {}, theirs));
        let from = [&bytes(&trees.from)[..], b"/"].concat();
        let local =
            skpr_rsync::Local { base: skpr_rsync::Base::Own, path: &from, watcher: &|_| {}, silence: None };
        skpr_rsync::push(local, &bytes(&trees.to), &archive(), ours).unwrap();
        server.join().unwrap().unwrap();
    });
    assert_eq!(state(&trees.from), state(&trees.to));
}

/// What watches may be a terminal that nobody looks at, or a pager.
#[test]
fn a_watcher_that_takes_its_time_is_no_silence_of_the_other_end() {
    watched_slowly(50);
}

/// With one file there is nothing left to ask for: the receiver has finished and gone before the watcher goes on.
#[test]
fn a_watcher_that_takes_its_time_may_hear_late_that_all_is_done() {
    watched_slowly(1);
}

/// Transfers with a watcher that takes longer for its first change than an end's patience with the other.
fn watched_slowly(files: u64) {
    const SILENCE: Duration = Duration::from_secs(6);
    for way in WAYS {
        let trees = trees();
        for file in 0..files {
            write(&trees.from.join(format!("f{file}")), &noise(file, 100_000));
        }
        let slow = Once::new();
        let watcher = |event: Event<'_>| {
            if matches!(event, Event::Change(_)) {
                slow.call_once(|| std::thread::sleep(SILENCE * 3 / 2));
            }
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let policy = Policy { silence: Some(SILENCE), ..policy() };
            let server = scope.spawn(move || serve(whole(), policy, &|_| {}, link(theirs)));
            let (from, to) = ([&bytes(&trees.from)[..], b"/"].concat(), bytes(&trees.to));
            let local = |path| Local { base: Base::Own, path, watcher: &watcher, silence: Some(SILENCE) };
            let done = match way {
                Way::Push => push(local(&from), &to, &archive(), link(ours)),
                Way::Pull => pull(local(&to), &from, &archive(), link(ours)),
            };
            assert_eq!(done.unwrap().code, Code::Done, "{way:?}");
            server.join().unwrap().unwrap();
        });
        assert!(slow.is_completed());
    }
}

/// Long files are sent while they are searched: edits that leave gaps, parts that were moved, inserted, new and empty.
#[test]
fn a_long_file_is_sent_in_parts_that_fit_together() {
    for way in WAYS {
        let trees = trees();
        let old = noise(5, 72 << 20);
        let mut new = old.clone();
        for edit in 0..60 {
            let at = edit * 1_200_000 + 77;
            new[at..at + 40].copy_from_slice(&noise(edit as u64, 40));
        }
        new.splice(30_000_000..30_000_000, noise(99, 3_000_001));
        new.splice(50_000_000..50_000_000, vec![0; 5 << 20]);
        // A part of the base that goes back in it, and one that is gone.
        new.splice(60_000_000..60_000_000, old[1_000_000..9_000_000].iter().copied());
        new.drain(20_000_000..24_000_000);
        write(&trees.from.join("file"), &new);
        write(&trees.to.join("file"), &old);
        age(&trees.to.join("file"), 900_000_000);
        let done = content(way, &trees.from, &trees.to, &archive());
        assert!(fs::read(trees.to.join("file")).unwrap() == new, "{way:?}");
        let literal = done.summary.stats.received.literal;
        // What was inserted, and of each edit a small block or two.
        assert!((3_000_001..3_400_000).contains(&literal), "{literal}");
        assert_eq!(done.summary.code, Code::Done);
    }
}

#[test]
fn what_only_begins_as_our_own_files_do_is_somebodys() {
    for way in WAYS {
        let trees = trees();
        for name in [".skpr-rsync.rules", ".skpr-partial.notes", ".skpr-rsync.0123456789abcdef"] {
            write(&trees.from.join(name), name.as_bytes());
        }
        content(way, &trees.from, &trees.to, &archive());
        assert_eq!(state(&trees.to).len(), 4, "and the root");
        let alone = trees.from.join(".skpr-rsync.rules");
        transfer(way, &bytes(&alone), &bytes(&trees.root.path().join("alone")), &archive());
        assert_eq!(fs::read(trees.root.path().join("alone")).unwrap(), b".skpr-rsync.rules");
    }
}

#[test]
fn what_was_kept_of_a_file_goes_when_the_file_is_there() {
    for way in WAYS {
        let trees = trees();
        write(&trees.from.join("file"), &noise(3, 10_000));
        let hash = blake3::hash(b"file");
        let label: String = hash.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let kept = trees.to.join(format!(".skpr-partial.{label}"));
        for options in [archive(), Options { partial: true, ..archive() }] {
            // Named alone, and with all that is beside it.
            for from in [bytes(&trees.from.join("file")), [&bytes(&trees.from)[..], b"/"].concat()] {
                fs::write(&kept, noise(3, 4000)).unwrap();
                write(&trees.to.join("file"), b"old");
                transfer(way, &from, &bytes(&trees.to), &options);
                assert!(!kept.exists(), "{way:?}");
                assert_eq!(fs::read(trees.to.join("file")).unwrap(), noise(3, 10_000));
            }
        }
    }
}
