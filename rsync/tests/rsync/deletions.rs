//! What deletions leave alone: case 17, whose many ways each have a test.

use crate::harness::{Mount, WAYS, Way, archive, bytes, content, state, transfer, trees, write};
use rustix::fs::Mode;
use skpr_rsync::Code;
use skpr_rsync::options::{Delete, Options};
use std::fs;
use std::path::Path;

#[test]
fn an_empty_or_unreadable_source_deletes_nothing() {
    for way in WAYS {
        let trees = trees();
        write(&trees.to.join("precious"), b"x");
        let options = Options { delete: Delete::Yes, ..archive() };
        let done = content(way, &trees.from, &trees.to, &options);
        assert!(trees.to.join("precious").exists());
        assert_eq!(done.summary.code, Code::Partial, "{done:?}");
        content(way, &trees.from, &trees.to, &Options { delete: Delete::EvenAll, ..options.clone() });
        assert!(!trees.to.join("precious").exists());
        // A directory whose path is too long to be told stands for what cannot be read: root reads everything.
        write(&trees.to.join("precious"), b"x");
        write(&trees.from.join("other"), b"x");
        let mut deep = trees.from.clone();
        let name = "n".repeat(250);
        let before = std::env::current_dir().unwrap();
        make_too_deep(&mut deep, &name);
        assert_eq!(std::env::current_dir().unwrap(), before);
        let done = content(way, &trees.from, &trees.to, &options);
        assert!(trees.to.join("precious").exists(), "{:?}", done.problems);
        assert_eq!(done.summary.code, Code::Partial);
    }
}

/// Directories in each other until no path leads to the last.
fn make_too_deep(root: &mut Path, name: &str) {
    let mut directory = rustix::fs::open(&*root, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&directory, name, Mode::RWXU).unwrap();
        directory =
            rustix::fs::openat(&directory, name, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn deletions_stop_where_they_are_told_to() {
    let trees = trees();
    write(&trees.from.join("keep"), b"x");
    for file in 0..5 {
        write(&trees.to.join(format!("extra{file}")), b"x");
    }
    let options = Options { delete: Delete::Yes, max_delete: Some(2), ..archive() };
    let done = content(Way::Push, &trees.from, &trees.to, &options);
    assert_eq!((done.summary.code, done.summary.stats.received.deleted), (Code::MaxDelete, 2));
    assert_eq!(fs::read_dir(&trees.to).unwrap().count(), 4);
}

#[test]
fn a_named_directory_that_was_emptied_empties_nothing() {
    for way in WAYS {
        let trees = trees();
        fs::create_dir(trees.from.join("data")).unwrap();
        fs::create_dir(trees.to.join("data")).unwrap();
        write(&trees.to.join("data/precious"), b"x");
        let options = Options { delete: Delete::Yes, ..archive() };
        let from = bytes(&trees.from.join("data"));
        let done = transfer(way, &from, &[&bytes(&trees.to)[..], b"/"].concat(), &options);
        assert!(trees.to.join("data/precious").exists(), "{done:?}");
        assert_eq!(done.summary.code, Code::Partial, "{done:?}");
    }
}

#[test]
fn what_is_mounted_at_the_destination_is_not_deleted() {
    let Some(mount) = Mount::new("size=1m") else { return };
    write(&mount.0.path().join("precious"), b"x");
    for (way, kept_at_source) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let trees = trees();
        write(&trees.from.join("file"), b"x");
        let at = trees.to.join("app/uploads");
        fs::create_dir_all(&at).unwrap();
        write(&trees.to.join("app/extra"), b"x");
        if kept_at_source {
            fs::create_dir_all(trees.from.join("app/uploads")).unwrap();
        }
        let bind = std::process::Command::new("mount").arg("--bind").args([mount.0.path(), &at]).status();
        assert!(bind.unwrap().success());
        let options = Options { delete: Delete::Yes, one_file_system: true, ..archive() };
        let done = content(way, &trees.from, &trees.to, &options);
        assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
        assert!(mount.0.path().join("precious").exists(), "{done:?}");
        assert!(!trees.to.join("app/extra").exists(), "{done:?}");
    }
}

#[test]
fn what_is_mounted_elsewhere_stays_where_it_is() {
    let Some(mount) = Mount::new("size=1m") else { return };
    write(&mount.0.path().join("other"), b"x");
    for way in WAYS {
        let trees = trees();
        let at = trees.from.join("mounted");
        fs::create_dir(&at).unwrap();
        write(&trees.from.join("file"), b"x");
        let bind = std::process::Command::new("mount").arg("--bind").args([mount.0.path(), &at]).status();
        assert!(bind.unwrap().success());
        fs::create_dir(trees.to.join("mounted")).unwrap();
        write(&trees.to.join("mounted/precious"), b"x");
        let options = Options { delete: Delete::Yes, one_file_system: true, ..archive() };
        let done = content(way, &trees.from, &trees.to, &options);
        assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
        let names: Vec<String> = state(&trees.to).into_keys().collect();
        assert_eq!(names, ["", "file", "mounted", "mounted/precious"], "{done:?}");
    }
}
