//! The interface that leads to the nodes, and what passes it.

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

/// Fails where a way is needed that is not there.
pub(crate) fn is_here(program: &str) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    ensure!(found.status.success(), "there is no `{program}`\nhint: scripts/setup bench-rsync");
    Ok(())
}
