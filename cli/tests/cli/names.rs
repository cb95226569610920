//! `list`, completion, help and version.

use crate::fake::{Fake, State};
use crate::{Home, run};
use skpr_proto::v1::{Environment, EnvironmentSummary, Instance};
use std::time::Instant;

pub(crate) fn summary(project: &str, environment: &str, production: bool, ready: u32) -> EnvironmentSummary {
    EnvironmentSummary {
        environment: Some(Environment {
            project: project.into(),
            environment: environment.into(),
            namespace: Some("sites".into()),
        }),
        versions: vec!["1.2.0".into()],
        ready,
        instances: 2,
        minimum: 2,
        maximum: 8,
        production,
        instance: vec![Instance {
            name: "web-1".into(),
            version: "1.2.0".into(),
            ready: true,
            node: "n1".into(),
            ..Instance::default()
        }],
        stale: false,
        ..EnvironmentSummary::default()
    }
}

fn cluster() -> Fake {
    let mut stale = summary("shop", "staging", false, 0);
    stale.stale = true;
    stale.versions.push("1.3.0\u{1b}[2J".into());
    (stale.minimum, stale.maximum) = (0, 0);
    let environments = vec![
        summary("shop", "a-prod", true, 2),
        summary("shop", "dev", false, 1),
        stale,
        summary("blog", "dev", false, 2),
    ];
    Fake::start(State { environments, ..State::default() })
}

#[test]
fn list_for_people() {
    let (home, fake) = (Home::new(), cluster());
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list"]), Some(&fake)), @r"
    exit 0
    --- stdout
    ENVIRONMENT   VERSION            INSTANCES  CPU  MEMORY  LAST DEPLOY  HEALTH
    shop/dev      1.2.0              1/2–8      -    -       -            degraded
    shop/staging  1.2.0, 1.3.0^[[2J  0/2        -    -       -            down (stale)
    shop/a-prod   1.2.0              2/2–8      -    -       -            ok
    --- stderr
    ");
    let shown = run(&mut home.with(&fake, &["list", "--project", "none"]), Some(&fake));
    let note = "no environments of project `none` that you may see; seeing one takes the right `list`, ";
    assert!(shown.contains(note), "{shown}");
}

#[test]
fn environments_of_one_name_are_told_apart_by_their_namespace() {
    let mut foreign = summary("shop", "dev", false, 2);
    foreign.environment.as_mut().unwrap().namespace = Some("mallory".into());
    let environments = vec![summary("shop", "dev", false, 1), foreign];
    let (home, fake) = (Home::new(), Fake::start(State { environments, ..State::default() }));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list"]), Some(&fake)), @r"
    exit 0
    --- stdout
    NAMESPACE  ENVIRONMENT  VERSION  INSTANCES  CPU  MEMORY  LAST DEPLOY  HEALTH
    mallory    shop/dev     1.2.0    2/2–8      -    -       -            ok
    sites      shop/dev     1.2.0    1/2–8      -    -       -            degraded
    --- stderr
    ");
}

#[test]
fn list_for_programs() {
    let (home, fake) = (Home::new(), cluster());
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list", "-o", "name", "--all"]), None), @r"
    exit 0
    --- stdout
    blog/dev
    shop/dev
    shop/staging
    shop/a-prod
    --- stderr
    ");
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list", "-o", "csv"]), None));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list", "-o", "json", "-p", "blog"]), None));
    insta::assert_snapshot!(run(&mut home.with(&fake, &["list", "-o", "yaml", "-p", "blog"]), None));
}

