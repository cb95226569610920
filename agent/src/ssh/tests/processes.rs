//! How processes begin, are talked to and end.

use super::{Child, Server, runs, text, until};
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn exit_codes_come_back_unchanged_and_a_signal_is_told() {
    let server = Server::start();
    for code in [0, 1, 42, 127, 255] {
        let done = server.run(&[], &[&format!("exit {code}")]);
        assert_eq!(done.status.code(), Some(code));
    }
    assert_eq!(server.run(&[], &["no-such-program"]).status.code(), Some(127));
    // OpenSSH says 255 for what a signal has ended.
    let killed = server.run(&["-v"], &["kill -TERM $$"]);
    assert_eq!(killed.status.code(), Some(255));
    assert!(text(&killed.stderr).contains("exit-signal"), "{}", text(&killed.stderr));
}

#[test]
fn a_process_has_the_instance_s_variables_and_directory_and_its_streams_apart() {
    let server = Server::start();
    let done = server.run(
        &["-o", "SetEnv=LC_TIME=C LD_PRELOAD=/x.so FOO=bar"],
        &["echo $SITE-$LC_TIME-$LD_PRELOAD-$FOO; pwd; echo no >&2"],
    );
    let place = server.directory.path().canonicalize().unwrap();
    assert_eq!(text(&done.stdout), format!("of the instance-C--\n{}\n", place.display()));
    assert_eq!(text(&done.stderr), "no\n");
}

#[test]
fn without_a_terminal_bytes_pass_unchanged_both_ways() {
    let server = Server::start();
    let mut cat = server.ssh(&["-T"], &["cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Child).unwrap();
    let bytes: Vec<u8> = (0..16_u32 << 20).map(|at| (at ^ (at >> 8)) as u8).collect();
    let mut input = cat.0.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut got = Vec::new();
    cat.0.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == bytes, "{} bytes", got.len());
    assert_eq!(cat.0.wait().unwrap().code(), Some(0));
}

/// Case 31.
#[test]
fn a_slow_reader_gets_all_of_it_and_the_exit_code() {
    let server = Server::start();
    let mut count = server.ssh(&[], &["seq 2000000; exit 9"]);
    let mut count = count.stdout(Stdio::piped()).spawn().map(Child).unwrap();
    let mut out = count.0.stdout.take().unwrap();
    let mut first = [0; 8];
    out.read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_secs(7));
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert!(text(&rest).ends_with("1999999\n2000000\n"));
    assert_eq!(
        first.len() + rest.len(),
        (1..=2_000_000).map(|n: u32| n.to_string().len() + 1).sum::<usize>()
    );
    assert_eq!(count.0.wait().unwrap().code(), Some(9));
}

/// Case 32.
#[test]
fn what_a_process_leaves_behind_does_not_keep_its_client() {
    let server = Server::start();
    let begun = Instant::now();
    let done = server.run(&[], &["sleep 61.5 & echo $!; exit 3"]);
    assert_eq!(done.status.code(), Some(3));
    let left = text(&done.stdout).trim().parse::<i32>().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(runs("sleep 61.5"), "it goes on, as with sshd");
    // One that writes on and on is listened to no longer than five seconds.
    let begun = Instant::now();
    let done = server.run(&[], &["(while :; do echo more; sleep 0.13; done) & exit 4"]);
    assert_eq!(done.status.code(), Some(4));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    until("nobody reads what it says, which ends it", || !runs("sleep 0.13"));
    let left = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

/// Case 38, and that of a window that is closed.
#[test]
fn a_client_that_vanishes_leaves_no_process_however_stubborn() {
    let server = Server::start();
    let stubborn = "trap '' HUP TERM; sh -c \"trap '' HUP TERM; while :; do sleep 0.17; done\" & while :; do sleep 0.17; done";
    for (options, command, mark, within) in [
        (&["-T"][..], "sleep 62.5", "sleep 62.5", 4),
        (&["-tt"][..], "sleep 63.5", "sleep 63.5", 4),
        (&["-T"][..], stubborn, "sleep 0.17", 15),
    ] {
        let mut client = server.ssh(options, &[command]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map(Child).unwrap();
        until("it runs", || runs(mark));
        let begun = Instant::now();
        drop(client);
        until("it is gone", || !runs(mark));
        assert!(begun.elapsed() < Duration::from_secs(within), "{mark}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_server_that_is_dropped_leaves_no_process() {
    let server = Server::start();
    let mut client = server.ssh(&["-T"], &["sleep 67.5; true"]);
    let _client = client.spawn().map(Child).unwrap();
    until("it runs", || runs("sleep 67.5"));
    drop(server);
    until("it is gone", || !runs("sleep 67.5"));
}

#[test]
fn a_terminal_has_its_size_and_ends_what_it_runs_by_its_keys() {
    let server = Server::start();
    // Case 36: a client whose own input is no terminal sends the size 0 0.
    let done = server.run(&["-tt"], &["stty size; tty; echo $TERM; exit 5"]);
    let said = text(&done.stdout);
    assert!(said.starts_with("24 80\r\n/dev/pts/"), "{said}");
    assert_eq!(done.status.code(), Some(5));
    let mut client = server.ssh(&["-tt"], &["echo here; sleep 64.5; echo after"]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Child).unwrap();
    // Before that the terminal may be nobody's, and a key goes to nobody.
    client.0.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    let mut keys = client.0.stdin.take().unwrap();
    keys.write_all(&[3]).unwrap();
    until("Ctrl-C has ended it", || client.0.try_wait().unwrap().is_some());
    assert!(!runs("sleep 64.5"));
}

#[test]
fn a_connection_that_runs_nothing_ends_with_the_instance_too() {
    let server = Server::start();
    let mut client = server.ssh(&["-N"], &[]);
    let mut client = client.stderr(Stdio::piped()).spawn().map(Child).unwrap();
    server.instances.send_modify(|all| all.clear());
    until("the client is told", || client.0.try_wait().unwrap().is_some());
    let mut said = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the instance has ended"), "{said}");
}

#[test]
fn an_instance_that_ends_takes_its_sessions_with_it_and_says_so() {
    let server = Server::start();
    let mut client = server.ssh(&["-T"], &["sleep 65.5"]);
    let mut client = client.stderr(Stdio::piped()).spawn().map(Child).unwrap();
    until("it runs", || runs("sleep 65.5"));
    server.instances.send_modify(|all| all.clear());
    until("the client is told", || client.0.try_wait().unwrap().is_some());
    let mut said = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the instance has ended"), "{said}");
    let after = server.run(&[], &["true"]);
    assert_eq!(after.status.code(), Some(255));
    assert!(text(&after.stderr).contains("not there any more"), "{}", text(&after.stderr));
}
