//! A receiver with a sender that lies.

use super::peer::{Peer, file, hash, pulled, pulled_as, refused};
use crate::entry::{Entry, EntryCodec, Kind, Time};
use crate::error::{Code, Error};
use crate::message::{Attributes, Either, Failure, Gap, MOST_TOLD, ToReceiver, ToSender};
use crate::name::TreePath;
use crate::options::Options;
use crate::stats::Totals;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn told() -> ToReceiver {
    ToReceiver::Told { complete: true, totals: Totals::default() }
}

/// Everything below the destination, by name.
fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn options() -> Options {
    Options { times: true, links: true, ..Options::default() }
}

/// Whatever the sender does here, it is found out, and nothing is left of it.
#[track_caller]
fn found_out(what: &str, theirs: impl FnOnce(&mut Peer) + Send) {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("base"), vec![1; 4000]).unwrap();
    refused(pulled(root.path(), &options(), theirs), what);
    assert_eq!(names(root.path()), ["base"], "{what}");
    assert_eq!(fs::read(root.path().join("base")).unwrap(), vec![1; 4000]);
}

/// A file that the receiver has asked for a delta of.
fn asked(peer: &mut Peer) {
    peer.source();
    peer.entries("", &[file("base", 3000)], true);
    peer.wait_for(|message| matches!(message, ToSender::Sums { number: 0, .. }));
    peer.say(&ToReceiver::File { number: 0, size: 3000, modified: Time::default() });
}

#[test]
fn copies_and_lengths_beyond_what_there_is() {
    for (from, length) in
        [(4000, 1), (3999, 2), (0, 4001), (i64::MAX as u64, 1), (0, 3001), (1, i64::MAX as u64)]
    {
        found_out("copy", |peer| {
            asked(peer);
            peer.say(&ToReceiver::Copy { from, length });
            peer.next();
        });
    }
    found_out("data", |peer| {
        asked(peer);
        peer.say(&ToReceiver::Data(vec![0; 3001]));
        peer.next();
    });
    found_out("zero", |peer| {
        asked(peer);
        peer.say(&ToReceiver::Zero(1 << 40));
        peer.next();
    });
    found_out("too short", |peer| {
        asked(peer);
        peer.say(&ToReceiver::End(hash(&[])));
        peer.next();
    });
    found_out("gap", |peer| {
        asked(peer);
        peer.say(&ToReceiver::AskGaps { number: 0, gaps: vec![Gap { from: 3900, length: 200 }] });
        peer.next();
    });
    found_out("a file in a file", |peer| {
        asked(peer);
        peer.say(&ToReceiver::File { number: 0, size: 1, modified: Time::default() });
        peer.next();
    });
}

