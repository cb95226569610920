//! `make bench-shell`: sessions on a Kubernetes cluster, beside OpenSSH's sshd and `kubectl exec` in the same run.
//!
//! `bench-shell [PART]...` — parts: `idle`, `keys`, `connect`, `transfer` (default: all). `scripts/bench-shell` gives it a
//! cluster and says what shortens it. Prints a table and writes `target/bench/shell.json`.
//!
//! * All four ways lead into the same container: `skpr`, stock `ssh` through `skpr ssh-proxy`, stock `ssh` to an sshd that
//!   runs there, and `kubectl exec`. They take turns, so that whatever else the machine does meets each of them.
//! * What it has started and made is gone when it ends, also when it fails or is interrupted.

#![expect(clippy::print_stderr, reason = "a program for a terminal")]

mod connect;
mod guard;
mod idle;
mod keys;
mod options;
mod processes;
mod site;
mod sshd;
mod terminal;
mod transfer;
mod ways;

use anyhow::{Context as _, ensure};
use options::Options;
use skpr_tests::report::publish;
use std::path::PathBuf;

/// Memory first: what the others leave in the programs would hide what a session takes.
const PARTS: [&str; 4] = ["idle", "keys", "connect", "transfer"];

fn main() -> anyhow::Result<()> {
    guard::watch()?;
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for part in &asked {
        ensure!(PARTS.contains(&part.as_str()), "there is no part `{part}`: there are {}", PARTS.join(", "));
    }
    let options = Options::read()?;
    let site = site::Site::start(options.shells)?;
    eprintln!("kubectl is `{}`", site.kubectl.join(" "));
    let mut figures = Vec::new();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|name| name == part)) {
        eprintln!("{part} …");
        let measured = match part {
            "idle" => idle::measure(&site, &options),
            "keys" => keys::measure(&site, &options),
            "connect" => connect::measure(&site, &options),
            _ => transfer::measure(&site, &options),
        };
        figures.extend(measured.context(part)?);
    }
    drop(site);
    guard::check()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    publish(&figures, &target.join("bench/shell.json"))
}

/// The value below which `share` of all lie.
fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn median(values: Vec<f64>) -> f64 {
    percentile(values, 0.5)
}
