//! Logging in, out, and what happens without.

use crate::fake::{Authority, Fake, State, TOKEN};
use crate::{Home, mode, run, run_with_stdin};

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
    NAME  CLUSTER  GROUPS
    dana  CLUSTER  developers, oncall
    --- stderr
    ");
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
    assert!(
        shown.starts_with("exit 1\n--- stdout\n--- stderr\nerror: cannot connect to `CLUSTER`\n"),
        "{shown}"
    );
    assert!(shown.contains("not from the CA that was pinned"), "{shown}");
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
    error: cannot connect to `CLUSTER`
      caused by: open a TCP connection
      caused by: Connection refused (os error 111)
    hint: nothing listens there: check the port, and that the aggregator runs
    ");
    let shown = run(home.with(&fake, &["list"]).env("SKPR_CLUSTER", "no-such-host.invalid"), None);
    assert!(shown.starts_with("exit 1\n") && shown.contains("check the cluster's name"), "{shown}");
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
