//! The other end is silent, slow, or suddenly gone.

use crate::harness::{
    Done, Trees, WAYS, Way, archive, bytes, content, leftovers, link, noise, policy, trees, whole, write,
};
use skpr_rsync::options::Options;
use skpr_rsync::{Base, Code, Error, Local, pull, push, serve};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
fn a_silent_peer_is_given_up() {
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
fn a_client_that_says_nothing_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let impatient = skpr_rsync::Policy { silence: Some(Duration::from_millis(600)), ..policy() };
    let begun = Instant::now();
    let failed = serve(whole(), impatient, &|_| {}, link(theirs)).unwrap_err();
    assert!(matches!(failed, Error::Timeout(_)), "{failed:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(ours);
}

#[test]
fn a_peer_that_sends_a_byte_now_and_then_is_given_up() {
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
fn a_peer_that_never_reads_is_given_up() {
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
fn a_cut_leaves_old_or_new_and_the_next_transfer_goes_on() {
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
fn what_a_killed_process_left_is_put_away_or_gone_on_with() {
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