#[test]
fn colours_only_where_they_are_wanted() {
    let (home, fake) = (Home::new(), cluster());
    let coloured = |command: &mut std::process::Command| run(command, None).contains('\x1b');
    assert!(!coloured(&mut home.with(&fake, &["list"])));
    assert!(coloured(&mut home.with(&fake, &["list", "--color", "always"])));
    assert!(coloured(home.with(&fake, &["list"]).env("CLICOLOR_FORCE", "1")));
    assert!(!coloured(home.with(&fake, &["list"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")));
    assert!(!coloured(home.with(&fake, &["list", "--color", "never"]).env("CLICOLOR_FORCE", "1")));
}

#[test]
fn the_project_comes_from_the_nearest_file() {
    let (home, fake) = (Home::new(), cluster());
    home.write(".skpr.yml", "project: blog\nenvironments:\n  dev: {}\n");
    let below = home.0.path().join("web/sites");
    std::fs::create_dir_all(&below).unwrap();
    let mut command = home.with(&fake, &["list", "-o", "name"]);
    let shown = run(command.env_remove("SKPR_PROJECT").current_dir(&below), None);
    assert!(shown.contains("\nblog/dev\n") && !shown.contains("shop"), "{shown}");
    home.write(".skpr.yml", "project: [blog\n");
    let shown = run(home.with(&fake, &["list"]).env_remove("SKPR_PROJECT"), None);
    assert!(shown.starts_with("exit 5\n"), "{shown}");
}

#[test]
fn names_are_completed_from_the_cache() {
    let (home, fake) = (Home::new(), cluster());
    run(&mut home.with(&fake, &["list", "--all"]), None);
    let complete = |words: &[&str], index: &str, cluster: &str| {
        let mut arguments = vec!["--", "skpr"];
        arguments.extend(words);
        let mut command = home.with(&fake, &arguments);
        command
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", index)
            .env("_CLAP_COMPLETE_COMP_TYPE", "9");
        command.env("_CLAP_COMPLETE_SPACE", "true").env("_CLAP_IFS", "\n").env("SKPR_CLUSTER", cluster);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let here = fake.address.to_string();
    let started = Instant::now();
    assert_eq!(
        complete(&["logs", ""], "2", &here).lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>(),
        ["blog/dev", "dev", "staging", "a-prod"]
    );
    // The promise is 50 ms on an idle machine; a busy one must not fail the test, a wait for a network must.
    assert!(started.elapsed().as_secs() < 2);
    assert_eq!(complete(&["logs", "st"], "2", &here).trim(), "staging");
    assert!(complete(&["lo"], "1", &here).contains("logs"));
    // Those of the file, which needs no cluster.
    home.write(".skpr.yml", "project: shop\nenvironments: {qa: {}, live: {}}\n");
    let own = complete(&["config", "show", ""], "3", "192.0.2.1:1");
    assert_eq!(own.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>(), ["live", "qa"]);
    assert!(!complete(&["logs", ""], "2", "192.0.2.1:1").contains("staging"), "names of another cluster");
}

#[test]
fn completion_scripts() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let shown = run(&mut home.skpr(&["completion", shell]), None);
        assert!(shown.starts_with("exit 0\n") && shown.contains("skpr"), "{shown}");
    }
    assert!(run(&mut home.skpr(&["completion", "cmd"]), None).starts_with("exit 2\n"));
}

#[test]
fn help_and_version_need_nothing() {
    let home = Home::new();
    for arguments in [&["--help"][..], &["logs", "--help"], &["version"], &["--version"]] {
        let shown = run(home.skpr(arguments).env_remove("HOME").env("SKPR_CONFIG_DIR", "/nonexistent"), None);
        assert!(shown.starts_with("exit 0\n"), "{shown}");
    }
    assert!(run(&mut home.skpr(&["logs", "-h"]), None).contains("stdout\nExamples:\n"));
    for verb in ["shell", "exec"] {
        let help = run(&mut home.skpr(&[verb, "--help"]), None);
        assert!(
            help.contains("--user <USER>") && help.contains("UID:GID [default: the instance's own]"),
            "{help}"
        );
    }
    assert!(run(&mut home.skpr(&["shell", "dev", "--user", ""]), None).starts_with("exit 2\n"));
    for (arguments, json) in [(&[][..], false), (&["lgos"], false), (&["lgos", "-o", "json"], true)] {
        let shown = run(&mut home.skpr(arguments), None);
        assert!(shown.starts_with("exit 2\n--- stdout\n--- stderr\n"), "{shown}");
        assert_eq!(shown.contains("{\"error\":{\"kind\":\"usage\""), json, "{shown}");
    }
}