#[test]
fn a_forged_match_costs_the_whole_file_and_no_wrong_byte() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("base"), vec![1; 4000]).unwrap();
    let new = vec![2; 3000];
    let theirs = new.clone();
    let summary = pulled(root.path(), &options(), move |peer| {
        asked(peer);
        peer.say(&ToReceiver::Copy { from: 0, length: 3000 });
        peer.say(&ToReceiver::End(hash(&theirs)));
        peer.say(&told());
        peer.wait_for(|message| *message == ToSender::WantWhole(0));
        peer.say(&ToReceiver::File { number: 0, size: 3000, modified: Time::default() });
        peer.say(&ToReceiver::Data(theirs.clone()));
        peer.say(&ToReceiver::End(hash(&theirs)));
        peer.wait_for(|message| matches!(message, ToSender::Finished(_)));
    });
    assert_eq!(summary.unwrap().code, Code::Done);
    assert_eq!(fs::read(root.path().join("base")).unwrap(), new);
    // And a sender that never gets it right does not get through.
    let summary = pulled(root.path(), &options(), move |peer| {
        peer.source();
        peer.entries("", &[file("new", 10)], true);
        peer.say(&told());
        for _ in 0..4 {
            peer.wait_for(|message| *message == ToSender::WantWhole(0));
            peer.say(&ToReceiver::File { number: 0, size: 10, modified: Time::default() });
            peer.say(&ToReceiver::Data(vec![3; 10]));
            peer.say(&ToReceiver::End(hash(b"something else")));
        }
        peer.wait_for(|message| matches!(message, ToSender::Finished(_)));
    });
    assert_eq!(summary.unwrap().code, Code::Vanished);
    assert_eq!(names(root.path()), ["base"]);
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    found_out("a file's further name without -H", |peer| {
        peer.source();
        let leader = Some(TreePath::new(b"base").unwrap());
        peer.entries("", &[Entry { leader, ..file("other", 4000) }], true);
        peer.wait_for(|_| false);
    });
    found_out("the same as what was only a beginning", |peer| {
        peer.source();
        peer.entries("", &[file("base", 5000)], true);
        peer.wait_for(|message| matches!(message, ToSender::WantTail { number: 0, .. }));
        peer.say(&ToReceiver::Same(0));
        peer.wait_for(|_| false);
    });
    let root = tempfile::tempdir().unwrap();
    let before = fs::metadata(root.path()).unwrap().permissions();
    let named = pulled_as(root.path(), b"/source/file", &Options { perms: true, ..options() }, |peer| {
        let root = Attributes { mode: 0o777, ..Attributes::default() };
        peer.say(&ToReceiver::Source { kind: Kind::Directory, content: true, root });
        peer.say(&told());
        peer.wait_for(|_| false);
    });
    refused(named, "the directory of a file");
    assert_eq!(fs::metadata(root.path()).unwrap().permissions(), before);
}

