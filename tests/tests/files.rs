//! Files of an instance with stock `sftp` and `scp`, and ports of it with stock `ssh` and `skpr forward`.

use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Running, program};
use skpr_tests::eventually;
use skpr_tests::machine::Machine;
use skpr_tests::numbers::noise;
use skpr_tests::ssh::{HOST, Killed, Ssh};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program of OpenSSH's, in the user's home directory.
fn run(ssh: &Ssh<'_>, name: &str, options: &[&str], words: &[&str], input: &str) -> Result<Output> {
    let config = ssh.config.display().to_string();
    let all = [&["-q", "-F", &config], options, words].concat();
    let mut child = ssh.user.other(name, &all);
    child.current_dir(ssh.user.home()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().with_context(|| format!("run {name}"))?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn stock_sftp_puts_lists_renames_gets_and_removes() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    let home = machine.user.home();
    let bytes = noise(12 << 20);
    std::fs::write(home.join("near"), &bytes)?;
    let batch = "mkdir place\nput -p near place/first\nrename place/first place/second\nls -l place\n\
                 chmod 640 place/second\nget -p place/second back\nln -s second place/link\nls -1 place\n\
                 rm place/link\nrm place/second\nrmdir place\npwd\n";
    std::fs::set_permissions(home.join("near"), PermissionsExt::from_mode(0o600))?;
    let done = run(&ssh, "sftp", &["-b", "-"], &[HOST], batch)?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(std::fs::read(home.join("back"))? == bytes, "it came back another");
    assert_eq!(home.join("back").metadata()?.permissions().mode() & 0o777, 0o640);
    for wanted in ["12582912", "place/link", "place/second", &machine.data().display().to_string()] {
        ensure!(said(&done).contains(wanted), "{wanted}: {}", said(&done));
    }
    // What is not there is said, and ends a batch.
    let missing = run(&ssh, "sftp", &["-b", "-"], &[HOST], "get nothing\n")?;
    ensure!(!missing.status.success() && said(&missing).contains("not found"), "{}", said(&missing));
    Ok(())
}

#[test]
fn stock_scp_copies_a_tree_there_and_back_with_names_that_are_bytes() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    let home = machine.user.home();
    let tree = home.join("tree");
    std::fs::create_dir_all(tree.join("below/deeper"))?;
    let names: [&[u8]; 5] =
        [b"plain", b"with blank", b"umlaut-\xc3\xa4", b"not-utf8-\xff", b"below/deeper/file"];
    for (number, name) in (1_u32..).zip(names) {
        std::fs::write(tree.join(std::ffi::OsStr::from_bytes(name)), noise(number * 70_001))?;
    }
    let there = run(&ssh, "scp", &["-B", "-r"], &["tree", &format!("{HOST}:copy")], "")?;
    ensure!(there.status.success(), "{}", said(&there));
    let back = run(&ssh, "scp", &["-B", "-r"], &[&format!("{HOST}:copy"), "back"], "")?;
    ensure!(back.status.success(), "{}", said(&back));
    for (number, name) in (1_u32..).zip(names) {
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let copied = std::fs::read(home.join("back").join(name));
        ensure!(copied.with_context(|| format!("read {name:?}"))? == noise(number * 70_001), "{name:?}");
    }
    Ok(())
}

/// A server that greets each client at once, says what it is told, and ends as its client does.
fn greeting() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut said = vec![0; 64 << 10];
                let mut all = stream.write_all(b"hello ");
                while let (Ok(()), Ok(length @ 1..)) = (&all, stream.read(&mut said)) {
                    all = stream.write_all(said.get(..length).unwrap_or_default());
                }
            });
        }
    });
    Ok(port)
}

/// The port that `skpr forward` has taken.
fn led(forward: &Running) -> Result<u16> {
    eventually("a port leads there", PATIENCE, || {
        let said = forward.stderr();
        let line = said.lines().find_map(|line| line.split_once(" leads to port"));
        Ok(line.and_then(|(here, _)| here.rsplit(':').next()?.parse().ok()))
    })
}

