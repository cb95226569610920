//! `make bench-logs`: what the log path costs, on seeded input, beside peers in the same run.
//!
//! `bench-logs [MIB] [PART…]` — MIB of raw log for the large inputs (default 1024); parts: `spine`, `quiet`, `live`,
//! `sealed` (default all). Prints a table and writes `target/bench/logs.json`. Run it on an idle machine.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

mod input;
mod live;
mod measure;
mod peers;
mod programs;
mod sealed;
mod spine;

use anyhow::Context as _;
use std::path::Path;

const QUIET_FILES: u64 = 1000;
const QUIET_SECONDS: u64 = 30;
const LIVE_SECONDS: u64 = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mib: u64 = arguments
        .next_if(|text| text.parse::<u64>().is_ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    // Not in /tmp: that may be memory, where nothing has to become durable.
    let place = Path::new("target/bench");
    std::fs::create_dir_all(place).context("make the benchmark's directory")?;
    let work = tempfile::tempdir_in(std::fs::canonicalize(place)?).context("make a work directory")?;
    let load = std::fs::read_to_string("/proc/loadavg").context("read the load")?;
    println!("load when it began: {}\n", load.split(' ').next().unwrap_or_default());
    let directory = |name: &str| -> anyhow::Result<std::path::PathBuf> {
        let path = work.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };

    let mut figures = Vec::new();
    if wanted("spine") {
        spine::run(&directory("spine")?, mib << 20, &mut figures).context("file to durable")?;
    }
    if wanted("quiet") {
        spine::quiet(&directory("quiet")?, QUIET_FILES, QUIET_SECONDS, &mut figures)
            .context("quiet files")?;
    }
    if wanted("live") {
        live::run(&directory("live")?, LIVE_SECONDS, &mut figures).context("live")?;
    }
    if wanted("sealed") {
        sealed::run(&directory("sealed")?, (mib << 20) as usize, &mut figures).context("sealed files")?;
    }
    skpr_tests::report::publish(&figures, &place.join("logs.json"))
}
