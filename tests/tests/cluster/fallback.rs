//! Sessions in pods of nodes whose agents serve none: by the aggregator itself, and only when that is asked for.

use super::sessions::{
    Site, a_namespace_that_is_denied_is_not_entered_by_whoever_may, all,
    an_image_without_a_shell_says_so_and_runs_what_it_has, bytes_come_back, exec, scenarios, skpr_exec, ssh,
    text, who_has_not_both_rights_is_told_the_same_as_of_what_is_not_there,
};
use super::shop::TIMEOUT;
use anyhow::{Result, ensure};
use skpr_tests::cli::{fed, program};
use skpr_tests::eventually;
use skpr_tests::numbers::noise;
use skpr_tests::tmux::Tmux;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn where_no_agent_serves_sessions_the_aggregator_does_if_it_is_allowed() -> Result<()> {
    let site = Site::install(&["sessions.enabled=false"])?;
    all(
        &site,
        scenarios![
            without_the_right_nothing_is_run,
            what_is_run_ends_with_its_own_code,
            a_process_that_ends_at_once_ends_with_its_own_code,
            every_byte_arrives_both_ways,
            a_terminal_follows_its_size,
            the_audit_and_the_events_have_it,
            what_cannot_be_is_said,
            a_client_that_is_gone_leaves_no_process,
            an_image_without_a_shell_says_so_and_runs_what_it_has,
            who_has_not_both_rights_is_told_the_same_as_of_what_is_not_there,
            an_api_server_that_is_killed_makes_no_success,
            a_pod_that_is_deleted_ends_its_sessions,
            a_namespace_that_is_denied_is_not_entered_by_whoever_may,
        ],
    )
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn an_agent_that_serves_sessions_is_preferred() -> Result<()> {
    let site = Site::install(&["sessions.enabled=true", "sessions.podsExec=true"])?;
    // Only an agent serves files.
    eventually("files are served", TIMEOUT, || {
        let served = ssh(&site.user, &["-s"], &["sftp"])?.output()?;
        ensure!(served.status.success(), "{}: {}", served.status, text(&served.stderr));
        Ok(Some(()))
    })
}

fn without_the_right_nothing_is_run(site: &Site) -> Result<()> {
    eventually("the agents are there", TIMEOUT, || {
        let refused = exec(&site.user, "dev", &["true"])?;
        assert_ne!(refused.status.code(), Some(0), "it was run");
        let said = refused.stderr;
        ensure!(said.contains("cannot run anything in instances"), "{said}");
        ensure!(said.contains("`sessions.enabled`") && said.contains("`sessions.podsExec`"), "{said}");
        Ok(Some(()))
    })?;
    site.skpr.upgrade(&["sessions.podsExec=true"])?;
    site.reaches("dev", &["true"])
}

fn what_is_run_ends_with_its_own_code(site: &Site) -> Result<()> {
    let user = &site.user;
    for code in [0, 1, 42, 127] {
        exec(user, "dev", &["sh", "-c", &format!("exit {code}")])?.exit(code)?;
        let done = ssh(user, &[], &[&format!("exit {code}")])?.output()?;
        assert_eq!(done.status.code(), Some(code), "{}", text(&done.stderr));
    }
    exec(user, "dev", &["sh", "-c", "kill -TERM $$"])?.exit(143)?;
    let missing = exec(user, "dev", &["no-such-program"])?.exit(127)?;
    assert!(missing.stderr.contains("there is no program `no-such-program`"), "{}", missing.stderr);
    let both = exec(user, "dev", &["sh", "-c", "pwd; echo $SITE; echo err >&2"])?.success()?;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("/tmp\nof the pod\n", "err\n"));
    let apart = exec(user, "dev", &["printf", "%s|", "a b", "$SITE", "", "*"])?.success()?;
    assert_eq!(apart.stdout, "a b|$SITE||*|");
    let variable = ssh(user, &["-o", "SetEnv=LC_TEST=x"], &["echo $LC_TEST"])?.output()?;
    assert_eq!(text(&variable.stdout), "x\n", "{}", text(&variable.stderr));
    Ok(())
}

/// The end of its stdin meets its own end, which is when Kubernetes has lost the one and said that all went well.
fn a_process_that_ends_at_once_ends_with_its_own_code(site: &Site) -> Result<()> {
    for round in 0..40 {
        let done = ssh(&site.user, &[], &["exit 1"])?.output()?;
        assert_eq!(done.status.code(), Some(1), "round {round}: {}", text(&done.stderr));
    }
    Ok(())
}