#[test]
fn a_port_here_leads_to_one_of_the_instance_and_no_reader_stops_another() -> Result<()> {
    let machine = Machine::ready()?;
    let port = greeting()?;
    let leads = format!("0:127.0.0.1:{port}");
    let forward = machine.user.start("skpr", &["forward", "dev", &leads])?;
    let here = led(&forward)?;
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, here));
    // One whose reader stops, with more on its way to it than anybody keeps.
    let mut stopped = connect()?;
    let mut sending = stopped.try_clone()?;
    let flood = std::thread::spawn(move || {
        let bytes = vec![7; 1 << 20];
        while sending.write_all(&bytes).is_ok() {}
    });
    let bytes = noise(8 << 20);
    for _ in 0..4 {
        let mut stream = connect()?;
        let mut sending = stream.try_clone()?;
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || {
            let sent = sending.write_all(&sent);
            sent.and_then(|()| sending.shutdown(std::net::Shutdown::Write))
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        writer.join().ok().context("the writer")??;
        ensure!(got.strip_prefix(b"hello ") == Some(&*bytes), "{} bytes came back", got.len());
    }
    // It goes on where it was.
    let mut first = vec![0; 6 + (16 << 20)];
    stopped.read_exact(&mut first)?;
    ensure!(first.strip_prefix(b"hello ").is_some_and(|rest| rest.iter().all(|byte| *byte == 7)));
    stopped.shutdown(std::net::Shutdown::Both)?;
    drop(stopped);
    drop(flood.join());
    // Nobody there is a connection that ends, and nothing else.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let leads = format!("0:127.0.0.1:{nobody}");
    let dead = machine.user.start("skpr", &["forward", "dev", &leads, "-o", "json"])?;
    let here = led(&dead)?;
    let line = dead.line(PATIENCE, |_| true)?;
    let told: serde_json::Value = serde_json::from_str(&line)?;
    let number = |key: &str| told.get(key).and_then(serde_json::Value::as_u64);
    assert_eq!((number("port"), number("remote_port")), (Some(here.into()), Some(nobody.into())), "{line}");
    for (key, value) in [
        ("address", &*format!("127.0.0.1:{here}")),
        ("project", "shop"),
        ("environment", "dev"),
        ("instance", "shop-dev-r1-0"),
        ("remote_host", "127.0.0.1"),
    ] {
        assert_eq!(told.get(key).and_then(serde_json::Value::as_str), Some(value), "{line}");
    }
    let mut refused = TcpStream::connect((Ipv4Addr::LOCALHOST, here))?;
    ensure!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)));
    eventually("it is said", PATIENCE, || Ok(dead.stderr().contains("hint: check the host").then_some(())))?;
    assert!(
        dead.stderr().contains(&format!("nothing takes connections at port {nobody} of 127.0.0.1 there"))
    );
    assert!(!dead.stderr().contains("ConnectFailed"), "{}", dead.stderr());
    // Without the aggregator it ends, and says so.
    let mut machine = machine;
    machine.end("KILL")?;
    let ended = forward.wait(PATIENCE)?.exit(255)?;
    ensure!(ended.stderr.contains("was lost"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn stock_ssh_leads_to_a_port_of_the_instance() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    let port = greeting()?;
    let mut client = ssh.command(&["-W", &format!("127.0.0.1:{port}")], &[]);
    let mut client = Killed(client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    client.0.stdin.take().context("stdin")?.write_all(b"world")?;
    let mut all = String::new();
    client.0.stdout.take().context("stdout")?.read_to_string(&mut all)?;
    assert_eq!(all, "hello world");
    assert!(client.0.wait()?.success());
    Ok(())
}

#[test]
fn what_a_program_does_not_take_from_skpr_costs_nothing() -> Result<()> {
    let machine = Machine::ready()?;
    let zeros = std::fs::File::open("/dev/zero")?;
    let mut deaf =
        machine.user.other(program("skpr")?, &["exec", "dev", "--", "sh", "-c", "sleep 5; exec sha256sum"]);
    let mut deaf = Killed({ deaf.stdin(Stdio::piped()).stdout(Stdio::piped()) }.spawn()?);
    let mut input = deaf.0.stdin.take().context("stdin")?;
    let bytes = u64::from(96_u32 << 20);
    let writer = std::thread::spawn(move || std::io::copy(&mut zeros.take(bytes), &mut input));
    let mut sum = String::new();
    deaf.0.stdout.take().context("stdout")?.read_to_string(&mut sum)?;
    writer.join().ok().context("the writer")??;
    assert_eq!(deaf.0.wait()?.code(), Some(0));
    let expected =
        std::process::Command::new("sh").args(["-c", "head -c 100663296 /dev/zero | sha256sum"]).output()?;
    assert_eq!(sum, String::from_utf8_lossy(&expected.stdout));
    // One that never takes anything is waited for, and no more is sent to it.
    let zeros = std::fs::File::open("/dev/zero")?;
    let mut never = machine.user.other(program("skpr")?, &["exec", "dev", "--", "sleep", "12"]);
    let mut never = Killed(never.stdin(zeros).spawn()?);
    assert_eq!(never.0.wait()?.code(), Some(0));
    let moved = eventually("the audit has it", PATIENCE, || {
        let lines = machine.said();
        let ended = lines.iter().filter(|line| line.contains(r#""audit":"Sessions.Open""#));
        let last = ended.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).next_back();
        let long = last.filter(|line| {
            line.get("duration_seconds").and_then(serde_json::Value::as_f64).is_some_and(|long| long > 11.0)
        });
        Ok(long.and_then(|line| line.get("bytes")?.as_u64()))
    })?;
    ensure!(moved < 8 << 20, "{moved} bytes were moved");
    Ok(())
}
