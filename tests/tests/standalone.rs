//! Deploys on one machine through kills of the whole program, with the programs as they are installed.

use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Running, User, program};
use skpr_tests::eventually;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// How many deploys are cut short.
const KILLS: u64 = 20;
/// The longest time from the beginning of a deploy to a kill: a good one is done by then, a broken one is going back.
const LATEST: u64 = 900;

/// A project in git, and a machine that runs it.
struct Machine {
    work: TempDir,
    port: u16,
    system: User,
    running: Option<Running>,
    user: User,
}

impl Machine {
    /// With the tags `good1` and `good2`, which serve, and `bad`, which ends at once.
    fn new() -> Result<Machine> {
        let work = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let machine = Machine { work, port, system: User::new()?, running: None, user: User::new()? };
        std::fs::create_dir(machine.site())?;
        machine.git(&["init", "-q"])?;
        let manifest = format!(
            "project: shop\nenvironments:\n  dev: {{port: {port}, health: /, command: [{:?}]}}\n",
            program("fixture-site")?
        );
        std::fs::write(machine.site().join(".skpr.yml"), manifest)?;
        for (tag, how) in [("bad", "exit"), ("good2", "good"), ("good1", "fine")] {
            std::fs::write(machine.site().join("how"), how)?;
            machine.git(&["add", "-A"])?;
            machine.git(&["commit", "-qm", tag])?;
            machine.git(&["tag", tag])?;
        }
        Ok(machine)
    }

    fn site(&self) -> PathBuf {
        self.work.path().join("site")
    }

    fn data(&self) -> PathBuf {
        self.work.path().join("data")
    }

    fn git(&self, arguments: &[&str]) -> Result<()> {
        let mut git = Command::new("git");
        git.current_dir(self.site()).env("GIT_CONFIG_GLOBAL", "/dev/null").args(arguments);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "dev").env(format!("GIT_{who}_EMAIL"), "dev@example.com");
        }
        let done = git.output()?;
        ensure!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.start_by(|system, arguments| system.start("skpr-aggregator", arguments))
    }

    fn start_by(&mut self, start: impl FnOnce(&User, &[&Path]) -> Result<Running>) -> Result<()> {
        let (data, site) = (self.data(), self.site());
        let arguments: [&Path; 7] = [
            "standalone".as_ref(),
            "--listen".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--data".as_ref(),
            &data,
            "--config".as_ref(),
            &site,
        ];
        let running = start(&self.system, &arguments)?;
        let value = |name: &str| -> Result<String> {
            let line = running.line(PATIENCE, |line| line.starts_with(name))?;
            Ok(line.trim_start_matches(name).trim_start_matches(": ").to_owned())
        };
        let token = std::fs::read_to_string(value("token")?)?;
        self.user = User::new()?
            .with("SKPR_CLUSTER", value("address")?)
            .with("SKPR_CA", value("ca")?)
            .with("SKPR_TOKEN", token.trim())
            .with("SKPR_PROJECT", "shop");
        std::fs::copy(site.join(".skpr.yml"), self.user.home().join(".skpr.yml"))?;
        self.running = Some(running);
        Ok(())
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        self.running.take().context("it runs")?.end(signal, PATIENCE).map(drop)
    }

    /// What the site answers.
    fn asked(&self) -> Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let body = answer.strip_prefix("HTTP/1.0 200 OK\r\n\r\n").context("an answer")?;
        Ok(body.to_owned())
    }

    /// Version and state of each release by its number, once none is under way.
    fn releases(&self) -> Result<Vec<(String, String)>> {
        eventually("the release under way ends", PATIENCE, || {
            let file = std::fs::read_to_string(self.data().join("environments/shop.dev.json"))?;
            let record = file.lines().nth(1).context("a record")?;
            let record: serde_json::Value = serde_json::from_str(record)?;
            let releases = record.get("releases").and_then(|releases| releases.as_array());
            let mut found = vec![];
            for release in releases.context("releases")? {
                let text = |key: &str| release.get(key).and_then(|value| value.as_str()).map(str::to_owned);
                found.push((text("version").context("a version")?, text("state").context("a state")?));
            }
            let open = found.iter().any(|(_, state)| state == "deploying" || state == "rolling-back");
            Ok((!open).then_some(found))
        })
    }

    /// The release directories that processes run in.
    fn running_in(&self) -> Vec<PathBuf> {
        let below = self.data().join("releases");
        let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let directories = processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
        directories.filter(|directory| directory.starts_with(&below)).collect()
    }
}

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
