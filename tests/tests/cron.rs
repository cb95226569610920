//! Tasks on one machine, with the programs as they are installed: what users run, what is due, and what a kill leaves.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skpr_tests::cli::{Finished, User};
use skpr_tests::eventually;
use skpr_tests::machine::Machine;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A task of each minute is due within this, and has run.
const A_MINUTE: Duration = Duration::from_secs(100);
/// What is due on no day of the next years.
const NEVER: &str = "schedule: '0 0 29 2 *'";

/// A machine whose environment has these tasks; each is its name and what its entry says besides when it is due.
fn machine(tasks: &[(&str, &str)], more: &str) -> Result<Machine> {
    let entry = |(name, entry): &(&str, &str)| {
        let schedule = if entry.contains("schedule: ") { String::new() } else { format!("{NEVER}, ") };
        format!("{name}: {{{schedule}{entry}}}")
    };
    let tasks: Vec<String> = tasks.iter().map(entry).collect();
    Machine::ready_as(&format!("{more}cron: {{{}}}", tasks.join(", ")))
}

fn cron(user: &User, words: &[&str]) -> Result<Finished> {
    user.skpr(&[&["cron"], words].concat())
}

/// The runs of a task, newest first, as they are shown.
fn history(user: &User, task: &str) -> Result<Vec<Value>> {
    let shown = cron(user, &["history", "dev", task, "-o", "json"])?.success()?;
    let runs: Value = serde_json::from_str(&shown.stdout).context("history")?;
    Ok(runs.as_array().context("a list")?.clone())
}

fn text<'a>(run: &'a Value, key: &str) -> &'a str {
    run.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The newest run of a task, once it has ended.
fn ended(user: &User, task: &str) -> Result<Value> {
    eventually("the run has ended", PATIENCE, || {
        let newest = history(user, task)?.into_iter().next().context("a run")?;
        Ok((text(&newest, "outcome") != "running").then_some(newest))
    })
}

/// The messages that a run has printed, each with its stream.
fn printed(user: &User, run: &str) -> Result<Vec<(String, String)>> {
    let shown = cron(user, &["logs", "dev", run, "-o", "json"])?.success()?;
    let lines = shown.stdout.lines().map(|line| {
        let line: Value = serde_json::from_str(line)?;
        Ok((text(&line, "stream").to_owned(), text(&line, "message").to_owned()))
    });
    lines.collect()
}

/// Whether a process runs these words.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ") == words)
}

#[test]
fn a_run_ends_the_command_that_waits_for_it_as_it_ends_itself() -> Result<()> {
    let machine = machine(
        &[
            ("three", "command: 'echo out; echo err >&2; exit 3'"),
            ("args", "command: 'printf \"<%s>\" one \"$@\"; echo $SKPR_TASK $SKPR_VERSION ${PORT-none}'"),
            ("slow", "command: sleep 100, timeout: 1s"),
            ("missing", "command: no-such-program"),
            ("flash", "command: echo flash"),
            ("loud", "command: seq 100000"),
            ("hog", "command: head -c 600000000 /dev/zero | tail -c 599999999 >/dev/null"),
        ],
        "memory: {min: 64Mi, max: 256Mi}, ",
    )?;
    let user = &machine.user;
    let run = |task: &str| cron(user, &["run", "dev", task, "--wait"]);
    let three = run("three")?.exit(3)?;
    ensure!(three.stdout.contains("out") && format!("{}{}", three.stdout, three.stderr).contains("err"));
    let newest = ended(user, "three")?;
    assert_eq!((text(&newest, "outcome"), newest.get("exit_code")), ("failed", Some(&3.into())));
    let mut lines = printed(user, text(&newest, "id"))?;
    lines.sort();
    let stream = |name: &str| format!("cron.three.{name}");
    assert_eq!(lines, [(stream("stderr"), "err".to_owned()), (stream("stdout"), "out".to_owned())]);

    // Arguments are words, whatever is in them, and no commands.
    let args = cron(user, &["run", "dev", "args", "--wait", "--", "a b", "$HOME"])?.success()?;
    ensure!(args.stdout.contains("<one><a b><$HOME>args good1 none"), "{args:?}");
    let refused = cron(user, &["run", "dev", "three", "--", "id"])?.exit(2)?;
    ensure!(refused.stderr.contains("has `;`") && refused.stderr.contains("\"$@\""), "{refused:?}");
    assert_eq!(history(user, "three")?.len(), 1);
    run("slow")?.exit(7)?;
    assert_eq!(text(&ended(user, "slow")?, "outcome"), "timed-out");
    run("missing")?.exit(127)?;
    for _ in 0..5 {
        let flash = run("flash")?.success()?;
        ensure!(flash.stdout.contains("flash"), "{flash:?}");
    }
    assert_eq!(history(user, "flash")?.len(), 5);

    let loud = run("loud")?.success()?;
    ensure!(loud.stdout.lines().count() == 100_000, "{} lines were shown", loud.stdout.lines().count());
    let lines = printed(user, "loud")?;
    let expected = (1..=100_000).map(|number| number.to_string());
    ensure!(lines.iter().map(|(_, line)| line.clone()).eq(expected), "{} lines", lines.len());

    let place = user.skpr(&["exec", "dev", "--", "cat", "/proc/self/cgroup"])?.success()?.stdout;
    // Where cgroups of version 1 may be made.
    if place.lines().any(|line| line.contains(":memory:") && line.contains("/skpr-")) {
        run("hog")?.exit(137)?;
        assert_eq!(text(&ended(user, "hog")?, "outcome"), "out-of-memory");
    }
    let failed = cron(user, &["history", "dev", "--failed", "-o", "json"])?.success()?.stdout;
    ensure!(failed.contains("timed-out") && !failed.contains("succeeded"), "{failed}");
    Ok(())
}

