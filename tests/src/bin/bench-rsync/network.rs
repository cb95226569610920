//! The interface that leads to the nodes: what passes it, and how far away it makes them.

use crate::guard::check;
use anyhow::{Context as _, Result, ensure};
use std::net::IpAddr;
use std::process::Command;

/// The name of the interface that packets to this address leave by.
pub(crate) fn interface(to: IpAddr) -> Result<String> {
    let said = Command::new("ip").args(["-o", "route", "get", &to.to_string()]).output().context("run ip")?;
    let said = String::from_utf8(said.stdout)?;
    let mut words = said.split_whitespace();
    words.find(|word| *word == "dev");
    words.next().map(str::to_owned).with_context(|| format!("find the way to {to}: {said}"))
}

/// Bytes that have passed it, both ways.
pub(crate) fn passed(interface: &str) -> Result<u64> {
    let count = |name: &str| -> Result<u64> {
        let file = format!("/sys/class/net/{interface}/statistics/{name}_bytes");
        Ok(std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?.trim().parse()?)
    };
    Ok(count("rx")? + count("tx")?)
}

/// A way that is longer for as long as this is kept.
pub(crate) struct Far(String);

impl Far {
    /// None where this may not be done.
    pub(crate) fn away(interface: &str, millis: u32) -> Result<Option<Far>> {
        check()?;
        let delay = format!("{millis}ms");
        let words = ["qdisc", "add", "dev", interface, "root", "netem", "limit", "100000", "delay", &delay];
        let done = Command::new("tc").args(words).output();
        Ok(done.ok().filter(|done| done.status.success()).map(|_| Far(interface.to_owned())))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It goes with the cluster otherwise.
        Command::new("tc").args(["qdisc", "del", "dev", &self.0, "root"]).output().ok();
    }
}

/// Fails where a way is needed that is not there.
pub(crate) fn is_here(program: &str) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    ensure!(found.status.success(), "there is no `{program}`\nhint: scripts/setup bench-rsync");
    Ok(())
}
