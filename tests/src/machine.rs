//! A machine that runs a project by itself, with the programs as they are installed: a git repository, a standalone
//! aggregator, and a user who may do everything.

use crate::cli::{Running, User, program};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A project in git, and a machine that runs it.
#[derive(Debug)]
pub struct Machine {
    work: TempDir,
    port: u16,
    system: User,
    running: Option<Running>,
    /// With every right, once it runs.
    pub user: User,
}

impl Machine {
    /// One whose site answers, and whose instance takes sessions.
    pub fn ready() -> Result<Machine> {
        Machine::ready_with(&[])
    }

    /// The same, with more arguments.
    pub fn ready_with(arguments: &[&Path]) -> Result<Machine> {
        Machine::new()?.wait_ready(arguments)
    }

    /// One whose environment has more settings, such as `production: true`.
    pub fn ready_as(settings: &str) -> Result<Machine> {
        Machine::new_as(settings)?.wait_ready(&[])
    }

    fn wait_ready(self, arguments: &[&Path]) -> Result<Machine> {
        let mut machine = self;
        machine.start_by(|system, all| system.start("skpr-aggregator", &[all, arguments].concat()))?;
        eventually("the site answers", PATIENCE, || machine.asked().map(Some))?;
        eventually("the instance is ready", PATIENCE, || {
            machine.user.skpr(&["exec", "dev", "--", "true"])?.success().map(Some)
        })?;
        Ok(machine)
    }

    /// With the tags `good1` and `good2`, which serve, and `bad`, which ends at once.
    pub fn new() -> Result<Machine> {
        Machine::new_as("")
    }

    fn new_as(settings: &str) -> Result<Machine> {
        let work = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let machine = Machine { work, port, system: User::new()?, running: None, user: User::new()? };
        std::fs::create_dir(machine.site())?;
        machine.git(&["init", "-q"])?;
        let manifest = format!(
            "project: shop\nenvironments:\n  dev: {{port: {port}, health: /, command: [{:?}]{}{settings}}}\n",
            program("fixture-site")?,
            if settings.is_empty() { "" } else { ", " },
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

    /// Where the project is.
    pub fn site(&self) -> PathBuf {
        self.work.path().join("site")
    }

    /// Where the aggregator keeps everything.
    pub fn data(&self) -> PathBuf {
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

    /// Starts it.
    pub fn start(&mut self) -> Result<()> {
        self.start_by(|system, arguments| system.start("skpr-aggregator", arguments))
    }

    /// Starts it in another way.
    pub fn start_by(&mut self, start: impl FnOnce(&User, &[&Path]) -> Result<Running>) -> Result<()> {
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

    /// Ends it by a signal, and waits.
    pub fn end(&mut self, signal: &str) -> Result<()> {
        self.running.take().context("it runs")?.end(signal, PATIENCE).map(drop)
    }

    /// What it has said on stdout, where the audit is.
    pub fn said(&self) -> Vec<String> {
        self.running.as_ref().map(Running::stdout).unwrap_or_default()
    }

    /// Where it listens.
    pub fn address(&self) -> Result<std::net::SocketAddr> {
        let line =
            self.said().into_iter().find(|line| line.starts_with("address: ")).context("an address")?;
        Ok(line.trim_start_matches("address: ").parse()?)
    }

    /// What the site answers.
    pub fn asked(&self) -> Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let body = answer.strip_prefix("HTTP/1.0 200 OK\r\n\r\n").context("an answer")?;
        Ok(body.to_owned())
    }

    /// Version and state of each release by its number, once none is under way.
    pub fn releases(&self) -> Result<Vec<(String, String)>> {
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

    /// Another user, who has these rights.
    pub fn user_with(&self, name: &str, rights: &str) -> Result<User> {
        let data = self.data().display().to_string();
        let made = self
            .system
            .other(program("skpr-aggregator")?, &["token", "create", "--data", &data, name, rights]);
        let made = { made }.output().context("make a token")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let said = self.said();
        let ca = said.iter().find_map(|line| line.strip_prefix("ca: ")).context("a CA")?;
        Ok(User::new()?
            .with("SKPR_CLUSTER", self.address()?.to_string())
            .with("SKPR_CA", ca)
            .with("SKPR_TOKEN", String::from_utf8_lossy(&made.stdout).trim())
            .with("SKPR_PROJECT", "shop"))
    }

    /// The release directories that processes run in.
    pub fn running_in(&self) -> Vec<PathBuf> {
        let below = self.data().join("releases");
        let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let directories = processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
        directories.filter(|directory| directory.starts_with(&below)).collect()
    }
}
