//! Ports and sockets of the instance, through stock OpenSSH.

use super::{Child, Server, until};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody listens on.
fn closed() -> u16 {
    listen().1
}

/// A client whose port leads there, and a connection to that.
fn led(server: &Server, there: &str) -> (Child, TcpStream) {
    let port = closed();
    let client =
        server.ssh(&["-N", "-L", &format!("127.0.0.1:{port}:{there}")], &[]).spawn().map(Child).unwrap();
    let mut stream = None;
    until("the port leads there", || {
        stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
        stream.is_some()
    });
    (client, stream.unwrap())
}

/// A server that greets each client at once, and then says what it is told.
fn greeting(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                stream.write_all(b"hello ").unwrap();
                let mut said = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut said) {
                    stream.write_all(&said[..length]).unwrap();
                }
            });
        }
    });
}

/// Case 42.
#[test]
fn what_a_server_says_first_is_not_lost_and_each_way_ends_by_itself() {
    let server = Server::start();
    let (listener, port) = listen();
    greeting(listener);
    let mut client = server.ssh(&["-W", &format!("127.0.0.1:{port}")], &[]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Child).unwrap();
    let mut out = client.0.stdout.take().unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"hello ");
    let mut input = client.0.stdin.take().unwrap();
    input.write_all(b"world").unwrap();
    drop(input);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "world");
    assert!(client.0.wait().unwrap().success());
}

#[test]
fn what_a_client_has_sent_arrives_whole_though_it_has_gone() {
    let server = Server::start();
    let (listener, port) = listen();
    let (go, gone) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        gone.recv_timeout(PATIENCE).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let bytes: Vec<u8> = (0..24_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (_client, mut stream) = led(&server, &format!("127.0.0.1:{port}"));
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // With both ends said, the client closes the channel.
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    go.send(()).unwrap();
    let got = reader.join().unwrap();
    assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
}

/// Case 43.
#[test]
fn what_does_not_answer_is_refused_and_stops_no_other() {
    let server = Server::start();
    let _master = server.master();
    let begun = Instant::now();
    let control = format!("ControlPath={}", server.control().display());
    // An address that is for documentation, and that nobody has.
    let nowhere = ["-o", &control, "-W", "192.0.2.1:80"];
    let mut dead = server.ssh(&nowhere, &[]).stderr(Stdio::null()).spawn().map(Child).unwrap();
    assert!(server.probe() < Duration::from_secs(10));
    let refused = ["-W", &format!("127.0.0.1:{}", closed())];
    assert_ne!(server.run(&refused, &[]).status.code(), Some(0));
    until("what is dead is given up", || dead.0.try_wait().unwrap().is_some());
    assert_ne!(dead.0.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn a_socket_is_dialled_by_its_path() {
    let server = Server::start();
    let place = server.directory.path().join("service.sock");
    let listener = UnixListener::bind(&place).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"here").unwrap();
    });
    let (_client, mut stream) = led(&server, &place.display().to_string());
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "here");
}

/// Case 41, of forwards.
#[test]
fn sixty_four_forwards_are_served_beside_the_sessions_and_no_more() {
    let server = Server::start();
    let (listener, port) = listen();
    greeting(listener);
    let here = closed();
    let local = format!("{here}:127.0.0.1:{port}");
    let control = format!("ControlPath={}", server.control().display());
    let _client = server.ssh(&["-N", "-M", "-o", &control, "-L", &local], &[]).spawn().map(Child).unwrap();
    until("the connection is open", || server.control().exists());
    let greeted = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, here)).ok()?;
        let mut first = [0; 6];
        stream.read_exact(&mut first).ok()?;
        Some(stream)
    };
    let mut streams = Vec::new();
    until("the port leads there", || {
        streams.extend(greeted());
        !streams.is_empty()
    });
    (1..super::super::FORWARDS).for_each(|_| streams.push(greeted().unwrap()));
    assert!(greeted().is_none());
    assert!(server.probe() < Duration::from_secs(10));
    streams.pop();
    until("a place is free again", || greeted().is_some());
}
