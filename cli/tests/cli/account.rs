//! Logging in, out, and what happens without.

use crate::fake::{Authority, Fake, State, TOKEN};
use crate::{Home, mode, run, run_with_stdin};
use std::io::{Read as _, Write as _};

fn fingerprint(refusal: &str) -> String {
    let start = refusal.find("--fingerprint ").unwrap() + "--fingerprint ".len();
    refusal[start..].split(' ').next().unwrap().to_owned()
}

#[test]
fn a_login_with_a_ca_file_is_used_from_then_on() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let cluster = fake.address.to_string();
    let ca = home.write("ca.pem", &fake.ca_pem);
    let login = ["login", &cluster, "--ca", ca.to_str().unwrap(), "--token-stdin"];
    let shown = run_with_stdin(&mut home.skpr(&login), &format!("{TOKEN}\n"), &fake);
    insta::assert_snapshot!(shown, @r"
    exit 0
    --- stdout
    --- stderr
    logged in to CLUSTER as dana
    ");
    assert_eq!((mode(&home.config()), mode(&home.config().join("credentials.json"))), (0o700, 0o600));
    insta::assert_snapshot!(run(&mut home.skpr(&["whoami"]), Some(&fake)).replace(&" ".repeat(cluster.len() - 5), "  "), @r"
    exit 0
    --- stdout
    NAME  CLUSTER  GROUPS      RIGHTS
    dana  CLUSTER  developers, oncall  as RBAC says: kubectl auth can-i --list
    --- stderr
    ");
    fake.state.lock().unwrap().rights = vec!["shop/dev:logs".into(), "blog/*:list+logs\u{1b}[2J".into()];
    let shown = run(&mut home.skpr(&["whoami"]), Some(&fake));
    assert!(shown.contains("  shop/dev:logs, blog/*:list+logs^[[2J\n"), "{shown}");
    insta::assert_snapshot!(run(&mut home.skpr(&["whoami", "-o", "json"]), Some(&fake)), @r#"
    exit 0
    --- stdout
    {
      "name": "dana",
      "groups": [
        "developers",
        "oncall"
      ],
      "cluster": "CLUSTER",
      "rights": [
        "shop/dev:logs",
        "blog/*:list+logs^[[2J"
      ]
    }
    --- stderr
    "#);
    insta::assert_snapshot!(run(&mut home.skpr(&["version", "-v", "-o", "json"]), Some(&fake)), @r#"
    exit 0
    --- stdout
    {
      "version": "0.1.0",
      "server_version": "9.9.9"
    }
    --- stderr
    "#);
    insta::assert_snapshot!(run(&mut home.skpr(&["logout"]), Some(&fake)), @r"
    exit 0
    --- stdout
    --- stderr
    logged out of CLUSTER
    ");
    insta::assert_snapshot!(run(&mut home.skpr(&["whoami"]), Some(&fake)), @r"
    exit 4
    --- stdout
    --- stderr
    error: not logged in to any cluster
    hint: skpr login CLUSTER
    ");
}

#[test]
fn an_unknown_ca_is_pinned_only_by_its_fingerprint() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let cluster = fake.address.to_string();
    let refused = run_with_stdin(&mut home.skpr(&["login", &cluster, "--token-stdin"]), TOKEN, &fake);
    assert!(refused.starts_with("exit 2\n"), "{refused}");
    let right = fingerprint(&refused);
    let wrong = right.replace('A', "B").replace('1', "2");
    let shown = run_with_stdin(
        &mut home.skpr(&["login", &cluster, "--token-stdin", "--fingerprint", &wrong]),
        TOKEN,
        &fake,
    );
    assert!(shown.starts_with("exit 1\n") && shown.contains("do not go on"), "{shown}");
    assert!(!home.config().join("credentials.json").exists());
    let shown = run_with_stdin(
        &mut home.skpr(&["login", &cluster, "--token-stdin", "--fingerprint", &right]),
        TOKEN,
        &fake,
    );
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    assert!(run(&mut home.skpr(&["whoami", "-o", "name"]), None).contains("\ndana\n"));
    // The CA is known now: a new token needs no question.
    let shown = run_with_stdin(&mut home.skpr(&["login", &cluster, "--token-stdin"]), TOKEN, &fake);
    assert!(shown.starts_with("exit 0\n"), "{shown}");
}

#[test]
fn a_token_that_the_cluster_refuses_is_not_stored() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let cluster = fake.address.to_string();
    let ca = home.write("ca.pem", &fake.ca_pem);
    let login = ["login", &cluster, "--ca", ca.to_str().unwrap(), "--token-stdin"];
    insta::assert_snapshot!(run_with_stdin(&mut home.skpr(&login), "old", &fake), @r"
    exit 4
    --- stdout
    --- stderr
    error: the token has expired
    hint: get a fresh token; in Kubernetes: kubectl create token NAME --audience skpr
    ");
    assert!(!home.config().exists());
    let shown = run_with_stdin(&mut home.skpr(&login), "sec ret", &fake);
    assert!(shown.starts_with("exit 2\n") && !shown.contains("sec ret"), "{shown}");
}

#[test]
fn an_expired_token_says_how_to_go_on() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    insta::assert_snapshot!(run(home.with(&fake, &["list"]).env("SKPR_TOKEN", "old"), Some(&fake)), @r"
    exit 4
    --- stdout
    --- stderr
    error: the token has expired
    hint: skpr login CLUSTER
    ");
    insta::assert_snapshot!(run(home.with(&fake, &["list", "-o", "json"]).env("SKPR_TOKEN", "old"), Some(&fake)), @r#"
    exit 4
    --- stdout
    --- stderr
    {"error":{"kind":"not-logged-in","message":"the token has expired","hint":"skpr login CLUSTER"}}
    "#);
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let other = home.write("other.crt", &Authority::new().pem);
    let shown = run(home.with(&fake, &["list"]).env("SKPR_CA", other), Some(&fake));
    let error = "error: cannot connect to `CLUSTER`: its certificate is not from the CA that is trusted\n";
    assert!(shown.starts_with(&format!("exit 1\n--- stdout\n--- stderr\n{error}hint: ")), "{shown}");
}

#[test]
fn a_certificate_for_another_name_or_time_is_refused() {
    let home = Home::new();
    let fake = Fake::start_as(State::default(), &["elsewhere.example.com"], false);
    let shown = run(&mut home.with(&fake, &["list"]), Some(&fake));
    assert!(shown.starts_with("exit 1\n") && shown.contains("use one of the names"), "{shown}");
    let fake = Fake::start_as(State::default(), &["127.0.0.1"], true);
    let shown = run(&mut home.with(&fake, &["list"]), Some(&fake));
    assert!(shown.starts_with("exit 1\n") && shown.contains("certificate has expired"), "{shown}");
}

#[test]
fn an_address_where_nothing_listens() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let shown = run(home.with(&fake, &["list"]).env("SKPR_CLUSTER", &free), None).replace(&free, "CLUSTER");
    insta::assert_snapshot!(shown, @r"
    exit 1
    --- stdout
    --- stderr
    error: cannot connect to `CLUSTER`: nothing listens there
    hint: check the port, and that the aggregator runs
    ");
    let shown = run(home.with(&fake, &["list"]).env("SKPR_CLUSTER", "no-such-host.invalid"), None);
    assert!(shown.starts_with("exit 1\n") && shown.contains("check the cluster's name"), "{shown}");
    assert!(shown.contains("`no-such-host.invalid:443`: its name is not known\n"), "{shown}");
}

#[test]
fn what_is_no_aggregator_is_said_without_the_words_of_libraries() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    for (said, expected) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "it does not speak TLS"), (b"", "it ends the connection")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 1024];
            drop(stream.read(&mut hello));
            stream.write_all(said).unwrap();
        });
        let shown = run(home.with(&fake, &["list"]).env("SKPR_CLUSTER", &address), None);
        server.join().unwrap();
        let expected = format!("error: cannot connect to `{address}`: {expected}");
        assert!(shown.starts_with("exit 1\n") && shown.contains(&expected), "{shown}");
        assert!(!shown.contains("caused by") && shown.lines().count() == 5, "{shown}");
    }
}

