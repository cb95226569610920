//! Tasks on a real cluster: every run is told as it went, by schedule and on demand, whatever becomes of its Job.

use super::deploy::Shop;
use super::setup::{Record, records};
use super::shop::{TIMEOUT, manifest};
use super::turn::empty_lanes;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skpr_tests::cli::{Finished, User};
use skpr_tests::eventually;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Each is due every minute, the others once a year. The one that talks stays for a moment: containerd loses the end of
/// megabytes that a container prints just before it ends, and `kubectl logs` lacks it, too. The one that is killed for memory
/// is not at once: containerd, where it has not begun to watch a container, calls it a failure.
const TASKS: &str = r#"
      quick: {schedule: "* * * * *", command: "echo quick"}
      fails: {schedule: "* * * * *", command: "echo broken >&2; exit 3"}
      late: {schedule: "* * * * *", command: "echo begun; trap exit TERM; sleep 300 & wait", timeout: 10s}
      long: {schedule: "* * * * *", command: "echo slow; sleep 70", overlap: forbid}
      hungry: {schedule: "* * * * *", command: "echo eating; sleep 5; exec tail /dev/zero"}
      talks: {schedule: "* * * * *", command: "seq 1 100000; sleep 10"}
      open: {schedule: "@yearly", command: "printf without"}
      echo: {schedule: "@yearly", command: "printf '<%s>\\n' $SKPR_TASK $SKPR_RUN"}
      hold: {schedule: "@yearly", command: "echo held; sleep 40"}
      stays: {schedule: "@yearly", command: "echo stays; sleep 45"}
      swap: {schedule: "@yearly", command: "echo swap; exec sleep 60", overlap: replace}
"#;
/// Two times of every minute, the end of what began at the last of them, and as much again for a slow machine.
const MINUTES: Duration = Duration::from_secs(8 * 60);

/// A run as `skpr cron history -o json` prints it.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    id: String,
    task: String,
    outcome: String,
    version: String,
    code: Option<i64>,
    reason: String,
    began: Option<String>,
}

fn skpr(user: &User, words: &[&str]) -> Result<Finished> {
    user.skpr(&[&["cron"], words].concat())
}

fn history(user: &User, words: &[&str]) -> Result<Vec<Run>> {
    let words = [&["history", "dev"], words, &["--since", "2h", "-o", "json"]].concat();
    let listed: Value = serde_json::from_str(&skpr(user, &words)?.success()?.stdout)?;
    let text = |run: &Value, key: &str| run[key].as_str().unwrap_or_default().to_owned();
    let run = |run: &Value| Run {
        id: text(run, "id"),
        task: text(run, "task"),
        outcome: text(run, "outcome"),
        version: text(run, "version"),
        code: run["exit_code"].as_i64(),
        reason: text(run, "reason"),
        began: run["began"].as_str().map(str::to_owned),
    };
    Ok(listed.as_array().context("a list of runs")?.iter().map(run).collect())
}

fn printed(user: &User, id: &str) -> Result<Vec<String>> {
    let logs = skpr(user, &["logs", "dev", id, "-o", "json"])?.success()?.stdout;
    Ok(records(&logs)?.into_iter().map(|Record { message, .. }| message).collect())
}

/// The minute that a run by schedule was due at, by its id.
fn minute(run: &Run) -> Option<i64> {
    run.id.strip_prefix(&format!("{}-", run.task))?.parse().ok()
}

/// Waits until so many runs of a task went so.
fn wait(user: &User, task: &str, outcome: &str, count: usize) -> Result<Vec<Run>> {
    eventually(&format!("{count} runs of {task} are {outcome}"), MINUTES, || {
        let runs = history(user, &[task])?;
        let went = runs.iter().filter(|run| run.outcome == outcome).count();
        ensure!(went >= count, "{went} are; all of them: {runs:?}");
        Ok(Some(runs))
    })
}

