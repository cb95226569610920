//! The programs under measurement, as separate processes so that each one's CPU and memory are its own.

use crate::peers::Running;
use anyhow::Context as _;
use skpr_tests::scrape::{self, Scraper};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running aggregator and how to reach it.
pub(crate) struct Aggregator {
    pub process: Running,
    pub address: String,
    pub ca: PathBuf,
    pub token: PathBuf,
    pub data: PathBuf,
    monitoring: Scraper,
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.with_file_name(name))
}

impl Aggregator {
    /// Starts an aggregator for the fake node `logs` and waits until it is ready.
    pub(crate) fn start(logs: &Path, data: &Path) -> anyhow::Result<Aggregator> {
        let mut child = Command::new(program("fixture-aggregator")?)
            .arg(logs)
            .args(["standalone", "--listen", "127.0.0.1:0", "--config", "/dev/null", "--data"])
            .arg(data)
            .args(["--monitoring-listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the aggregator")?;
        let stdout = child.stdout.take().context("take the aggregator's output")?;
        let process = Running(child);
        let mut lines = BufReader::new(stdout).lines();
        let mut field = |name: &str| -> anyhow::Result<String> {
            let line = lines.next().context("the aggregator ended")??;
            Ok(line.strip_prefix(name).with_context(|| format!("expected `{name}` in `{line}`"))?.to_owned())
        };
        let address = field("address: ")?;
        let ca: PathBuf = field("ca: ")?.into();
        let token: PathBuf = field("token: ")?.into();
        let monitoring = Scraper {
            address: field("monitoring: ")?.parse().context("read where monitoring is")?,
            ca: ca.clone(),
            token: std::fs::read_to_string(&token).context("read the token")?.trim().to_owned(),
        };
        let aggregator = Aggregator { address, ca, token, process, data: data.to_owned(), monitoring };
        // Its audit lines come on the same pipe for as long as it runs.
        std::thread::Builder::new().spawn(move || lines.for_each(drop))?;
        Ok(aggregator)
    }

    /// Records on stable storage, as the aggregator's own metrics say: to ask costs it next to nothing, unlike a read.
    pub(crate) fn stored_records(&self) -> anyhow::Result<u64> {
        let text = self.monitoring.get("/metrics")?;
        let value = scrape::value(&text, "skpr_store_appended_records_total");
        Ok(value.context("find the number of stored records")? as u64)
    }

    /// Starts an agent that ships `logs`.
    pub(crate) fn agent(&self, logs: &Path, state: &Path) -> anyhow::Result<Running> {
        std::fs::create_dir_all(state)?;
        Command::new(program("skpr-agent")?)
            .args(["--node", "local", "--aggregator", &self.address])
            .arg("--ca")
            .arg(&self.ca)
            .arg("--token")
            .arg(self.data.join("agent.token"))
            .arg("--logs")
            .arg(logs)
            .arg("--state")
            .arg(state)
            .env("SKPR_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .map(Running)
            .context("start the agent")
    }

    /// `skpr`, ready to talk to this aggregator.
    pub(crate) fn skpr(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("skpr")?);
        command
            .args(arguments)
            .env("SKPR_CLUSTER", &self.address)
            .env("SKPR_CA", &self.ca)
            .env("SKPR_TOKEN", std::fs::read_to_string(&self.token)?.trim())
            .env("SKPR_PROJECT", skpr_tests::inventory::PROJECT)
            .env("SKPR_CONFIG_DIR", &self.data)
            .stdin(Stdio::null());
        Ok(command)
    }
}