#[test]
fn without_a_login() {
    let home = Home::new();
    insta::assert_snapshot!(run(&mut home.skpr(&["logs", "shop/prod", "-q"]), None), @r"
    exit 4
    --- stdout
    --- stderr
    error: not logged in to any cluster
    hint: skpr login CLUSTER
    ");
    insta::assert_snapshot!(run(&mut home.skpr(&["list", "--cluster", "a.example.com"]), None), @r"
    exit 4
    --- stdout
    --- stderr
    error: not logged in to `a.example.com:443`
    hint: skpr login a.example.com:443
    ");
}

#[test]
fn a_login_file_that_others_can_read_is_refused() {
    let (home, fake) = (Home::new(), Fake::start(State::default()));
    let ca = home.write("ca.pem", &fake.ca_pem);
    let cluster = fake.address.to_string();
    let login = ["login", &cluster, "--ca", ca.to_str().unwrap(), "--token-stdin"];
    run_with_stdin(&mut home.skpr(&login), TOKEN, &fake);
    let file = home.config().join("credentials.json");
    let status = std::process::Command::new("chmod").arg("644").arg(&file).status().unwrap();
    assert!(status.success());
    let shown = run(&mut home.skpr(&["list"]), None);
    assert!(
        shown.starts_with("exit 5\n") && shown.contains("can be read by others\nhint: chmod 600"),
        "{shown}"
    );
}
