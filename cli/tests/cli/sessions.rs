//! `shell`, `exec`, `forward` and what leads stock `ssh` to them, as far as that goes without an agent.

use crate::fake::{Fake, Script, State};
use crate::names::summary;
use crate::{Home, run};
use skpr_proto::{ErrorKind, Failure};
use std::net::TcpListener;

/// What leads to an instance, and needs one.
const VERBS: [&[&str]; 4] = [
    &["shell", "dev"],
    &["exec", "dev", "--", "true"],
    &["forward", "dev", "0:80"],
    &["ssh-proxy", "dev.shop.skpr"],
];

/// 255 stands for a connection that broke, and for nothing else that is known.
#[test]
fn where_nothing_was_started_the_exit_code_is_that_of_every_command() {
    let home = Home::new();
    for verb in VERBS {
        let fake = Fake::scripted(Script::default());
        for (kind, code) in [
            (ErrorKind::Unavailable, 1),
            (ErrorKind::NotFound, 3),
            (ErrorKind::NotAllowed, 4),
            (ErrorKind::NotLoggedIn, 4),
            (ErrorKind::TimedOut, 7),
        ] {
            fake.script().refusals.insert("open", [Failure::new(kind, "no, for a reason")].into());
            let shown = run(&mut home.with(&fake, verb), None);
            assert!(shown.starts_with(&format!("exit {code}\n")), "{verb:?} {kind:?}: {shown}");
            assert!(shown.contains("error: no, for a reason\n"), "{shown}");
        }
        // The link is cut before there is an answer.
        let shown = run(&mut home.with(&fake, verb), None);
        assert!(shown.starts_with("exit 255\n") && shown.contains("was lost\n"), "{verb:?}: {shown}");
        let mut command = home.with(&fake, verb);
        drop(fake);
        let shown = run(&mut command, None);
        assert!(shown.starts_with("exit 255\n") && shown.contains("nothing listens there"), "{shown}");
        // Nothing was asked at all.
        let shown = run(home.skpr(verb).env("SKPR_PROJECT", "shop"), None);
        assert!(shown.starts_with("exit 4\n") && shown.contains("not logged in to any cluster"), "{shown}");
    }
    for wrong in [
        &["exec", "dev"][..],
        &["shell", "dev", "-t", "-T"],
        &["forward", "dev", "80"],
        &["ssh-proxy", "dev.example.com"],
    ] {
        let shown = run(home.skpr(wrong).env("SKPR_PROJECT", "shop"), None);
        assert!(shown.starts_with("exit 2\n"), "{wrong:?}: {shown}");
    }
}

#[test]
fn a_busy_port_is_said_with_the_way_out() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let home = Home::new();
    let shown = run(&mut home.skpr(&["forward", "shop/dev", &format!("{port}:db:3306")]), None);
    assert!(shown.starts_with("exit 1\n"), "{shown}");
    assert!(shown.contains(&format!("error: port {port} of this machine is another program's already\n")));
    assert!(shown.ends_with("or 0 for one that is free: skpr forward shop/dev 0:db:3306\n"), "{shown}");
}

#[test]
fn ssh_config_says_what_is_still_to_be_done() {
    let (home, fake) = (Home::new(), Fake::scripted(Script::default()));
    let install = ["ssh-config", "--install", "--project", "shop"];
    let shown = run(&mut home.with(&fake, &install), Some(&fake));
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    assert!(shown.contains("works where SKPR_CA and SKPR_TOKEN are set as they are here"), "{shown}");
    assert!(shown.ends_with("hint: skpr login CLUSTER, so that it works everywhere\n"), "{shown}");
    let mut command = home.with(&fake, &install);
    let shown = run(command.env_remove("SKPR_TOKEN"), Some(&fake));
    assert!(shown.contains("works once you are logged in to `CLUSTER`, which you are not\n"), "{shown}");
    let mut login = home.with(&fake, &["login", &fake.address.to_string()]);
    assert!(run(&mut login, Some(&fake)).starts_with("exit 0\n"));
    let mut command = home.with(&fake, &install);
    let shown = run(command.env_remove("SKPR_TOKEN").env_remove("SKPR_CA"), Some(&fake));
    assert!(shown.ends_with("ssh ENV.shop.skpr works now, for each environment of `shop`\n"), "{shown}");
}

#[test]
fn a_hint_is_about_the_project_that_was_asked_for() {
    let home = Home::new();
    let environments = vec![summary("shop", "dev", false, 1), summary("blog", "live", true, 1)];
    let fake = Fake::start(State { environments, ..State::default() });
    let refused = |environment: &str| {
        let failure = Failure::new(ErrorKind::NotAllowed, "no such environment").with_hint("skpr list");
        fake.script().refusals.insert("open", [failure].into());
        let shown = run(&mut home.with(&fake, &["exec", environment, "--", "true"]), None);
        shown.lines().last().unwrap().to_owned()
    };
    assert_eq!(refused("production"), "hint: skpr list");
    assert_eq!(refused("blog/production"), "hint: skpr list --project blog");
    assert!(refused("blog/liv").starts_with("hint: did you mean `blog/live`?"));
    // One letter away, and another project's.
    assert_eq!(refused("blog/dev"), "hint: skpr list --project blog");
    assert!(refused("shob/dev").starts_with("hint: did you mean `shop/dev`?"));
}

#[test]
fn help_of_sessions_says_what_a_stranger_asks() {
    let home = Home::new();
    for (verb, words) in [
        ("shell", &["--terminal", "--no-terminal", "Exit codes:", "Ctrl-D ends it"][..]),
        ("exec", &["<PROGRAM>...", "--terminal", "Exit codes:", "no shell reads them"]),
        ("forward", &["0:80 -o json", "127.0.0.1", "until Ctrl-C"]),
        ("ssh-config", &["--install", "OpenSSH 8.4", "skpr login"]),
        ("ssh-proxy", &["ENV.PROJECT.skpr", "ProxyCommand"]),
    ] {
        let shown = run(&mut home.skpr(&[verb, "--help"]), None);
        // However it is broken into lines.
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(shown.contains(word), "{verb}, {word}: {shown}");
        }
        let (own, every) = shown.split_once("Options of every command:").unwrap();
        assert!(!own.contains("--cluster <") && every.contains("--cluster <"), "{shown}");
    }
}

/// What Rust's programs ignore is not to be ignored by what they start.
#[cfg(target_os = "linux")]
#[test]
fn what_skpr_starts_ignores_no_signal_that_skpr_does_not_want() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    home.write(".skpr.yml", "project: shop\nenvironments: {dev: {}}\n");
    let git = home.write(
        "git",
        "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done </proc/self/status >signals\nexit 1\n",
    );
    std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut skpr = home.skpr(&["deploy", "dev"]);
    run(skpr.env("PATH", git.parent().unwrap()).env("SKPR_CLUSTER", "127.0.0.1:1"), None);
    let status = std::fs::read_to_string(git.with_file_name("signals")).unwrap();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let (interrupt, pipe) = (1 << (2 - 1), 1 << (13 - 1));
    assert_eq!(set("SigBlk:"), 0, "{status}");
    assert_eq!(set("SigIgn:") & (interrupt | pipe), 0, "{status}");
}
