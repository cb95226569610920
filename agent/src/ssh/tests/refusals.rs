//! What is refused, and what is too much.

use super::{Child, Server, text};
use std::process::Stdio;

#[test]
fn what_is_not_forwarded_is_refused_with_a_message() {
    let server = Server::start();
    for (options, message) in [
        (&["-R", "0:127.0.0.1:9"][..], "cannot be forwarded to your machine"),
        (&["-R", "/tmp/skpr-no.sock:127.0.0.1:9"][..], "cannot be forwarded to your machine"),
    ] {
        let done = server.run(options, &["true"]);
        assert!(text(&done.stderr).contains(message), "{options:?}: {}", text(&done.stderr));
        assert_eq!(done.status.code(), Some(0));
    }
    // Nothing serves files here.
    let files = server.run(&["-s"], &["sftp"]);
    assert_eq!(files.status.code(), Some(127));
    assert!(text(&files.stderr).contains("files are not served"), "{}", text(&files.stderr));
    assert_ne!(server.run(&["-s"], &["other"]).status.code(), Some(0));
}

#[test]
fn instances_of_this_machine_run_as_one_user() {
    let server = Server::start();
    let own = text(&std::process::Command::new("id").arg("-u").output().unwrap().stdout).trim().to_owned();
    for user in ["skpr", &own] {
        let done = server.run(&["-o", &format!("User={user}")], &["id", "-u"]);
        assert_eq!(text(&done.stdout).trim(), own, "{user}: {}", text(&done.stderr));
    }
    for user in ["no-such-user", "4242", "4294967295"] {
        for (options, command) in [(&[][..], "id"), (&["-s"], "sftp")] {
            let login = format!("User={user}");
            let done = server.run(&[&["-o", &login], options].concat(), &[command]);
            let said = text(&done.stderr);
            assert!(said.contains(&format!("nothing in them as `{user}`")), "{said}");
            assert_eq!((done.status.code(), text(&done.stdout)), (Some(126), String::new()));
        }
    }
}

/// Case 41.
#[test]
fn ten_channels_are_served_and_the_eleventh_is_refused() {
    let server = Server::start();
    let _master = server.master();
    let mut clients: Vec<Child> = (0..super::super::CHANNELS)
        .map(|_| {
            let mut client = server.shared(&["echo here; exec sleep 66.5"]);
            let mut client = client.stdout(Stdio::piped()).spawn().map(Child).unwrap();
            let mut here = [0; 5];
            std::io::Read::read_exact(client.0.stdout.as_mut().unwrap(), &mut here).unwrap();
            client
        })
        .collect();
    // OpenSSH says so, and opens a connection of its own then.
    let refused = || text(&server.shared(&["true"]).output().unwrap().stderr).contains("refused");
    assert!(refused());
    clients.pop();
    super::until("a place is free again", || !refused());
}
