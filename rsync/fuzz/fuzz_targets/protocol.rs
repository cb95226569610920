//! Any bytes as what the other end of a transfer says, and as filter rules: no end may panic or hang, leave anything behind
//! or touch anything outside of its tree.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skpr_rsync::options::{Delete, Options};
use skpr_rsync::{Base, Link, Local, Policy, pull, push, serve};
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// The greeting, then each message in a plain packet. A message is what follows two bytes that say how long it is.
fn wire(mut bytes: &[u8]) -> Vec<u8> {
    let mut wire = packet(b"skpr-rsync\x01\x00");
    while let [low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, *high & 0x1f])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        wire.extend(packet(message));
        bytes = rest;
    }
    wire
}

fn packet(message: &[u8]) -> Vec<u8> {
    let mut content = vec![];
    let mut length = message.len();
    while length >= 0x80 {
        content.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    content.push(length as u8);
    content.extend_from_slice(message);
    let head = (content.len() as u32).to_le_bytes();
    [&[1], &head[..3], &content].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let [role, rules, bytes @ ..] = bytes else { return };
    let (rules, bytes) = bytes.split_at(usize::from(*rules).min(bytes.len()));
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
    fs::create_dir_all(inside.join("dir")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), b"secret").unwrap();
    fs::write(inside.join("file"), [7; 5000]).unwrap();
    fs::write(inside.join("dir/other"), b"other").unwrap();
    symlink(&outside, inside.join("link")).unwrap();

    let mut options = Options { delete: Delete::EvenAll, hard_links: true, ..Options::archive() };
    options.partial = role & 8 != 0;
    options.dry_run = role & 16 != 0;
    options.checksum = role & 32 != 0;
    // What is no rule is refused, which is all that is wanted of it.
    let _refused = options.filters.exclude_from(rules).is_err();

    let link = Link {
        reader: Box::new(Cursor::new(wire(bytes))),
        writer: Box::new(std::io::sink()),
        close: Box::new(|| {}),
    };
    let local = |path| Local { base: Base::Own, path, watcher: &|_| {}, silence: Some(Duration::from_secs(5)) };
    let path = [inside.as_os_str().as_bytes(), b"/"].concat();
    let result = match role & 3 {
        0 => pull(local(&path), b"x/", &options, link),
        1 => push(local(&path), b"x", &options, link),
        _ => serve(Base::Within(fs::File::open(&inside).unwrap().into()), Policy::default(), &|_| {}, link),
    };
    drop(result);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
});
