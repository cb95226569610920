//! Files, links and file systems that are out of the ordinary, as whole transfers meet them.

use crate::harness::{
    Mount, WAYS, Way, age, archive, both, bytes, content, leftovers, mode, noise, state, transfer, trees,
    write,
};
use rustix::fs::{AtFlags, CWD, Mode};
use skpr_rsync::Code;
use skpr_rsync::options::Options;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::time::{Duration, Instant};

#[test]
fn a_large_directory_is_streamed() {
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

#[test]
fn links_are_carried_and_not_followed() {
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
fn names_of_temporary_files_that_are_taken_do_no_harm() {
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
fn another_name_of_a_file_keeps_its_content() {
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
fn what_an_interruption_left_is_no_way_out() {
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
fn special_files_are_left_out_unless_asked_for() {
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
fn views_of_the_kernel_are_no_files() {
    let trees = trees();
    let done = transfer(Way::Pull, b"/proc/self/", &bytes(&trees.to), &archive());
    assert_eq!(done.summary.code, Code::Partial, "{:?}", done.problems);
    assert_eq!(fs::read_dir(&trees.to).unwrap().count(), 0);
}

#[test]
fn a_hole_of_a_tebibyte_takes_seconds() {
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
fn files_at_the_edges_of_blocks_arrive() {
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
fn a_full_disk_leaves_the_old_file_and_says_which() {
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
fn a_read_only_file_system_is_said() {
    let Some(mount) = Mount::new("ro") else { return };
    let trees = trees();
    write(&trees.from.join("file"), b"x");
    let from = [&bytes(&trees.from)[..], b"/"].concat();
    let (client, _) = both(Way::Push, &from, &bytes(mount.0.path()), &archive());
    assert_eq!(client.unwrap_err().code(), Code::FileIo);
}

#[test]
fn an_owner_that_cannot_be_set_is_an_error_and_nobody_else() {
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
