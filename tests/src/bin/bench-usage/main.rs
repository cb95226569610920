//! `make bench-usage`: what sampling costs, and what samples cost who takes them.
//!
//! `bench-usage [PART]...` — parts: `sampler`, `beside`, `fleet`, `history` (default: all). As root, on an idle machine.
//! Prints a table and writes `target/bench/usage.json`.

#![expect(clippy::print_stderr, reason = "a program for a terminal")]
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

mod aggregator;
mod beside;
mod cgroups;
mod crowd;
mod fleet;
mod history;
mod sampler;

use anyhow::{Context as _, bail};
use skpr_tests::report::publish;
use std::path::{Path, PathBuf};

const PARTS: [&str; 4] = ["sampler", "beside", "fleet", "history"];

fn main() -> anyhow::Result<()> {
    // A second one is installed already when a library was quicker; either way there is one.
    rustls::crypto::ring::default_provider().install_default().ok();
    skpr_agent::raise_file_limit();
    let mut parts: Vec<String> = std::env::args().skip(1).collect();
    if parts.is_empty() {
        parts = PARTS.map(str::to_owned).to_vec();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let place = target.join("bench");
    // Not in /tmp: that may be memory, where nothing has to become durable.
    std::fs::create_dir_all(&place).context("make the benchmark's directory")?;
    let work = tempfile::tempdir_in(std::fs::canonicalize(&place)?).context("make a work directory")?;
    let mut figures = Vec::new();
    for part in &parts {
        eprintln!("{part} …");
        let directory: PathBuf = Path::join(work.path(), part);
        std::fs::create_dir(&directory)?;
        figures.extend(match part.as_str() {
            "sampler" => sampler::measure()?,
            "beside" => beside::measure(&directory)?,
            "fleet" => fleet::measure(&directory)?,
            "history" => history::measure(&directory)?,
            other => bail!("there is no part `{other}`"),
        });
    }
    publish(&figures, &place.join("usage.json"))
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
