//! `skpr shell` in a terminal that a person could sit at, and many sessions of one `ssh`.

use super::sessions::{Site, USUAL, exec, instance, text};
use super::shop::TIMEOUT;
use super::tools::{TOOLS_IMAGE, load_tools_image};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::program;
use skpr_tests::eventually;
use skpr_tests::ssh::Killed;
use skpr_tests::tmux::Tmux;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What runs in the pod, a line each.
fn processes(site: &Site) -> Result<String> {
    const LIST: &str = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null; true";
    Ok(exec(&site.user, "tools", &["bash", "-c", LIST])?.success()?.stdout)
}

fn runs(site: &Site, line: &str, wanted: bool, within: Duration) -> Result<()> {
    let what = format!("`{line}` {}", if wanted { "runs" } else { "is gone" });
    eventually(&what, within, || Ok((processes(site)?.contains(line) == wanted).then_some(())))
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_shell_in_a_terminal_does_what_terminals_do() -> Result<()> {
    let site = Site::together()?;
    load_tools_image(&site.skpr.cluster)?;
    instance(&site.sites, "tools", TOOLS_IMAGE, "[sleep, '86400']", USUAL)?;
    site.reaches("tools", &["true"])?;
    let line = format!("{} shell tools; echo ended with $?; sleep 86400", program("skpr")?.display());

    let window = Tmux::open(&site.user, 101, 33, &line)?;
    window.shows("instance tools-1")?;
    window.line("PS1='> '; echo size $(stty size)")?;
    window.shows("size 33 101")?;
    window.resize(77, 20)?;
    window.line("clear; echo size $(stty size)")?;
    window.shows("size 20 77")?;
    // Ctrl-C ends what runs and not the shell.
    window.line("clear; sleep 81.5; echo status $?")?;
    runs(&site, "sleep 81.5", true, TIMEOUT)?;
    window.keys(&["C-c"])?;
    runs(&site, "sleep 81.5", false, TIMEOUT)?;
    // Ctrl-Z stops it, and it goes on.
    window.line("clear; sleep 82.5")?;
    runs(&site, "sleep 82.5", true, TIMEOUT)?;
    window.keys(&["C-z"])?;
    window.shows("Stopped")?;
    window.line("clear; jobs; bg; kill %1; wait; echo all $((40 + 2))")?;
    window.shows("all 42")?;
    runs(&site, "sleep 82.5", false, TIMEOUT)?;
    // What fills the screen is drawn, and the screen is as it was.
    window.line("clear; printf 'first line\\nlast line\\n' >/tmp/text; vi /tmp/text")?;
    window.shows("last line")?;
    window.shows("/tmp/text")?;
    // Each is waited for, so that what is seen after the Escape is not what was there before the insertion.
    window.keys(&["i"])?;
    window.shows("I /tmp/text")?;
    window.line("typed here")?;
    window.shows("typed here")?;
    window.keys(&["Escape"])?;
    // Whatever comes too soon after it is taken for a part of it.
    window.shows("- /tmp/text")?;
    window.line(":wq")?;
    window.line("clear; head -n1 /tmp/text; echo back")?;
    window.shows("typed here")?;
    window.line("exit 7")?;
    window.shows("ended with 7")?;
    window.close();

    // A window that is closed hangs up, also on what does not care.
    let window = Tmux::open(&site.user, 80, 24, &line)?;
    window.shows("instance tools-1")?;
    window.line("(trap '' HUP; sleep 83.5)")?;
    runs(&site, "sleep 83.5", true, TIMEOUT)?;
    let begun = Instant::now();
    window.close();
    runs(&site, "sleep 83.5", false, TIMEOUT)?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());

    eight_at_once(&site)
}

/// Of one connection, with one that reads nothing and one whose output nobody reads.
fn eight_at_once(site: &Site) -> Result<()> {
    let (config, home) = (site.config()?, site.user.home());
    let control = format!("ControlPath={}", home.join("control").display());
    let ssh = |options: &[&str], words: &[&str]| -> Command {
        let first = ["-F", &config, "-o", "BatchMode=yes", "-o", &control];
        site.user.other("ssh", &[&first[..], options, &["tools.shop.skpr"], words].concat())
    };
    let _master = Killed(ssh(&["-N", "-M"], &[]).stdin(Stdio::null()).spawn()?);
    eventually("the connection is open", TIMEOUT, || Ok(home.join("control").exists().then_some(())))?;
    let zeros = std::fs::File::open("/dev/zero")?;
    let _deaf = Killed(ssh(&[], &["sleep 84.5"]).stdin(zeros).spawn()?);
    let mut mute = Killed({ ssh(&[], &["yes"]) }.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    mute.0.stdout.as_mut().context("stdout")?.read_exact(&mut [0; 2])?;
    let mut others = vec![];
    for number in 0..6 {
        let line = format!("read line; echo {number} $line");
        others.push(Killed(ssh(&[], &[&line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?));
    }
    for (number, other) in others.iter_mut().enumerate() {
        let begun = Instant::now();
        other.0.stdin.take().context("stdin")?.write_all(b"hello\n")?;
        let mut said = vec![];
        other.0.stdout.take().context("stdout")?.read_to_end(&mut said)?;
        assert_eq!(text(&said), format!("{number} hello\n"));
        ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    Ok(())
}