fn every_byte_arrives_both_ways(site: &Site) -> Result<()> {
    let noise = noise(8 << 20);
    bytes_come_back(site, &noise)?;
    // One that ends without having read ends all the same, whatever is still on its way to it. Kubernetes sometimes loses with
    // that what was said last, and calls it a success: then nobody knows, which is said.
    for round in 0..20 {
        let ended = fed(skpr_exec(site, &["sh", "-c", "exit 7"])?, noise.clone())?;
        let (code, said) = (ended.status.code(), text(&ended.stderr));
        let known =
            code == Some(7) || code == Some(255) && said.contains("nobody knows how the process ended");
        assert!(known, "round {round}: {code:?}: {said}");
    }
    Ok(())
}

fn a_terminal_follows_its_size(site: &Site) -> Result<()> {
    let line = format!("{} shell dev; echo ended with $?; sleep 86400", program("skpr")?.display());
    let window = Tmux::open(&site.user, 101, 33, &line)?;
    window.shows("instance dev-1")?;
    // Kubernetes tells the size when the shell runs already.
    window.line("sleep 1; echo size $(stty size) $TERM")?;
    window.shows("size 33 101 ")?;
    window.resize(77, 20)?;
    window.line("sleep 1; clear; echo size $(stty size)")?;
    window.shows("size 20 77")?;
    window.line("clear; sleep 81.5; echo status $?")?;
    eventually("it runs", TIMEOUT, || Ok(site.processes()?.contains("sleep 81.5").then_some(())))?;
    window.keys(&["C-c"])?;
    site.gone("sleep 81.5", TIMEOUT)?;
    window.line("clear; exit 5")?;
    window.shows("ended with 5")
}

fn the_audit_and_the_events_have_it(site: &Site) -> Result<()> {
    exec(&site.user, "dev", &["sh", "-c", "exit 43"])?.exit(43)?;
    eventually("the events have it", TIMEOUT, || {
        let told = site.user.skpr(&["events", "dev", "--since", "1h"])?.success()?.stdout;
        ensure!(told.contains("a session in instance `dev-1` began"), "{told}");
        ensure!(
            told.lines().any(|line| line.contains("ended after") && line.contains("exit code 43")),
            "{told}"
        );
        Ok(Some(()))
    })?;
    eventually("the audit has it", TIMEOUT, || {
        let log = site.skpr.namespace().kubectl(&["logs", "deployment/skpr-aggregator"])?;
        let mut lines = log.lines().filter(|line| line.contains(r#""audit":"Sessions.Open""#));
        let parts =
            [r#""exit":"43""#, r#""instance":"dev-1""#, r#""purpose":"ssh""#, r#""ended":"completed""#];
        Ok(lines.any(|line| parts.iter().all(|part| line.contains(part))).then_some(()))
    })
}

fn what_cannot_be_is_said(site: &Site) -> Result<()> {
    let files = ssh(&site.user, &["-s"], &["sftp"])?.output()?;
    let said = text(&files.stderr);
    assert!(
        !files.status.success() && said.contains("files are not served") && said.contains("hint: "),
        "{said}"
    );
    let port = ssh(&site.user, &["-W", "localhost:80"], &[])?.output()?;
    assert!(text(&port.stderr).contains("administratively prohibited"), "{}", text(&port.stderr));
    Ok(())
}

fn a_client_that_is_gone_leaves_no_process(site: &Site) -> Result<()> {
    for words in [&["sleep", "91.5"][..], &["sh", "-c", "trap '' HUP TERM; sleep 92.5; sleep 92.5; true"]] {
        let session = site.starts(words)?;
        let begun = Instant::now();
        session.end("KILL", TIMEOUT)?;
        site.gone(&words.join(" "), TIMEOUT)?;
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
    Ok(())
}

fn an_api_server_that_is_killed_makes_no_success(site: &Site) -> Result<()> {
    let Some(own) =
        site.skpr.cluster.breakable_for("an API server that is killed in the middle of a session")
    else {
        return Ok(());
    };
    let session = site.starts(&["sleep", "97.5"])?;
    let away = own.api_server_away()?;
    let ended = session.wait(TIMEOUT)?.exit(255)?;
    ensure!(ended.stderr.contains("nobody knows how the process ended"), "{}", ended.stderr);
    drop(away);
    site.reaches("dev", &["true"])
}

fn a_pod_that_is_deleted_ends_its_sessions(site: &Site) -> Result<()> {
    let session = site.starts(&["sleep", "94.5"])?;
    site.sites.kubectl(&["delete", "pod/dev-1", "--wait=false"])?;
    let ended = session.wait(TIMEOUT)?;
    assert!(matches!(ended.status.code(), Some(137 | 255)), "{}: {}", ended.status, ended.stderr);
    // For what comes after it.
    site.sites.kubectl(&["wait", "--for=delete", "pod/dev-1", "--timeout=60s"])?;
    site.start_dev()
}