#[test]
fn set_id_bits_are_not_given_that_were_not_asked_for() {
    for (set_id, expected) in [(false, 0o755), (true, 0o6755)] {
        let root = tempfile::tempdir().unwrap();
        let options = Options { perms: true, set_id, ..options() };
        let done = pulled(root.path(), &options, |peer| {
            peer.source();
            peer.entries("", &[Entry { mode: 0o6755, ..file("tool", 1) }], true);
            peer.say(&told());
            peer.wait_for(|message| *message == ToSender::WantWhole(0));
            peer.say(&ToReceiver::File { number: 0, size: 1, modified: Time::default() });
            peer.say(&ToReceiver::Data(vec![3]));
            peer.say(&ToReceiver::End(hash(&[3])));
            peer.wait_for(|message| matches!(message, ToSender::Finished(_)));
        });
        assert_eq!(done.unwrap().code, Code::Done);
        let mode = fs::metadata(root.path().join("tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, expected, "{set_id}");
    }
}

#[test]
fn lists_that_are_no_lists() {
    found_out("twice", |peer| {
        peer.source();
        peer.entries("", &[file("a", 0), file("a", 0)], true);
        peer.wait_for(|_| false);
    });
    found_out("unsorted", |peer| {
        peer.source();
        peer.entries("", &[file("b", 1), file("a", 1)], true);
        peer.wait_for(|_| false);
    });
    found_out("unsorted over messages", |peer| {
        peer.source();
        peer.entries("", &[file("z", 1)], false);
        peer.more_entries(&[file("y", 1)], true);
        peer.wait_for(|_| false);
    });
    found_out("a directory twice", |peer| {
        peer.source();
        peer.entries("", &[], true);
        peer.entries("", &[], true);
        peer.wait_for(|_| false);
    });
    found_out("entries of nothing", |peer| {
        peer.source();
        peer.more_entries(&[file("a", 1)], true);
        peer.wait_for(|_| false);
    });
    found_out("a file of the engine's own", |peer| {
        peer.source();
        peer.entries("", &[file(".skpr-partial.0123456789abcdef", 1)], true);
        peer.wait_for(|_| false);
    });
    for name in [&b".."[..], b".", b"", b"a/b", b"a\0", &[b'x'; 256]] {
        found_out("a name", |peer| {
            peer.source();
            peer.say(&ToReceiver::Directory(TreePath::root()));
            let mut bytes = vec![0, 0];
            crate::wire::put_bytes(&mut bytes, name);
            bytes.extend([0; 4]);
            peer.say(&ToReceiver::Entries { last: true, bytes });
            peer.wait_for(|_| false);
        });
    }
}

#[test]
fn answers_to_nothing_are_not_taken() {
    found_out("no such number", |peer| {
        peer.source();
        peer.say(&ToReceiver::File { number: 7, size: 1, modified: Time::default() });
        peer.wait_for(|_| false);
    });
    found_out("content of no file", |peer| {
        peer.source();
        peer.say(&ToReceiver::Data(vec![1]));
        peer.wait_for(|_| false);
    });
    found_out("content after a failure", |peer| {
        asked(peer);
        peer.say(&ToReceiver::Failed { number: 0, why: Failure::Vanished });
        peer.say(&ToReceiver::Data(vec![1]));
        peer.wait_for(|_| false);
    });
    found_out("an answer that was given", |peer| {
        asked(peer);
        peer.say(&ToReceiver::Failed { number: 0, why: Failure::Vanished });
        peer.say(&ToReceiver::Same(0));
        peer.wait_for(|_| false);
    });
    found_out("the same, without a base that could be", |peer| {
        peer.source();
        peer.entries("", &[file("base", 3000)], true);
        peer.wait_for(|message| matches!(message, ToSender::Sums { number: 0, .. }));
        peer.say(&ToReceiver::Same(0));
        peer.wait_for(|_| false);
    });
    found_out("entries behind their end", |peer| {
        asked(peer);
        peer.say(&told());
        peer.entries("x", &[], true);
        peer.wait_for(|_| false);
    });
    found_out("a second source", |peer| {
        peer.source();
        peer.source();
    });
    found_out("a message of the other direction", |peer| {
        peer.source();
        peer.ask(&ToSender::WantWhole(0));
        peer.wait_for(|_| false);
    });
}

#[test]
fn only_the_one_name_that_was_asked_for_is_written() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_owned();
    // The path at the other end has no slash.
    let result = super::peer::pulled_as(&path, b"/source", &options(), |peer| {
        peer.source();
        peer.entries("", &[file("other", 1)], true);
        peer.wait_for(|_| false);
    });
    refused(result, "another name");
    assert_eq!(names(root.path()), [""; 0]);
}

#[test]
fn gaps_are_described_once_and_only_of_what_was_described() {
    let gaps = |number| ToReceiver::AskGaps { number, gaps: vec![Gap { from: 0, length: 4000 }] };
    // One of the same size is described; one that has grown is first taken for its beginning.
    for (size, wanted) in [(4000, 1), (5000, 0)] {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("base"), vec![1; 4000]).unwrap();
        let mut answers = 0;
        let result = pulled(root.path(), &options(), |peer| {
            peer.source();
            peer.entries("", &[file("base", size)], true);
            peer.wait_for(|message| matches!(message, ToSender::Sums { .. } | ToSender::WantTail { .. }));
            peer.say(&gaps(0));
            peer.say(&gaps(0));
            while let ToSender::GapSums { .. } =
                peer.wait_for(|message| !matches!(message, ToSender::Sums { .. }))
            {
                answers += 1;
            }
        });
        refused(result, "gaps twice");
        assert_eq!(answers, wanted, "{size}");
    }
}

#[test]
fn more_than_there_is_room_for() {
    found_out("entries", |peer| {
        peer.source();
        peer.say(&ToReceiver::Directory(TreePath::root()));
        // The receiver waits for its files, so it takes nothing meanwhile.
        let many: Vec<Entry> = (0..4000).map(|at| file(&format!("f{at:08}"), 1)).collect();
        for chunk in 0..4 * MOST_TOLD {
            let some: Vec<Entry> = many
                .iter()
                .take(2)
                .map(|entry| Entry {
                    name: crate::Name::new(
                        format!("{chunk:08}{}", crate::escape(entry.name.as_bytes())).as_bytes(),
                    )
                    .unwrap(),
                    kind: Kind::File,
                    ..entry.clone()
                })
                .collect();
            peer.more_entries(&some, false);
        }
        peer.wait_for(|_| false);
    });
}

