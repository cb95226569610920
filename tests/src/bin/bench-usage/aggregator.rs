//! The real aggregator, as a process of its own, on a platform that is only a formula.

use crate::cgroups::memory;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use skpr_aggregator::auth::create_token;
use skpr_tests::cli::{Running, User};
use skpr_tests::fleet::Fleet;
use skpr_tests::scrape::Scraper;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Aggregator {
    running: Running,
    /// Whose home it runs in.
    _host: User,
    user: User,
    pub(crate) data: PathBuf,
    /// `localhost:PORT`, a name that its certificate is for.
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    monitoring: Scraper,
}

impl Aggregator {
    pub(crate) fn start(fleet: Fleet, data: &Path) -> anyhow::Result<Aggregator> {
        let fleet = fleet.to_string();
        let data_flag = data.display().to_string();
        let arguments = [
            &fleet,
            "standalone",
            "--config",
            "/dev/null",
            "--listen",
            "127.0.0.1:0",
            "--data",
            &data_flag,
            "--monitoring-listen",
            "127.0.0.1:0",
        ];
        let host = User::new()?.with("SKPR_LOG", "warn");
        let running = host.start("fixture-aggregator", &arguments)?;
        let field = |name: &str| -> anyhow::Result<String> {
            let line = running.line(PATIENCE, |line| line.starts_with(name))?;
            Ok(line.trim_start_matches(name).to_owned())
        };
        let address = field("address: ")?.replace("127.0.0.1", "localhost");
        let ca = PathBuf::from(field("ca: ")?);
        let token = std::fs::read_to_string(field("token: ")?).context("read the token")?.trim().to_owned();
        let address_of_monitoring = field("monitoring: ")?.parse().context("read where monitoring is")?;
        let monitoring = Scraper { address: address_of_monitoring, ca: ca.clone(), token: token.clone() };
        let user = User::new()?
            .with("SKPR_CLUSTER", &address)
            .with("SKPR_CA", ca.display().to_string())
            .with("SKPR_TOKEN", token);
        Ok(Aggregator { running, _host: host, user, data: data.to_owned(), address, ca, monitoring })
    }

    /// A token for the agent of a node.
    pub(crate) fn agent_token(&self, node: &str) -> anyhow::Result<String> {
        create_token(&self.data, node, &format!("agent:{node}"))
    }

    /// What `skpr` prints, and the milliseconds that it took, process start included.
    pub(crate) fn skpr(&self, arguments: &[&str]) -> anyhow::Result<(String, f64)> {
        let begun = Instant::now();
        let finished = self.user.skpr(arguments)?;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        Ok((finished.success()?.stdout, took))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let (text, _) = self.skpr(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("read what skpr says")
    }

    /// What monitoring gets, and the milliseconds from connecting to its last byte.
    pub(crate) fn scrape(&self, path: &str) -> anyhow::Result<(String, f64)> {
        let begun = Instant::now();
        let text = self.monitoring.get(path)?;
        Ok((text, begun.elapsed().as_secs_f64() * 1000.0))
    }

    /// Seconds of CPU so far. A tick is a hundredth of a second on every Linux that Rust supports.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.running.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("parse /proc stat")?;
        let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
        Ok(fields.get(11..13).context("find the CPU fields")?.iter().sum::<f64>() / 100.0)
    }

    /// MiB that it had in memory at most.
    pub(crate) fn most_resident(&self) -> anyhow::Result<f64> {
        memory(self.running.id(), "VmHWM:")
    }

    /// What it has said on stderr.
    pub(crate) fn said(&self) -> String {
        self.running.stderr()
    }
}

/// What somebody else's program serves there.
pub(crate) fn curl(url: &str) -> anyhow::Result<String> {
    let command = ["--silent", "--show-error", "--fail", "--max-time", "30", url];
    let output = Command::new("curl").args(command).output().context("run curl")?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("read what was served")
}
