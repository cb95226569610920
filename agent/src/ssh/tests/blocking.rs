//! The two cases that decide how russh is used: a channel that is not read, at either end, beside one that is.

use super::{Child, Server, resident, text, until};
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

/// A channel that is opened beside one that is stuck answers as fast as any other.
const AT_ONCE: Duration = Duration::from_secs(10);
/// What other tests of this process may use meanwhile; what flows in the cases below is far more.
const FLAT: u64 = 96 << 20;

/// Case 33.
#[test]
fn a_process_that_does_not_read_its_input_stops_no_other_channel() {
    let server = Server::with_space(192 << 20);
    let _master = server.master();
    let before = resident();
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let mut stuck = server.shared(&["sleep", "600"]);
    let mut stuck = stuck.stdin(zeros).stderr(Stdio::piped()).spawn().map(Child).unwrap();
    for _ in 0..5 {
        let took = server.probe();
        assert!(took < AT_ONCE, "{took:?}");
    }
    // What is sent and never read has an end, and it is that channel's alone.
    until("the channel that is not read ends", || stuck.0.try_wait().unwrap().is_some());
    assert_eq!(stuck.0.wait().unwrap().code(), Some(255));
    let mut said = String::new();
    stuck.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("192 MiB were sent that the process has not read"), "{said}");
    assert!(server.probe() < AT_ONCE);
    let grown = resident().saturating_sub(before);
    assert!(grown < FLAT, "{} MiB more", grown >> 20);
}

/// Case 34.
#[test]
fn a_client_that_does_not_read_stops_no_other_channel_and_costs_no_memory() {
    let server = Server::start();
    let _master = server.master();
    let before = resident();
    let mut endless = server.shared(&["yes"]).stdout(Stdio::piped()).spawn().map(Child).unwrap();
    let mut first = [0; 2];
    endless.0.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\n");
    for _ in 0..5 {
        let took = server.probe();
        assert!(took < AT_ONCE, "{took:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < FLAT, "{} MiB more", grown >> 20);
    // It goes on where it stopped.
    let mut more = vec![0; 8 << 20];
    endless.0.stdout.as_mut().unwrap().read_exact(&mut more).unwrap();
    assert!(more.chunks(2).all(|line| line == b"y\n"));
}

#[test]
fn input_that_is_larger_than_memory_waits_for_a_late_reader_and_arrives_whole() {
    let server = Server::start();
    let mut late = server.ssh(&[], &["sleep 2; sha256sum"]);
    let mut late = late.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Child).unwrap();
    let bytes: Vec<u8> = (0..64_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let expected = sum_of(&bytes);
    let mut input = late.0.stdin.take().unwrap();
    input.write_all(&bytes).unwrap();
    drop(input);
    let mut said = Vec::new();
    late.0.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    assert_eq!(text(&said), expected);
}

/// What `sha256sum` says of bytes, said by itself.
fn sum_of(bytes: &[u8]) -> String {
    let mut sum = std::process::Command::new("sha256sum");
    let mut sum = sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    text(&sum.wait_with_output().unwrap().stdout)
}