#[test]
fn an_end_that_gives_up_says_why_and_cannot_drive_the_terminal() {
    let root = tempfile::tempdir().unwrap();
    let result = pulled(root.path(), &options(), |peer| {
        peer.source();
        peer.say(&ToReceiver::Either(Either::Abort {
            code: Code::FileIo,
            text: b"disk \x1b[2J full".to_vec(),
        }));
        peer.next();
    });
    match result {
        Err(Error::Peer { code: Code::FileIo, text }) => assert_eq!(text, r"disk \#033[2J full"),
        other => panic!("{other:?}"),
    }
}

/// Anything that a sender can say, in any order, about few names and numbers.
fn anything() -> impl Strategy<Value = ToReceiver> {
    let length = prop_oneof![1_u64..5000, Just(4000), any::<u32>().prop_map(|length| u64::from(length) + 1)];
    let entries = (any::<bool>(), proptest::collection::btree_map(0_u8..6, (0_u8..7, 0_u64..6000), 0..5))
        .prop_map(|(last, some)| {
            let (mut bytes, mut codec) = (vec![], EntryCodec::default());
            for (name, (kind, size)) in some {
                let kind = Kind::from_number(kind).unwrap();
                let size = if kind == Kind::File { size } else { 0 };
                let target = if kind == Kind::Symlink { b"../../outside".to_vec() } else { vec![] };
                let name = ["base", "dir", "link", "up", "x", "y"][usize::from(name)];
                codec.put(&mut bytes, &Entry { kind, target, mode: 0o755, ..file(name, size) });
            }
            ToReceiver::Entries { last, bytes }
        });
    let path = proptest::sample::select(vec!["", "dir", "dir/base", "link", "up", "x/y"]);
    prop_oneof![
        3 => entries,
        3 => path.prop_map(|path| ToReceiver::Directory(TreePath::new(path.as_bytes()).unwrap())),
        1 => Just(told()),
        3 => (0_u32..8, length.clone()).prop_map(|(number, size)| ToReceiver::File { number, size, modified: Time::default() }),
        2 => (0_u64..5000, length.clone()).prop_map(|(from, length)| ToReceiver::Copy { from, length }),
        2 => (1_usize..5000).prop_map(|length| ToReceiver::Data(vec![5; length])),
        1 => length.prop_map(|length| ToReceiver::Zero(length.min(1 << 24))),
        2 => Just(ToReceiver::End(hash(&[5; 100]))),
        1 => (0_u32..8).prop_map(ToReceiver::Same),
        1 => (0_u32..8).prop_map(ToReceiver::AskSums),
        1 => (0_u32..8).prop_map(|number| ToReceiver::AskGaps { number, gaps: vec![Gap { from: 0, length: 4000 }] }),
        1 => (0_u32..8).prop_map(|number| ToReceiver::Failed { number, why: Failure::Changed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_sender_says_it_ends_and_stays_inside(messages in proptest::collection::vec(anything(), 0..20), delete: bool) {
        let root = tempfile::tempdir().unwrap();
        let (outside, inside) = (root.path().join("outside"), root.path().join("inside"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir_all(inside.join("dir")).unwrap();
        fs::write(outside.join("base"), b"secret").unwrap();
        fs::write(inside.join("base"), vec![1; 4000]).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        let delete = if delete { crate::options::Delete::EvenAll } else { crate::options::Delete::No };
        let options = Options { delete, ..options() };
        // It may even make sense, but most does not.
        let _result = pulled(&inside, &options, |peer| {
            peer.source();
            messages.iter().for_each(|message| peer.say(message));
        });
        prop_assert_eq!(names(root.path()), ["inside", "outside"]);
        prop_assert_eq!(names(&outside), ["base"]);
        prop_assert_eq!(fs::read(outside.join("base")).unwrap(), b"secret");
        prop_assert!(names(&inside).iter().all(|name| !name.contains(".skpr-")));
    }
}