#[test]
fn one_that_runs_is_named_to_whoever_wants_another_and_a_kill_of_everything_is_told() -> Result<()> {
    let mut machine = machine(&[("long", "command: 'echo begun; sleep 31.25'")], "")?;
    let user = &machine.user;
    let id = cron(user, &["run", "dev", "long"])?.success()?.stdout.trim().to_owned();
    let second = cron(user, &["run", "dev", "long"])?.exit(8)?;
    ensure!(second.stderr.contains(&format!("has been running `{id}` since")), "{second:?}");
    eventually("it has begun", PATIENCE, || Ok((!printed(user, &id)?.is_empty()).then_some(())))?;
    ensure!(runs("sleep 31.25"));

    machine.end("KILL")?;
    machine.start()?;
    let user = &machine.user;
    ensure!(!runs("sleep 31.25"), "it outlived the aggregator");
    let run = ended(user, "long")?;
    assert_eq!((text(&run, "id"), text(&run, "outcome")), (&*id, "unknown"));
    ensure!(text(&run, "reason").contains("the aggregator ended while it ran"), "{run}");
    assert_eq!(history(user, "long")?.len(), 1);
    assert_eq!(printed(user, &id)?, [("cron.long.stdout".to_owned(), "begun".to_owned())]);

    // A stop ends what runs, too, and that is known.
    let next = cron(user, &["run", "dev", "long"])?.success()?.stdout.trim().to_owned();
    machine.end("TERM")?;
    ensure!(!runs("sleep 31.25"));
    machine.start()?;
    let run = ended(&machine.user, "long")?;
    assert_eq!((text(&run, "id"), text(&run, "outcome")), (&*next, "failed"));
    assert_eq!(text(&run, "reason"), "skpr was stopped while it ran");
    assert_eq!(history(&machine.user, "long")?.len(), 2);
    Ok(())
}

#[test]
fn what_is_suspended_stays_so_over_a_deploy_and_a_task_of_each_minute_runs_each_minute() -> Result<()> {
    let each = "schedule: '* * * * *', command: 'cat how'";
    let mut machine = machine(&[("each", each), ("kept", each)], "")?;
    let user = &machine.user;
    cron(user, &["suspend", "dev", "kept"])?.success()?;
    user.skpr(&["deploy", "dev", "good2"])?.success()?;
    // What was due until now may have run the version before.
    let before = history(user, "each")?.len();
    let listed = cron(user, &["list", "dev", "-o", "json"])?.success()?.stdout;
    let listed: Value = serde_json::from_str(&listed)?;
    let suspended: Vec<bool> = listed
        .as_array()
        .context("a list")?
        .iter()
        .map(|task| task.get("suspended").is_some_and(|suspended| !suspended.is_null()))
        .collect();
    assert_eq!(suspended, [false, true]);

    let run = eventually("one was due and has run", A_MINUTE, || {
        let runs = history(user, "each")?;
        let done = runs.len() > before && runs.iter().all(|run| text(run, "outcome") != "running");
        Ok(runs.into_iter().next().filter(|_| done))
    })?;
    assert_eq!(
        (text(&run, "outcome"), text(&run, "version"), text(&run, "trigger")),
        ("succeeded", "good2", "schedule")
    );
    let due: jiff::Timestamp = text(&run, "due").parse()?;
    let began: jiff::Timestamp = text(&run, "began").parse()?;
    assert_eq!(text(&run, "id"), format!("each-{}", due.as_second() / 60));
    ensure!(due.as_second() % 60 == 0 && began >= due && began.as_second() - due.as_second() < 30, "{run}");
    // What was printed last may come a moment after the news of its end: that is waited for.
    assert_eq!(printed(user, text(&run, "id"))?, [("cron.each.stdout".to_owned(), "good".to_owned())]);
    let kept = eventually("the other is told, too", PATIENCE, || {
        Ok(history(user, "kept")?
            .into_iter()
            .find(|run| text(run, "due").parse::<jiff::Timestamp>().ok() == Some(due)))
    })?;
    ensure!(text(&kept, "reason").starts_with("it was suspended by "), "{kept}");

    // A kill and a start repeat nothing, and resumed it is due from then on.
    machine.end("KILL")?;
    machine.start()?;
    let user = &machine.user;
    cron(user, &["resume", "dev"])?.success()?;
    let count = |task: &str| -> Result<usize> {
        Ok(history(user, task)?
            .iter()
            .filter(|run| text(run, "due").parse::<jiff::Timestamp>().ok() == Some(due))
            .count())
    };
    assert_eq!((count("each")?, count("kept")?), (1, 1));
    ensure!(history(user, "kept")?.iter().all(|run| text(run, "began").is_empty()), "it was made up for");
    Ok(())
}