/// Waits until nothing runs or waits to.
fn quiet(user: &User) -> Result<()> {
    eventually("nothing runs", MINUTES, || {
        let open = |run: &Run| matches!(run.outcome.as_str(), "running" | "waiting");
        let running: Vec<Run> = history(user, &[])?.into_iter().filter(open).collect();
        ensure!(running.is_empty(), "{running:?}");
        Ok(Some(()))
    })
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn every_run_is_told_truly() -> Result<()> {
    let shop = Shop::beside();
    let user = &shop.user;
    manifest(user, &format!("  dev: {{cpu: 20m, cron: {{{}}}}}\n", in_flow(TASKS)))?;
    user.skpr(&["deploy", "dev", "v1"])?.success()?;
    for (name, scenario) in [
        ("by schedule", by_schedule as fn(&Shop) -> Result<()>),
        ("on demand", on_demand),
        ("suspended", suspended),
        ("removed", removed),
    ] {
        eprintln!("… {name}");
        scenario(&shop).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// The tasks as one mapping between braces.
fn in_flow(tasks: &str) -> String {
    tasks.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

fn by_schedule(shop: &Shop) -> Result<()> {
    let user = &shop.user;
    let all_went = |task: &str, outcome: &str, code: Option<i64>, count: usize| -> Result<Vec<Run>> {
        let runs = wait(user, task, outcome, count)?;
        for run in runs.iter().filter(|run| run.outcome != "running" && run.outcome != "waiting") {
            ensure!(run.outcome == outcome && code.is_none_or(|code| run.code == Some(code)), "{run:?}");
        }
        Ok(runs)
    };
    all_went("quick", "succeeded", Some(0), 2)?;
    all_went("talks", "succeeded", Some(0), 2)?;
    all_went("fails", "failed", Some(3), 2)?;
    all_went("late", "timed-out", None, 2)?;
    all_went("hungry", "out-of-memory", None, 2)?;
    wait(user, "long", "skipped", 1)?;
    let long = wait(user, "long", "succeeded", 1)?;
    for skipped in long.iter().filter(|run| run.outcome == "skipped") {
        ensure!(skipped.reason.contains("still ran") && skipped.began.is_none(), "{skipped:?}");
    }
    // Nothing begins any more, so that what there is stands.
    skpr(user, &["suspend", "dev", "-y"])?.success()?;
    quiet(user)?;
    let told = once_a_minute(user)?;
    let count = |outcome: &str| told.iter().filter(|run| run.outcome == outcome).count();
    ensure!(count("unknown") == 0 && count("missed") == 0, "{told:?}");

    let newest = |task: &str, outcome: &str| -> Result<String> {
        let mut all = told.iter().filter(|run| run.task == task && run.outcome == outcome);
        all.next().map(|run| run.id.clone()).with_context(|| format!("a run of {task}"))
    };
    let said = || -> Result<BTreeMap<&str, Vec<String>>> {
        let of = [
            ("quick", "succeeded"),
            ("fails", "failed"),
            ("late", "timed-out"),
            ("long", "succeeded"),
            ("hungry", "out-of-memory"),
        ];
        of.into_iter().map(|(task, outcome)| Ok((task, printed(user, &newest(task, outcome)?)?))).collect()
    };
    let expected: BTreeMap<&str, Vec<String>> =
        [("quick", "quick"), ("fails", "broken"), ("late", "begun"), ("long", "slow"), ("hungry", "eating")]
            .map(|(task, line)| (task, vec![line.to_owned()]))
            .into();
    assert_eq!(said()?, expected);
    let talks = newest("talks", "succeeded")?;
    every_line(user, &talks)?;
    let events = user.skpr(&["events", "dev", "--since", "1h"])?.success()?.stdout;
    ensure!(events.contains("of task `fails` failed with exit code 3"), "{events}");

    // Its Jobs and pods are gone, the aggregator is another, and all of it is told as before.
    let empty = empty_lanes();
    shop.site.kubectl(&["delete", "jobs", "--all", "--timeout=120s"])?;
    let (aggregator, _) = shop.skpr.aggregator()?;
    shop.skpr.namespace().kubectl(&["delete", "pod", &aggregator])?;
    shop.skpr.find_aggregator()?;
    let ids: BTreeSet<&str> = told.iter().map(|run| run.id.as_str()).collect();
    eventually("the history is told as before", TIMEOUT, || {
        let now = once_a_minute(user)?;
        let before: Vec<Run> = now.into_iter().filter(|run| ids.contains(run.id.as_str())).collect();
        ensure!(before == told, "{before:?} was {told:?}");
        Ok(Some(()))
    })?;
    drop(empty);
    assert_eq!(said()?, expected);
    every_line(user, &talks)
}

/// Waits until the output of a run that counts is there: what it printed last may still be on its way.
fn every_line(user: &User, id: &str) -> Result<()> {
    let numbers: Vec<String> = (1..=100_000).map(|number| number.to_string()).collect();
    eventually(&format!("every line of {id} is there"), TIMEOUT, || {
        let lines = printed(user, id)?;
        let wrong = lines.iter().zip(&numbers).position(|(line, number)| line != number);
        ensure!(
            lines.len() == numbers.len() && wrong.is_none(),
            "{} are, the first wrong: {wrong:?}",
            lines.len()
        );
        Ok(Some(()))
    })
}

/// All runs, after it was seen that each is told once, and none of their minutes is left out.
fn once_a_minute(user: &User) -> Result<Vec<Run>> {
    let runs = history(user, &[])?;
    let mut minutes: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for run in &runs {
        ensure!(ids.insert(run.id.as_str()), "told twice: {run:?}");
        if let Some(minute) = minute(run) {
            minutes.entry(&run.task).or_default().push(minute);
        }
    }
    for (task, mut minutes) in minutes {
        minutes.sort_unstable();
        let (first, last) = (minutes.first().context("a first")?, minutes.last().context("a last")?);
        let all: Vec<i64> = (*first..=*last).collect();
        ensure!(minutes == all, "{task}: {minutes:?}");
    }
    Ok(runs)
}

fn on_demand(shop: &Shop) -> Result<()> {
    let user = &shop.user;
    // Suspended tasks can be run, too.
    let failed = skpr(user, &["run", "dev", "fails", "--wait"])?.exit(3)?;
    ensure!(failed.stdout.contains("broken"), "{}", failed.stdout);
    let said = skpr(user, &["run", "dev", "echo", "--wait", "--", "a b", "$HOME"])?.success()?;
    ensure!(
        ["<echo>", "<echo-", "<a b>", "<$HOME>"].iter().all(|word| said.stdout.contains(word)),
        "{}",
        said.stdout
    );

    // All that it prints is shown before the command ends, however much that is, and whether its last line is ended or not.
    let talked = skpr(user, &["run", "dev", "talks", "--wait"])?.success()?;
    ensure!(talked.stdout.lines().count() == 100_000, "{} lines", talked.stdout.lines().count());
    let open = skpr(user, &["run", "dev", "open", "--wait"])?.success()?;
    ensure!(open.stdout.contains("without"), "{open:?}");
    ensure!(!format!("{}{}", talked.stderr, open.stderr).contains("warning"), "{talked:?} {open:?}");

    let waits = user.start("skpr", &["cron", "run", "dev", "hold", "--wait"])?;
    waits.line(TIMEOUT, |line| line.contains("held"))?;
    let left = waits.end("INT", TIMEOUT)?.exit(130)?;
    // What it prints may be there before the kubelet has said that it runs.
    let held = wait(user, "hold", "running", 1)?.pop().context("the run that holds")?;
    ensure!(left.stderr.contains(&held.id), "{held:?}: {}", left.stderr);
    let locked = skpr(user, &["run", "dev", "hold"])?.exit(8)?;
    ensure!(locked.stderr.contains(&held.id) && locked.stderr.contains("editor"), "{}", locked.stderr);
    // Kubernetes minds it as its own.
    let active = shop.site.field("cronjob/shop-dev--hold", ".status.active[*].name")?;
    ensure!(active == format!("shop-dev--{}", held.id), "{active}");
    wait(user, "hold", "succeeded", 1)?;

    let begin =
        || -> Result<String> { Ok(skpr(user, &["run", "dev", "swap"])?.success()?.stdout.trim().to_owned()) };
    let first = begin()?;
    wait(user, "swap", "running", 1)?;
    let second = begin()?;
    let swapped = wait(user, "swap", "replaced", 1)?;
    let outcome = |id: &str| swapped.iter().find(|run| run.id == id).map(|run| run.outcome.as_str());
    ensure!(outcome(&first) == Some("replaced") && outcome(&second) != Some("replaced"), "{swapped:?}");
    quiet(user)
}

fn suspended(shop: &Shop) -> Result<()> {
    let user = &shop.user;
    user.skpr(&["deploy", "dev", "v2"])?.success()?;
    let cron_job = |path: &str| shop.site.field("cronjob/shop-dev--quick", path);
    assert_eq!(cron_job(".spec.suspend")?, "true");
    let image = cron_job(".spec.jobTemplate.spec.template.spec.containers[0].image")?;
    ensure!(image.ends_with(":v2"), "{image}");
    let tasks: Value = serde_json::from_str(&skpr(user, &["list", "dev", "-o", "json"])?.success()?.stdout)?;
    let tasks = tasks.as_array().context("a list of tasks")?;
    ensure!(tasks.len() == 11 && tasks.iter().all(|task| task["suspended"].is_object()), "{tasks:?}");
    let missed = |runs: &[Run]| -> Vec<Run> {
        runs.iter().filter(|run| run.outcome == "suspended").cloned().collect()
    };
    let before = missed(&wait(user, "quick", "suspended", 2)?);
    ensure!(before.iter().all(|run| run.began.is_none() && run.reason.contains("editor")), "{before:?}");
    skpr(user, &["resume", "dev"])?.success()?;
    let runs = eventually("quick runs again", MINUTES, || {
        let runs = history(user, &["quick"])?;
        let again = runs.iter().filter(|run| run.version == "v2" && run.outcome == "succeeded").count();
        ensure!(again >= 1, "{runs:?}");
        Ok(Some(runs))
    })?;
    let after = missed(&runs);
    ensure!(before.iter().all(|run| after.contains(run)), "{after:?} was {before:?}");
    once_a_minute(user).map(drop)
}

fn removed(shop: &Shop) -> Result<()> {
    let user = &shop.user;
    let begun = skpr(user, &["run", "dev", "stays"])?.success()?.stdout.trim().to_owned();
    wait(user, "stays", "running", 1)?;
    manifest(user, "  dev: {cron: {quick: {schedule: \"* * * * *\", command: \"echo quick\"}}}\n")?;
    user.skpr(&["deploy", "dev", "v1"])?.success()?;
    let names = || shop.site.kubectl(&["get", "cronjobs", "-o", "jsonpath={.items[*].metadata.name}"]);
    eventually("only what runs is left of what is gone", TIMEOUT, || {
        let names = names()?;
        ensure!(!names.contains("fails") && names.contains("shop-dev--stays"), "{names}");
        Ok(Some(()))
    })?;
    eventually("the run has come to its end", MINUTES, || {
        let runs = history(user, &[])?;
        let run = runs.iter().find(|run| run.id == begun).context("the run")?;
        ensure!(run.outcome == "succeeded", "{run:?}");
        Ok(Some(()))
    })?;
    eventually("and its task is gone", TIMEOUT, || Ok((names()? == "shop-dev--quick").then_some(())))?;
    user.skpr(&["delete", "dev", "-y"])?.success()?;
    eventually("nothing is left of it", TIMEOUT, || {
        let left = shop.site.kubectl(&["get", "cronjobs,jobs", "-o", "name"])?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })
}
