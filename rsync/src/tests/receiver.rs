//! A sender with a receiver that lies.

use super::peer::{Peer, pushed, refused};
use crate::content::ContentHash;
use crate::digest::{self, Digester};
use crate::message::{ToReceiver, ToSender};
use crate::name::TreePath;
use crate::options::Options;
use crate::signature::{self, Shape};
use crate::stats::Received;
use std::fs;

/// Whatever the receiver does here, it is found out.
#[track_caller]
fn found_out(what: &str, theirs: impl FnOnce(&mut Peer) + Send) {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b", "secret"] {
        fs::write(root.path().join(name), vec![1; 4000]).unwrap();
    }
    let mut options = Options::archive();
    options.filters.exclude(b"secret").unwrap();
    refused(pushed(root.path(), &options, theirs), what);
}

fn begin(peer: &mut Peer) {
    peer.ask(&ToSender::Begin { shown: None, owner: false, group: false });
    peer.ask(&ToSender::DigestsEnd);
    peer.wait_for_sender(|message| matches!(message, ToReceiver::Told { .. }));
}

/// Nothing of what comes is the content of a file.
fn end(peer: &mut Peer) {
    while let Some(message) = peer.next() {
        let message = ToReceiver::decode(&message).unwrap();
        assert!(!matches!(message, ToReceiver::File { .. } | ToReceiver::Data(_)), "{message:?}");
    }
}

#[test]
fn only_files_that_were_told_are_sent() {
    for number in [2, 3, 1000, u32::MAX] {
        found_out("a number that was not told", |peer| {
            begin(peer);
            peer.ask(&ToSender::WantWhole(number));
            end(peer);
        });
    }
    found_out("a file that was passed over", |peer| {
        begin(peer);
        peer.ask(&ToSender::Taken(3));
        peer.ask(&ToSender::WantWhole(0));
        end(peer);
    });
    found_out("more is taken than was told", |peer| {
        begin(peer);
        peer.ask(&ToSender::Taken(1000));
        end(peer);
    });
}

#[test]
fn sums_that_do_not_fit_their_announcement() {
    let shape = Shape::of_file(4000).unwrap();
    let size = usize::try_from(shape.size()).unwrap();
    found_out("too many", |peer| {
        begin(peer);
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        peer.ask(&ToSender::Sums { number: 0, bytes: vec![0; size + 1] });
        end(peer);
    });
    found_out("not announced", |peer| {
        begin(peer);
        peer.ask(&ToSender::Sums { number: 0, bytes: vec![0; 7] });
        end(peer);
    });
    found_out("of gaps that were not asked about", |peer| {
        begin(peer);
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        peer.ask(&ToSender::GapSums { number: 0, bytes: vec![0; 7] });
        end(peer);
    });
    found_out("an announcement twice", |peer| {
        begin(peer);
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        end(peer);
    });
}

#[test]
fn blocks_longer_than_the_file_are_looked_for_in_vain() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a"), vec![1; 10 << 20]).unwrap();
    let mut ended = false;
    let result = pushed(root.path(), &Options::archive(), |peer| {
        begin(peer);
        let shape = Shape { length: 40 << 20, block: 16 << 20, strong: 4 };
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        peer.ask(&ToSender::Sums { number: 0, bytes: vec![9; usize::try_from(shape.size()).unwrap()] });
        let end = peer.wait_for_sender(|message| matches!(message, ToReceiver::End(_)));
        ended = matches!(end, ToReceiver::End(_));
    });
    assert!(ended, "{result:?}");
}

/// Its sums are asked for while it is still searched, and the answer to that is on its way when it fails.
#[test]
fn a_long_file_that_shrinks_while_it_is_searched_fails_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a");
    let mut content = noise(96 << 20);
    let shape = Shape::of_file(content.len() as u64).unwrap();
    let sums = signature::sums(&content, shape.block, shape.strong);
    for at in (1 << 20..content.len()).step_by(3 << 20) {
        content[at] ^= 1;
    }
    fs::write(&path, &content).unwrap();
    fs::write(root.path().join("b"), b"b").unwrap();
    let mut heard = vec![];
    let result = pushed(root.path(), &Options::archive(), |peer| {
        begin(peer);
        peer.ask(&ToSender::WantDelta { number: 0, shape });
        for part in sums.chunks(60_000) {
            peer.ask(&ToSender::Sums { number: 0, bytes: part.to_vec() });
        }
        let asked = peer.wait_for_sender(|message| matches!(message, ToReceiver::AskGaps { .. }));
        let ToReceiver::AskGaps { gaps, .. } = asked else { return };
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
        let size = gaps.iter().map(|gap| Shape::of_gap(gap.length).size()).sum::<u64>();
        for part in vec![0; usize::try_from(size).unwrap()].chunks(60_000) {
            peer.ask(&ToSender::GapSums { number: 0, bytes: part.to_vec() });
        }
        peer.ask(&ToSender::WantWhole(1));
        let failed = |message: &ToReceiver| matches!(message, ToReceiver::Failed { number: 0, .. });
        heard.push(peer.wait_for_sender(failed));
        heard.push(peer.wait_for_sender(|message| matches!(message, ToReceiver::End(_))));
        peer.ask(&ToSender::Finished(Received::default()));
        while peer.next().is_some() {}
    });
    assert!(matches!(heard[..], [ToReceiver::Failed { .. }, ToReceiver::End(_)]), "{heard:?}");
    result.unwrap();
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_file_that_is_asked_for_while_it_is_open() {
    let root = tempfile::tempdir().unwrap();
    for at in 0..4000 {
        fs::write(root.path().join(format!("f{at:05}")), b"x").unwrap();
    }
    let result = pushed(root.path(), &Options::archive(), |peer| {
        begin(peer);
        // Announced and never sent: they stay open.
        for number in 0..4000 {
            peer.ask(&ToSender::WantDelta { number, shape: Shape::of_file(1000).unwrap() });
        }
        for number in 0..4000 {
            peer.ask(&ToSender::WantRest { number, length: 1, hash: ContentHash([0; 16]) });
        }
        end(peer);
    });
    refused(result, "asked for twice");
}

#[test]
fn digests_out_of_order_are_found_out() {
    found_out("digests", |peer| {
        peer.ask(&ToSender::Begin { shown: None, owner: false, group: false });
        let mut bytes = vec![];
        for path in ["", "b", "a"] {
            digest::put(
                &mut bytes,
                &TreePath::new(path.as_bytes()).unwrap(),
                Digester::new(&[0; 32]).finish(),
            );
        }
        peer.ask(&ToSender::Digests(bytes));
        peer.ask(&ToSender::DigestsEnd);
        // The root comes before all; the others would only be compared with directories that there are not.
        peer.ask(&ToSender::Digests(vec![9; 10]));
        end(peer);
    });
}

#[test]
fn an_end_that_comes_too_early_ends_the_transfer_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a"), b"x").unwrap();
    let result = pushed(root.path(), &Options::archive(), |peer| {
        peer.ask(&ToSender::Finished(Received::default()));
        while peer.next().is_some() {}
    });
    // It may have been told all by then or not; either way it has done nothing but read.
    drop(result);
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"x");
}
