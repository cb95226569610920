//! Deploys on one machine through kills of the whole program, with the programs as they are installed.

use anyhow::{Context as _, Result};
use skpr_tests::cli::{Running, program};
use skpr_tests::eventually;
use skpr_tests::machine::Machine;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// How many deploys are cut short.
const KILLS: u64 = 20;
/// The longest time from the beginning of a deploy to a kill: a good one is done by then, a broken one is going back.
const LATEST: u64 = 900;

#[test]
fn a_kill_at_any_moment_of_a_deploy_leaves_it_done_or_put_back() -> Result<()> {
    let mut machine = Machine::new()?;
    machine.start()?;
    let (mut serving, mut known) = ("good1", machine.releases()?);
    assert_eq!(known, [("good1".to_owned(), "succeeded".to_owned())]);
    let mut random = 20_261_124_u64;
    for kill in 0..KILLS {
        // A linear congruence: the same moments in each run.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let version = match (kill % 3, serving) {
            (1, _) => "bad",
            (_, "good1") => "good2",
            _ => "good1",
        };
        let deploy = machine.user.start("skpr", &["deploy", "dev", version, "--no-wait", "-q"])?;
        std::thread::sleep(Duration::from_millis((random >> 33) % LATEST));
        machine.end("KILL")?;
        drop(deploy);
        machine.start()?;
        let releases = machine.releases()?;
        let moment = format!("kill {kill} of a deploy of {version}: {releases:?}");
        let earlier = releases.len().min(known.len());
        let kept = |all: &[(String, String)]| all.iter().rev().take(earlier).cloned().collect::<Vec<_>>();
        if releases.last().is_some_and(|(newest, _)| newest == version) && releases != known {
            let state = if version == "bad" { "rolled-back" } else { "succeeded" };
            assert_eq!(releases.last().map(|(_, state)| state.as_str()), Some(state), "{moment}");
            let before = releases.get(..releases.len() - 1).unwrap_or_default();
            assert!(known.ends_with(before), "{moment}");
            serving = if version == "bad" { serving } else { version };
        } else {
            // It had not been begun.
            assert_eq!(kept(&releases), kept(&known), "{moment}");
        }
        known = releases;
        let answer = eventually("the site answers", PATIENCE, || machine.asked().map(Some))?;
        assert_eq!(answer, serving, "{moment}");
        eventually("one instance runs, and no half checkout is left", PATIENCE, || {
            let directories = std::fs::read_dir(machine.data().join("releases/shop.dev"))?;
            let half =
                directories.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."));
            Ok((machine.running_in().len() == 1 && !half).then_some(()))
        })
        .with_context(|| format!("{moment}; running in {:?}", machine.running_in()))?;
    }
    assert!(known.len() > 5, "{known:?}");
    machine.end("TERM")?;
    assert!(machine.running_in().is_empty());
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_ends_no_site() -> Result<()> {
    let mut machine = Machine::new()?;
    machine.start_by(|_, arguments| {
        let mut shell = Command::new("bash");
        // What reads its stderr ends at once.
        shell.args(["-c", r#"exec "$0" "$@" 2> >(true)"#]).arg(program("skpr-aggregator")?).args(arguments);
        shell.stdin(Stdio::null()).stdout(Stdio::piped());
        Running::start(shell)
    })?;
    // Each release is a line of the log, the first too, which begins by itself.
    machine.releases()?;
    machine.user.skpr(&["deploy", "dev", "good2"])?.success()?;
    machine.user.skpr(&["deploy", "dev", "good1"])?.success()?;
    assert_eq!(machine.asked()?, "good1");
    machine.end("TERM")
}
